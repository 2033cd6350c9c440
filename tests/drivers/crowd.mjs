// More clients than there are servers, all at once: each finds its own things, whatever the others do.

import assert from 'node:assert/strict';
import pg from 'pg';
import { connection, sqlstate } from './world.mjs';

const ZONES = ['UTC', 'Asia/Tokyo', 'Europe/Berlin'];

const LOOK = `select current_setting('application_name') as name, current_setting('TimeZone') as zone,
  current_setting('work_mem') as memory, current_schema() as schema, whose, to_regclass('pg_temp.mine') as temporary from whose`;

class Member {
  constructor(number) {
    this.number = number;
    this.mine = { name: `member ${number}`, zone: ZONES[number % 3], memory: `${3 + (number % 2)}MB`, schema: `s${number}`, whose: number, temporary: null };
    this.client = new pg.Client({ ...connection, application_name: this.mine.name, options: `-c work_mem=${this.mine.memory}` });
  }

  async arrive() {
    await this.client.connect();
    await this.client.query(`create schema if not exists s${this.number}`);
    await this.client.query(`set search_path to s${this.number}, public; set time zone '${this.mine.zone}'`);
    await this.client.query('drop table if exists whose, notes');
    await this.client.query(`create table whose as select ${this.number} as whose`);
    await this.client.query('create table notes (note int)');
  }

  async look() {
    assert.deepEqual((await this.client.query(LOOK)).rows, [this.mine]);
    assert.deepEqual((await this.client.query({ name: 'look', text: LOOK })).rows, [this.mine]);
    // One name, another text on each client.
    const named = { name: 'mine', text: `select ${this.number} * $1::int as product, whose from whose`, values: [7] };
    assert.deepEqual((await this.client.query(named)).rows, [{ product: 7 * this.number, whose: this.number }]);
  }

  async act(turn) {
    const acts = [this.setZone, this.undo, this.transact, this.takeTemporary, this.lock, this.fail];
    await acts[turn % acts.length].call(this, turn);
  }

  async setZone(turn) {
    this.mine.zone = ZONES[turn % 3];
    await this.client.query("select set_config('TimeZone', $1, false)", [this.mine.zone]);
  }

  async undo() {
    await this.client.query('begin');
    await this.client.query("set search_path to nowhere; set local work_mem to '99MB'");
    assert.equal((await this.client.query('show search_path')).rows[0].search_path, 'nowhere');
    await this.client.query('rollback');
  }

  async transact(turn) {
    await this.client.query('begin');
    await this.client.query({ name: 'note', text: 'insert into notes values ($1)', values: [turn] });
    await this.look();
    await this.client.query('commit');
  }

  async takeTemporary() {
    await this.client.query(`create temp table mine as select ${this.number} as n`);
    assert.deepEqual((await this.client.query('select n from pg_temp.mine')).rows, [{ n: this.number }]);
    assert.deepEqual((await this.client.query({ name: 'product', text: 'select n * 2 as n from mine' })).rows, [{ n: this.number * 2 }]);
    await this.client.query('drop table mine');
    assert.equal(await sqlstate(() => this.client.query({ name: 'product', text: 'select n * 2 as n from mine' })), '42P01');
  }

  async lock() {
    // The same lock for all: who has it has it alone, and still has it in the next transaction.
    await this.client.query('select pg_advisory_lock(12)');
    const held = "select count(*)::int from pg_locks where locktype = 'advisory' and objid = 12 and granted and pid = pg_backend_pid()";
    assert.deepEqual((await this.client.query(held)).rows, [{ count: 1 }]);
    assert.deepEqual((await this.client.query('select pg_advisory_unlock(12) as mine')).rows, [{ mine: true }]);
  }

  async fail() {
    assert.equal(await sqlstate(() => this.client.query('select 1 / $1::int', [0])), '22012');
    assert.equal(await sqlstate(() => this.client.query('selekt')), '42601');
  }
}

export async function crowd(size, rounds) {
  const members = Array.from({ length: size }, (_, number) => new Member(number));
  await Promise.all(
    members.map(async member => {
      await member.arrive();
      for (let round = 0; round < rounds; round += 1) {
        await member.look();
        await member.act(round + member.number);
      }
      await member.look();
    }),
  );
  for (const { client } of members) await client.end();
}
