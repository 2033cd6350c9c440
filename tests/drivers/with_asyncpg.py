"""asyncpg, which prepares every statement, as applications use it."""

import asyncio
import contextlib
import io
import os
import ssl

import asyncpg
from world import ASLEEP, ZONES, crowd, equal, run_all, sqlstate, test, until

TLS = {"ssl": ssl.create_default_context(cafile=os.environ["DRIVERS_CA_FILE"])} if "DRIVERS_CA_FILE" in os.environ else {"ssl": False}


async def connect(**options):
    # What else it needs is in libpq's environment.
    return await asyncpg.connect(**TLS, **options)


@contextlib.asynccontextmanager
async def connected(count=1, **options):
    connections = [await connect(**options) for _ in range(count)]
    try:
        yield connections[0] if count == 1 else connections
    finally:
        for connection in connections:
            await connection.close()


@test
async def values_of_every_usual_type_arrive():
    async with connected() as connection:
        await connection.execute("drop type if exists mood, pair; create type mood as enum ('sad', 'glad'); create type pair as (n int, t text)")
        row = await connection.fetchrow(
            "select $1::int, $2::text, $3::bytea, $4::int[], $5::numeric::text, $6::mood, $7::pair, $8::jsonb, $9::int4range",
            7, "l'été 🎭", b"\x00\xff", [1, None, 3], "1.50", "glad", (1, "one"), '{"a": 1}', asyncpg.Range(1, 5),
        )
        equal(tuple(row), (7, "l'été 🎭", b"\x00\xff", [1, None, 3], "1.50", "glad", (1, "one"), '{"a": 1}', asyncpg.Range(1, 5)))


@test
async def prepared_statements_stay_usable_among_others():
    async with connected(8) as connections:

        async def work(number, connection):
            kept = await connection.prepare(f"select $1::int + {number} as sum, 'kept' as word")
            equal([(it.name, it.type.name) for it in kept.get_attributes()], [("sum", "int4"), ("word", "text")])
            for turn in range(20):
                equal(await connection.fetchval("select $1::int * $2::int", number, turn), number * turn)
                equal(await connection.fetchval(f"select 'only {number}'"), f"only {number}")
                equal(await kept.fetchval(turn), turn + number)

        await asyncio.gather(*(work(*it) for it in enumerate(connections)))


@test
async def a_small_cache_and_none_serve_as_well():
    for size in (0, 2):
        async with connected(6, statement_cache_size=size) as connections:

            async def work(number, connection):
                for turn in range(24):
                    equal(await connection.fetchval(f"select {number} + {turn % 4} + $1::int", turn), number + turn % 4 + turn)

            await asyncio.gather(*(work(*it) for it in enumerate(connections)))


@test
async def a_table_that_changes_its_columns_is_read_as_it_is():
    async with connected(6) as connections:
        owner = connections[0]
        await owner.execute("drop table if exists changes; create table changes as select 1 as n")
        ask = lambda: asyncio.gather(*(it.fetch("select * from changes") for it in connections))
        equal([[tuple(row) for row in rows] for rows in await ask()], [[(1,)]] * 6)
        # asyncpg knows the columns from when it prepared; PostgreSQL's 0A000 makes it prepare anew.
        await owner.execute("alter table changes alter n type text using 'one'")
        equal([[tuple(row) for row in rows] for rows in await ask()], [[("one",)]] * 6)
        await owner.execute("alter table changes add column m int default 2")
        equal([[tuple(row) for row in rows] for rows in await ask()], [[("one", 2)]] * 6)


@test
async def within_a_transaction_a_plan_that_does_not_fit_is_an_error():
    async with connected(2) as (one, owner):
        await owner.execute("drop table if exists fits; create table fits as select 1 as n")
        equal(await one.fetchval("select * from fits"), 1)
        await owner.execute("alter table fits alter n type text")

        async def ask():
            async with one.transaction():
                await one.fetchval("select * from fits")

        equal(await sqlstate(ask()), "0A000")
        equal(await one.fetchval("select * from fits"), "1")


@test
async def a_cursor_reads_in_portions():
    async with connected() as connection, connection.transaction():
        total = 0
        async for row in connection.cursor("select n from generate_series(1, $1::int) n", 1000, prefetch=77):
            total += row["n"]
        equal(total, 500500)
        cursor = await connection.cursor("select n from generate_series(1, 100) n")
        await cursor.forward(10)
        equal([row["n"] for row in await cursor.fetch(3)], [11, 12, 13])
        equal((await cursor.fetchrow())["n"], 14)


