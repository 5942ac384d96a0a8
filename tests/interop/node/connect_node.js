// connect-node, speaking gRPC: HTTP/2 by Node.js, messages by protobuf-es from a set of descriptors.
"use strict";

const fs = require("fs");
const { createFileRegistry, fromBinary, fromJson, toJson } = require("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = require("@bufbuild/protobuf/wkt");
const { ConnectError, createClient } = require("@connectrpc/connect");
const { createGrpcTransport } = require("@connectrpc/connect-node");

// What JSON says of bytes: base64.
const plain = (value) =>
  Buffer.isBuffer(value)
    ? value.toString("base64")
    : Array.isArray(value)
      ? value.map(plain)
      : value !== null && typeof value === "object"
        ? Object.fromEntries(Object.entries(value).map(([name, each]) => [name, plain(each)]))
        : value;

const local = (method) => method.charAt(0).toLowerCase() + method.slice(1);

module.exports = ({ server, cert, key, ca, descriptors }) => {
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, fs.readFileSync(descriptors)));
  const service = registry.getService("jobworker.v1.JobWorkerService");
  const request = (method, message) => fromJson(service.method[local(method)].input, plain(message));
  const answer = (method, message) =>
    toJson(service.method[local(method)].output, message, { useProtoFieldName: true, registry });

  function failure(thrown) {
    const error = ConnectError.from(thrown);
    return { code: error.code, message: error.rawMessage, detailed: error.details.length > 0 };
  }

  function talk(method, begin, write = () => {}) {
    const control = new AbortController();
    return {
      async events(onEvent) {
        try {
          for await (const { event } of begin({ signal: control.signal })) {
            const verdict = event.case === "verdict" && { exit_code: event.value.exitCode };
            onEvent(event.case, { data: event.value.data, verdict });
          }
          return { code: 0 };
        } catch (error) {
          return failure(error);
        }
      },
      write: (message) => write(request(method, message)),
      cancel: () => control.abort(),
    };
  }

  // What is written, for as long as the library asks.
  function queue() {
    const items = [];
    let wake = () => {};
    return {
      put: (item) => {
        items.push(item);
        wake();
      },
      async *[Symbol.asyncIterator]() {
        for (;;) {
          while (items.length > 0) yield items.shift();
          await new Promise((resolve) => (wake = resolve));
        }
      },
    };
  }

  function connect({ ping, patience } = {}) {
    const pings = ping ? { pingIntervalMs: ping, pingTimeoutMs: patience } : {};
    const transport = createGrpcTransport({ baseUrl: `https://${server}`, nodeOptions: { cert, key, ca }, ...pings });
    const client = createClient(service, transport);
    return {
      // A unary call, with a deadline in milliseconds; how it ended.
      async call(method, message, timeoutMs) {
        try {
          const response = await client[local(method)](request(method, message), { timeoutMs });
          return { code: 0, response: answer(method, response) };
        } catch (error) {
          return failure(error);
        }
      },
      stream: (message) => talk("Stream", (options) => client.stream(request("Stream", message), options)),
      attach() {
        const asked = queue();
        return talk("Attach", (options) => client.attach(asked, options), asked.put);
      },
    };
  }

  return { connect };
};
