//! What stagedoor wants to be, and what was found. Nothing fails here: a target that was missed is published as missed.

import { ratios, unique, values } from './spread.mjs';

const STATEMENTS = /^(simple|extended|prepared) c=/;
const STATEMENTS_AND_NODE = /^(simple|extended|prepared|node) /;
const AT_MOST = { sign: '≤', holds: (value, bound) => value <= bound, worse: (a, b) => a > b };
const AT_LEAST = { sign: '≥', holds: (value, bound) => value >= bound, worse: (a, b) => a < b };

/** `by`: in the same cell and round, divided by what it has. `beyond`: less what direct has of that. */
const TARGETS = [
  { what: 'CPU per transaction', cells: STATEMENTS, metric: 'cpu_us', by: 'pgbouncer', bound: AT_MOST, target: 1, stretch: 0.85 },
  { what: 'transactions per second', cells: STATEMENTS_AND_NODE, metric: 'tps', by: 'pgbouncer', bound: AT_LEAST, target: 1, stretch: 1.15 },
  { what: 'p50 at one client', cells: /^\w+ c=1$/, metric: 'p50_ms', by: 'pgbouncer', bound: AT_MOST, target: 1, stretch: 0.9 },
  { what: 'p99 at 64 and 256 clients', cells: /^\w+ c=(64|256)$/, metric: 'p99_ms', by: 'pgbouncer', bound: AT_MOST, target: 1, stretch: 0.9 },
  { what: 'connect, query, disconnect', cells: /^connect /, metric: 'tps', by: 'pgbouncer', bound: AT_LEAST, target: 1.2, stretch: 2 },
  { what: 'connect, query, disconnect', cells: /^connect /, metric: 'tps', by: 'direct', bound: AT_LEAST, target: 5 },
  { what: 'CPU per MB', cells: /^(rows|copy) /, metric: 'cpu_us_mb', by: 'pgbouncer', bound: AT_MOST, target: 0.6, stretch: 0.5 },
  { what: 'peak RSS over rest, KiB', cells: /^(rows|copy) /, metric: 'peak_kib', bound: AT_MOST, target: 4096 },
  { what: 'bytes per idle client', cells: /^idle \d+$/, metric: 'bytes_client', bound: AT_MOST, target: 4096, stretch: 2048 },
  { what: 'RSS at rest, MiB', cells: /^start$/, metric: 'rest_mib', bound: AT_MOST, target: 8 },
  { what: 'ready, ms beyond one login', cells: /^start$/, metric: 'ready_ms', beyond: 'answer_ms', bound: AT_MOST, target: 50 },
  { what: 'heap allocations per statement', cells: /^instructions /, metric: 'allocations', bound: AT_MOST, target: 0 },
];

/** The targets as rows of a table: each with the figure of its worst cell. */
export function judged(samples) {
  const rows = TARGETS.map((target) => row(target, found(target, samples)));
  return [['target (worst cell)', 'bound', 'stretch', 'found', 'cell', 'verdict'], ...rows];
}

/** The median of every cell that the target is about. */
function found({ cells, metric, by, beyond }, samples) {
  const median = (cell) => {
    if (by) return ratios(samples, cell, 'stagedoor', by, metric)?.median;
    return values(samples, cell, 'stagedoor', metric)?.median - (beyond ? values(samples, cell, 'direct', beyond)?.median : 0);
  };
  const names = unique(samples.map(({ cell }) => cell)).filter((cell) => cells.test(cell));
  return names.map((cell) => ({ cell, value: Number(median(cell)?.toFixed(2)) })).filter(({ value }) => Number.isFinite(value));
}

function row({ what, by, bound, target, stretch }, all) {
  const worst = all.toSorted((a, b) => (bound.worse(a.value, b.value) ? -1 : 1))[0];
  const missed = all.filter(({ value }) => !bound.holds(value, target));
  const verdict = () => {
    if (missed.length > 0) return `missed in ${missed.length} of ${all.length}`;
    return stretch !== undefined && bound.holds(worst.value, stretch) ? 'met, stretch too' : 'met';
  };
  return [by ? `${what} / ${by}` : what, `${bound.sign} ${target}`, stretch === undefined ? '' : `${bound.sign} ${stretch}`,
    worst ? String(worst.value) : '', worst?.cell ?? '', worst ? verdict() : 'not measured'];
}
