/**
 * One refresh for all tabs.
 *
 * The refresh token is in a cookie that all tabs share and that each use replaces. So a tab that needs a new access
 * token first takes the turn (turn.ts). Whoever has it refreshes and tells the token to the others (tabs.ts), who
 * stop waiting the moment they hear it. The turn is kept for LINGER_MS after that: a tab that asks for it just then,
 * before it has heard the token, still waits instead of refreshing again.
 *
 * Waiting is bounded by WAIT_MS: whatever became of the tab that has the turn, after that one refreshes by itself. If
 * two do, the server's grace window (10 s from the first use of a refresh token, the same token gets the same answer)
 * keeps both signed in. For its sake a refresh that the network failed is sent a second time at once, and not waited
 * for longer than ANSWER_MS: both tries lie inside the window, so an answer that got lost costs nobody the session.
 */
import type { Memory } from "./memory.js";
import { PlatformError } from "./problem.js";
import type { Credential } from "./session.js";
import type { Tell } from "./sharing.js";
import type { TakeTurn } from "./turn.js";

/** How long a refresh may take, both tries together: less than the grace window. */
export const ANSWER_MS = 8_000;
const WAIT_MS = 9_000;
const LINGER_MS = 500;

export class Renewal {
  #running: Promise<void> | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly memory: Memory,
    private readonly takeTurn: TakeTurn,
    private readonly refresh: () => Promise<Credential>,
    private readonly tell: Tell,
  ) {}

  /**
   * Ends when the memory holds another token than `refused` (undefined: any), or this tab is signed out. Throws
   * PlatformError when the refresh failed without saying that the session is over; nobody is signed out by that.
   */
  renew(refused: string | undefined): Promise<void> {
    if (this.#needless(refused)) return Promise.resolve();
    const needless = () => this.#needless(refused);
    this.#running ??= this.#inTurn(needless, () => this.#refresh(), LINGER_MS).finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  /** Logs in, by `work`, while no tab refreshes: answers that crossed could leave the older cookie. */
  async signIn(work: () => Promise<Credential | undefined>): Promise<void> {
    const login = async () => {
      const credential = await work();
      if (credential) this.tell.token(credential);
    };
    await this.#inTurn(() => false, login, 0);
  }

  #needless(refused: string | undefined): boolean {
    const { credential, state } = this.memory;
    return state === "out" || (credential !== undefined && credential.accessToken !== refused);
  }

  #inTurn(needless: () => boolean, work: () => Promise<void>, lingerMs: number): Promise<void> {
    const mine = this.#last.then(() => this.#amongTabs(needless, work, lingerMs));
    this.#last = mine.catch(() => {});
    return mine;
  }

  async #amongTabs(needless: () => boolean, work: () => Promise<void>, lingerMs: number): Promise<void> {
    if (needless()) return;
    const waiting = new AbortController();
    const changed = () => needless() && waiting.abort();
    const stops = [this.memory.onToken(changed), this.memory.onSignedOut(changed)];
    const limit = setTimeout(() => waiting.abort(), WAIT_MS);
    // rejected: another tab was faster, or has had the turn for too long, or the browser has no locks for this page
    const release = await this.takeTurn(waiting.signal).catch(() => () => {});
    clearTimeout(limit);
    for (const stop of stops) stop();
    let keepMs = 0;
    try {
      if (needless()) return;
      await work();
      keepMs = lingerMs;
    } finally {
      setTimeout(release, keepMs);
    }
  }

  async #refresh(): Promise<void> {
    const begunAt = this.memory.stamp();
    const { signOuts } = this.memory;
    try {
      const credential = await this.refresh();
      if (signOuts === this.memory.signOuts) this.tell.token(credential);
    } catch (error) {
      if (!(error instanceof PlatformError) || error.status !== 401) throw error;
      this.tell.signedOut(begunAt);
    }
  }
}
