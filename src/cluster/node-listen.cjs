// Makes listen() of Node.js use the sockets that rsm has passed to this process.
//
// RSM_LISTEN lists them: "3=0.0.0.0:3000,4=[::]:3001". The first server that listens on one of these ports gets
// the socket; all other calls are unchanged.
"use strict";

const net = require("net");
const cluster = require("cluster");

const sockets = (process.env.RSM_LISTEN || "").split(",").map((entry) => {
  const [, fd, host, port] = /^(\d+)=\[?(.*?)\]?:(\d+)$/.exec(entry) || [];
  return { fd: Number(fd), host, port: Number(port) };
});

// The unused socket for a port: the one with the same host, else the first.
function take(port, host) {
  const fits = sockets.filter((socket) => socket.port === port && !socket.taken);
  const socket = fits.find((candidate) => candidate.host === host) || fits[0];
  if (socket) socket.taken = true;
  return socket;
}

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  // Workers of the cluster module listen through their parent.
  const [options, callback] = net._normalizeArgs(args);
  const port = typeof options.port === "string" ? Number(options.port) : options.port;
  const socket = cluster.isWorker || !port ? undefined : take(port, options.host);
  if (!socket) return listen.apply(this, args);
  const passed = { fd: socket.fd, backlog: options.backlog, signal: options.signal };
  return callback ? listen.call(this, passed, callback) : listen.call(this, passed);
};
