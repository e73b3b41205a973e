// Starts an app, shows what it says, restarts it and removes it: `node examples/client.mjs`.
//
// Nothing but Node's own http over the daemon's socket. docs/api.md describes what can be asked.
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

const socketPath = path.join(process.env.RSM_HOME ?? path.join(os.homedir(), '.rsm'), 'rsm.sock');

/** Asks the daemon; gives the answer's stream. */
function open(method, target, body) {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, method, path: target }, resolve);
    request.on('error', reject);
    request.end(body && JSON.stringify(body));
  });
}

/** Asks the daemon; gives what it answers, or fails with its words. */
async function ask(method, target, body) {
  const answer = await open(method, target, body);
  const text = (await answer.setEncoding('utf8').toArray()).join('');
  const value = JSON.parse(text);
  if (answer.statusCode !== 200) throw new Error(`${value.error.message}. ${value.error.hint ?? ''}`);
  return value;
}

/** The JSON lines of a stream. */
async function* lines(target) {
  let rest = '';
  for await (const chunk of (await open('GET', target)).setEncoding('utf8')) {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop();
    for (const line of parts) yield JSON.parse(line);
  }
}

console.log(`rsm ${(await ask('GET', '/v1/ping')).version}`);
const script = 'while :; do echo hello; sleep 1; done';
const apps = [{ name: 'hello-js', script, launcher: 'shell', cwd: '/' }];
await ask('POST', '/v1/apps', { apps, inherited: { PATH: process.env.PATH } });
for await (const item of lines('/v1/logs?select=hello-js&follow=true')) {
  console.log(`${item.name} says ${item.line}`);
  break;
}
const report = await ask('POST', '/v1/instances/restart', { select: ['hello-js'] });
for (const { name, id, error } of report.instances) console.log(`${name} (id ${id}): ${error ?? 'as wished'}`);
for (const { name, status, restarts } of await ask('GET', '/v1/instances')) {
  console.log(`${name}: ${status}, ${restarts} restarts`);
}
await ask('POST', '/v1/instances/delete', { select: ['hello-js'] });