@test
async def executemany_is_one_transaction():
    async with connected() as connection:
        await connection.execute("drop table if exists many; create table many (n int primary key)")
        insert = lambda numbers: connection.executemany("insert into many values ($1)", [(n,) for n in numbers])
        equal(await sqlstate(insert([*range(500), 7])), "23505")
        equal(await connection.fetchval("select count(*) from many"), 0)
        await insert(range(500))
        equal(await connection.fetchval("select sum(n) from many"), 499 * 250)


@test
async def copy_carries_rows_in_and_out():
    async with connected() as connection:
        await connection.execute("drop table if exists copied, copied_again; create table copied (n int, t text); create table copied_again (like copied)")
        rows = [(n, f"line {n}\t\\ é") for n in range(3000)]
        equal(await connection.copy_records_to_table("copied", records=rows), "COPY 3000")
        text = io.BytesIO()
        equal(await connection.copy_from_query("select * from copied where n >= $1 order by n", 0, output=text, format="csv"), "COPY 3000")
        text.seek(0)
        equal(await connection.copy_to_table("copied_again", source=text, format="csv"), "COPY 3000")
        equal([tuple(row) for row in await connection.fetch("select * from copied_again order by n")], rows)


@test
async def a_copy_that_fails_from_either_side_leaves_the_connection_usable():
    async with connected() as connection:
        await connection.execute("drop table if exists refused; create table refused (n int primary key)")

        async def lines(error=None):
            yield b"1\n"
            if error:
                raise error
            yield b"1\n"

        equal(await sqlstate(connection.copy_to_table("refused", source=lines())), "23505")
        equal(await sqlstate(connection.copy_to_table("refused", source=lines(ValueError("changed my mind")))), "ValueError('changed my mind')")
        equal(await connection.fetchval("select count(*) from refused"), 0)


@test
async def notifications_reach_who_listens():
    async with connected(3) as (listener, stranger, speaker):
        heard = []
        hear = lambda connection, pid, channel, payload: heard.append((pid == listener.get_server_pid(), channel, payload))
        await listener.add_listener("stage", hear)
        for turn in range(5):
            await speaker.execute("select pg_notify('stage', $1)", f"turn {turn}")
            await stranger.fetchval("select 1")

        async def all_heard():
            return len(heard) == 5

        await until("five notifications", all_heard)
        await listener.execute("notify stage, 'to myself'")
        equal(heard, [(False, "stage", f"turn {turn}") for turn in range(5)] + [(True, "stage", "to myself")])
        await listener.remove_listener("stage", hear)
        await speaker.execute("notify stage, 'too late'")
        equal((await listener.fetchval("select 1"), len(heard)), (1, 6))


@test
async def what_takes_too_long_is_cancelled():
    async with connected(2) as (sleeper, other):
        for late in (sleeper.fetch("select pg_sleep(50)", timeout=0.2), asyncio.wait_for(sleeper.fetch("select pg_sleep(50)"), 0.2)):
            equal(await sqlstate(late), "TimeoutError()")

            async def nobody_sleeps():
                return await other.fetchval(ASLEEP) == 0

            await until("nobody sleeps", nobody_sleeps)
            equal(await sleeper.fetchval("select 1"), 1)
        sleeping = asyncio.create_task(sqlstate(sleeper.fetch("select pg_sleep(50)")))

        async def sleeps():
            return await other.fetchval(ASLEEP) == 1

        await until("it sleeps", sleeps)
        equal(await other.fetchval("select pg_cancel_backend($1)", sleeper.get_server_pid()), True)
        equal(await sleeping, "57014")


@test
async def savepoints_and_isolation():
    async with connected() as connection:
        await connection.execute("drop table if exists nested; create table nested (n int primary key)")
        async with connection.transaction(isolation="serializable"):
            equal(await connection.fetchval("show transaction_isolation"), "serializable")
            await connection.execute("insert into nested values (1)")
            with contextlib.suppress(asyncpg.UniqueViolationError):
                async with connection.transaction():
                    await connection.execute("insert into nested values ($1)", 1)
            async with connection.transaction():
                await connection.execute("insert into nested values ($1)", 2)
        equal(await connection.fetchval("select count(*) from nested"), 2)
        equal(await connection.fetchval("show transaction_isolation"), "read committed")


@test
async def who_is_gone_in_the_middle_leaves_nothing():
    async with connected() as other:
        await other.execute("drop table if exists gone; create table gone (n int)")
        for _ in range(8):
            connection = await connect()
            await connection.transaction().start()
            await connection.execute("insert into gone values (1); lock table gone in access exclusive mode")
            connection.terminate()
        # The lock is free when PostgreSQL has noticed.
        equal(await other.fetchval("select count(*) from gone"), 0)


