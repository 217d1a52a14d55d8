/** What is wrong with one field of a request; `code` is in capitals (`TOO_SHORT`). */
export interface FieldError {
  readonly field: string;
  readonly message: string;
  readonly code: string;
}

const BASE = "https://platform-kernel.io/problems/";

interface Fields {
  type: string;
  status: number;
  detail: string;
  traceId?: string;
  errors?: readonly FieldError[];
  retryAfter?: number | undefined;
}

/**
 * Whatever went wrong with a request, in one shape: a problem document (RFC 9457) of the server, or, with `status` 0,
 * no answer at all. Branch on `slug`; `detail` is for people and may change.
 */
export class PlatformError extends Error {
  override readonly name = "PlatformError";
  /** The URI that names the problem; `about:blank` where the answer was no problem document. */
  readonly type: string;
  /** The HTTP status; 0 where there was no answer: `network-error`, `timeout`, `session-changed`. */
  readonly status: number;
  readonly detail: string;
  /** What to look for in the server's logs and traces; empty where none was told. */
  readonly traceId: string;
  readonly errors: readonly FieldError[];
  /** Seconds to wait before another try, where the server said so in seconds. */
  readonly retryAfter: number | undefined;

  constructor(fields: Fields, options?: ErrorOptions) {
    super(fields.detail, options);
    this.type = fields.type;
    this.status = fields.status;
    this.detail = fields.detail;
    this.traceId = fields.traceId ?? "";
    this.errors = fields.errors ?? [];
    this.retryAfter = fields.retryAfter;
  }

  /** The last part of `type`: `rate-limit-exceeded`. */
  get slug(): string {
    return this.type.slice(this.type.lastIndexOf("/") + 1);
  }
}

/** A problem that the server did not state itself. */
export function problem(status: number, slug: string, detail: string, cause?: unknown): PlatformError {
  return new PlatformError({ type: BASE + slug, status, detail }, { cause });
}

/** Reads the body of an answer with status >= 400. */
export async function problemOf(response: Response): Promise<PlatformError> {
  const document = await documentOf(response);
  const { type, detail, title, trace_id: traceId, errors } = document;
  const seconds = response.headers.get("Retry-After");
  return new PlatformError({
    type: typeof type === "string" ? type : "about:blank",
    status: response.status,
    detail: [detail, title, response.statusText].find(isText) ?? `the server answered ${response.status}`,
    traceId: typeof traceId === "string" ? traceId : "",
    errors: Array.isArray(errors) ? errors.filter(isFieldError) : [],
    retryAfter: seconds !== null && /^\d+$/.test(seconds) ? Number(seconds) : undefined,
  });
}

async function documentOf(response: Response): Promise<Record<string, unknown>> {
  const text = await response.text();
  if (!/^application\/(problem\+)?json\b/i.test(response.headers.get("Content-Type") ?? "")) return {};
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === "object" && parsed !== null ? (parsed as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}

function isFieldError(value: unknown): value is FieldError {
  if (typeof value !== "object" || value === null) return false;
  const { field, message, code } = value as Record<string, unknown>;
  return typeof field === "string" && typeof message === "string" && typeof code === "string";
}
