"""psycopg 3, as applications use it."""

import asyncio
import contextlib
import datetime

import psycopg
from psycopg import pq, sql
from world import ASLEEP, ZONES, crowd, equal, run_all, sqlstate, test, until


async def connect(**options):
    # What it needs is in libpq's environment.
    return await psycopg.AsyncConnection.connect("", autocommit=options.pop("autocommit", True), **options)


async def value(connection, query, parameters=None, **options):
    cursor = await connection.execute(query, parameters, **options)
    row = await cursor.fetchone()
    return row[0] if row else None


@test
async def values_of_every_usual_type_arrive_in_text_and_binary():
    async with await connect() as connection:
        values = [
            7, "l'été 🎭", b"\x00\xff\n", [1, None, 3], True, 1.5, None,
            datetime.datetime(2026, 1, 2, 3, 4, 5, 678, datetime.timezone.utc),
        ]
        types = ["int", "text", "bytea", "int[]", "bool", "float8", "text", "timestamptz"]
        query = "select " + ", ".join(f"%b::{name}" for name in types)
        for binary in (False, True):
            cursor = await connection.execute(query, values, binary=binary)
            equal(list(await cursor.fetchone()), values)


@test
async def a_query_that_comes_often_is_prepared_and_stays_so_among_others():
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(await connect(prepare_threshold=2)) for _ in range(8)]

        async def work(number, connection):
            connection.prepared_max = 3
            for turn in range(30):
                # More texts than may be prepared: the oldest is deallocated each time.
                text = f"select {number}, %s::int + {turn % 5}"
                for value in range(4):
                    cursor = await connection.execute(text, [value])
                    equal(await cursor.fetchone(), (number, value + turn % 5))

        await asyncio.gather(*(work(*it) for it in enumerate(connections)))


@test
async def a_prepared_query_survives_a_table_that_changes():
    async with await connect() as connection, await connect() as other:
        await connection.execute("drop table if exists changes; create table changes as select 1 as n")
        ask = lambda: value(connection, "select n from changes", prepare=True)
        equal(await ask(), 1)
        await other.execute("alter table changes add column m text default 'm'")
        equal(await ask(), 1)
        await other.execute("drop table changes; create table changes as select 2 as n")
        equal(await ask(), 2)


@test
async def a_pipeline_answers_in_order():
    async with await connect() as connection:
        async with connection.pipeline():
            cursors = [await connection.execute("select %s::int", [n]) for n in range(100)]
            prepared = [await connection.execute("select %s::int * 2", [n], prepare=True) for n in range(100)]
        equal([(await cursor.fetchone())[0] for cursor in cursors], list(range(100)))
        equal([(await cursor.fetchone())[0] for cursor in prepared], list(range(0, 200, 2)))


@test
async def an_error_in_a_pipeline_aborts_what_follows_up_to_the_sync():
    async with await connect() as connection:
        await connection.execute("drop table if exists piped; create table piped (n int primary key)")
        insert = lambda n: connection.execute("insert into piped values (%s)", [n], prepare=True)
        async with connection.pipeline() as pipeline:
            await insert(1)
            await pipeline.sync()
            # The error is told by whatever is said when it has come.
            told = [await sqlstate(said) for said in (insert(1), insert(2), pipeline.sync(), pipeline.sync())]
            equal([code for code in told if code is not None][0], "23505")
            equal(connection.info.transaction_status, pq.TransactionStatus.IDLE)
            await insert(3)
        equal(await (await connection.execute("select n from piped order by n")).fetchall(), [(1,), (3,)])


@test
async def a_transaction_in_a_pipeline_is_one():
    async with await connect() as connection:
        await connection.execute("drop table if exists kept; create table kept (n int primary key)")
        insert = lambda n: connection.execute("insert into kept values (%s)", [n])

        async def twice():
            async with connection.pipeline(), connection.transaction():
                await insert(1)
                await insert(1)

        equal(await sqlstate(twice()), "23505")
        async with connection.pipeline(), connection.transaction():
            await insert(1)
            await insert(2)
        equal(await value(connection, "select count(*) from kept"), 2)


@test
async def executemany_returns_what_each_row_gave():
    async with await connect() as connection, connection.cursor() as cursor:
        await cursor.execute("drop table if exists many; create table many (id serial, n int)")
        await cursor.executemany("insert into many (n) values (%s) returning id, n", [[n] for n in range(300)], returning=True)
        found = []
        while True:
            found.append(await cursor.fetchone())
            if not cursor.nextset():
                break
        equal(found, [(n + 1, n) for n in range(300)])


@test
async def a_server_side_cursor_reads_in_portions():
    async with await connect(autocommit=False) as connection:
        async with connection.cursor("mine", scrollable=True) as cursor:
            await cursor.execute("select n from generate_series(1, %s) n", [1000])
            cursor.itersize = 77
            equal(sum([row[0] async for row in cursor]), 500500)
            await cursor.scroll(10, mode="absolute")
            equal(await cursor.fetchone(), (11,))


