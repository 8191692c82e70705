// Node's own server: `node origin.js PORT FILE` appends a line for each whole request to FILE, then answers it.
const fs = require("fs");
const http = require("http");
const [port, file] = process.argv.slice(2);

const server = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const seen = {
      method: request.method,
      target: request.url,
      host: request.headers.host ?? null,
      body: Buffer.concat(parts).toString("hex"),
    };
    fs.appendFileSync(file, JSON.stringify(seen) + "\n");
    response.end(request.url);
  });
});
// The gateway decides when an idle connection ends.
server.keepAliveTimeout = 600_000;
server.listen(Number(port), "127.0.0.1");
