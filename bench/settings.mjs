//! What a run of the bench may be told by its environment, and what is the same for all that are compared.

import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/** About two minutes: one round, fewer cells, shorter runs. */
export const QUICK = Boolean(process.env.QUICK);

export const ROUNDS = Number(process.env.ROUNDS || (QUICK ? 1 : 3));

/** Seconds of each run of pgbench or Node. The first of them is not counted in CPU time, so 2 are the least. */
export const SECONDS = Math.max(2, Number(process.env.SECONDS || (QUICK ? 2 : 4)));

/** Which cells are run, by their names; all that belong to the run without it. */
export const CELLS = process.env.CELLS ? new RegExp(process.env.CELLS) : undefined;

/** Server connections that either pooler may have. */
export const SERVERS_MAX = 20;

/** Clients that either pooler may have: the 5,000 idle ones, and those that work beside them. */
export const CLIENTS_MAX = 6000;

/** Bytes of a large result, and of a COPY in. */
export const BULK_BYTES = 200e6;
