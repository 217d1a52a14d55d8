import type { Memory } from "./memory.js";

/** At most this long before its end a token is replaced; at least half of that, by chance, so that tabs don't all start at once. */
const LEAD_MS = 60_000;

/**
 * Replaces the token shortly before it expires, so that no request has to wait. Hidden tabs leave it alone (a visible
 * one tells them its token) and look again when they are shown. A failure is left to the next request. Returns what
 * ends it.
 */
export function keepFresh(memory: Memory, renew: (old: string) => Promise<void>): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let dueAt = Number.POSITIVE_INFINITY;

  const check = () => {
    clearTimeout(timer);
    const { credential } = memory;
    if (!credential || globalThis.document?.visibilityState === "hidden") return;
    const left = dueAt - Date.now();
    if (left > 0) {
      timer = setTimeout(check, Math.min(left, 2 ** 31 - 1));
    } else {
      dueAt = Number.POSITIVE_INFINITY;
      renew(credential.accessToken).catch(() => {});
    }
  };
  const stops = [
    memory.onToken((session) => {
      const lead = Math.min(LEAD_MS, (session.expiresAt - Date.now()) / 5);
      dueAt = session.expiresAt - lead * (0.5 + Math.random() / 2);
      check();
    }),
    memory.onSignedOut(check),
  ];
  globalThis.document?.addEventListener("visibilitychange", check);
  return () => {
    clearTimeout(timer);
    globalThis.document?.removeEventListener("visibilitychange", check);
    for (const stop of stops) stop();
  };
}
