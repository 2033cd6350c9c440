//! Runs of node-postgres and of knex, each in a process of its own as Backstage's backend is.

import { join } from 'node:path';
import { outputWhile } from './processes.mjs';
import { ROOT, SECONDS } from './settings.mjs';

/** See `node_client.mjs` for what is measured, and how. */
export async function measure(cell, instance) {
  const args = [join(ROOT, 'bench/node_client.mjs'), cell.driver, SECONDS, instance.pid ?? ''].map(String);
  return JSON.parse(await outputWhile(process.execPath, args, { env: instance.env }));
}
