//! `make bench`: stagedoor beside PgBouncer and beside no pooler at all, over the same verified TLS to the same
//! PostgreSQL, interleaved so that what disturbs the machine disturbs all. QUICK=1: one round, fewer cells.
//! Percentiles are of the transactions; with -C (a connection for each) pgbench does not count the connecting in
//! them, so only the rate is given. The CPU of a cell holds the logins of its clients too.

import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cpuSeconds, endAll, outputWhile, residentBytes } from './processes.mjs';
import { set, SERVERS_MAX } from './stage.mjs';
import { percentile, table } from './table.mjs';

const QUICK = Boolean(process.env.QUICK);
const ROUNDS = Number(process.env.ROUNDS ?? (QUICK ? 1 : 3));

/** CPU time comes in steps of 10 ms: 4 seconds are the least that make it worth reading. */
const SECONDS = Math.max(4, Number(process.env.SECONDS ?? (QUICK ? 4 : 6)));

/** Share of transactions whose latency is written down. */
const SAMPLING = 0.2;

const RESULTS = join(dirname(dirname(fileURLToPath(import.meta.url))), 'target/bench');

const cell = (mode, clients, connect = false) => ({
  name: connect ? `connect c=${clients}` : `${mode} c=${clients}`, mode, clients, connect,
});
const ALL = [...['simple', 'extended', 'prepared'].flatMap((mode) => [1, 8, 64].map((n) => cell(mode, n))), cell('simple', 8, true)];
const FEW = [cell('simple', 1), cell('simple', 8), cell('simple', 64), cell('extended', 8), cell('prepared', 8), cell('simple', 8, true)];
const CELLS = QUICK ? FEW : ALL;

const possible = (cell, target) => cell.mode !== 'prepared' || cell.clients <= target.prepared;

/** One run of pgbench for `seconds`; its numbers, and the CPU that the pooler took for it. */
async function measure(cell, target, seconds, directory) {
  const logs = mkdtempSync(join(directory, 'log-'));
  const flags = ['-S', '-n', '-M', cell.mode, '-c', cell.clients, '-j', Math.min(cell.clients, 2), '-T', seconds, '-l',
    '--sampling-rate', SAMPLING, ...(cell.connect ? ['-C'] : [])];
  try {
    const before = target.pid && cpuSeconds(target.pid);
    const text = await outputWhile('pgbench', flags.map(String), { env: target.env, cwd: logs });
    const cpu = target.pid && cpuSeconds(target.pid) - before;
    return { ...parsed(text), ...(cell.connect ? {} : latencies(logs)), ...withCpu(cpu, text, target) };
  } finally {
    rmSync(logs, { recursive: true, force: true });
  }
}

const found = (text, pattern) => Number(pattern.exec(text)?.[1]);
const transactions = (text) => found(text, /transactions actually processed: (\d+)/);

function parsed(text) {
  const failed = found(text, /failed transactions: (\d+)/);
  if (failed !== 0) throw new Error(`pgbench counts failed transactions:\n${text}`);
  return { tps: found(text, /^tps = ([\d.]+)/m), transactions: transactions(text) };
}

/** Lines of pgbench's log: client, transaction, microseconds, script, epoch, rest. */
function latencies(logs) {
  const files = readdirSync(logs).map((name) => readFileSync(join(logs, name), 'latin1'));
  const times = files.flatMap((text) => text.trim().split('\n')).filter(Boolean).map((line) => Number(line.split(' ')[2]) / 1000);
  return { p50_ms: percentile(times, 0.5), p99_ms: percentile(times, 0.99), sampled: times.length };
}

function withCpu(seconds, text, target) {
  if (seconds === undefined) return {};
  return { cpu_us: (seconds * 1e6) / transactions(text), resident_bytes: residentBytes(target.pid) };
}

async function measureAll(stage, directory) {
  // All server connections are there before anything is counted.
  for (const target of stage.targets) await measure(cell('simple', 64), target, 1, directory);
  const samples = [];
  for (let round = 1; round <= ROUNDS; round += 1) {
    for (const cell of CELLS) {
      for (const target of stage.targets.filter((target) => possible(cell, target))) {
        const sample = { round, cell: cell.name, target: target.name, load: loadavg()[0], ...(await measure(cell, target, SECONDS, directory)) };
        samples.push(sample);
        say(`round ${round}/${ROUNDS}  ${cell.name}  ${target.name}: ${sample.tps.toFixed(0)} tps`);
      }
    }
  }
  return samples;
}

const say = (text) => process.stderr.write(`${text}\n`);

function report(stage, samples, loadBefore) {
  const machine = { cpu: cpus()[0]?.model, cores: cpus().length, load_before: loadBefore };
  const result = { at: new Date().toISOString(), machine, versions: stage.versions, rounds: ROUNDS, seconds: SECONDS,
    servers_max: SERVERS_MAX, samples };
  mkdirSync(RESULTS, { recursive: true });
  const path = join(RESULTS, `${result.at.replaceAll(':', '-')}.json`);
  writeFileSync(path, `${JSON.stringify(result, null, 1)}\n`);
  const versions = Object.values(stage.versions).join('; ');
  console.log(`${versions}\n${machine.cpu}, ${machine.cores} cores, load ${loadBefore.toFixed(2)} before; pool of ${SERVERS_MAX}; ` +
    `${ROUNDS} x ${SECONDS} s, median (least-most)\n\n${table(samples, CELLS, stage.targets)}\n\n${path}`);
}

async function main() {
  const loadBefore = loadavg()[0];
  const directory = mkdtempSync(join(tmpdir(), 'stagedoor-bench-'));
  let ended;
  const end = () => (ended ??= endAll().then(() => rmSync(directory, { recursive: true, force: true })));
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => end().then(() => process.exit(130)));
  try {
    const stage = await set(directory);
    report(stage, await measureAll(stage, directory), loadBefore);
  } finally {
    await end();
  }
}

main().catch((error) => {
  say(error.message);
  process.exitCode = 1;
});
