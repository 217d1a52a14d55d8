import type { Memory } from "./memory.js";
import { type Credential, credentialFrom } from "./session.js";
import type { Tabs } from "./tabs.js";

/** How long a tab that just opened waits for another tab's token before it refreshes by itself. */
const ASK_MS = 50;

/** What this tab found out, for itself and for all others. */
export interface Tell {
  token(credential: Credential): void;
  /** Tokens obtained up to `at` are dead. */
  signedOut(at: number): void;
}

/**
 * Makes the tabs' memories one: takes what others tell, answers who asks, and asks. `asked` ends when this tab has a
 * token, or nobody answered in time.
 */
export function share(memory: Memory, tabs: Tabs | undefined): { tell: Tell; asked: Promise<void> } {
  const post = ({ accessToken, obtainedAt, session }: Credential) =>
    tabs?.post("token", { accessToken, obtainedAt, expiresAt: session.expiresAt });
  const tell: Tell = {
    token(credential) {
      memory.keep(credential);
      post(credential);
    },
    signedOut(at) {
      memory.drop(at);
      tabs?.post("signed-out", { at });
    },
  };
  if (!tabs) return { tell, asked: Promise.resolve() };

  tabs.on("token", ({ accessToken, obtainedAt, expiresAt }) => {
    const credential = credentialFrom(accessToken, obtainedAt, expiresAt);
    if (credential) memory.keep(credential);
  });
  tabs.on("signed-out", ({ at }) => memory.drop(at));
  tabs.on("ask", () => memory.credential && post(memory.credential));
  const asked = new Promise<void>((resolve) => {
    memory.onToken(() => resolve());
    setTimeout(resolve, ASK_MS);
    tabs.post("ask", {});
  });
  return { tell, asked };
}
