import { leaseAmong } from "./lease.js";
import type { Tabs } from "./tabs.js";

export type Release = () => void;

/** Waits until no other tab has the turn, takes it, and gives what ends it. Rejects when `signal` aborts first. */
export type TakeTurn = (signal: AbortSignal) => Promise<Release>;

/**
 * Turns among the tabs of one origin. Without a channel there are none: a tab that waited would not be told the token
 * that it waited for, so each refreshes by itself, at once, and the server's grace window gives all of them the same pair.
 */
export function turns(name: string, tabs: Tabs | undefined): TakeTurn {
  if (!tabs) return async () => () => {};
  return globalThis.navigator?.locks ? (signal) => lock(name, signal) : leaseAmong(tabs);
}

/** The browser frees the lock of a tab that is closed or crashes. */
function lock(name: string, signal: AbortSignal): Promise<Release> {
  return new Promise((granted, refused) => {
    const untilReleased = () => new Promise<void>((release) => granted(() => release()));
    navigator.locks.request(name, { signal }, untilReleased).catch(refused);
  });
}
