//! Child processes: started as whoever may run them, ended by pid, whatever happens.

import { spawn, spawnSync } from 'node:child_process';
import { createConnection, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** How long a child may take to end after it was asked to. */
const FAREWELL_MS = 10_000;

const running = new Set();
let ending = false;

/** PATH and what is given, nothing else: a PGHOST of the caller would change what is measured. */
const environment = (more = {}) => ({ PATH: process.env.PATH, LC_ALL: 'C', ...more });

const isRoot = () => process.getuid() === 0;

/** PostgreSQL and PgBouncer refuse to run as root. `exec`, so that the pid is the program's own. */
const asServer = (program, args) =>
  isRoot() ? ['setpriv', ['--reuid=postgres', '--regid=postgres', '--init-groups', '--', program, ...args]] : [program, args];

/** Runs a program to its end and returns its stdout. */
export function output(program, args, { server = false, env = {}, input } = {}) {
  const [file, list] = server ? asServer(program, args) : [program, args];
  const done = spawnSync(file, list, { env: environment(env), input, encoding: 'utf8', maxBuffer: 64 << 20 });
  if (done.error) throw new Error(`${program} cannot be run: ${done.error.message}`);
  if (done.status !== 0) throw new Error(`${program} failed (${done.status ?? done.signal}):\n${done.stdout}${done.stderr}`);
  return done.stdout;
}

/** As `output`, without blocking: Ctrl-C is heard while it runs. `hear` gets each piece of text as it comes. */
export async function outputWhile(program, args, options) {
  const child = start(program, args, options);
  if ((await child.ended) !== 0) throw new Error(`${program} ${args.join(' ')} failed (${child.code}):\n${child.said()}`);
  return child.said();
}

/**
 * Starts a program beside us; `hear` gets what it says as it comes. Its process group is its own: Ctrl-C reaches us
 * alone, and the end is orderly.
 */
export function start(program, args, { server = false, env = {}, cwd, hear = () => {} } = {}) {
  if (ending) throw new Error(`${program} is not started: all is being ended`);
  const [file, list] = server ? asServer(program, args) : [program, args];
  const process_ = spawn(file, list, { env: environment(env), cwd, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  const keep = (chunk) => {
    text = (text + chunk).slice(-1_000_000);
    hear(String(chunk));
  };
  process_.stdout.on('data', keep);
  process_.stderr.on('data', keep);
  const child = { program, pid: process_.pid, said: () => text };
  child.ended = new Promise((resolve) => {
    process_.on('error', (error) => (keep(error.message), resolve(-1)));
    process_.on('close', (code, signal) => resolve(code ?? signal));
  }).then((code) => (running.delete(child), (child.code = code)));
  child.signal = (signal) => process_.kill(signal);
  running.add(child);
  return child;
}

/** Ends a child: asked politely once, then not. */
export async function end(child, signal = 'SIGINT') {
  child.signal(signal);
  const patience = setTimeout(() => child.signal('SIGKILL'), FAREWELL_MS);
  await child.ended;
  clearTimeout(patience);
}

/** Ends all children, the last started first. */
export async function endAll() {
  ending = true;
  for (const child of [...running].reverse()) await end(child);
}

/** A loopback port that is free now. */
export const freePort = () =>
  new Promise((resolve, reject) => {
    const probe = createServer().on('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });

/** Waits until `port` accepts, and says what `child` said where it never does. */
export async function accepts(child, port) {
  for (let attempt = 0; attempt < 400 && child.code === undefined; attempt += 1) {
    if (await connects(port)) return;
    await sleep(50);
  }
  throw new Error(`${child.program} does not listen on ${port}:\n${child.said()}`);
}

const connects = (port) =>
  new Promise((resolve) => {
    const socket = createConnection({ host: '127.0.0.1', port });
    socket.on('connect', () => (socket.destroy(), resolve(true)));
    socket.on('error', () => resolve(false));
  });
