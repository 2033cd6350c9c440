//! Clients that have logged in, have run one query, and do nothing.

import { setTimeout as sleep } from 'node:timers/promises';
import { transact } from './pgbench.mjs';
import { residentBytes } from './proc.mjs';
import { connect } from './raw.mjs';
import { SERVERS_MAX } from './settings.mjs';

/** How many log in at the same time: fewer than a pooler lets wait for their proof. */
const AT_ONCE = 32;

/** Until what was needed for the logins alone has been given back. */
const SETTLE_MS = 2000;

/** Opens `count` of them, who stay. All servers are there before, so that no server is counted as a client's. */
export async function measure({ count }, instance) {
  await transact({ mode: 'simple', clients: SERVERS_MAX }, instance, 100);
  const before = residentBytes(instance.pid);
  let left = count;
  const open = async () => {
    while (left > 0) {
      left -= 1;
      await (await connect(instance.env)).query('select 1');
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, open));
  await sleep(SETTLE_MS);
  return { bytes_client: (residentBytes(instance.pid) - before) / count };
}
