export type {
  Credentials,
  Kernel,
  Login,
  Me,
  NewTenant,
  Options,
  Registration,
  Selection,
  Tenant,
} from "./api.js";
export { createKernel } from "./kernel.js";
export { type FieldError, PlatformError } from "./problem.js";
export type { Session } from "./session.js";
