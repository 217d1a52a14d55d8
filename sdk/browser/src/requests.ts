import type { Address } from "./address.js";
import { exchange } from "./exchange.js";
import type { Memory } from "./memory.js";
import { PlatformError, problem } from "./problem.js";
import type { Renewal } from "./renewal.js";
import type { Credential } from "./session.js";
import type { Tell } from "./sharing.js";

/**
 * Requests with the session's token. One that is answered 401 waits for a new token and is sent once more; when that
 * is refused too, the session is over in all tabs. Signed out, requests go without a token.
 */
export class Requests {
  constructor(
    private readonly address: Address,
    private readonly memory: Memory,
    private readonly renewal: Renewal,
    private readonly timeoutMs: number,
    /** Ends when an open tab told its token, or none did. */
    private readonly asked: Promise<void>,
    private readonly tell: Tell,
  ) {}

  async send<T>(path: string, init: RequestInit, read: (response: Response) => T | Promise<T>): Promise<T> {
    const url = this.address.url(path);
    const headers = new Headers(init.headers);
    if (!headers.has("X-Request-ID")) headers.set("X-Request-ID", crypto.randomUUID());
    const attempt = (credential: Credential | undefined) => {
      if (credential) headers.set("Authorization", `Bearer ${credential.accessToken}`);
      const repeatable = (init.method ?? "GET").toUpperCase() === "GET";
      return exchange({ url, init: { ...init, headers }, timeoutMs: this.timeoutMs, repeatable, read });
    };

    const first = await unlessAborted(this.#current(), init.signal);
    try {
      return await attempt(first);
    } catch (refusal) {
      if (!first || !isUnauthorized(refusal) || init.body instanceof ReadableStream) throw refusal;
      await unlessAborted(this.renewal.renew(first.accessToken), init.signal);
      const second = this.memory.credential;
      if (!second) throw refusal;
      sameSession(first, second);
      try {
        return await attempt(second);
      } catch (error) {
        if (isUnauthorized(error)) this.tell.signedOut(second.obtainedAt);
        throw error;
      }
    }
  }

  async #current(): Promise<Credential | undefined> {
    if (this.memory.state === "unknown") await this.asked;
    const { credential } = this.memory;
    if (!credential || credential.session.expiresAt <= Date.now()) await this.renewal.renew(credential?.accessToken);
    return this.memory.credential;
  }
}

function isUnauthorized(error: unknown): boolean {
  return error instanceof PlatformError && error.status === 401;
}

/** What one user began for one tenant must not be done as another, who signed in in another tab meanwhile. */
function sameSession({ session: first }: Credential, { session: second }: Credential): void {
  if (first.userId !== second.userId || first.tenantId !== second.tenantId)
    throw problem(0, "session-changed", "another user or tenant signed in meanwhile; the request was not repeated");
}

function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | null | undefined): Promise<T> {
  if (!signal) return work;
  const aborted = new Promise<never>((_, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    work.finally(() => signal.removeEventListener("abort", abort)).catch(() => {});
  });
  return Promise.race([work, aborted]);
}
