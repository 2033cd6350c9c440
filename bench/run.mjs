//! `make bench`: stagedoor beside PgBouncer and beside no pooler at all, over the same verified TLS to the same
//! PostgreSQL, interleaved so that what disturbs the machine disturbs all. See settings.mjs for what may be said.

import { mkdtempSync, rmSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { GROUPS } from './cells.mjs';
import { countInstructions } from './instructions.mjs';
import { systemCalls, transact } from './pgbench.mjs';
import { endAll } from './processes.mjs';
import { report } from './report.mjs';
import { ROUNDS, SERVERS_MAX } from './settings.mjs';
import { lower, raise, set, tlsOf } from './stage.mjs';

const say = (text) => process.stderr.write(`${text}\n`);

/** The order of even rounds is the other way round, so that nobody always follows the same one. */
const inTurn = (contenders, round) => (round % 2 === 0 ? contenders.toReversed() : contenders);

const has = ({ only }, cell) => !only || only.test(cell.name);

/** Runs `work` with all contenders freshly raised. */
async function staged(stage, group, work) {
  const contenders = stage.contenders.filter((contender) => group.cells.some((cell) => has(contender, cell)));
  if (group.unstarted) return work(contenders);
  const instances = [];
  try {
    for (const contender of contenders) instances.push(await raise(contender));
    if (!group.cold) for (const instance of instances) await warm(stage, instance);
    return await work(instances);
  } finally {
    for (const instance of instances) await lower(instance);
  }
}

/** Opens all its servers, and notes how they are reached. */
async function warm(stage, instance) {
  await transact({ mode: 'simple', clients: SERVERS_MAX }, instance, 100);
  stage.tls[instance.name] = tlsOf(instance);
}

async function measureGroup(stage, group, round, samples) {
  await staged(stage, group, async (contenders) => {
    for (const cell of [group.before, ...group.cells].filter(Boolean)) {
      const those = inTurn(contenders, round).filter((contender) => has(contender, cell) && (!cell.of || cell.of(contender)));
      for (const contender of Array(cell.repeat ?? 1).fill(those).flat()) {
        const measured = await cell.measure(cell, contender, stage);
        samples.push({ round, group: group.name, cell: cell.name, target: contender.name, load: loadavg()[0], ...measured });
        say(`round ${round}/${ROUNDS}  ${cell.name}  ${contender.name}: ${told(measured)}`);
      }
    }
  });
}

const told = (measured) => Object.entries(measured).filter(([, value]) => Number.isFinite(value))
  .map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`).join(', ');

/** A pass of its own, because to be watched costs time. */
async function countSystemCalls(stage, samples) {
  const group = GROUPS.find(({ name }) => name === 'statements');
  const cells = (group?.cells ?? []).filter((cell) => cell.mode && !cell.connect);
  if (cells.length === 0) return;
  await staged(stage, group, async (contenders) => {
    for (const cell of cells) {
      for (const contender of contenders.filter(({ pid, only }) => pid && !only)) {
        samples.push({ group: group.name, cell: cell.name, target: contender.name, ...(await systemCalls(cell, contender)) });
      }
      say(`system calls  ${cell.name}`);
    }
  });
}

async function main() {
  const loadBefore = loadavg()[0];
  const directory = mkdtempSync(join(tmpdir(), 'stagedoor-bench-'));
  let ended;
  const end = () => (ended ??= endAll().then(() => rmSync(directory, { recursive: true, force: true })));
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => end().then(() => process.exit(130)));
  try {
    const stage = await set(directory);
    const samples = [];
    for (let round = 1; round <= ROUNDS; round += 1) {
      for (const group of GROUPS) await measureGroup(stage, group, round, samples);
    }
    await countSystemCalls(stage, samples);
    samples.push(...(await countInstructions(stage)));
    report(stage, samples, loadBefore);
  } finally {
    await end();
  }
}

main().catch((error) => {
  say(error.message);
  process.exitCode = 1;
});
