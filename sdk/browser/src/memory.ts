import type { Credential, Session } from "./session.js";

export type Unsubscribe = () => void;

/**
 * The only place where the access token is kept: a private field of this tab. A reload forgets it (the refresh cookie,
 * which no script can read, brings another).
 *
 * A tab that just opened doesn't know whether it is signed in: `unknown`, until a token or a refusal comes.
 */
export class Memory {
  #credential: Credential | undefined;
  #state: "unknown" | "in" | "out" = "unknown";
  #outAt = 0;
  #signOuts = 0;
  readonly #events = new EventTarget();

  get credential(): Credential | undefined {
    return this.#credential;
  }

  get state(): "unknown" | "in" | "out" {
    return this.#state;
  }

  /** Counts the sign-outs: work that was begun before one must not sign in again when it ends. */
  get signOuts(): number {
    return this.#signOuts;
  }

  /**
   * The time, in ms, for what is obtained or begun now: later than all that this tab has heard of, even when the
   * machine's clock was set back.
   */
  stamp(): number {
    return Math.max(Date.now(), this.#outAt + 1, (this.#credential?.obtainedAt ?? 0) + 1);
  }

  /** Takes a token, unless a newer one is held or it is older than the last sign-out. */
  keep(credential: Credential): void {
    const { obtainedAt } = credential;
    if (obtainedAt < (this.#credential?.obtainedAt ?? 0) || obtainedAt <= this.#outAt) return;
    if (credential.accessToken === this.#credential?.accessToken) return;
    this.#credential = credential;
    this.#state = "in";
    this.#events.dispatchEvent(new Event("token"));
  }

  /** Signs out, unless the token held is newer than `at`: a late word of an old refusal must not end a new login. */
  drop(at: number): void {
    if (this.#credential && this.#credential.obtainedAt > at) return;
    this.#outAt = Math.min(at, this.stamp());
    this.#signOuts += 1;
    this.#credential = undefined;
    if (this.#state === "out") return;
    this.#state = "out";
    this.#events.dispatchEvent(new Event("signed-out"));
  }

  /** `listener` hears of each new token, whichever tab got it. */
  onToken(listener: (session: Session) => void): Unsubscribe {
    return this.#on("token", () => this.#credential && listener(this.#credential.session));
  }

  onSignedOut(listener: () => void): Unsubscribe {
    return this.#on("signed-out", listener);
  }

  #on(event: "token" | "signed-out", listener: () => void): Unsubscribe {
    const wrapped = () => listener();
    this.#events.addEventListener(event, wrapped);
    return () => this.#events.removeEventListener(event, wrapped);
  }
}
