/**
 * Turns by BroadcastChannel alone, for browsers without Web Locks.
 *
 * A tab that wants the turn claims it under a random name and waits. It has won when nobody objected: the tab that has
 * the turn objects always, another candidate objects if its own name comes first. Who lost claims again, under a new
 * name, a little later; so the claims are also the question whether the holder still lives, and a tab that crashed
 * holds nobody up for longer than one such round. Answers come from message handlers, which browsers don't slow down
 * in hidden tabs as they do timers.
 *
 * Nothing here is a lock: if a message takes longer than CLAIM_MS, two tabs have the turn. That costs a second
 * refresh, which the server's grace window makes harmless.
 */
import type { Tabs } from "./tabs.js";
import type { TakeTurn } from "./turn.js";

const CLAIM_MS = 200;
const AGAIN_MS = 100;

export function leaseAmong(tabs: Tabs): TakeTurn {
  const granted = new Set<string>();
  const claims = new Map<string, (won: boolean) => void>();

  tabs.on("claim", ({ candidate }) => {
    const before = [...claims.keys()].some((mine) => mine < candidate);
    if (granted.size > 0 || before) tabs.post("held", { candidate });
    else for (const decide of claims.values()) decide(false);
  });
  tabs.on("held", ({ candidate }) => claims.get(candidate)?.(false));

  async function claim(candidate: string, signal: AbortSignal): Promise<boolean> {
    const { promise, resolve } = settable();
    const abort = () => resolve(false);
    claims.set(candidate, resolve);
    signal.addEventListener("abort", abort);
    setTimeout(() => resolve(true), CLAIM_MS);
    tabs.post("claim", { candidate });
    const won = await promise;
    // in one step, so that a claim that comes now finds either the candidate or the holder
    claims.delete(candidate);
    if (won) granted.add(candidate);
    signal.removeEventListener("abort", abort);
    return won;
  }

  return async (signal) => {
    for (;;) {
      signal.throwIfAborted();
      const candidate = crypto.randomUUID();
      if (await claim(candidate, signal)) return () => granted.delete(candidate);
      signal.throwIfAborted();
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS * (1 + Math.random())));
    }
  };
}

function settable(): { promise: Promise<boolean>; resolve: (value: boolean) => void } {
  let resolve: (value: boolean) => void = () => {};
  const promise = new Promise<boolean>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
