//! The numbers for a person, as tables in Markdown, and all of them as JSON.

import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { ROOT, ROUNDS, SECONDS, SERVERS_MAX } from './settings.mjs';
import { ratios, unique, values } from './spread.mjs';
import { judged } from './targets.mjs';

const RESULTS = join(ROOT, 'target/bench');

/** Every number that a cell can have. `ratio` says that it is set against the others' in the same cell and round. */
const METRICS = {
  tps: { heading: 'transactions/s', digits: 0, ratio: true },
  p50_ms: { heading: 'p50 ms', digits: 3, ratio: true },
  p99_ms: { heading: 'p99 ms', digits: 3, ratio: true },
  cpu_us: { heading: 'CPU us', digits: 1, ratio: true },
  calls: { heading: 'system calls', digits: 2 },
  mb_s: { heading: 'MB/s', digits: 0, ratio: true },
  cpu_us_mb: { heading: 'CPU us/MB', digits: 0, ratio: true },
  peak_kib: { heading: 'peak over rest KiB', digits: 0 },
  bytes_client: { heading: 'bytes/client', digits: 0, ratio: true },
  answer_ms: { heading: 'first answer ms', digits: 1, ratio: true },
  ready_ms: { heading: '/readyz ms', digits: 1 },
  rest_mib: { heading: 'at rest MiB', digits: 1, ratio: true },
  disk_mib: { heading: 'on disk MiB', digits: 1 },
  instructions: { heading: 'instructions', digits: 0 },
  allocations: { heading: 'allocations', digits: 2 },
};

const number = (value, digits) => (value === undefined ? '' : value.toFixed(digits));

/** Median, and least and most where there was more than one round. */
function range(of, digits) {
  if (of === undefined || of.min === of.max) return number(of?.median, digits);
  return `${number(of.median, digits)} (${number(of.min, digits)}-${number(of.max, digits)})`;
}

function markdown(rows) {
  const widths = rows[0].map((_, i) => Math.max(3, ...rows.map((row) => row[i].length)));
  const line = (cells, fill = ' ') => `| ${cells.map((cell, i) => cell.padEnd(widths[i], fill)).join(' | ')} |`;
  const [head, ...rest] = rows;
  return [line(head), line(head.map(() => ''), '-'), ...rest.map((row) => line(row))].join('\n');
}

/** What everybody had in each cell: medians. */
function absolute(samples) {
  const metrics = Object.keys(METRICS).filter((metric) => samples.some((sample) => metric in sample));
  const row = (cell, target) => {
    const of = metrics.map((metric) => number(values(samples, cell, target, metric)?.median, METRICS[metric].digits));
    return [cell, target, ...of];
  };
  const pairs = unique(samples.map((sample) => sample.cell)).flatMap((cell) =>
    unique(samples.filter((sample) => sample.cell === cell).map((sample) => sample.target)).sort().map((target) => row(cell, target)));
  return [['cell', 'by', ...metrics.map((metric) => METRICS[metric].heading)], ...pairs];
}

/** What stagedoor had by what the others had in the same rounds: median (least-most). */
function relative(samples) {
  const ofBoth = (metric, base) => [base, 'stagedoor'].every((name) => samples.some((sample) => sample.target === name && metric in sample));
  const columns = ['pgbouncer', 'direct'].flatMap((base) =>
    Object.keys(METRICS).filter((metric) => METRICS[metric].ratio && ofBoth(metric, base)).map((metric) => ({ metric, base })));
  if (columns.length === 0) return undefined;
  const row = (cell) => [cell, ...columns.map(({ metric, base }) => range(ratios(samples, cell, 'stagedoor', base, metric), 2))];
  const rows = unique(samples.map((sample) => sample.cell)).map(row).filter(([, ...cells]) => cells.some(Boolean));
  return [['stagedoor / …', ...columns.map(({ metric, base }) => `${METRICS[metric].heading} / ${base}`)], ...rows];
}

function tables(samples) {
  const groups = unique(samples.map((sample) => sample.group)).map((group) => samples.filter((sample) => sample.group === group));
  return groups.flatMap((group) => [absolute(group), relative(group)].filter(Boolean).map(markdown)).join('\n\n');
}

/** All ratios in one table, as medians. */
function summary(samples) {
  const columns = [
    ['rate / pgbouncer', 'pgbouncer', ['tps', 'mb_s']],
    ['p50 / pgbouncer', 'pgbouncer', ['p50_ms']],
    ['p99 / pgbouncer', 'pgbouncer', ['p99_ms']],
    ['CPU / pgbouncer', 'pgbouncer', ['cpu_us', 'cpu_us_mb']],
    ['rate / direct', 'direct', ['tps', 'mb_s']],
  ];
  const median = (cell, base, metrics) => metrics.map((metric) => ratios(samples, cell, 'stagedoor', base, metric)?.median).find(Boolean);
  const row = (cell) => [cell, ...columns.map(([, base, metrics]) => number(median(cell, base, metrics), 2))];
  const rows = unique(samples.map((sample) => sample.cell)).map(row).filter(([, rate]) => rate);
  return [['', ...columns.map(([heading]) => heading)], ...rows];
}

function notes(stage, samples) {
  const prepares = stage.contenders.find(({ name }) => name === 'pgbouncer').prepares;
  const all = [
    [!prepares, 'PgBouncer before 1.21 cannot follow named statements in transaction mode: its `prepared` is `extended`.'],
    [true, 'PgBouncer loses the `search_path` of `node`, as transaction mode does: what it costs is compared, not what it means.'],
    [!samples.some(({ calls }) => calls), 'System calls were not counted: perf may not.'],
  ];
  return all.filter(([applies]) => applies).map(([, text]) => text);
}

/** Prints everything, and writes it beside `target`. */
export function report(stage, samples, loadBefore) {
  const at = new Date().toISOString();
  const machine = { cpu: cpus()[0]?.model, cores: cpus().length, load_before: loadBefore };
  const targets = judged(samples);
  const text = [
    tables(samples),
    [
      `${Object.values(stage.versions).join('; ')}; ${Object.entries(stage.tls).map((pair) => pair.join(' ')).join(', ')};`,
      `${machine.cpu}, ${machine.cores} cores, load ${loadBefore.toFixed(2)} before; pool of ${SERVERS_MAX};`,
      `${ROUNDS} rounds of ${SECONDS} s, medians of ratios within a round.`,
      ...notes(stage, samples),
    ].join('\n'),
    markdown(summary(samples)),
    markdown(targets),
  ].join('\n\n');
  const path = join(RESULTS, at.replaceAll(':', '-'));
  mkdirSync(RESULTS, { recursive: true });
  const all = { at, machine, versions: stage.versions, tls: stage.tls, rounds: ROUNDS, seconds: SECONDS, servers_max: SERVERS_MAX, targets, samples };
  writeFileSync(`${path}.json`, `${JSON.stringify(all, null, 1)}\n`);
  writeFileSync(`${path}.md`, `${text}\n`);
  console.log(`${text}\n\n${path}.{md,json}`);
}