@test
async def a_cursor_with_hold_outlives_its_transaction():
    async with await connect(autocommit=False) as connection, await connect() as other:
        cursor = connection.cursor("held", withhold=True)
        await cursor.execute("select n from generate_series(1, 100) n")
        await connection.commit()
        for turn in range(5):
            equal((await cursor.fetchmany(10))[0], (1 + 10 * turn,))
            await connection.commit()
            equal(await value(other, "select count(*) from pg_cursors"), 0)
        await cursor.close()
        await connection.commit()


@test
async def rows_are_streamed_one_by_one_and_in_chunks():
    async with await connect() as connection, connection.cursor() as cursor:
        for size in (1, 100):
            rows = [row[0] async for row in cursor.stream("select n from generate_series(1, 2000) n", size=size)]
            equal(rows, list(range(1, 2001)))


@test
async def copy_carries_rows_in_and_out_in_text_and_binary():
    async with await connect() as connection, connection.cursor() as cursor:
        rows = [(n, f"line {n}\t\\ é") for n in range(3000)]
        for how in ("text", "binary"):
            await cursor.execute("drop table if exists copied; create table copied (n int, t text)")
            async with cursor.copy(f"copy copied from stdin (format {how})") as copy:
                copy.set_types(["int4", "text"])
                for row in rows:
                    await copy.write_row(row)
            equal(cursor.rowcount, len(rows))
            async with cursor.copy(f"copy copied to stdout (format {how})") as copy:
                copy.set_types(["int4", "text"])
                equal([row async for row in copy.rows()], rows)


@test
async def a_copy_that_fails_from_either_side_leaves_the_connection_usable():
    async with await connect() as connection, connection.cursor() as cursor:
        await cursor.execute("drop table if exists refused; create table refused (n int primary key)")

        async def copy(lines, error=None):
            async with cursor.copy("copy refused from stdin") as copy:
                for line in lines:
                    await copy.write(line)
                if error:
                    raise error

        equal(await sqlstate(copy(["1\n", "two\n"])), "22P02")
        equal(await sqlstate(copy(["1\n", "1\n"])), "23505")
        equal(await sqlstate(copy(["1\n"], ValueError("changed my mind"))), "ValueError('changed my mind')")
        equal(await value(connection, "select count(*) from refused"), 0)


@test
async def notifications_reach_who_listens():
    async with await connect() as listener, await connect() as stranger, await connect() as speaker:
        overheard = []
        stranger.add_notify_handler(overheard.append)
        await listener.execute("listen stage")
        for turn in range(5):
            await speaker.execute("select pg_notify('stage', %s)", [f"turn {turn}"])
            await stranger.execute("select 1")
        heard = [(it.channel, it.payload) async for it in listener.notifies(timeout=20, stop_after=5)]
        equal(heard, [("stage", f"turn {turn}") for turn in range(5)])
        await listener.execute("unlisten *")
        await speaker.execute("notify stage, 'too late'")
        equal([it async for it in listener.notifies(timeout=0.1)], [])
        equal(overheard, [])


@test
async def a_query_is_cancelled_in_the_old_way_and_in_the_new():
    async with await connect() as sleeper, await connect() as other:

        async def old():
            sleeper.cancel()

        for cancel in (old, sleeper.cancel_safe):
            sleeping = asyncio.create_task(sqlstate(sleeper.execute("select pg_sleep(50)")))

            async def asleep():
                return await value(other, ASLEEP) == 1

            await until("it sleeps", asleep)
            await cancel()
            equal(await sleeping, "57014")
            equal(await value(sleeper, "select 1"), 1)


@test
async def savepoints_undo_their_own_part():
    async with await connect(autocommit=False) as connection:
        await connection.execute("drop table if exists nested; create table nested (n int primary key)")
        async with connection.transaction():
            await connection.execute("insert into nested values (1)")
            with contextlib.suppress(psycopg.errors.UniqueViolation):
                async with connection.transaction():
                    await connection.execute("insert into nested values (1)")
            async with connection.transaction("named") as inner:
                await connection.execute("insert into nested values (2)")
                raise psycopg.Rollback(inner)
        equal(await value(connection, "select count(*) from nested"), 1)
        await connection.commit()


@test
async def a_transaction_has_the_characteristics_of_its_connection():
    async with await connect(autocommit=False) as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
        await connection.set_read_only(True)
        equal(await value(connection, "show transaction_isolation"), "serializable")
        equal(await sqlstate(connection.execute("create table never (n int)")), "25006")
        await connection.rollback()
        await connection.set_isolation_level(None)
        await connection.set_read_only(None)
        equal(await value(connection, "show transaction_isolation"), "read committed")


@test
async def a_transaction_is_committed_in_two_phases():
    async with await connect(autocommit=False) as one, await connect() as other:
        await other.execute("drop table if exists phases; create table phases (n int)")
        xid = one.xid(1, "drivers", str(one.info.backend_pid))
        for end, count in ((one.tpc_rollback, 0), (one.tpc_commit, 1)):
            await one.tpc_begin(xid)
            await one.execute("insert into phases values (1)")
            await one.tpc_prepare()
            # Those of other databases are told of as well.
            prepared = [it.bqual for it in await other.tpc_recover() if it.database == one.info.dbname]
            equal(prepared, [xid.bqual])
            equal(await value(other, "select count(*) from phases"), 0)
            await end()
            equal(await value(other, "select count(*) from phases"), count)