@test
async def a_pool_gives_back_what_its_clients_have_set():
    # On release asyncpg says: pg_advisory_unlock_all, CLOSE ALL, UNLISTEN *, RESET ALL.
    settings = {"application_name": "pooled", "timezone": "Asia/Tokyo"}
    async with asyncpg.create_pool(min_size=12, max_size=12, server_settings=settings, **TLS) as pool:
        fresh = "select current_setting('application_name'), current_setting('TimeZone'), current_setting('work_mem'), (select count(*) from pg_listening_channels())"
        memory = await pool.fetchval("show work_mem")

        async def work(number):
            async with pool.acquire() as connection:
                equal(tuple(await connection.fetchrow(fresh)), ("pooled", "Asia/Tokyo", memory, 0))
                await connection.execute(f"set work_mem to '{1 + number}MB'; set timezone to 'UTC'; set application_name to 'me'")
                if number % 8 == 0:
                    await connection.fetchval("select pg_advisory_lock_shared($1)", number)
                if number % 8 == 1:
                    await connection.execute("listen somewhere")
                equal(tuple(await connection.fetchrow(fresh)), ("me", "UTC", f"{1 + number}MB", int(number % 8 == 1)))

        await asyncio.gather(*(work(number) for number in range(60)))
        equal(await pool.fetchval("select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())"), 0)


@test
async def what_the_server_reports_is_known():
    async with connected(server_settings={"application_name": "reporter", "datestyle": "German"}) as connection:
        equal((connection.get_settings().application_name, connection.get_settings().DateStyle), ("reporter", "German, DMY"))
        await connection.execute("set timezone to 'Asia/Tokyo'")
        equal(connection.get_settings().TimeZone, "Asia/Tokyo")
        notices = []
        connection.add_log_listener(lambda _, message: notices.append(message.message))
        await connection.execute("do $$ begin raise warning 'from %', 'inside'; end $$")
        await connection.fetchval("select 1")
        equal(notices, ["from inside"])


class Member:
    """One of a crowd, and what it must find."""

    LOOK = """select current_setting('application_name'), current_setting('TimeZone'), current_setting('work_mem'),
      current_schema()::text, whose, to_regclass('pg_temp.mine')::text from whose"""

    def __init__(self, number):
        self.number = number
        self.zone = ZONES[number % 3]

    async def arrive(self):
        self.connection = await connect(server_settings={"application_name": f"member {self.number}"})
        schema = f"a{self.number}"
        await self.connection.execute(f"create schema if not exists {schema}; set search_path to {schema}")
        await self.connection.execute(f"set work_mem to '{1 + self.number}MB'; set timezone to '{self.zone}'")
        await self.connection.execute(f"create table whose as select {self.number} as whose")

    async def look(self, temporary=None):
        expected = (f"member {self.number}", self.zone, f"{1 + self.number}MB", f"a{self.number}", self.number, temporary)
        equal(tuple(await self.connection.fetchrow(self.LOOK)), expected)

    async def act(self, turn):
        acts = [self.set_zone, self.undo, self.take_temporary, self.lock, self.read]
        await acts[turn % len(acts)](turn)

    async def set_zone(self, turn):
        self.zone = ZONES[turn % 3]
        await self.connection.execute("select set_config('TimeZone', $1, false)", self.zone)

    async def undo(self, turn):
        with contextlib.suppress(ZeroDivisionError):
            async with self.connection.transaction():
                await self.connection.execute("set local work_mem to '99MB'; set search_path to nowhere")
                equal(await self.connection.fetchval("show work_mem"), "99MB")
                raise ZeroDivisionError

    async def take_temporary(self, turn):
        await self.connection.execute(f"create temp table mine as select {self.number} as n")
        equal(await self.connection.fetchval("select n from mine"), self.number)
        await self.look("mine")
        await self.connection.execute("drop table mine")
        equal(await sqlstate(self.connection.fetchval("select n from mine")), "42P01")

    async def lock(self, turn):
        await self.connection.execute("select pg_advisory_lock(12)")
        await self.look()
        equal(await self.connection.fetchval("select pg_advisory_unlock($1)", 12), True)

    async def read(self, turn):
        async with self.connection.transaction():
            cursor = await self.connection.cursor("select whose + n as n from whose, generate_series(1, 50) n")
            equal([row["n"] for row in await cursor.fetch(20)], [self.number + n for n in range(1, 21)])


@test
async def twelve_clients_at_once_find_what_is_theirs():
    await crowd(Member, 12)


run_all()
