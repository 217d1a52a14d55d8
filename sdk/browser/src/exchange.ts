import { PlatformError, problem, problemOf } from "./problem.js";

const RETRY_AFTER_MS = 100;

export interface Exchange<T> {
  readonly url: string;
  readonly init: RequestInit;
  /** For the whole of it: both tries, and `read`. */
  readonly timeoutMs: number;
  /** Whether the request may be sent a second time when the network failed and nobody knows if it arrived. */
  readonly repeatable: boolean;
  /** What to make of an answer with status < 400. */
  readonly read: (response: Response) => T | Promise<T>;
}

/**
 * One request and its answer. Throws PlatformError; what `init.signal` aborts throws that signal's reason; what can't
 * be a request (a malformed header) throws TypeError.
 */
export async function exchange<T>({ url, init, timeoutMs, repeatable, read }: Exchange<T>): Promise<T> {
  const clock = new AbortController();
  const timeout = setTimeout(() => clock.abort(), timeoutMs);
  const signal = init.signal ? AbortSignal.any([init.signal, clock.signal]) : clock.signal;
  try {
    const request = new Request(url, { ...init, signal });
    const spare = repeatable ? request.clone() : undefined;
    const response = await told(init.signal, clock.signal, () => twice(request, spare, signal));
    if (response.status >= 400) throw await told(init.signal, clock.signal, () => problemOf(response));
    return await told(init.signal, clock.signal, () => read(response));
  } finally {
    clearTimeout(timeout);
  }
}

async function twice(request: Request, spare: Request | undefined, signal: AbortSignal): Promise<Response> {
  try {
    return await fetch(request);
  } catch (error) {
    if (!spare || signal.aborted) throw error;
    await new Promise((resolve) => setTimeout(resolve, RETRY_AFTER_MS));
    return await fetch(spare);
  }
}

/** Runs `step` and says what its failure means: the caller's abort, our timeout, or the network. */
async function told<T>(
  caller: AbortSignal | null | undefined,
  clock: AbortSignal,
  step: () => T | Promise<T>,
): Promise<T> {
  try {
    return await step();
  } catch (error) {
    if (error instanceof PlatformError) throw error;
    caller?.throwIfAborted();
    if (clock.aborted) throw problem(0, "timeout", "the server did not answer in time", error);
    throw problem(0, "network-error", "the server can't be reached, or its answer broke off", error);
  }
}

/** Reads an answer's JSON; undefined where there is no body. */
export async function json<T>(response: Response): Promise<T> {
  const text = await response.text();
  if (text === "") return undefined as T;
  try {
    return JSON.parse(text) as T;
  } catch (error) {
    throw problem(response.status, "unreadable-answer", "the server's answer is not JSON", error);
  }
}
