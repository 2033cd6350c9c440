// knex, as Backstage and its plugins use it.

import assert from 'node:assert/strict';
import knexLibrary from 'knex';
import { connection, runAll, sqlstate, test, until } from './world.mjs';

const open = (options = {}) => knexLibrary({ client: 'pg', connection, pool: { min: 0, max: 10 }, ...options });

async function withKnex(work, options) {
  const knex = open(options);
  try {
    return await work(knex);
  } finally {
    await knex.destroy();
  }
}

// Migrations in memory, as a plugin has them in files; the last one runs outside of a transaction.
const migrations = prefix => ({
  getMigrations: async () => ['1_table', '2_column', '3_index'],
  getMigrationName: name => name,
  getMigration: async name =>
    ({
      '1_table': {
        up: knex => knex.schema.createTable(`${prefix}_things`, table => {
          table.increments('id');
          table.string('name').notNullable();
        }),
        down: knex => knex.schema.dropTable(`${prefix}_things`),
      },
      '2_column': {
        up: async knex => {
          await knex(`${prefix}_things`).insert({ name: 'first' });
          await knex.schema.alterTable(`${prefix}_things`, table => table.text('note'));
        },
        down: knex => knex.schema.alterTable(`${prefix}_things`, table => table.dropColumn('note')),
      },
      '3_index': {
        config: { transaction: false },
        up: knex => knex.raw(`create index concurrently ${prefix}_name on ${prefix}_things (name)`),
        down: knex => knex.raw(`drop index concurrently ${prefix}_name`),
      },
    })[name],
});

const migrate = (knex, prefix) =>
  knex.migrate.latest({ migrationSource: migrations(prefix), tableName: `${prefix}_migrations` });

test('migrations run once, and a second time find nothing to do', () =>
  withKnex(async knex => {
    const [, first] = await migrate(knex, 'once');
    const [, second] = await migrate(knex, 'once');
    assert.deepEqual([first.length, second.length], [3, 0]);
    assert.equal((await knex('once_things').first()).name, 'first');
    await knex.migrate.rollback({ migrationSource: migrations('once'), tableName: 'once_migrations' }, true);
    assert.equal(await knex.schema.hasTable('once_things'), false);
    assert.deepEqual(await knex('once_migrations_lock').select('is_locked'), [{ is_locked: 0 }]);
  }));

test('of two that migrate at once one does it, the other is locked out or finds it done', () =>
  withKnex(one =>
    withKnex(async other => {
      // The lock table must be there: knex's creation of it is not safe for two at once, with or without stagedoor.
      await one.migrate.currentVersion({ migrationSource: migrations('race'), tableName: 'race_migrations' });
      const results = await Promise.allSettled([migrate(one, 'race'), migrate(other, 'race')]);
      const done = results.filter(({ status }) => status === 'fulfilled').map(({ value }) => value[1].length);
      for (const { reason } of results.filter(({ status }) => status === 'rejected')) {
        assert.match(`${reason.name} ${reason.message}`, /lock|already exists/i);
      }
      assert.equal(done.reduce((total, count) => total + count, 0), 3);
      assert.deepEqual(await one('race_migrations').count('* as count'), [{ count: '3' }]);
    }),
  ));

test('a transaction is kept or undone as a whole', () =>
  withKnex(async knex => {
    await knex.schema.dropTableIfExists('kept');
    await knex.schema.createTable('kept', table => table.integer('n'));
    await knex.transaction(async trx => {
      await trx('kept').insert([{ n: 1 }, { n: 2 }]);
    });
    await assert.rejects(
      knex.transaction(async trx => {
        await trx('kept').insert({ n: 3 });
        throw new Error('change of mind');
      }),
      /change of mind/,
    );
    assert.deepEqual((await knex('kept').orderBy('n')).map(({ n }) => n), [1, 2]);
  }));

test('savepoints of nested transactions undo their own part', () =>
  withKnex(async knex => {
    await knex.schema.dropTableIfExists('nested');
    await knex.schema.createTable('nested', table => table.integer('n').primary());
    await knex.transaction(async outer => {
      await outer('nested').insert({ n: 1 });
      await outer.transaction(async inner => inner('nested').insert({ n: 1 })).catch(({ code }) => assert.equal(code, '23505'));
      await outer.transaction(async inner => inner('nested').insert({ n: 2 }));
    });
    assert.deepEqual((await knex('nested').orderBy('n')).map(({ n }) => n), [1, 2]);
  }));

