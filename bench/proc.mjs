//! What the kernel says of a process.

import { readFileSync, readdirSync, writeFileSync } from 'node:fs';

const read = (path) => readFileSync(path, 'latin1');

/** Begins to count the processor time of `pid`: the function tells the seconds since, user and system, of all threads. */
export function cpuWatch(pid) {
  const before = runtimes(pid);
  return () => {
    const spent = [...runtimes(pid)].map(([thread, now]) => now - (before.get(thread) ?? 0));
    return spent.reduce((sum, nanoseconds) => sum + nanoseconds, 0) / 1e9;
  };
}

/** Nanoseconds that each thread has run. /proc/<pid>/stat has the same in steps of 10 ms. */
function runtimes(pid) {
  const entries = readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
    try {
      return [[thread, Number(read(`/proc/${pid}/task/${thread}/schedstat`).split(' ')[0])]];
    } catch {
      return []; // It has ended just now.
    }
  });
  return new Map(entries);
}

const status = (pid, key) => 1024 * Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(read(`/proc/${pid}/status`))?.[1]);

/** Bytes in memory now. */
export const residentBytes = (pid) => status(pid, 'VmRSS');

/** The most bytes in memory since the start, or since `forgetPeak`. */
export const peakBytes = (pid) => status(pid, 'VmHWM');

export const forgetPeak = (pid) => writeFileSync(`/proc/${pid}/clear_refs`, '5');
