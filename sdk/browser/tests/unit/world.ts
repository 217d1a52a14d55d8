import assert from "node:assert/strict";
import { afterEach, beforeEach } from "node:test";
import { createKernel, type Kernel, PlatformError } from "../../src/index.js";
import { Double, EMAIL, PASSWORD } from "../double.js";

/** Anew for each test of a file that calls `eachWithAServer`. */
export let server: Double;
const open: Kernel[] = [];

/** A tab: Node's BroadcastChannel joins the kernels of one process as the browser's joins tabs. */
export function tab(options: { timeoutMs?: number } = {}): Kernel {
  const kernel = createKernel({ apiUrl: `${server.url}/api/v1`, ...options });
  open.push(kernel);
  return kernel;
}

export async function signedIn(): Promise<Kernel> {
  const kernel = tab();
  await kernel.login({ email: EMAIL, password: PASSWORD });
  return kernel;
}

/** Tabs of which each has been told the token. */
export async function signedInTabs(count: number): Promise<Kernel[]> {
  const tabs = [await signedIn(), ...Array.from({ length: count - 1 }, () => tab())];
  await until(() => tabs.every((kernel) => kernel.session));
  return tabs;
}

export async function until(condition: () => unknown): Promise<void> {
  for (const end = Date.now() + 5_000; !condition(); await new Promise((resolve) => setTimeout(resolve, 5)))
    assert.ok(Date.now() < end, `not within 5 s: ${condition}`);
}

export async function failure(work: Promise<unknown>): Promise<PlatformError> {
  const error = await work.then(
    () => assert.fail("it should have failed"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof PlatformError, String(error));
  return error;
}

export function eachWithAServer(): void {
  beforeEach(async () => {
    server = await new Double(true).start();
  });
  afterEach(async () => {
    for (const kernel of open.splice(0)) kernel.close();
    await server.stop();
  });
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
