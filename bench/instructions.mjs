//! What does not depend on the machine's mood: the instructions that stagedoor itself executes for a transaction, and
//! the blocks of memory that it takes for one. The system calls' own work is not in it.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { transact } from './pgbench.mjs';
import { CELLS, QUICK } from './settings.mjs';
import { lower, raise } from './stage.mjs';

/** Transactions of the shorter run; the other has twice as many, and the difference has neither start nor end. */
const TRANSACTIONS = 2000;

const MODES = ['simple', 'extended', 'prepared'];

/** What valgrind says at the end, by tool. */
const TOOLS = {
  instructions: { flags: ['--tool=callgrind', '--callgrind-out-file=/dev/null'], total: /Collected : (\d+)/ },
  allocations: { flags: ['--tool=memcheck', '--leak-check=no', '--undef-value-errors=no'], total: /total heap usage: ([\d,]+) allocs/ },
};

/** One sample for each mode. */
export async function countInstructions(stage) {
  const cellOf = (mode) => `instructions ${mode} c=1`;
  const samples = [];
  for (const mode of MODES.filter((mode) => (CELLS ? CELLS.test(cellOf(mode)) : !QUICK))) {
    const sample = { group: 'instructions', cell: cellOf(mode), target: 'stagedoor' };
    for (const [name, tool] of Object.entries(TOOLS)) {
      const [few, many] = [await total(stage, mode, tool, 1), await total(stage, mode, tool, 2)];
      sample[name] = (many - few) / TRANSACTIONS;
    }
    process.stderr.write(`${sample.cell}: ${sample.instructions} instructions, ${sample.allocations} allocations\n`);
    samples.push(sample);
  }
  return samples;
}

async function total(stage, mode, { flags, total }, times) {
  const log = join(stage.directory, `valgrind-${mode}-${times}`);
  const stagedoor = stage.contenders.find(({ name }) => name === 'stagedoor');
  const spawn = () => stagedoor.spawn(['valgrind', `--log-file=${log}`, ...flags]);
  const instance = await raise({ ...stagedoor, spawn });
  await transact({ mode, clients: 1 }, instance, TRANSACTIONS * times);
  await lower(instance);
  return Number(total.exec(readFileSync(log, 'utf8'))[1].replaceAll(',', ''));
}
