import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { exchange, json } from "../../src/exchange.js";
import { PlatformError } from "../../src/problem.js";
import { Double } from "../double.js";

let server: Double;
before(async () => {
  server = await new Double(true).start();
});
after(() => server.stop());
beforeEach(() => {
  server.cut = () => false;
  server.requestIds.length = 0;
});

function ask(path: string, init: RequestInit = {}, timeoutMs = 5_000): Promise<unknown> {
  const repeatable = (init.method ?? "GET") === "GET";
  return exchange<unknown>({ url: `${server.url}/api/v1${path}`, init, timeoutMs, repeatable, read: json });
}

async function failure(work: Promise<unknown>): Promise<PlatformError> {
  const error = await work.then(
    () => assert.fail("it should have failed"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof PlatformError, String(error));
  return error;
}

test("a problem document becomes a PlatformError", async () => {
  const error = await failure(ask("/invalid", { method: "POST" }));
  assert.equal(error.type, "https://platform-kernel.io/problems/validation-error");
  assert.equal(error.slug, "validation-error");
  assert.equal(error.status, 400);
  assert.equal(error.detail, "it is validation-error");
  assert.equal(error.message, error.detail);
  assert.equal(error.traceId, "4bf92f3577b34da6a3ce929d0e0e4736");
  assert.deepEqual(error.errors, [{ field: "email", message: "is too short", code: "TOO_SHORT" }]);
});

test("a refusal says how long to wait", async () => {
  const error = await failure(ask("/limited"));
  assert.deepEqual([error.status, error.slug, error.retryAfter], [429, "rate-limit-exceeded", 7]);
});

test("an error page of something between is an error without a type", async () => {
  const error = await failure(ask("/page"));
  assert.deepEqual([error.status, error.type, error.detail], [502, "about:blank", "Bad Gateway"]);
});

test("a GET that the network failed is sent once more after 100 ms", async () => {
  let cuts = 1;
  server.cut = () => cuts-- > 0;
  const begun = Date.now();
  assert.deepEqual(await ask("/public"), { authorization: null });
  assert.ok(Date.now() - begun >= 99);
  assert.equal(server.requestIds.length, 2);
});

test("a GET is sent twice at most", async () => {
  server.cut = () => true;
  assert.deepEqual(await failure(ask("/public")).then((e) => [e.status, e.slug]), [0, "network-error"]);
  assert.equal(server.requestIds.length, 2);
});

test("a POST is sent once", async () => {
  server.cut = () => true;
  const error = await failure(ask("/things", { method: "POST", body: "{}" }));
  assert.equal(error.slug, "network-error");
  assert.equal(server.requestIds.length, 1);
});

test("an error status is no reason to send again", async () => {
  await failure(ask("/page"));
  assert.equal(server.requestIds.length, 1);
});

test("a server that says nothing is not waited for longer than asked, and not asked twice", async () => {
  const error = await failure(ask("/silent", {}, 1_000));
  assert.deepEqual([error.status, error.slug], [0, "timeout"]);
  assert.equal(server.requestIds.length, 1);
});

test("the caller's abort stays the caller's", async () => {
  const reason = new Error("left the page");
  const controller = new AbortController();
  const asked = ask("/silent", { signal: controller.signal });
  controller.abort(reason);
  await assert.rejects(asked, reason);
});

test("a mistake of the caller is no network error", async () => {
  await assert.rejects(ask("/public", { headers: { "bad header": "x" } }), TypeError);
});
