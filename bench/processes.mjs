//! Child processes and their measure: started as whoever may run them, ended by pid, whatever happens.

import { spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** Clock ticks a second of /proc/<pid>/stat; USER_HZ is 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

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

/** As `output`, without blocking: Ctrl-C is heard while it runs. */
export async function outputWhile(program, args, { env = {}, cwd } = {}) {
  const child = start(program, args, { env, cwd });
  if ((await child.ended) !== 0) throw new Error(`${program} ${args.join(' ')} failed (${child.code}):\n${child.said()}`);
  return child.said();
}

/** Starts a program beside us. Its process group is its own: Ctrl-C reaches us alone, and the end is orderly. */
export function start(program, args, { server = false, env = {}, cwd } = {}) {
  if (ending) throw new Error(`${program} is not started: all is being ended`);
  const [file, list] = server ? asServer(program, args) : [program, args];
  const process_ = spawn(file, list, { env: environment(env), cwd, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  const keep = (chunk) => (text = (text + chunk).slice(-1_000_000));
  process_.stdout.on('data', keep);
  process_.stderr.on('data', keep);
  const child = { program, pid: process_.pid, said: () => text };
  child.ended = new Promise((resolve) => {
    process_.on('error', (error) => (keep(error.message), resolve(-1)));
    process_.on('close', (code, signal) => resolve(code ?? signal));
  }).then((code) => (running.delete(child), (child.code = code)));
  child.end = (signal) => process_.kill(signal);
  running.add(child);
  return child;
}

/** Ends all children, the last started first, each asked politely once. */
export async function endAll() {
  ending = true;
  for (const child of [...running].reverse()) {
    child.end('SIGINT');
    const patience = setTimeout(() => child.end('SIGKILL'), FAREWELL_MS);
    await child.ended;
    clearTimeout(patience);
  }
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
  for (let attempt = 0; attempt < 200 && child.code === undefined; attempt += 1) {
    if (await connects(port)) return;
    await sleep(100);
  }
  throw new Error(`${child.program} does not listen on ${port}:\n${child.said()}`);
}

const connects = (port) =>
  new Promise((resolve) => {
    const socket = createConnection({ host: '127.0.0.1', port });
    socket.on('connect', () => (socket.destroy(), resolve(true)));
    socket.on('error', () => resolve(false));
  });

/** User and system time that `pid` has used, all its threads together, in seconds (resolution 10 ms). */
export function cpuSeconds(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  // The name in parentheses may hold anything; what follows it is numbers. utime and stime are fields 14 and 15.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}

/** Bytes of `pid` in memory now (VmRSS). */
export const residentBytes = (pid) =>
  1024 * Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1] ?? 0);
