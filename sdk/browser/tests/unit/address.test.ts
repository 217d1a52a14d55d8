import assert from "node:assert/strict";
import { test } from "node:test";
import { Address } from "../../src/address.js";

test("paths go below the API, with their query", () => {
  for (const apiUrl of ["https://app.example/api/v1", "https://app.example/api/v1/"])
    assert.equal(Address.of(apiUrl).url("/crm/contacts?limit=5"), "https://app.example/api/v1/crm/contacts?limit=5");
  assert.equal(Address.of("https://app.example").url("/live"), "https://app.example/live");
});

test("no path leaves the API", () => {
  const paths = [
    "@evil.example/",
    ".evil.example/",
    "crm",
    "",
    "/../../admin",
    "/%2e%2e/admin",
    "https://evil.example/",
    "/..\\x",
  ];
  for (const apiUrl of ["https://app.example/api/v1", "https://app.example"]) {
    for (const path of paths) {
      let url: string | undefined;
      try {
        url = Address.of(apiUrl).url(path);
      } catch (error) {
        assert.ok(error instanceof TypeError);
      }
      assert.ok(url === undefined || url.startsWith(`${apiUrl}/`), `${apiUrl} + ${path} -> ${url}`);
    }
  }
  assert.throws(
    () => Address.of("https://app.example/api/v1").url("/../../admin"),
    /must start with \/ and stay below/,
  );
});

test("an API address must be one", () => {
  for (const apiUrl of [
    "",
    "/api/v1",
    "ftp://app.example",
    "https://u:p@app.example",
    "https://app.example?x=1",
    "javascript:alert(1)",
  ])
    assert.throws(() => Address.of(apiUrl), /^TypeError: apiUrl: /);
});