@test
async def what_the_server_reports_is_known():
    async with await connect(application_name="reporter", options="-c datestyle=German,DMY") as connection:
        status = connection.info.parameter_status
        equal((status("application_name"), status("DateStyle")), ("reporter", "German, DMY"))
        await connection.execute("set time zone 'Asia/Tokyo'")
        equal((status("TimeZone"), str(connection.info.timezone)), ("Asia/Tokyo", "Asia/Tokyo"))
        equal(await value(connection, "select date '2026-01-02'::text"), "02.01.2026")
        await connection.execute("reset all")
        equal((status("application_name"), status("DateStyle")), ("reporter", "German, DMY"))


@test
async def text_has_the_encoding_of_its_connection():
    async with await connect(client_encoding="latin1") as latin, await connect() as unicode:
        for connection, bytes_ in ((latin, b"\xe9"), (unicode, "é".encode())) * 3:
            cursor = await connection.execute("select 'é', %s", ["é"])
            equal((cursor.pgresult.get_value(0, 0), await cursor.fetchone()), (bytes_, ("é", "é")))
        equal(await sqlstate(latin.execute("select U&'\\4e2d'")), "22P05")


@test
async def notices_and_errors_are_as_the_server_gave_them():
    async with await connect() as connection:
        notices = []
        connection.add_notice_handler(lambda it: notices.append((it.severity, it.message_primary)))
        await connection.execute("do $$ begin raise warning 'from %', 'inside'; end $$")
        equal(notices, [("WARNING", "from inside")])
        await connection.execute("drop table if exists unique_names; create table unique_names (name text primary key)")
        await connection.execute("insert into unique_names values ('a')")
        try:
            await connection.execute("insert into unique_names values ('a')", prepare=True)
        except psycopg.errors.UniqueViolation as error:
            it = error.diag
            equal((it.table_name, it.constraint_name), ("unique_names", "unique_names_pkey"))
            equal(it.message_detail, "Key (name)=(a) already exists.")


class Member:
    """One of a crowd, and what it must find."""

    LOOK = """select current_setting('application_name'), current_setting('TimeZone'), current_setting('work_mem'),
      current_schema()::text, whose, to_regclass('pg_temp.mine')::text from whose"""

    def __init__(self, number):
        self.number = number
        self.zone = ZONES[number % 3]

    async def arrive(self):
        self.connection = await connect(application_name=f"member {self.number}", prepare_threshold=3)
        schema = sql.Identifier(f"p{self.number}")
        await self.connection.execute(sql.SQL("create schema if not exists {}").format(schema))
        await self.connection.execute(sql.SQL("set search_path to {}").format(schema))
        await self.connection.execute(sql.SQL("set time zone {}").format(self.zone))
        await self.connection.execute(f"set work_mem to '{1 + self.number}MB'")
        await self.connection.execute(f"create table whose as select {self.number} as whose")

    async def look(self, temporary=None):
        expected = (f"member {self.number}", self.zone, f"{1 + self.number}MB", f"p{self.number}", self.number, temporary)
        equal(await (await self.connection.execute(self.LOOK)).fetchone(), expected)

    async def act(self, turn):
        acts = [self.set_zone, self.undo, self.pipe, self.take_temporary, self.lock, self.read]
        await acts[turn % len(acts)](turn)

    async def set_zone(self, turn):
        self.zone = ZONES[turn % 3]
        await self.connection.execute("select set_config('TimeZone', %s, false)", [self.zone])

    async def undo(self, turn):
        async with self.connection.transaction(force_rollback=True):
            await self.connection.execute("set local work_mem to '99MB'")
            await self.connection.execute("set search_path to nowhere")
            equal(await value(self.connection, "show work_mem"), "99MB")

    async def pipe(self, turn):
        async with self.connection.pipeline():
            cursors = [await self.connection.execute("select %s * whose from whose", [n]) for n in range(5)]
        equal([(await it.fetchone())[0] for it in cursors], [n * self.number for n in range(5)])

    async def take_temporary(self, turn):
        await self.connection.execute(f"create temp table mine as select {self.number} as n")
        equal(await value(self.connection, "select n from mine"), self.number)
        await self.look("mine")
        await self.connection.execute("drop table mine")
        equal(await sqlstate(self.connection.execute("select n from mine")), "42P01")

    async def lock(self, turn):
        await self.connection.execute("select pg_advisory_lock(12)")
        await self.look()
        equal(await value(self.connection, "select pg_advisory_unlock(12)"), True)

    async def read(self, turn):
        async with self.connection.transaction(), self.connection.cursor("reading") as cursor:
            await cursor.execute("select whose + n from whose, generate_series(1, 50) n")
            equal(await cursor.fetchmany(20), [(self.number + n,) for n in range(1, 21)])


@test
async def twelve_clients_at_once_find_what_is_theirs():
    await crowd(Member, 12)


run_all()
