import { existsSync } from "node:fs";
import { Double, EMAIL, PASSWORD } from "../double.js";

/** The server that the tabs talk to: a running gateway where KERNEL_URL names one, else the stand-in of these tests. */
export interface Target {
  /** `https://localhost:8443`; the API is below `/api/v1`. */
  readonly origin: string;
  readonly email: string;
  readonly password: string;
  /** A GET that asks for a token, below the API. */
  readonly path: string;
  stop(): Promise<void>;
}

export async function target(): Promise<Target> {
  const { KERNEL_URL } = process.env;
  if (KERNEL_URL) {
    return {
      origin: new URL(KERNEL_URL).origin,
      email: needed("KERNEL_EMAIL"),
      password: needed("KERNEL_PASSWORD"),
      path: (process.env.KERNEL_PROTECTED_PATH ?? "/auth/me").replace(/^\/api\/v1(?=\/)/, ""),
      stop: async () => {},
    };
  }
  const server = await new Double(false).start();
  return { origin: server.url, email: EMAIL, password: PASSWORD, path: "/things", stop: () => server.stop() };
}

export function chromiumPath(): string {
  const path = process.env.CHROMIUM ?? "/usr/bin/chromium";
  if (!existsSync(path))
    throw new Error(`CHROMIUM: there is no ${path}; install chromium or set the variable to its path`);
  return path;
}

function needed(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name}: must be set together with KERNEL_URL`);
  return value;
}
