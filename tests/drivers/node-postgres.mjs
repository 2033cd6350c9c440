// node-postgres, as applications use it.

import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import Cursor from 'pg-cursor';
import QueryStream from 'pg-query-stream';
import { crowd } from './crowd.mjs';
import { asleep, connection, runAll, sqlstate, test, until } from './world.mjs';

async function withClient(work, options = {}) {
  const client = new pg.Client({ ...connection, ...options });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

test('a simple query has its rows, fields and tag', () =>
  withClient(async client => {
    const { rows, rowCount, command, fields } = await client.query("select 1 as one, 'zwei' as two, null as three");
    assert.deepEqual(rows, [{ one: 1, two: 'zwei', three: null }]);
    assert.deepEqual([rowCount, command, fields.map(({ dataTypeID }) => dataTypeID)], [1, 'SELECT', [23, 25, 25]]);
  }));

test('several statements in one text have several results', () =>
  withClient(async client => {
    const results = await client.query('select 1 as a; select 2 as b; select 3 as c');
    assert.deepEqual(results.map(({ rows }) => rows[0]), [{ a: 1 }, { b: 2 }, { c: 3 }]);
  }));

test('parameters of every usual type arrive', () =>
  withClient(async client => {
    const when = new Date('2026-01-02T03:04:05.678Z');
    const sql = 'select $1::int as i, $2::text as t, $3::jsonb as j, $4::timestamptz as w, $5::bytea as b, $6::int[] as a, $7::text as n';
    const values = [7, "l'été 🎭", { a: [1, { b: 2 }] }, when, Buffer.from([0, 255, 10]), [1, 2, 3], null];
    const { rows } = await client.query(sql, values);
    assert.deepEqual(rows, [{ i: 7, t: "l'été 🎭", j: { a: [1, { b: 2 }] }, w: when, b: Buffer.from([0, 255, 10]), a: [1, 2, 3], n: null }]);
  }));

test('binary results arrive', () =>
  withClient(async client => {
    const { rows } = await client.query({ text: 'select $1::int as i', values: [258], binary: true });
    assert.equal(rows[0].i, 258);
  }));

test('a named statement is prepared once and stays usable between transactions of others', async () => {
  const pool = new pg.Pool({ ...connection, max: 6 });
  const clients = await Promise.all(Array.from({ length: 6 }, () => pool.connect()));
  for (let round = 0; round < 20; round += 1) {
    await Promise.all(
      clients.map(async (client, index) => {
        // The same name with another text on each client: names belong to a connection.
        const text = `select $1::int * ${index + 1} as product`;
        const { rows } = await client.query({ name: 'product', text, values: [round] });
        assert.equal(rows[0].product, round * (index + 1));
      }),
    );
  }
  clients.forEach(client => client.release());
  await pool.end();
});

test('a cursor reads in portions within a transaction', () =>
  withClient(async client => {
    await client.query('begin');
    const cursor = client.query(new Cursor('select n from generate_series(1, $1::int) n', [1000]));
    let sum = 0;
    for (;;) {
      const rows = await cursor.read(77);
      if (rows.length === 0) break;
      sum += rows.reduce((total, { n }) => total + n, 0);
    }
    await cursor.close();
    await client.query('commit');
    assert.equal(sum, 500500);
  }));

test('a cursor reads in portions without a transaction', () =>
  withClient(async client => {
    const cursor = client.query(new Cursor('select n from generate_series(1, 100) n'));
    assert.equal((await cursor.read(10)).length, 10);
    assert.equal((await cursor.read(10))[0].n, 11);
    await cursor.close();
    assert.equal((await client.query('select 1 as one')).rows[0].one, 1);
  }));

test('a stream reads everything', () =>
  withClient(async client => {
    const stream = client.query(new QueryStream("select n, repeat('x', 100) as x from generate_series(0, 49999) n", [], { batchSize: 500 }));
    let count = 0;
    for await (const row of stream) {
      assert.equal(row.n, count);
      count += 1;
    }
    assert.equal(count, 50000);
  }));

test('a stream that is given up half-way leaves the connection usable', () =>
  withClient(async client => {
    const stream = client.query(new QueryStream('select n from generate_series(1, 100000) n', [], { batchSize: 10 }));
    for await (const row of stream) if (row.n === 25) break;
    assert.equal((await client.query('select 2 as two')).rows[0].two, 2);
  }));

test('a pool of 10 serves 200 transactions without mixing them up', async () => {
  const pool = new pg.Pool({ ...connection, max: 10 });
  await pool.query('drop table if exists ledger; create table ledger (worker int, round int)');
  await Promise.all(
    Array.from({ length: 200 }, async (_, index) => {
      const client = await pool.connect();
      try {
        await client.query('begin');
        await client.query('insert into ledger values ($1, 1)', [index]);
        await client.query('insert into ledger values ($1, 2)', [index]);
        const { rows } = await client.query('select count(*)::int as mine from ledger where worker = $1', [index]);
        assert.equal(rows[0].mine, 2);
        await client.query(index % 3 === 0 ? 'rollback' : 'commit');
      } finally {
        client.release();
      }
    }),
  );
  const { rows } = await pool.query('select count(*)::int as all, count(distinct worker)::int as workers from ledger');
  assert.deepEqual(rows[0], { all: 2 * 133, workers: 133 });
  await pool.end();
});

test('a notification reaches who listens, and nobody else', () =>
  withClient(listener =>
    withClient(stranger =>
      withClient(async speaker => {
        const [heard, overheard] = [[], []];
        listener.on('notification', ({ channel, payload }) => heard.push([channel, payload]));
        stranger.on('notification', message => overheard.push(message));
        await listener.query('listen stage');
        for (let turn = 0; turn < 5; turn += 1) {
          await speaker.query("select pg_notify('stage', $1)", [`turn ${turn}`]);
          await stranger.query('select 1');
        }
        await until('five notifications', () => heard.length === 5);
        assert.deepEqual(heard.map(([, payload]) => payload), [0, 1, 2, 3, 4].map(turn => `turn ${turn}`));
        await listener.query('unlisten stage');
        await speaker.query("select pg_notify('stage', 'too late')");
        await listener.query('select 1');
        assert.deepEqual([heard.length, overheard.length], [5, 0]);
      }),
    ),
  ));

test('errors have the SQLSTATE, the detail and the position that PostgreSQL gave', () =>
  withClient(async client => {
    await client.query('drop table if exists unique_names; create table unique_names (name text primary key)');
    await client.query("insert into unique_names values ('a')");
    const failure = await client.query("insert into unique_names values ('a')").catch(error => error);
    assert.deepEqual(
      [failure.code, failure.severity, failure.table, failure.constraint, failure.detail],
      ['23505', 'ERROR', 'unique_names', 'unique_names_pkey', 'Key (name)=(a) already exists.'],
    );
    const syntax = await client.query('selekt 1').catch(error => error);
    assert.deepEqual([syntax.code, syntax.position], ['42601', '1']);
    assert.equal(await sqlstate(() => client.query('select $1::int', ['x'])), '22P02');
    assert.equal(await sqlstate(() => client.query('select 1 / $1::int', [0])), '22012');
    assert.equal((await client.query('select 1 as one')).rows[0].one, 1);
  }));

test('an error within a transaction fails the rest of it, and only that', () =>
  withClient(async client => {
    await client.query('begin');
    assert.equal(await sqlstate(() => client.query('select nonsense')), '42703');
    assert.equal(await sqlstate(() => client.query('select 1')), '25P02');
    await client.query('rollback');
    assert.equal((await client.query('select 1 as one')).rows[0].one, 1);
  }));

test('a statement time-out of the start-up packet counts', () =>
  withClient(
    async client => assert.equal(await sqlstate(() => client.query('select pg_sleep(10)')), '57014'),
    { statement_timeout: 200 },
  ));

test('a result of 50 MB arrives whole', () =>
  withClient(async client => {
    const { rows } = await client.query("select repeat(md5(n::text), 3200) as x from generate_series(1, 500) n");
    assert.equal(rows.reduce((total, { x }) => total + x.length, 0), 500 * 3200 * 32);
  }));

test('a single value of 50 MB arrives whole', () =>
  withClient(async client => {
    const { rows } = await client.query("select repeat('abcdefghij', 5 * 1024 * 1024) as x");
    assert.equal(rows[0].x.length, 50 * 1024 * 1024);
  }));

test('a value of 30 MB is stored whole', () =>
  withClient(async client => {
    const value = 'stage door '.repeat(3 * 1024 * 1024).slice(0, 30 * 1024 * 1024);
    await client.query('drop table if exists large; create table large (x text)');
    await client.query('insert into large values ($1)', [value]);
    const { rows } = await client.query("select length(x) as length, md5(x) = md5($1) as same from large", [value]);
    assert.deepEqual(rows[0], { length: value.length, same: true });
    await client.query('drop table large');
  }));

test('an idle client with an error listener survives others that leave', async () => {
  await withClient(async idle => {
    await Promise.all(Array.from({ length: 20 }, () => withClient(client => client.query('select 1'))));
    assert.equal((await idle.query('select 1 as one')).rows[0].one, 1);
  });
});

test('a pipeline answers each question with its own answer, failures among them', () =>
  withClient(
    async client => {
      const questions = Array.from({ length: 60 }, (_, n) => {
        if (n % 10 === 7) return client.query('select 1 / $1::int as n', [0]).catch(({ code }) => code);
        if (n % 3 === 0) return client.query(`select ${n} as n`).then(({ rows }) => rows[0].n);
        const text = 'select $1::int as n';
        const named = n % 3 === 1 ? { name: 'asked' } : {};
        return client.query({ ...named, text, values: [n] }).then(({ rows }) => rows[0].n);
      });
      const expected = Array.from({ length: 60 }, (_, n) => (n % 10 === 7 ? '22012' : n));
      assert.deepEqual(await Promise.all(questions), expected);
    },
    { pipeline: true },
  ));

test('a transaction in a pipeline is one', () =>
  withClient(
    async client => {
      await client.query('drop table if exists piped; create table piped (n int primary key)');
      const insert = n => client.query({ name: 'insert', text: 'insert into piped values ($1)', values: [n] });
      const ask = questions => Promise.all(questions.map(it => it.then(({ command }) => command, ({ code }) => code)));
      const failed = [client.query('begin'), insert(1), insert(1), insert(2), client.query('commit')];
      assert.deepEqual(await ask(failed), ['BEGIN', 'INSERT', '23505', '25P02', 'ROLLBACK']);
      const done = [client.query('begin'), insert(1), insert(2), client.query('commit')];
      assert.deepEqual(await ask(done), ['BEGIN', 'INSERT', 'INSERT', 'COMMIT']);
      assert.deepEqual((await client.query('select n from piped order by n')).rows, [{ n: 1 }, { n: 2 }]);
    },
    { pipeline: true },
  ));

test('a named statement that could not be prepared is tried again', () =>
  withClient(async client => {
    const ask = () => client.query({ name: 'early', text: 'select n from not_yet' });
    await client.query('drop table if exists not_yet');
    assert.equal(await sqlstate(ask), '42P01');
    await client.query('create table not_yet as select 1 as n');
    assert.deepEqual((await ask()).rows, [{ n: 1 }]);
    await client.query("alter table not_yet add column m text default 'm'");
    assert.deepEqual((await ask()).rows, [{ n: 1 }]);
    await client.query('alter table not_yet alter n type text');
    assert.equal(await sqlstate(ask), '0A000');
    await client.query('deallocate early');
    assert.equal(await sqlstate(ask), '26000');
    await client.query('drop table not_yet');
  }));

test('DISCARD ALL and DEALLOCATE ALL forget the statements of one client', () =>
  withClient(one =>
    withClient(async other => {
      const ask = client => client.query({ name: 'mine', text: 'select $1::int as n', values: [4] });
      for (const forget of ['deallocate all', 'discard all']) {
        const name = forget.replace(' ', '_');
        const named = client => client.query({ name, text: 'select $1::int as n', values: [4] });
        await Promise.all([named(one), named(other), ask(other)]);
        await one.query(forget);
        assert.equal(await sqlstate(() => named(one)), '26000');
        assert.deepEqual([(await named(other)).rows, (await ask(other)).rows], [[{ n: 4 }], [{ n: 4 }]]);
      }
    }),
  ));

test('COPY streams carry rows in and out, and back into another table', () =>
  withClient(async client => {
    await client.query('drop table if exists copied, copied_again; create table copied (n int, t text)');
    await client.query('create table copied_again (like copied)');
    const lines = Array.from({ length: 20_000 }, (_, n) => `${n}\tline ${n}\n`);
    const into = client.query(copyFrom('copy copied from stdin'));
    await pipeline(Readable.from(lines), into);
    assert.equal(into.rowCount, 20_000);
    await withClient(other =>
      pipeline(client.query(copyTo('copy copied to stdout')), other.query(copyFrom('copy copied_again from stdin'))),
    );
    const { rows } = await client.query('select count(*)::int, sum(n)::int as sum from copied_again');
    assert.deepEqual(rows[0], { count: 20_000, sum: (20_000 * 19_999) / 2 });
  }));

test('a COPY that fails, from either side, leaves the connection usable', () =>
  withClient(async client => {
    await client.query('drop table if exists refused; create table refused (n int primary key)');
    const copy = lines => pipeline(Readable.from(lines), client.query(copyFrom('copy refused from stdin')));
    assert.equal(await sqlstate(() => copy(['1\n', 'two\n', '3\n'])), '22P02');
    assert.equal(await sqlstate(() => copy(['1\n', '1\n'])), '23505');
    const given = client.query(copyFrom('copy refused from stdin'));
    const failure = new Promise(resolve => given.once('error', resolve));
    given.write('5\n');
    given.destroy(new Error('changed my mind'));
    assert.match((await failure).message, /COPY from stdin failed: changed my mind/);
    assert.deepEqual((await client.query('select count(*)::int from refused')).rows, [{ count: 0 }]);
  }));

test('a query is cancelled by its process id, and by its key', () =>
  withClient(sleeper =>
    withClient(async other => {
      const byId = () => other.query('select pg_cancel_backend($1)', [sleeper.processID]);
      const byText = () => other.query(`select pg_cancel_backend(${sleeper.processID})`);
      const byKey = () => new pg.Client(connection).cancel(sleeper, sleeper._getActiveQuery());
      for (const cancel of [byId, byText, byKey]) {
        const sleeping = sqlstate(() => sleeper.query('select pg_sleep(50)'));
        await until('it sleeps', async () => (await other.query(asleep(1))).rows[0].yes);
        await cancel();
        assert.equal(await sleeping, '57014');
        assert.deepEqual((await sleeper.query('select 1 as one')).rows, [{ one: 1 }]);
      }
    }),
  ));

test('a client is ended by its process id', () =>
  withClient(async other => {
    const ended = new pg.Client(connection);
    await ended.connect();
    const over = new Promise(resolve => ended.once('error', resolve));
    const sleeping = sqlstate(() => ended.query('select pg_sleep(50)'));
    await until('it sleeps', async () => (await other.query(asleep(1))).rows[0].yes);
    assert.deepEqual((await other.query('select pg_terminate_backend($1) as sent', [ended.processID])).rows, [{ sent: true }]);
    assert.equal(await sleeping, '57P01');
    await over;
    assert.deepEqual((await other.query('select 1 as one')).rows, [{ one: 1 }]);
  }));

test('twelve clients at once find what is theirs, whatever the others do', () => crowd(12, 12));

await runAll();
