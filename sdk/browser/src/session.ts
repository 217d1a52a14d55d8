import { problem } from "./problem.js";

/** Who is signed in, as the access token says. It is told for display: rights are decided by the server alone. */
export interface Session {
  readonly userId: string;
  readonly tenantId: string;
  readonly roles: readonly string[];
  /** The user who impersonates `userId`. */
  readonly actorId: string | undefined;
  /** When the access token expires, in milliseconds of this machine's clock (`Date.now()`). */
  readonly expiresAt: number;
}

/** An access token and what is known of it. `obtainedAt` (see Memory.stamp) orders the tokens of all tabs. */
export interface Credential {
  readonly accessToken: string;
  readonly obtainedAt: number;
  readonly session: Session;
}

/**
 * Reads the server's `{accessToken, expiresIn}`. The life is counted from now by this machine's clock, so that a wrong
 * clock does no harm. Throws PlatformError `unreadable-answer`.
 */
export function credentialOf(answer: unknown, obtainedAt: number): Credential {
  const { accessToken, expiresIn } = (answer ?? {}) as Record<string, unknown>;
  const expiresAt = typeof expiresIn === "number" ? Date.now() + expiresIn * 1000 : undefined;
  const credential = credentialFrom(accessToken, obtainedAt, expiresAt);
  if (!credential) throw problem(200, "unreadable-answer", "the server's answer holds no access token");
  return credential;
}

/** Undefined where `accessToken` is not the text of a JWT with `sub` and `tenantId`, or a time is no number. */
export function credentialFrom(accessToken: unknown, obtainedAt: unknown, expiresAt: unknown): Credential | undefined {
  if (typeof accessToken !== "string" || !Number.isFinite(obtainedAt) || !Number.isFinite(expiresAt)) return undefined;
  const { sub, tenantId, roles, act } = claimsOf(accessToken);
  if (typeof sub !== "string" || typeof tenantId !== "string") return undefined;
  const actor = (act ?? {}) as { sub?: unknown };
  const session: Session = {
    userId: sub,
    tenantId,
    roles: Array.isArray(roles) ? roles.filter((role) => typeof role === "string") : [],
    actorId: typeof actor.sub === "string" ? actor.sub : undefined,
    expiresAt: expiresAt as number,
  };
  return { accessToken, obtainedAt: obtainedAt as number, session };
}

function claimsOf(token: string): Record<string, unknown> {
  try {
    const payload = (token.split(".")[1] ?? "").replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(payload), (character) => character.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return typeof claims === "object" && claims !== null ? (claims as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
