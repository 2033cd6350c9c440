//! Many numbers in a few.

export const unique = (values) => [...new Set(values)];

/** Least, median and most of `values`, or undefined without any. */
export function spread(values) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  if (sorted.length === 0) return undefined;
  const middle = (sorted.length - 1) / 2;
  const median = (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
  return { min: sorted[0], median, max: sorted.at(-1) };
}

/** The value below which `share` (0 to 1) of `sorted` lies. */
export const percentile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];

/** What `target` had of `metric` in `cell`. */
export const values = (samples, cell, target, metric) =>
  spread(samples.filter((sample) => sample.cell === cell && sample.target === target).map((sample) => sample[metric]));

/** What `target` had by what `base` had in the same round: what disturbs the machine disturbs both. */
export function ratios(samples, cell, target, base, metric) {
  const inRound = (name, round) => values(samples.filter((sample) => sample.round === round), cell, name, metric)?.median;
  const rounds = unique(samples.map((sample) => sample.round));
  return spread(rounds.map((round) => inRound(target, round) / inRound(base, round)));
}
