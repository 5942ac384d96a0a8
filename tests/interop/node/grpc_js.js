// grpc-js: HTTP/2 by Node.js, messages by protobufjs from the .proto.
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

module.exports = ({ server, cert, key, ca, proto }) => {
  const definition = loader.loadSync("jobworker/v1/job_worker.proto", {
    includeDirs: [proto],
    keepCase: true,
    enums: String,
    longs: Number,
    oneofs: true,
  });
  const credentials = grpc.credentials.createSsl(ca, key, cert);
  const { JobWorkerService } = grpc.loadPackageDefinition(definition).jobworker.v1;

  function failure(error) {
    const details = error.metadata ? error.metadata.get("grpc-status-details-bin") : [];
    return { code: error.code, message: error.details, detailed: details.length > 0 };
  }

  function talk(stream) {
    return {
      events: (onEvent) =>
        new Promise((resolve) => {
          stream.on("data", (message) => {
            const data = message.output && message.output.data;
            onEvent(message.event, { data, verdict: message.verdict });
          });
          stream.on("error", (error) => resolve(failure(error)));
          stream.on("status", (status) => status.code === 0 && resolve({ code: 0 }));
        }),
      write: (message) => stream.write(message),
      cancel: () => stream.cancel(),
    };
  }

  function connect({ ping, patience } = {}) {
    const options = ping ? { "grpc.keepalive_time_ms": ping, "grpc.keepalive_timeout_ms": patience } : {};
    const client = new JobWorkerService(server, credentials, options);
    return {
      // A unary call, with a deadline in milliseconds; how it ended.
      call: (method, request, deadline) =>
        new Promise((resolve) => {
          const more = deadline ? { deadline: Date.now() + deadline } : {};
          client[method](request, new grpc.Metadata(), more, (error, response) => {
            resolve(error ? failure(error) : { code: 0, response });
          });
        }),
      stream: (request) => talk(client.Stream(request)),
      attach: () => talk(client.Attach()),
    };
  }

  return { connect };
};
