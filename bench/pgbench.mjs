//! Runs of `pgbench -S`: rate, latencies, the pooler's processor time and its system calls for a transaction.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { cpuWatch } from './proc.mjs';
import { end, outputWhile, start } from './processes.mjs';
import { SECONDS } from './settings.mjs';
import { percentile } from './spread.mjs';

/** Share of transactions whose latency is written down. */
const SAMPLING = 0.2;

/** Counted by name; what is called beside these is `other`. */
const SYSTEM_CALLS = ['read', 'readv', 'recvfrom', 'recvmsg', 'write', 'writev', 'sendto', 'sendmsg', 'epoll_wait', 'epoll_ctl',
  'futex', 'accept4', 'close', 'fcntl'];
const ALL_CALLS = 'raw_syscalls:sys_enter';

/** So many log in within a second at the least: pgbench counts that into its `-T`. */
const LOGINS_A_SECOND = 85;

/** Transactions of each client that are made while system calls are counted. */
const COUNTED = 200;

/** A pooler that cannot follow named statements is asked without names, and so are its ratios to be read. */
const mode = (cell, instance) => (cell.mode === 'prepared' && !instance.prepares ? 'extended' : cell.mode);

const flags = (cell, instance) =>
  ['-S', '-n', '-M', mode(cell, instance), '-c', cell.clients, '-j', Math.min(cell.clients, 2)].map(String);

/** Runs `cell` for the seconds of the settings. */
export async function measure(cell, instance, { directory }) {
  return cell.connect ? measureConnects(cell, instance) : measureTransactions(cell, instance, directory);
}

/** CPU time begins with the first report of progress: neither the logins nor the first second are in it. */
async function measureTransactions(cell, instance, directory) {
  const logs = mkdtempSync(join(directory, 'log-'));
  let cpu, first;
  const hear = (text) => {
    const found = instance.pid && !cpu && /progress: ([\d.]+) s, ([\d.]+) tps/.exec(text);
    if (!found) return;
    cpu = cpuWatch(instance.pid);
    first = Number(found[1]) * Number(found[2]);
  };
  try {
    const duration = SECONDS + Math.round(cell.clients / LOGINS_A_SECOND);
    const options = ['-T', duration, '-P', 1, '-l', '--sampling-rate', SAMPLING].map(String);
    const text = await outputWhile('pgbench', [...flags(cell, instance), ...options], { env: instance.env, cwd: logs, hear });
    const seconds = cpu?.();
    const { tps, transactions } = parsed(text);
    return { tps, ...latencies(logs), ...(cpu && { cpu_us: (seconds * 1e6) / (transactions - first) }) };
  } finally {
    rmSync(logs, { recursive: true, force: true });
  }
}

/** A connection for each transaction. pgbench does not count the connecting in its latencies: only rate and CPU are given. */
async function measureConnects(cell, instance) {
  const cpu = instance.pid && cpuWatch(instance.pid);
  const text = await outputWhile('pgbench', [...flags(cell, instance), '-C', '-T', String(SECONDS)], { env: instance.env });
  const seconds = cpu?.();
  const { tps, transactions } = parsed(text);
  return { tps, ...(cpu && { cpu_us: (seconds * 1e6) / transactions }) };
}

/** So many transactions of each client, and nothing measured. */
export const transact = (cell, instance, each) =>
  outputWhile('pgbench', [...flags(cell, instance), '-t', String(each)], { env: instance.env });

/** System calls of the pooler for a transaction, as perf counts them; nothing where it may not. */
export async function systemCalls(cell, instance) {
  const few = await callsWhile(instance.pid, () => transact(cell, instance, 1));
  const many = await callsWhile(instance.pid, () => transact(cell, instance, COUNTED + 1));
  if (!few || !many) return {};
  const each = Object.entries(many).map(([name, count]) => [name, (count - few[name]) / (COUNTED * cell.clients)]);
  const { [ALL_CALLS]: calls, ...histogram } = Object.fromEntries(each);
  const named = Object.values(histogram).reduce((sum, count) => sum + count, 0);
  return { calls, histogram: { ...histogram, other: calls - named } };
}

async function callsWhile(pid, work) {
  const events = [ALL_CALLS, ...SYSTEM_CALLS.map((name) => `syscalls:sys_enter_${name}`)].join(',');
  const perf = start('perf', ['stat', '-x', ' ', '-e', events, '-p', String(pid)]);
  await Promise.race([perf.ended, new Promise((resolve) => setTimeout(resolve, 300))]);
  await work();
  if (perf.code !== undefined) return undefined;
  await end(perf);
  const lines = [...perf.said().matchAll(/^(\d+) +(?:syscalls:sys_enter_)?(\S+) /gm)];
  return lines.length === 0 ? undefined : Object.fromEntries(lines.map(([, count, name]) => [name, Number(count)]));
}

const found = (text, pattern) => Number(pattern.exec(text)?.[1]);

function parsed(text) {
  if (found(text, /failed transactions: (\d+)/) !== 0) throw new Error(`pgbench counts failed transactions:\n${text}`);
  const transactions = found(text, /transactions actually processed: (\d+)/);
  if (!transactions) throw new Error(`pgbench was done before all had logged in: give it more SECONDS\n${text}`);
  return { tps: found(text, /^tps = ([\d.]+)/m), transactions };
}

/** Lines of pgbench's log: client, transaction, microseconds, script, epoch, rest. */
function latencies(logs) {
  const files = readdirSync(logs).map((name) => readFileSync(join(logs, name), 'latin1'));
  const lines = files.flatMap((text) => text.trim().split('\n')).filter(Boolean);
  const times = Float64Array.from(lines, (line) => Number(line.split(' ', 3)[2]) / 1000).sort();
  return { p50_ms: percentile(times, 0.5), p99_ms: percentile(times, 0.99) };
}