test('rows that another transaction holds are skipped', () =>
  withKnex(async knex => {
    await knex.schema.dropTableIfExists('queue');
    await knex.schema.createTable('queue', table => table.integer('n'));
    await knex('queue').insert(Array.from({ length: 6 }, (_, n) => ({ n })));
    const take = trx => trx('queue').orderBy('n').limit(3).forUpdate().skipLocked();
    await knex.transaction(async first => {
      const mine = await take(first);
      await knex.transaction(async second => {
        const theirs = await take(second);
        assert.deepEqual([...mine, ...theirs].map(({ n }) => n), [0, 1, 2, 3, 4, 5]);
      });
    });
  }));

test('a temporary table lives as long as its transaction', () =>
  withKnex(async knex => {
    await Promise.all(
      Array.from({ length: 10 }, (_, index) =>
        knex.transaction(async trx => {
          await trx.raw('create temp table documents_to_insert (n int) on commit drop');
          await trx('documents_to_insert').insert({ n: index });
          assert.deepEqual(await trx('documents_to_insert'), [{ n: index }]);
        }),
      ),
    );
    assert.equal(await sqlstate(() => knex('documents_to_insert')), '42P01');
  }));

test('a time-out with cancel ends the query on the server', () =>
  withKnex(async knex => {
    const marker = `sleeping ${process.pid} ${Date.now()}`;
    const begun = Date.now();
    const failure = await knex
      .select(knex.raw('pg_sleep(30), ?::text as marker', [marker]))
      .timeout(500, { cancel: true })
      .catch(error => error);
    assert.equal(failure.name, 'KnexTimeoutError');
    assert.ok(Date.now() - begun < 5000, 'the time-out came in time');
    const running = () =>
      knex('pg_stat_activity').where('query', 'like', '%pg_sleep(30)%').andWhere('state', 'active').andWhereNot('pid', knex.raw('pg_backend_pid()')).andWhere('datname', connection.database).count('* as count');
    await until('nothing sleeps any more', async () => (await running())[0].count === '0', 5000);
    assert.deepEqual((await knex.raw('select 1 as one')).rows, [{ one: 1 }]);
  }));

test('a stream reads everything', () =>
  withKnex(async knex => {
    let sum = 0;
    for await (const { n } of knex.select('n').from(knex.raw('generate_series(1, 1000) n')).stream()) sum += n;
    assert.equal(sum, 500500);
  }));

test('a search path belongs to its pool, however many pools there are', async () => {
  const plugins = ['catalog', 'scaffolder', 'search', 'my-plugin'];
  await withKnex(async admin => {
    for (const plugin of plugins) await admin.raw('create schema if not exists ??', [plugin]);
  });
  const pools = plugins.map(plugin => open({ searchPath: [plugin] }));
  await Promise.all(
    pools.map(async (knex, index) => {
      await knex.schema.dropTableIfExists('whose');
      await knex.schema.createTable('whose', table => table.text('name'));
      await knex('whose').insert({ name: plugins[index] });
    }),
  );
  for (let round = 0; round < 20; round += 1) {
    await Promise.all(
      pools.flatMap((knex, index) =>
        [1, 2, 3].map(async () => {
          assert.deepEqual(await knex('whose'), [{ name: plugins[index] }]);
          assert.equal((await knex.raw('select current_schema() as schema')).rows[0].schema, plugins[index]);
        }),
      ),
    );
  }
  await Promise.all(pools.map(knex => knex.destroy()));
});

test('many inserts at once keep their own values', () =>
  withKnex(async knex => {
    await knex.schema.dropTableIfExists('batch');
    await knex.schema.createTable('batch', table => {
      table.integer('n');
      table.text('text');
    });
    const rows = Array.from({ length: 5000 }, (_, n) => ({ n, text: `row ${n}` }));
    await knex.batchInsert('batch', rows, 500);
    assert.deepEqual(await knex('batch').count('* as count').sum('n as sum'), [{ count: '5000', sum: '12497500' }]);
  }));

test('a role that a pool takes on is its own, however many pools there are', async () => {
  // As an application does it that owns its tables by another role: one statement for each new connection.
  const role = process.env.DRIVERS_ROLE;
  const take = (raw, done) => raw.query(`set role ${role}`, error => done(error, raw));
  await withKnex(knex => knex.raw('grant create on schema public to ??', [role]));
  const pools = Array.from({ length: 4 }, (_, n) => open({ pool: { min: 0, max: 3, ...(n % 2 && { afterCreate: take }) } }));
  await Promise.all(
    pools.map(async (knex, n) => {
      const expected = n % 2 ? role : connection.user;
      const table = `owned_${n}`;
      await knex.schema.dropTableIfExists(table);
      await knex.schema.createTable(table, columns => columns.integer('n'));
      for (let round = 0; round < 12; round += 1) {
        const asked = Array.from({ length: 3 }, () => knex.raw('select current_user, session_user'));
        for (const { rows } of await Promise.all(asked)) {
          assert.deepEqual(rows, [{ current_user: expected, session_user: connection.user }]);
        }
      }
      assert.deepEqual(await knex('pg_tables').where('tablename', table).select('tableowner'), [{ tableowner: expected }]);
    }),
  );
  await Promise.all(pools.map(knex => knex.destroy()));
});

