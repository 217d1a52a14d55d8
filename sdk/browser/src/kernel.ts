import { Address } from "./address.js";
import type { Kernel, Login, Me, Options, Tenant } from "./api.js";
import { exchange, json } from "./exchange.js";
import { Memory } from "./memory.js";
import { PlatformError, problem } from "./problem.js";
import { ANSWER_MS, Renewal } from "./renewal.js";
import { Requests } from "./requests.js";
import { credentialOf, type Session } from "./session.js";
import { share } from "./sharing.js";
import { Tabs } from "./tabs.js";
import { turns } from "./turn.js";
import { keepFresh } from "./upkeep.js";

/** One a page is enough. Throws TypeError where `apiUrl` is no address. */
export function createKernel({ apiUrl, timeoutMs = 30_000 }: Options): Kernel {
  const address = Address.of(apiUrl);
  const name = `platform-kernel ${address.base}`;
  const tabs = Tabs.open(name);
  const memory = new Memory();

  const { tell, asked } = share(memory, tabs);
  const renewal = new Renewal(
    memory,
    turns(name, tabs),
    async () => credentialOf(await auth("/auth/refresh", undefined, ANSWER_MS, true), memory.stamp()),
    tell,
  );
  const requests = new Requests(address, memory, renewal, timeoutMs, asked, tell);
  const stopUpkeep = keepFresh(memory, (old) => renewal.renew(old));

  /** A request that sets or uses the refresh cookie. */
  function auth(path: string, body: unknown, limitMs = timeoutMs, repeatable = false): Promise<unknown> {
    const headers = new Headers({ "X-Request-ID": crypto.randomUUID() });
    const init: RequestInit = { ...withJson("POST", body, { headers }), credentials: "include" };
    return exchange<unknown>({ url: address.url(path), init, timeoutMs: limitMs, repeatable, read: json });
  }

  async function signIn(path: string, body: unknown): Promise<Login> {
    let login: Login | undefined;
    await renewal.signIn(async () => {
      const answer = (await auth(path, body)) as { sessionToken?: string; tenants?: Tenant[] } | undefined;
      if (answer?.sessionToken !== undefined && Array.isArray(answer.tenants)) {
        login = { signedIn: false, sessionToken: answer.sessionToken, tenants: answer.tenants };
        return undefined;
      }
      const credential = credentialOf(answer, memory.stamp());
      login = { signedIn: true, session: credential.session };
      return credential;
    });
    return login as Login;
  }

  async function signInto(path: string, body: unknown): Promise<Session> {
    const login = await signIn(path, body);
    if (!login.signedIn) throw problem(200, "unreadable-answer", "the server asked for a tenant again");
    return login.session;
  }

  const send = <T>(method: string, path: string, body: unknown, init?: RequestInit) =>
    requests.send<T>(path, withJson(method, body, init), json);

  return {
    login: (credentials) => signIn("/auth/login", credentials),
    selectTenant: (selection) => signInto("/auth/select-tenant", selection),
    register: (registration) => signInto("/auth/register", registration),
    async logout() {
      try {
        await auth("/auth/logout", undefined);
      } catch (error) {
        // there was no session any more
        if (!(error instanceof PlatformError && error.status === 401)) throw error;
      } finally {
        // tokens that another tab is getting just now are dead too
        tell.signedOut(Number.MAX_SAFE_INTEGER);
      }
    },
    me: () => send<Me>("GET", "/auth/me", undefined),

    fetch: (path, init = {}) => requests.send(path, init, (response) => response),
    get: (path, init) => send("GET", path, undefined, init),
    post: (path, body, init) => send("POST", path, body, init),
    patch: (path, body, init) => send("PATCH", path, body, init),
    delete: (path, init) => send("DELETE", path, undefined, init),

    get session() {
      return memory.credential?.session;
    },
    onToken: (listener) => memory.onToken(listener),
    onSignedOut: (listener) => memory.onSignedOut(listener),
    close() {
      stopUpkeep();
      tabs?.close();
    },
  };
}

function withJson(method: string, body: unknown, init: RequestInit = {}): RequestInit {
  const headers = new Headers(init.headers);
  headers.set("Accept", "application/json");
  if (body === undefined) return { ...init, method, headers };
  headers.set("Content-Type", "application/json");
  return { ...init, method, headers, body: JSON.stringify(body) };
}
