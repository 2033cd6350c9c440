// Where the drivers connect, and how an assertion is made. A script that fails exits with 1 and says why.
//
//   PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE   as libpq understands them
//   DRIVERS_CA_FILE                                  for the run without stagedoor: TLS, verified by this CA
//   DRIVERS_ONLY                                     only the claims with these words

import assert from 'node:assert/strict';
import fs from 'node:fs';

const ca = process.env.DRIVERS_CA_FILE;

export const connection = {
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  user: process.env.PGUSER,
  password: process.env.PGPASSWORD,
  database: process.env.PGDATABASE,
  ...(ca && { ssl: { ca: fs.readFileSync(ca, 'utf8') } }),
};

const tests = [];

// A claim, and the work that shows it.
export function test(claim, work) {
  tests.push([claim, work]);
}

export async function runAll() {
  let failed = 0;
  for (const [claim, work] of tests.filter(([claim]) => claim.includes(process.env.DRIVERS_ONLY ?? ''))) {
    const begun = performance.now();
    try {
      await Promise.race([work(), late(60_000)]);
      console.log(`ok    ${claim} (${Math.round(performance.now() - begun)} ms)`);
    } catch (error) {
      failed += 1;
      console.log(`FAIL  ${claim}: ${error.stack ?? error}`);
    }
  }
  process.exit(failed ? 1 : 0);
}

function late(limit) {
  return new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`not within ${limit} ms`)), limit).unref();
  });
}

// Asks until there is an answer, for at most `limit` ms.
export async function until(what, ask, limit = 10_000) {
  const end = Date.now() + limit;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    assert.ok(Date.now() < end, `${what}: not within ${limit} ms`);
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}

// The SQLSTATE that `work` fails with.
export async function sqlstate(work) {
  try {
    await work();
  } catch (error) {
    return error.code;
  }
  return undefined;
}

// Tells (as `yes`) whether so many sleep in this database.
export const asleep = count =>
  `select count(*) = ${count} as yes from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()`;
