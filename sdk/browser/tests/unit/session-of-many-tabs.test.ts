import assert from "node:assert/strict";
import { test } from "node:test";
import type { Kernel } from "../../src/index.js";
import { EMAIL, PASSWORD, TENANTS } from "../double.js";
import { eachWithAServer, failure, pause, server, signedIn, signedInTabs, tab, until } from "./world.js";

eachWithAServer();

test("a tab opened anew takes the token of an open one", async () => {
  await signedIn();
  const other = tab();
  await until(() => other.session);
  assert.ok(await other.me());
  assert.equal(server.refreshes.length, 0);
});

test("a tab opened alone gets its token by the cookie", async () => {
  (await signedIn()).close();
  const other = tab();
  assert.ok(await other.me());
  assert.equal(server.refreshes.length, 1);
});

test("refused tokens: five tabs refresh once, and every request is answered", async () => {
  const tabs = await signedInTabs(5);
  server.refuseTokens();
  server.hold = (path) => (path === "/auth/refresh" ? pause(50) : undefined);
  const answers = await Promise.all(
    tabs.flatMap((kernel) => [kernel.me(), kernel.get("/things"), kernel.post("/things", {})]),
  );
  assert.equal(answers.length, 15);
  assert.equal(server.refreshes.length, 1);
});

test("again and again: as many refreshes as tokens were refused", async () => {
  const tabs = await signedInTabs(4);
  for (let round = 1; round <= 3; round++) {
    server.refuseTokens();
    await Promise.all(tabs.map((kernel) => kernel.me()));
    assert.equal(server.refreshes.length, round);
  }
});

test("a tab that goes in the middle of its refresh holds the others up only briefly", async () => {
  const [first, ...others] = (await signedInTabs(4)) as [Kernel, ...Kernel[]];
  server.refuseTokens();
  server.hold = (path) => (path === "/auth/refresh" ? pause(1_000) : undefined);
  void first.me().catch(() => {});
  await until(() => server.refreshes.length === 1);
  first.close();
  server.hold = () => undefined;
  const begun = Date.now();
  await Promise.all(others.map((kernel) => kernel.me()));
  assert.ok(Date.now() - begun < 3_000);
  assert.equal(server.refreshes.length, 2, "one of the others took over");
});

test("a token that is refused right after the refresh ends the session in all tabs", async () => {
  const [first, second] = (await signedInTabs(2)) as [Kernel, Kernel];
  let told = 0;
  second.onSignedOut(() => told++);
  assert.equal((await failure(first.get("/refusing"))).status, 401);
  assert.equal(first.session, undefined);
  await until(() => told === 1);
  assert.equal(server.refreshes.length, 1);
});

test("a session that the server ended is over in all tabs, after one refresh", async () => {
  const tabs = await signedInTabs(3);
  server.refuseTokens();
  server.endSessions();
  const errors = await Promise.all(tabs.map((kernel) => failure(kernel.me())));
  assert.deepEqual(
    errors.map(({ status }) => status),
    [401, 401, 401],
  );
  assert.ok(tabs.every((kernel) => kernel.session === undefined));
  assert.equal(server.refreshes.length, 1);
});

test("a refresh that the network failed once is sent again", async () => {
  const kernel = await signedIn();
  server.refuseTokens();
  let cuts = 1;
  server.cut = (path) => path === "/auth/refresh" && cuts-- > 0;
  assert.ok(await kernel.me());
});

test("a refresh that fails on the network signs nobody out", async () => {
  const [first, second] = (await signedInTabs(2)) as [Kernel, Kernel];
  server.refuseTokens();
  server.cut = (path) => path === "/auth/refresh";
  assert.deepEqual(await failure(first.me()).then((e) => [e.status, e.slug]), [0, "network-error"]);
  assert.ok(first.session && second.session);
  server.cut = () => false;
  assert.ok(await first.me());
});

test("visible tabs replace a token once before it expires", async () => {
  server.lifeSeconds = 1;
  const tabs = await signedInTabs(4);
  server.lifeSeconds = 900;
  const first = tabs[0]?.session?.expiresAt ?? 0;
  await until(() => tabs.every((kernel) => (kernel.session?.expiresAt ?? 0) > first));
  assert.equal(server.refreshes.length, 1);
});

test("a logout during a refresh is final", async () => {
  const [first, second] = (await signedInTabs(2)) as [Kernel, Kernel];
  server.refuseTokens();
  let answer: (() => void) | undefined;
  const loggedOut = new Promise<void>((resolve) => {
    answer = resolve;
  });
  server.hold = (path) => (path === "/auth/refresh" ? loggedOut : undefined);
  const refused = failure(second.me());
  await until(() => server.refreshes.length === 1);
  await first.logout();
  answer?.();
  assert.equal((await refused).status, 401);
  assert.equal(first.session, undefined);
  assert.equal(second.session, undefined);
});

test("a logout that the server did not hear throws, and the tabs are signed out", async () => {
  const [first, second] = (await signedInTabs(2)) as [Kernel, Kernel];
  server.cut = (path) => path === "/auth/logout";
  assert.equal((await failure(first.logout())).slug, "network-error");
  assert.equal(first.session, undefined);
  await until(() => !second.session);
});

test("what was begun for one tenant is not repeated for another", async () => {
  const [first, second] = (await signedInTabs(2)) as [Kernel, Kernel];
  server.refuseTokens();
  let answer: (() => void) | undefined;
  const signedInAnew = new Promise<void>((resolve) => {
    answer = resolve;
  });
  server.hold = (path) => (path === "/things" ? signedInAnew : undefined);
  const refused = failure(first.post("/things", { pay: 1 }));
  await until(() => server.arrived("/things") === 1);
  await second.login({ email: EMAIL, password: PASSWORD, tenantId: TENANTS[1] });
  await until(() => first.session?.tenantId === TENANTS[1]);
  answer?.();
  assert.equal((await refused).slug, "session-changed");
  assert.equal(server.arrived("/things"), 1);
  assert.ok(await first.get("/things"));
});
