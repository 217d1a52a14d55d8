import { randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export const EMAIL = "ada@acme.example";
export const PASSWORD = "correct horse battery";
const USER = "0192f0c4-0000-7000-8000-000000000001";
export const TENANTS = ["0192f0c4-0000-7000-8000-00000000000a", "0192f0c4-0000-7000-8000-00000000000b"] as const;

interface Used {
  at: number;
  answer: Pair;
}

interface Refresh {
  tenant: string;
  family: { alive: boolean };
  used?: Used;
}

interface Pair {
  body: string;
  cookie: string;
}

/**
 * A small stand-in for the gateway, for these tests alone: login, refresh with the grace window, logout, and routes
 * that ask for a token. It says on the wire what the gateway says.
 *
 * Node's fetch keeps no cookies; with `jar` the server plays the browser's part and takes the cookie it set last.
 */
export class Double {
  readonly refreshes: number[] = [];
  readonly requestIds: string[] = [];
  readonly #paths: string[] = [];
  graceMs = 10_000;
  lifeSeconds = 900;
  /** Awaited between the arrival of a request, when its answer is decided, and the answer. */
  hold: (path: string) => Promise<unknown> | undefined = () => undefined;
  /** Consulted before each answer; true: the connection is cut. */
  cut: (path: string) => boolean = () => false;
  url = "";

  readonly #access = new Set<string>();
  readonly #refresh = new Map<string, Refresh>();
  readonly #server = createServer((request, response) => void this.#serve(request, response));
  #lastCookie = "";

  constructor(private readonly jar: boolean) {}

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    this.url = `http://localhost:${(this.#server.address() as AddressInfo).port}`;
    return this;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** How many requests for `path` came. */
  arrived(path: string): number {
    return this.#paths.filter((one) => one === path).length;
  }

  /** Every access token given so far is refused from now on. */
  refuseTokens(): void {
    this.#access.clear();
  }

  endSessions(): void {
    for (const { family } of this.#refresh.values()) family.alive = false;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = new URL(request.url ?? "/", this.url).pathname.replace(/^\/api\/v1/, "");
    const body = await read(request);
    this.#paths.push(path);
    this.requestIds.push(String(request.headers["x-request-id"]));
    if (this.cut(path)) return void request.socket.destroy();
    const known = this.#access.has((request.headers.authorization ?? "").replace("Bearer ", ""));
    const rotated = path === "/auth/refresh" ? this.#rotate(request) : undefined;
    await this.hold(path);
    switch (`${request.method} ${path}`) {
      case "POST /auth/login":
        return this.#login(JSON.parse(body), response);
      case "POST /auth/select-tenant":
        return grant(response, this.#issue(JSON.parse(body).tenantId, { alive: true }));
      case "POST /auth/register":
        return grant(response, this.#issue(TENANTS[0], { alive: true }), 201);
      case "POST /auth/refresh":
        return rotated ? grant(response, rotated) : refuse(response, 401, "token-revoked");
      case "POST /auth/logout":
        return this.#logout(request, response);
      case "GET /public":
        return send(response, 200, JSON.stringify({ authorization: request.headers.authorization ?? null }));
      case "GET /silent":
        return;
      case "GET /limited":
        response.setHeader("Retry-After", "7");
        return refuse(response, 429, "rate-limit-exceeded");
      case "GET /page":
        return void response.writeHead(502, { "Content-Type": "text/html" }).end("<h1>Bad Gateway</h1>");
      case "POST /invalid":
        return refuse(response, 400, "validation-error", [
          { field: "email", message: "is too short", code: "TOO_SHORT" },
        ]);
      case "GET /refusing":
        return refuse(response, 401, "unauthenticated");
      case "GET /auth/me":
      case "GET /things":
      case "POST /things":
        if (!known) return refuse(response, 401, "token-expired");
        return send(response, 200, JSON.stringify({ permissions: ["*"], body }));
      default:
        return refuse(response, 404, "not-found");
    }
  }

  #login({ email, password, tenantId }: Record<string, string>, response: ServerResponse): void {
    if (email?.startsWith("many") && !tenantId) {
      const tenants = TENANTS.map((id) => ({ id, name: id.slice(-1), displayName: id, tier: "client" }));
      send(response, 200, JSON.stringify({ sessionToken: "choose", tenants }));
    } else if (password !== PASSWORD) refuse(response, 401, "invalid-credentials");
    else grant(response, this.#issue(tenantId ?? TENANTS[0], { alive: true }));
  }

  #logout(request: IncomingMessage, response: ServerResponse): void {
    const row = this.#presented(request);
    if (row) row.family.alive = false;
    response.setHeader("Set-Cookie", "pk_refresh=; Path=/api/v1/auth; HttpOnly; Secure; SameSite=Strict; Max-Age=0");
    if (row) response.writeHead(204).end();
    else refuse(response, 401, "unauthenticated");
  }

  #presented(request: IncomingMessage): Refresh | undefined {
    const sent = /pk_refresh=([^;]+)/.exec(request.headers.cookie ?? "")?.[1];
    return this.#refresh.get(sent ?? (this.jar ? this.#lastCookie : ""));
  }

  /** The pair that follows, the same for each use within the grace window; undefined where the session is over. */
  #rotate(request: IncomingMessage): Pair | undefined {
    this.refreshes.push(Date.now());
    const row = this.#presented(request);
    if (!row?.family.alive) return undefined;
    row.used ??= { at: Date.now(), answer: this.#issue(row.tenant, row.family) };
    return Date.now() - row.used.at <= this.graceMs ? row.used.answer : undefined;
  }

  #issue(tenant: string, family: Refresh["family"]): Pair {
    const now = Math.floor(Date.now() / 1000);
    const claims = { sub: USER, tenantId: tenant, roles: ["Owner"], iat: now, exp: now + this.lifeSeconds };
    const parts = [{ alg: "ES256", typ: "JWT" }, claims].map((part) => base64url(JSON.stringify(part)));
    const accessToken = [...parts, randomBytes(64).toString("base64url")].join(".");
    const cookie = randomBytes(32).toString("base64url");
    this.#access.add(accessToken);
    this.#refresh.set(cookie, { tenant, family });
    this.#lastCookie = cookie;
    const expiresAt = new Date((now + this.lifeSeconds) * 1000).toISOString();
    return {
      cookie,
      body: JSON.stringify({ accessToken, expiresAt, tokenType: "Bearer", expiresIn: this.lifeSeconds }),
    };
  }
}

function grant(response: ServerResponse, { body, cookie }: Pair, status = 200): void {
  const attributes = "Path=/api/v1/auth; HttpOnly; Secure; SameSite=Strict; Max-Age=604800";
  response.setHeader("Set-Cookie", `pk_refresh=${cookie}; ${attributes}`);
  send(response, status, body);
}

function send(response: ServerResponse, status: number, body: string): void {
  response.writeHead(status, { "Content-Type": "application/json", "Cache-Control": "no-store" }).end(body);
}

function refuse(response: ServerResponse, status: number, slug: string, errors: object[] = []): void {
  const type = `https://platform-kernel.io/problems/${slug}`;
  const detail = `it is ${slug}`;
  const document = {
    type,
    title: slug,
    status,
    detail,
    instance: "/",
    trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
    errors,
  };
  response.writeHead(status, { "Content-Type": "application/problem+json" }).end(JSON.stringify(document));
}

async function read(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

function base64url(text: string): string {
  return Buffer.from(text).toString("base64url");
}
