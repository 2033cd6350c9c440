//! Numbers for a person: each cell's median over the rounds, with the least and the most.

/** Least, median and most of `values`, or undefined without any. */
export function spread(values) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length === 0) return undefined;
  const middle = (sorted.length - 1) / 2;
  const median = (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
  return { min: sorted[0], median, max: sorted.at(-1) };
}

/** The value below which `share` (0 to 1) of `values` lies. */
export function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

/** Throughput of `name` by that of `base` in the same cell and round: what disturbs the machine disturbs both. */
export function ratios(samples, cell, name, base) {
  const rate = (target, round) =>
    samples.find((sample) => sample.cell === cell && sample.target === target && sample.round === round)?.tps;
  const rounds = [...new Set(samples.map((sample) => sample.round))];
  return spread(rounds.map((round) => rate(name, round) / rate(base, round)));
}

const number = (value, digits) => (value === undefined ? 'n/a' : value.toFixed(digits));

/** Median, and least and most where there was more than one round. */
function range(of, digits) {
  if (of === undefined || of.min === of.max) return number(of?.median, digits);
  return `${number(of.median, digits)} (${number(of.min, digits)}-${number(of.max, digits)})`;
}

const HEADINGS = ['cell', 'target', 'tps', 'p50 ms', 'p99 ms', 'CPU us/tx', 'x pgbouncer', 'x direct'];

/** Everything as a text table, one line for each cell and target. */
export function table(samples, cells, targets) {
  const lines = cells.flatMap((cell) => targets.map(({ name }) => row(samples, cell.name, name)));
  const widths = HEADINGS.map((heading, i) => Math.max(heading.length, ...lines.map((line) => line[i].length)));
  const pad = (text, i) => (i < 2 ? text.padEnd(widths[i]) : text.padStart(widths[i]));
  return [HEADINGS, ...lines].map((line) => line.map(pad).join('  ').trimEnd()).join('\n');
}

function row(samples, cell, name) {
  const mine = samples.filter((sample) => sample.cell === cell && sample.target === name);
  const of = (key) => spread(mine.map((sample) => sample[key]));
  const against = (base) => (name === base ? '' : range(ratios(samples, cell, name, base), 2));
  const cpu = name === 'direct' ? '' : range(of('cpu_us'), 0);
  return [cell, name, range(of('tps'), 0), number(of('p50_ms')?.median, 3), number(of('p99_ms')?.median, 3), cpu,
    against('pgbouncer'), against('direct')];
}
