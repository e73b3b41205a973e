// Starts an app, follows its log, restarts it and deletes it. Run with: node examples/client.mjs
//
// Uses only the `http` module of Node.js and the socket of the daemon. The API is described in docs/api.md.
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

const socketPath = path.join(process.env.RSM_HOME ?? path.join(os.homedir(), '.rsm'), 'rsm.sock');

/** Sends a request to the daemon and returns the response as a stream. */
function open(method, target, body) {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, method, path: target }, resolve);
    request.on('error', reject);
    request.end(body && JSON.stringify(body));
  });
}

/** Sends a request to the daemon and returns the decoded response. Throws the error of the daemon. */
async function call(method, target, body) {
  const response = await open(method, target, body);
  const text = (await response.setEncoding('utf8').toArray()).join('');
  const value = JSON.parse(text);
  if (response.statusCode !== 200) throw new Error(`${value.error.message}. ${value.error.hint ?? ''}`);
  return value;
}

/** Yields the JSON objects of a stream. */
async function* lines(target) {
  let rest = '';
  for await (const chunk of (await open('GET', target)).setEncoding('utf8')) {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop();
    for (const line of parts) yield JSON.parse(line);
  }
}

console.log(`rsm ${(await call('GET', '/v1/ping')).version}`);
const script = 'while :; do echo hello; sleep 1; done';
const apps = [{ name: 'hello-js', script, launcher: 'shell', cwd: '/' }];
await call('POST', '/v1/apps', { apps, inherited: { PATH: process.env.PATH } });
for await (const item of lines('/v1/logs?select=hello-js&follow=true')) {
  console.log(`${item.name}: ${item.line}`);
  break;
}
const report = await call('POST', '/v1/instances/restart', { select: ['hello-js'] });
for (const { name, id, error } of report.instances) console.log(`${name} (id ${id}): ${error ?? 'ok'}`);
for (const { name, status, restarts } of await call('GET', '/v1/instances')) {
  console.log(`${name}: ${status}, ${restarts} restarts`);
}
await call('POST', '/v1/instances/delete', { select: ['hello-js'] });
