/** What the tabs of one origin tell each other. Times are milliseconds of the machine's clock, which they share. */
export interface Messages {
  /** A token for everybody. */
  token: { accessToken: string; obtainedAt: number; expiresAt: number };
  /** Tokens obtained up to `at` are dead. */
  "signed-out": { at: number };
  /** A tab that just opened asks for a token. */
  ask: object;
  /** See lease.ts. */
  claim: { candidate: string };
  held: { candidate: string };
}

type Kind = keyof Messages;

/** A BroadcastChannel with types. It reaches the other tabs of the same origin, never the tab that posts. */
export class Tabs {
  readonly #channel: BroadcastChannel;
  readonly #listeners = new Map<Kind, (message: never) => void>();

  private constructor(channel: BroadcastChannel) {
    this.#channel = channel;
    channel.onmessage = ({ data }: MessageEvent<{ kind?: Kind } | null>) => {
      const listener = data?.kind && this.#listeners.get(data.kind);
      listener?.(data as never);
    };
  }

  /** Undefined where the browser has no BroadcastChannel or forbids it (a sandboxed frame). */
  static open(name: string): Tabs | undefined {
    try {
      return new Tabs(new BroadcastChannel(name));
    } catch {
      return undefined;
    }
  }

  post<K extends Kind>(kind: K, message: Messages[K]): void {
    try {
      this.#channel.postMessage({ ...message, kind });
    } catch {
      // closed: nobody is to be told any more
    }
  }

  /** One listener a kind. */
  on<K extends Kind>(kind: K, listener: (message: Messages[K]) => void): void {
    this.#listeners.set(kind, listener);
  }

  close(): void {
    this.#channel.close();
  }
}
