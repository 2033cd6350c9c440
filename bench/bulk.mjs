//! Much at once: rows of 1 kB out, the same as a COPY out, and a COPY in.

import { forgetPeak, peakBytes, residentBytes, cpuWatch } from './proc.mjs';
import { connect } from './raw.mjs';
import { BULK_BYTES } from './settings.mjs';

const LINE = 'x'.repeat(1000);
const ROWS = Math.round(BULK_BYTES / LINE.length);
const SELECT = `select repeat('x', ${LINE.length}) from generate_series(1, ${ROWS})`;

const KINDS = {
  rows: (raw) => raw.query(SELECT),
  copy_out: (raw) => raw.query(`copy (${SELECT}) to stdout`),
  copy_in: (raw) => raw.copyIn('copy bulk from stdin', LINE, BULK_BYTES),
};

/** Moves it once. What a pooler holds at rest is what it held when it had served one login and one query. */
export async function measure(cell, instance, { database }) {
  const raw = await connect(instance.env);
  await raw.query('select 1');
  const { pid } = instance;
  if (pid) instance.rest ??= residentBytes(pid);
  if (pid) forgetPeak(pid);
  const cpu = pid && cpuWatch(pid);
  const begin = performance.now();
  const bytes = await KINDS[cell.kind](raw);
  const seconds = (performance.now() - begin) / 1000;
  const spent = cpu?.();
  const peak = pid && peakBytes(pid);
  raw.end();
  database.query('truncate bulk');
  const megabytes = bytes / 1e6;
  return { mb_s: megabytes / seconds, ...(pid && { cpu_us_mb: (spent * 1e6) / megabytes, peak_kib: (peak - instance.rest) / 1024 }) };
}
