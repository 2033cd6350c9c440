//! Before there is any work: how long until a pooler is ready, how large it is on disk, and how large in memory.

import { statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { residentBytes } from './proc.mjs';
import { end } from './processes.mjs';
import { connect } from './raw.mjs';

const PATIENCE_MS = 10_000;

/** How long from nothing to the first answer; for direct that is one login and one query. */
export async function measure(_cell, contender) {
  const begin = performance.now();
  const { child, pid, env, ready } = await contender.spawn();
  const since = () => performance.now() - begin;
  const readyz = ready && until(async () => (await fetch(ready)).ok, child).then(since);
  const answered = until(() => answers(env), child).then(since);
  const measured = { answer_ms: await answered, ...(ready && { ready_ms: await readyz }) };
  if (!child) return measured;
  const rest_mib = residentBytes(pid) / 2 ** 20;
  await end(child);
  return { ...measured, rest_mib, disk_mib: statSync(contender.program).size / 2 ** 20 };
}

async function answers(env) {
  const raw = await connect(env);
  await raw.query('select 1');
  raw.end();
  return true;
}

/** Asks again and again, as it is refused while nobody listens. */
async function until(question, child) {
  const deadline = performance.now() + PATIENCE_MS;
  for (;;) {
    try {
      if (await question()) return;
    } catch (error) {
      if (performance.now() > deadline) throw new Error(`${error.message}\n${child?.said()}`);
    }
    await sleep(1);
  }
}
