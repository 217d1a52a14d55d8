import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { type Browser, request as http } from "playwright-core";
import { Gate, launch, type Tab, Visitor } from "./browser.js";
import { chromiumPath, type Target, target } from "./target.js";

const TABS = 5;
let server: Target;
let browser: Browser;
let visitor: Visitor;

before(async () => {
  server = await target();
  browser = await launch(chromiumPath());
});
after(async () => {
  await browser?.close();
  await server?.stop();
});
afterEach(async () => {
  await visitor.context.close();
});

async function all(tabs: readonly Tab[], times = 1): Promise<string[]> {
  return await Promise.all(tabs.flatMap((tab) => Array.from({ length: times }, () => tab.ask())));
}

function oks(count: number): string[] {
  return Array.from({ length: count }, () => "ok");
}

for (const without of [[], ["locks"]] as "locks"[][]) {
  describe(`tabs with BroadcastChannel and ${without.length ? "no Web Locks" : "Web Locks"}`, () => {
    test("refused in all tabs at once: one refresh on the wire, and every request succeeds", async () => {
      visitor = await Visitor.open(browser, server, without);
      const tabs = await visitor.signedIn(TABS);
      for (let round = 0; round < 3; round++) {
        visitor.spoilTokens();
        const before = visitor.refreshes.length;
        assert.deepEqual(await all(tabs, 3), oks(TABS * 3));
        assert.equal(visitor.refreshes.length - before, 1);
      }
    });

    test("reloaded all at once: no more than one refresh", async () => {
      visitor = await Visitor.open(browser, server, without);
      const tabs = await visitor.signedIn(TABS);
      const before = visitor.refreshes.length;
      await Promise.all(tabs.map(({ page }) => page.reload()));
      await Promise.all(tabs.map(({ page }) => page.waitForFunction(() => "kernel" in window)));
      assert.deepEqual(await all(tabs), oks(TABS));
      assert.ok(visitor.refreshes.length - before <= 1, `${visitor.refreshes.length - before} refreshes`);
    });

    test("a tab closed in the middle of its refresh: another takes over", async () => {
      visitor = await Visitor.open(browser, server, without);
      const [first, ...others] = await visitor.signedIn(3);
      visitor.spoilTokens();
      const before = visitor.refreshes.length;
      const gate = new Gate(visitor, 1);
      void first.ask().catch(() => {});
      await gate.full();
      const answers = all(others);
      visitor.onRefresh = (route) => route.continue();
      const begun = Date.now();
      await first.page.close();
      assert.deepEqual(await answers, oks(2));
      assert.ok(Date.now() - begun < 5_000, "long before waiting ends by itself");
      assert.equal(visitor.refreshes.length - before, 2, "the closed tab's and one more");
    });

    test("the same, after the server has served that refresh: the grace window saves the others", async () => {
      visitor = await Visitor.open(browser, server, without);
      const [first, ...others] = await visitor.signedIn(3);
      visitor.spoilTokens();
      const gate = new Gate(visitor, 1);
      void first.ask().catch(() => {});
      await gate.full();
      assert.equal(await useCookieBehindTheBrowser(), 200);
      const answers = all(others);
      visitor.onRefresh = (route) => route.continue();
      await first.page.close();
      assert.deepEqual(await answers, oks(2));
    });
  });
}

test("without BroadcastChannel and Web Locks each tab refreshes by itself, and the grace window saves every one", async () => {
  visitor = await Visitor.open(browser, server, ["locks", "channel"]);
  const tabs = await visitor.signedIn(TABS);
  visitor.spoilTokens();
  const before = visitor.refreshes.length;
  const gate = new Gate(visitor, TABS);
  const answers = all(tabs);
  await gate.full();
  visitor.onRefresh = (route) => route.continue();
  await Promise.all(gate.held.map((route) => route.continue()));
  assert.deepEqual(await answers, oks(TABS));
  const mine = visitor.refreshes.slice(before);
  assert.equal(mine.length, TABS);
  const cookies = await Promise.all(mine.map(async (request) => (await request.allHeaders()).cookie));
  assert.ok(cookies.every((cookie) => cookie?.includes("pk_refresh=")));
  assert.ok(new Set(cookies).size < TABS, "some presented the same refresh token");
  assert.deepEqual(await all(tabs), oks(TABS), "and they are still signed in");
});

test("a logout in one tab signs out all", async () => {
  visitor = await Visitor.open(browser, server);
  const tabs = await visitor.signedIn(3);
  assert.equal(await tabs[0].logout(), "ok");
  await Promise.all(tabs.map((tab) => tab.signedOut()));
  for (const answer of await all(tabs)) assert.match(answer, /^401 /);
  const fresh = await visitor.tab();
  assert.match(await fresh.ask(), /^401 /, "the cookie is dead too");
});

test("a session that ended is over in all tabs", async () => {
  visitor = await Visitor.open(browser, server);
  const tabs = await visitor.signedIn(3);
  visitor.spoilTokens();
  await visitor.context.clearCookies();
  const before = visitor.refreshes.length;
  for (const answer of await all(tabs)) assert.match(answer, /^401 /);
  await Promise.all(tabs.map((tab) => tab.signedOut()));
  assert.equal(visitor.refreshes.length - before, 1);
});

test("a refresh that the network fails is not a sign-out", async () => {
  visitor = await Visitor.open(browser, server);
  const tabs = await visitor.signedIn(2);
  visitor.spoilTokens();
  visitor.onRefresh = (route) => route.abort("connectionreset");
  assert.equal(await tabs[0].ask(), "0 network-error");
  visitor.onRefresh = (route) => route.continue();
  assert.deepEqual(await all(tabs), oks(2));
});

test("nothing that a script can read outlives the page", async () => {
  visitor = await Visitor.open(browser, server);
  const [tab] = await visitor.signedIn(1);
  assert.equal(await tab.stored(), '[{},{},"",[],[]]');
  const cookies = await visitor.context.cookies(`${server.origin}/api/v1/auth/refresh`);
  const cookie = cookies.find(({ name }) => name === "pk_refresh");
  assert.ok(cookie);
  assert.deepEqual([cookie.httpOnly, cookie.secure, cookie.sameSite], [true, true, "Strict"]);
});

/** Has the server rotate the refresh token without the browser hearing of it: what an answer that got lost does. */
async function useCookieBehindTheBrowser(): Promise<number> {
  const cookies = await visitor.context.cookies(`${server.origin}/api/v1/auth/refresh`);
  const value = cookies.find(({ name }) => name === "pk_refresh")?.value;
  assert.ok(value);
  const client = await http.newContext({ ignoreHTTPSErrors: true, timeout: 10_000 });
  try {
    const headers = { Cookie: `pk_refresh=${value}` };
    const answer = await client.post(`${server.origin}/api/v1/auth/refresh`, { headers });
    return answer.status();
  } finally {
    await client.dispose();
  }
}
