//! `node node_client.mjs pg|knex <seconds> [<pid>]`: a pool of 10 connections, all of them busy with a parameterised
//! SELECT, as Backstage's plugins are when they are. Prints rate, latencies and the CPU time of `pid` as JSON.
//! Each new connection is told a `search_path`, as knex does it. PgBouncer in transaction mode loses that, so the table
//! is found by either path: what it costs can be compared, what it means cannot.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { cpuWatch } from './proc.mjs';
import { ROOT } from './settings.mjs';
import { percentile } from './spread.mjs';

const CONNECTIONS = 10;
const WARM_UP_MS = 1000;
const ACCOUNTS = 100_000;
const SEARCH_PATH = ['plugin', 'public'];

const [driver, seconds, pid] = process.argv.slice(2);
const { env } = process;
const drivers = createRequire(join(ROOT, 'tests/drivers/package.json'));
const ssl = env.PGSSLMODE === 'verify-full' && { ca: readFileSync(env.PGSSLROOTCERT, 'utf8') };
const connection = { host: env.PGHOSTADDR, port: Number(env.PGPORT), user: env.PGUSER, password: env.PGPASSWORD,
  database: env.PGDATABASE, ssl };

/** Each is a way to look for one account, and to end. */
const DRIVERS = {
  pg() {
    const onConnect = (client) => client.query(`set search_path to ${SEARCH_PATH.map((name) => `"${name}"`)}`);
    const pool = new (drivers('pg').Pool)({ ...connection, max: CONNECTIONS, onConnect });
    return { find: (aid) => pool.query('select abalance from pgbench_accounts where aid = $1', [aid]), end: () => pool.end() };
  },
  knex() {
    const knex = drivers('knex')({ client: 'pg', connection, searchPath: SEARCH_PATH, pool: { min: CONNECTIONS, max: CONNECTIONS } });
    return { find: (aid) => knex('pgbench_accounts').where({ aid }).select('abalance'), end: () => knex.destroy() };
  },
};

const { find, end } = DRIVERS[driver]();
let times = [];
let working = true;

async function work() {
  while (working) {
    const begin = performance.now();
    const found = await find(1 + Math.floor(Math.random() * ACCOUNTS));
    if ((found.rows ?? found).length !== 1) throw new Error('an account is missing');
    times.push(performance.now() - begin);
  }
}

const workers = Array.from({ length: CONNECTIONS }, work);
await sleep(WARM_UP_MS);
times = [];
const begin = performance.now();
const cpu = pid && cpuWatch(pid);
await sleep(Number(seconds) * 1000);
const took = (performance.now() - begin) / 1000;
const spent = cpu && cpu();
const measured = Float64Array.from(times).sort();
working = false;
await Promise.all(workers);
await end();

const count = measured.length;
console.log(JSON.stringify({ tps: count / took, p50_ms: percentile(measured, 0.5), p99_ms: percentile(measured, 0.99),
  ...(pid && { cpu_us: (spent * 1e6) / count }) }));
