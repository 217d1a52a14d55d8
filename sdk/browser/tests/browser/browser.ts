import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { type Browser, type BrowserContext, chromium, type Page, type Request, type Route } from "playwright-core";
import type { Kernel } from "../../src/index.js";
import type { Target } from "./target.js";

const SDK = new URL("../../../dist/", import.meta.url);
const PAGE = `<!doctype html><meta charset="utf-8"><title>tab</title><script type="module">
import { createKernel, PlatformError } from "/sdk-test/dist/index.js";
const kernel = createKernel({ apiUrl: "/api/v1" });
window.signOuts = 0;
kernel.onSignedOut(() => { window.signOuts += 1; });
window.outcome = (work) => work.then(
  () => "ok",
  (error) => error instanceof PlatformError ? error.status + " " + error.slug : String(error),
);
window.kernel = kernel;
</script>`;

/** What the page above puts on its window. */
interface TestWindow {
  kernel: Kernel;
  signOuts: number;
  outcome(work: Promise<unknown>): Promise<string>;
}

export async function launch(executablePath: string): Promise<Browser> {
  const args = ["--disable-gpu", "--disable-background-networking"];
  return await chromium.launch({ executablePath, args, headless: true, timeout: 30_000 });
}

/**
 * One user's browser: tabs of one origin with cookies in common. Pages and SDK are served into the target's own origin
 * by the browser itself, so that the target need not know of them. Refreshes are counted where the browser sends them.
 */
export class Visitor {
  /** Tries included: what the browser began to send. */
  readonly refreshes: Request[] = [];
  /** Decides what becomes of a refresh; by default it goes out. */
  onRefresh: (route: Route) => Promise<void> = (route) => route.continue();
  readonly #seen = new Set<string>();
  readonly #spoilt = new Set<string>();

  private constructor(
    readonly context: BrowserContext,
    private readonly target: Target,
  ) {}

  /** `without` are removed from the browser before the SDK loads. */
  static async open(browser: Browser, target: Target, without: ("locks" | "channel")[] = []): Promise<Visitor> {
    const context = await browser.newContext({ ignoreHTTPSErrors: true });
    context.setDefaultTimeout(15_000);
    if (without.includes("locks"))
      await context.addInitScript(() => Object.defineProperty(Navigator.prototype, "locks", { value: undefined }));
    if (without.includes("channel"))
      await context.addInitScript(() => Reflect.deleteProperty(globalThis, "BroadcastChannel"));
    const visitor = new Visitor(context, target);
    context.on("request", (request) => {
      if (isRefresh(request)) visitor.refreshes.push(request);
    });
    await context.route(`${target.origin}/sdk-test/**`, serve);
    await context.route(`${target.origin}/api/v1/**`, (route) => visitor.#pass(route));
    return visitor;
  }

  async tab(): Promise<Tab> {
    const page = await this.context.newPage();
    await page.goto(`${this.target.origin}/sdk-test/`);
    await page.waitForFunction(() => "kernel" in window);
    return new Tab(page, this.target);
  }

  /** Tabs that share one login; each has a token. */
  async signedIn(count: number): Promise<[Tab, ...Tab[]]> {
    const first = await this.tab();
    await first.login();
    const others = await Promise.all(Array.from({ length: count - 1 }, () => this.tab()));
    const tabs: [Tab, ...Tab[]] = [first, ...others];
    for (const tab of tabs) assert.equal(await tab.ask(), "ok");
    return tabs;
  }

  /** From now on the server gets nonsense in place of every access token that was used so far, and refuses it. */
  spoilTokens(): void {
    for (const token of this.#seen) this.#spoilt.add(token);
  }

  async #pass(route: Route): Promise<void> {
    const request = route.request();
    const authorization = request.headers().authorization;
    if (isRefresh(request)) return await this.onRefresh(route);
    if (authorization === undefined) return await route.continue();
    this.#seen.add(authorization);
    if (!this.#spoilt.has(authorization)) return await route.continue();
    await route.continue({ headers: { ...request.headers(), authorization: "Bearer spoilt" } });
  }
}

export class Tab {
  constructor(
    readonly page: Page,
    private readonly target: Target,
  ) {}

  async login(): Promise<void> {
    const { email, password } = this.target;
    const outcome = await this.page.evaluate(
      async (credentials) => {
        const { kernel, outcome } = window as unknown as TestWindow;
        return outcome(kernel.login(credentials).then(({ signedIn }) => signedIn || Promise.reject("choose a tenant")));
      },
      { email, password },
    );
    assert.equal(outcome, "ok");
  }

  /** `ok`, or status and slug of the error. */
  async ask(): Promise<string> {
    return await this.page.evaluate((path) => {
      const { kernel, outcome } = window as unknown as TestWindow;
      return outcome(kernel.get(path));
    }, this.target.path);
  }

  async logout(): Promise<string> {
    return await this.page.evaluate(() => {
      const { kernel, outcome } = window as unknown as TestWindow;
      return outcome(kernel.logout());
    });
  }

  async signedOut(): Promise<void> {
    await this.page.waitForFunction(() => {
      const { kernel, signOuts } = window as unknown as TestWindow;
      return signOuts === 1 && kernel.session === undefined;
    });
  }

  /** Whatever this page can read that outlives it. */
  async stored(): Promise<string> {
    return await this.page.evaluate(async () => {
      const databases = await indexedDB.databases();
      return JSON.stringify([
        { ...localStorage },
        { ...sessionStorage },
        document.cookie,
        databases,
        await caches.keys(),
      ]);
    });
  }
}

/** Holds refreshes until `count` of them are there. */
export class Gate {
  readonly held: Route[] = [];
  #arrived: (() => void) | undefined;

  constructor(
    visitor: Visitor,
    private readonly count: number,
  ) {
    visitor.onRefresh = async (route) => {
      this.held.push(route);
      this.#arrived?.();
    };
  }

  async full(): Promise<void> {
    for (const end = Date.now() + 10_000; this.held.length < this.count; ) {
      assert.ok(Date.now() < end, `${this.held.length} of ${this.count} refreshes came within 10 s`);
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
        setTimeout(resolve, 1_000);
      });
    }
  }
}

function isRefresh(request: Request): boolean {
  return request.method() === "POST" && new URL(request.url()).pathname === "/api/v1/auth/refresh";
}

async function serve(route: Route): Promise<void> {
  const name = new URL(route.request().url()).pathname.replace("/sdk-test/", "");
  if (name === "") return await route.fulfill({ contentType: "text/html", body: PAGE });
  const file = new URL(name.replace("dist/", ""), SDK);
  await route.fulfill({ contentType: "text/javascript", body: await readFile(fileURLToPath(file)) });
}
