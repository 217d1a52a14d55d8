/** The API's address: everything the SDK sends goes below it, so that a token can't leave for another place. */
export class Address {
  private constructor(readonly base: string) {}

  /** `apiUrl` may be relative to the page (`/api/v1`). Throws TypeError. */
  static of(apiUrl: string): Address {
    const page = globalThis.location?.href;
    if (!URL.canParse(apiUrl, page)) throw new TypeError(`apiUrl: "${apiUrl}" is not a URL`);
    const url = new URL(apiUrl, page);
    if (!/^https?:$/.test(url.protocol) || url.username || url.password || url.search || url.hash)
      throw new TypeError("apiUrl: must be http(s), without user, query and fragment, as https://app.example/api/v1");
    return new Address(url.href.replace(/\/+$/, ""));
  }

  /** `path` with its query, as `/crm/contacts?limit=5`. Throws TypeError where it would leave the API. */
  url(path: string): string {
    const url = new URL(this.base + path);
    if (!path.startsWith("/") || !url.href.startsWith(`${this.base}/`))
      throw new TypeError(`path: "${path}" must start with / and stay below ${this.base}`);
    return url.href;
  }
}
