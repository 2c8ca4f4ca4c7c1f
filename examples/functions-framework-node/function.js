// Greets who is named, as a function of Google's Functions Framework.
"use strict";

const functions = require("@google-cloud/functions-framework");

functions.http("hello", (request, response) => {
  const name = (request.rawBody ?? Buffer.alloc(0)).toString().trim() || "world";
  response.set("X-Greeted", encodeURIComponent(name)).type("text/plain");
  response.send(`Hello, ${name}!\n`);
});
