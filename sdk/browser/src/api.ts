import type { Unsubscribe } from "./memory.js";
import type { Session } from "./session.js";

export interface Options {
  /** Where the API is, as `https://app.example/api/v1`, or relative to the page: `/api/v1`. */
  readonly apiUrl: string;
  /** How long a request may take until its answer is there; 30 000 by default. */
  readonly timeoutMs?: number;
}

export interface Credentials {
  readonly email: string;
  readonly password: string;
  readonly tenantId?: string;
  /** A code of the second factor, or a recovery code. */
  readonly mfaCode?: string;
}

/** A tenant to be made. `name` is for ever: lower case letters, digits and hyphens, and nobody gets it again. */
export interface NewTenant {
  readonly name: string;
  readonly displayName: string;
}

export interface Registration {
  readonly email: string;
  /** At least 12 characters. */
  readonly password: string;
  readonly displayName: string;
  readonly tenant: NewTenant;
}

export interface Tenant {
  readonly id: string;
  readonly name: string;
  readonly displayName: string;
  readonly tier: string;
}

/**
 * Either signed in, or a tenant is to be chosen, or made where there is none: give `sessionToken` (good for 5 minutes)
 * to `selectTenant`.
 */
export type Login =
  | { readonly signedIn: true; readonly session: Session }
  | { readonly signedIn: false; readonly sessionToken: string; readonly tenants: readonly Tenant[] };

export type Selection = { readonly sessionToken: string } & (
  | { readonly tenantId: string }
  | { readonly tenant: NewTenant }
);

export interface Me {
  readonly id: string;
  readonly email: string;
  readonly displayName: string;
  readonly emailVerified: boolean;
  readonly mfaEnabled: boolean;
  readonly platformOwner: boolean;
  readonly tenant: Tenant;
  readonly roles: readonly string[];
  /** May hold `{module}.*` and `*`. */
  readonly permissions: readonly string[];
  /** The user who impersonates this one. */
  readonly actorId?: string | null;
}

/** All methods that ask the server throw PlatformError. Paths are below `apiUrl`: `/crm/contacts`. */
export interface Kernel {
  login(credentials: Credentials): Promise<Login>;
  selectTenant(selection: Selection): Promise<Session>;
  /** Makes a user and their tenant, and signs in. */
  register(registration: Registration): Promise<Session>;
  /** Signs out every tab. Where it throws, the server could not be told, and a reload signs in again. */
  logout(): Promise<void>;
  me(): Promise<Me>;

  /** As `fetch`, with the token, but throws PlatformError for statuses from 400. */
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** These send and read JSON; undefined where the answer has no body. */
  get<T>(path: string, init?: RequestInit): Promise<T>;
  post<T>(path: string, body?: unknown, init?: RequestInit): Promise<T>;
  patch<T>(path: string, body?: unknown, init?: RequestInit): Promise<T>;
  delete<T = void>(path: string, init?: RequestInit): Promise<T>;

  /** Undefined while signed out, and in a tab that just opened until its first request. */
  readonly session: Session | undefined;
  /** Called at each new token, whichever tab got it: the user or the tenant may be another. */
  onToken(listener: (session: Session) => void): Unsubscribe;
  /** Called once when the session ends, in whichever tab, or turns out not to exist. */
  onSignedOut(listener: () => void): Unsubscribe;
  /** Stops timers and the talk with other tabs; the session goes on. */
  close(): void;
}
