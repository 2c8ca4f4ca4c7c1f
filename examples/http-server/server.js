// A plain web server as a function: whatever is posted comes back in capitals, as it streams in.
"use strict";

const http = require("node:http");
const { Transform } = require("node:stream");

const shout = () =>
  new Transform({
    transform(chunk, _encoding, done) {
      done(null, chunk.toString("latin1").replace(/[a-z]/g, (c) => c.toUpperCase()), "latin1");
    },
  });

const server = http.createServer((request, response) => {
  if (request.url === "/healthz") {
    response.end("ready\n");
    return;
  }
  // What is written to stdout and stderr is the log of the execution.
  console.log(`execution ${request.headers["x-skybridge-execution-id"]}`);
  response.setHeader("Content-Type", request.headers["content-type"]);
  request.pipe(shout()).pipe(response);
});

server.listen(Number(process.env.PORT));
// Between SIGTERM and SIGKILL there is time to finish what runs.
process.on("SIGTERM", () => server.close(() => process.exit(0)));
