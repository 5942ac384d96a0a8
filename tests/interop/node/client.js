// A gRPC client that is not ours: node client.js PEER SCENARIO SERVER CERT KEY CA PROTO DESCRIPTORS. PEER is a module of this
// folder, which says how its library calls. Prints one JSON object.
"use strict";

const crypto = require("crypto");
const fs = require("fs");

const [peer, scenario, server, cert, key, ca, proto, descriptors] = process.argv.slice(2);
const { connect } = require(`./${peer}.js`)({
  server,
  cert: fs.readFileSync(cert),
  key: fs.readFileSync(key),
  ca: fs.readFileSync(ca),
  proto,
  descriptors,
});

async function start(client, argv, more = {}) {
  const answer = await client.call("Start", { spec: { argv, ...more } });
  if (answer.code !== 0) throw new Error(JSON.stringify(answer));
  return answer.response.job.id;
}

// What comes on a stream until it ends. (A peer gives each event's kind and its output's bytes or its verdict.)
async function collect(stream, onEvent = () => {}) {
  const found = { size: 0, kinds: [], verdict: null };
  const sum = crypto.createHash("sha256");
  const ended = await stream.events((kind, { data, verdict }) => {
    if (found.kinds[found.kinds.length - 1] !== kind) found.kinds.push(kind);
    if (kind === "output") {
      found.size += data.length;
      sum.update(data);
    }
    if (kind === "verdict") found.verdict = verdict;
    onEvent(kind);
  });
  return { ...found, ...ended, sha256: sum.digest("hex") };
}

const scenarios = {
  // The main job.
  async calls() {
    const client = connect();
    const id = await start(client, ["sh", "-c", "echo out; echo err >&2; exit 3"]);
    const waited = await client.call("Wait", { job_ids: [id] });
    const streamed = await collect(client.stream({ job_id: id }));
    const queried = await client.call("Query", { job_id: id });
    const listed = await client.call("List", {});
    return { waited, streamed, queried, listed };
  },

  // Much in both directions: a request of a million bytes, and an answer that takes many windows.
  async large() {
    const client = connect();
    const data = Buffer.alloc(1000000, "x");
    const echoed = await collect(client.stream({ job_id: await start(client, ["cat"], { stdin_data: data }) }));
    const written = await collect(
      client.stream({ job_id: await start(client, ["head", "-c", String(64 * 1024 * 1024), "/dev/zero"]) }),
    );
    const refused = await client.call("Start", {
      spec: { argv: ["cat"], stdin_data: Buffer.alloc(5 * 1024 * 1024) },
    });
    return { echoed, written, refused };
  },

  // The one call in which both sides speak.
  async attach() {
    const client = connect();
    const id = await start(client, ["cat"], { stdin: "STDIN_MODE_PIPE" });
    const attachment = client.attach();
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
    const stream = client.stream({ job_id: id });
    const ended = await collect(stream, (kind) => kind === "output" && stream.cancel());
    return { ended, queried: await client.call("Query", { job_id: id }) };
  },

  async deadline() {
    const client = connect();
    const id = await start(client, ["sleep", "1000"]);
    const waited = await client.call("Wait", { job_ids: [id] }, 300);
    return { waited, queried: await client.call("Query", { job_id: id }) };
  },

  async refused() {
    const client = connect();
    return {
      start: await client.call("Start", { spec: { argv: ["true"] } }),
      query: await client.call("Query", { job_id: "00000000-0000-4000-8000-000000000000" }),
      bad: await client.call("Wait", { job_ids: [] }),
    };
  },

  // PINGs as often as the library sends them, beside a stream on which nothing is said.
  async keepalive() {
    const client = connect({ ping: 100, patience: 60000 });
    const id = await start(client, ["sh", "-c", "sleep 2; echo late"]);
    return collect(client.stream({ job_id: id }));
  },

  // The connection is ended by GOAWAY after the first line: what goes on is said on stdin.
  async goaway() {
    const client = connect();
    const id = await start(client, ["sh", "-c", "echo first; exec sleep 1000"]);
    const waiting = client.call("Wait", { job_ids: [id] });
    await client.call("Query", { job_id: id });
    process.stdout.write("waiting\n");
    return { waited: await waiting, again: await client.call("Query", { job_id: id }) };
  },
};

process.exitCode = 3; // until it is known what is found: Node.js ends when nothing can happen any more
scenarios[scenario]().then((found) => {
  process.stdout.write(JSON.stringify(found) + "\n", () => process.exit(0));
});
