// Reads JSON from stdin and writes it indented, with sorted keys.
"use strict";

const fs = require("node:fs");

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  const keys = Object.keys(value).sort();
  return Object.fromEntries(keys.map((key) => [key, sorted(value[key])]));
}

try {
  const value = JSON.parse(fs.readFileSync(0, "utf8"));
  process.stdout.write(JSON.stringify(sorted(value), null, 2) + "\n");
} catch (error) {
  // stderr is the log, and the exit code the verdict.
  console.error(`the input is no JSON: ${error.message}`);
  process.exitCode = 2;
}
