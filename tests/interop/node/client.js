// A client made with grpc-js: node client.js SCENARIO SERVER CERT KEY CA PROTO. Prints one JSON object.
"use strict";

const crypto = require("crypto");
const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [scenario, server, cert, key, ca, proto] = process.argv.slice(2);
const definition = loader.loadSync("jobworker/v1/job_worker.proto", {
  includeDirs: [proto],
  keepCase: true,
  enums: String,
  longs: Number,
  oneofs: true,
});
const credentials = grpc.credentials.createSsl(fs.readFileSync(ca), fs.readFileSync(key), fs.readFileSync(cert));
const { JobWorkerService } = grpc.loadPackageDefinition(definition).jobworker.v1;
const connect = (options = {}) => new JobWorkerService(server, credentials, options);

// A unary call; how it ended.
function call(client, method, request, options = {}) {
  return new Promise((resolve) => {
    client[method](request, new grpc.Metadata(), options, (error, response) => {
      resolve(error ? failure(error) : { code: 0, response });
    });
  });
}

function failure(error) {
  const details = error.metadata ? error.metadata.get("grpc-status-details-bin") : [];
  return { code: error.code, message: error.details, details: details.length };
}

async function start(client, argv, more = {}) {
  const answer = await call(client, "Start", { spec: { argv, ...more } });
  if (answer.code !== 0) throw new Error(JSON.stringify(answer));
  return answer.response.job.id;
}

// What comes on a stream until it ends.
function collect(stream, onEvent = () => {}) {
  const found = { size: 0, kinds: [], verdict: null };
  const sum = crypto.createHash("sha256");
  return new Promise((resolve) => {
    const end = (status) => resolve({ ...found, ...status, sha256: sum.digest("hex") });
    stream.on("data", (message) => {
      const kind = message.event;
      if (found.kinds[found.kinds.length - 1] !== kind) found.kinds.push(kind);
      if (kind === "output") {
        found.size += message.output.data.length;
        sum.update(message.output.data);
      }
      if (kind === "verdict") found.verdict = message.verdict;
      onEvent(kind, message);
    });
    stream.on("error", (error) => end(failure(error)));
    stream.on("status", (status) => status.code === 0 && end({ code: 0 }));
  });
}

const scenarios = {
  // The main job.
  async calls() {
    const client = connect();
    const id = await start(client, ["sh", "-c", "echo out; echo err >&2; exit 3"]);
    const waited = await call(client, "Wait", { job_ids: [id] });
    const streamed = await collect(client.Stream({ job_id: id }));
    const queried = await call(client, "Query", { job_id: id });
    const listed = await call(client, "List", {});
    return { waited, streamed, queried, listed };
  },

  // Much in both directions: a request of a million bytes, and an answer that takes many windows.
  async large() {
    const client = connect();
    const data = Buffer.alloc(1000000, "x");
    const echoed = await collect(client.Stream({ job_id: await start(client, ["cat"], { stdin_data: data }) }));
    const written = await collect(
      client.Stream({ job_id: await start(client, ["head", "-c", String(64 * 1024 * 1024), "/dev/zero"]) }),
    );
    const refused = await call(client, "Start", {
      spec: { argv: ["cat"], stdin_data: Buffer.alloc(5 * 1024 * 1024) },
    });
    return { echoed, written, refused };
  },

  // The one call in which both sides speak.
  async attach() {
    const client = connect();
    const id = await start(client, ["cat"], { stdin: "STDIN_MODE_PIPE" });
    const attachment = client.Attach();
    const ended = collect(attachment, (kind) => {
      if (kind !== "attached") return;
      for (let number = 0; number < 3; number++) attachment.write({ data: Buffer.alloc(100000, String(number)) });
      attachment.write({ close_stdin: {} });
    });
    attachment.write({ start: { job_id: id } });
    return ended;
  },

  async cancel() {
    const client = connect();
    const id = await start(client, ["sh", "-c", "echo first; exec sleep 1000"]);
    const stream = client.Stream({ job_id: id });
    const ended = await collect(stream, (kind) => kind === "output" && stream.cancel());
    return { ended, queried: await call(client, "Query", { job_id: id }) };
  },

  async deadline() {
    const client = connect();
    const id = await start(client, ["sleep", "1000"]);
    const waited = await call(client, "Wait", { job_ids: [id] }, { deadline: Date.now() + 300 });
    return { waited, queried: await call(client, "Query", { job_id: id }) };
  },

  async refused() {
    const client = connect();
    return {
      start: await call(client, "Start", { spec: { argv: ["true"] } }),
      query: await call(client, "Query", { job_id: "00000000-0000-4000-8000-000000000000" }),
      bad: await call(client, "Wait", { job_ids: [] }),
    };
  },

  // PINGs as often as the library sends them, beside a stream on which nothing is said.
  async keepalive() {
    const client = connect({ "grpc.keepalive_time_ms": 100, "grpc.keepalive_timeout_ms": 2000 });
    const id = await start(client, ["sh", "-c", "sleep 2; echo late"]);
    return collect(client.Stream({ job_id: id }));
  },

  // The connection is ended by GOAWAY after the first line: what goes on is said on stdin.
  async goaway() {
    const client = connect();
    const id = await start(client, ["sh", "-c", "echo first; exec sleep 1000"]);
    const waiting = call(client, "Wait", { job_ids: [id] });
    await call(client, "Query", { job_id: id });
    process.stdout.write("waiting\n");
    return { waited: await waiting, again: await call(client, "Query", { job_id: id }) };
  },
};

scenarios[scenario]().then((found) => {
  process.stdout.write(JSON.stringify(found) + "\n", () => process.exit(0));
});