test('plugins that come up at once migrate each its own schema', async () => {
  const plugins = Array.from({ length: 6 }, (_, n) => `plugin_${n}`);
  const pools = plugins.map(plugin => open({ searchPath: [plugin], pool: { min: 0, max: 2 } }));
  await Promise.all(
    pools.map(async (knex, n) => {
      await knex.raw('create schema if not exists ??', [plugins[n]]);
      const [, done] = await migrate(knex, 'own');
      assert.equal(done.length, 3);
      await knex('own_things').insert({ name: plugins[n] });
      assert.deepEqual(await knex('own_things').orderBy('id').pluck('name'), ['first', plugins[n]]);
    }),
  );
  await Promise.all(pools.map(knex => knex.destroy()));
});

test('a transaction has the isolation and the access that it asked for, the next one has not', () =>
  withKnex(
    async knex => {
      await knex.schema.dropTableIfExists('isolated');
      await knex.schema.createTable('isolated', table => table.integer('n'));
      const level = async trx => (await trx.raw('show transaction_isolation')).rows[0].transaction_isolation;
      for (const isolationLevel of ['serializable', 'repeatable read']) {
        await knex.transaction(async trx => assert.equal(await level(trx), isolationLevel), { isolationLevel });
        assert.equal(await level(knex), 'read committed');
      }
      const write = trx => trx('isolated').insert({ n: 1 });
      assert.equal(await sqlstate(() => knex.transaction(write, { readOnly: true })), '25006');
      await knex.transaction(write);
    },
    { pool: { min: 0, max: 1 } },
  ));

test('of two serializable transactions that cross, one is refused', () =>
  withKnex(async knex => {
    await knex.schema.dropTableIfExists('crossed');
    await knex.schema.createTable('crossed', table => table.integer('n'));
    await knex('crossed').insert([{ n: 1 }, { n: 2 }]);
    const trx = () => knex.transaction(undefined, { isolationLevel: 'serializable' });
    const [one, other] = [await trx(), await trx()];
    await Promise.all([one('crossed').sum('n'), other('crossed').sum('n')]);
    await one('crossed').insert({ n: 10 });
    await other('crossed').insert({ n: 20 });
    await one.commit();
    await other.commit();
    assert.equal(await sqlstate(() => other.executionPromise), '40001');
    assert.deepEqual(await knex('crossed').sum('n as sum'), [{ sum: '13' }]);
  }));

test('time-outs with cancel end their own queries, and no other', () =>
  withKnex(async knex => {
    const late = async () => {
      const failure = await knex.select(knex.raw('pg_sleep(30)')).timeout(300, { cancel: true }).catch(error => error);
      assert.equal(failure.name, 'KnexTimeoutError');
    };
    let over = false;
    const innocent = async () => {
      for (let n = 0; !over; n += 1) assert.deepEqual((await knex.raw('select ?::int as n, pg_sleep(0.002)', [n])).rows[0].n, n);
    };
    const innocents = [innocent(), innocent(), innocent()];
    await Promise.all([late(), late()]);
    over = true;
    await Promise.all(innocents);
  }));

test('streams that run at once have each its own rows, and one that is given up hurts nobody', () =>
  withKnex(async knex => {
    const read = async n => {
      let count = 0;
      for await (const row of knex.select(knex.raw('? + n as n', [n * 1e6])).from(knex.raw('generate_series(1, 2000) n')).stream({ batchSize: 50 })) {
        count += 1;
        assert.equal(row.n, n * 1e6 + count);
        if (n % 4 === 3 && count === 120) break;
      }
      return count;
    };
    const counts = await Promise.all(Array.from({ length: 8 }, (_, n) => read(n)));
    assert.deepEqual(counts, [2000, 2000, 2000, 120, 2000, 2000, 2000, 120]);
    assert.deepEqual((await knex.raw('select 1 as one')).rows, [{ one: 1 }]);
  }));

await runAll();
