"""Where the drivers connect, and how an assertion is made. A script that fails exits with 1 and says why.

PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE   as libpq understands them
DRIVERS_CA_FILE                                  for the run without stagedoor: TLS, verified by this CA
DRIVERS_ONLY                                     only the claims with these words
"""

import asyncio
import os
import sys
import time
import traceback

ZONES = ["UTC", "Asia/Tokyo", "Europe/Berlin"]

ASLEEP = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"

_tests = []


def test(work):
    """A claim: its name is what it says."""
    _tests.append((work.__name__.replace("_", " "), work))
    return work


def run_all():
    failed = 0
    wanted = os.environ.get("DRIVERS_ONLY", "")
    for claim, work in [it for it in _tests if wanted in it[0]]:
        begun = time.monotonic()
        try:
            asyncio.run(asyncio.wait_for(work(), 60))
            print(f"ok    {claim} ({(time.monotonic() - begun) * 1000:.0f} ms)", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {claim}: {traceback.format_exc()}", flush=True)
    sys.exit(1 if failed else 0)


def equal(found, expected):
    assert found == expected, f"expected {expected!r}, found {found!r}"


async def until(what, ask, limit=10):
    """Asks until there is an answer, for at most `limit` seconds."""
    end = time.monotonic() + limit
    while True:
        answer = await ask()
        if answer:
            return answer
        assert time.monotonic() < end, f"{what}: not within {limit} s"
        await asyncio.sleep(0.01)


async def sqlstate(work):
    """The SQLSTATE that `work` fails with."""
    try:
        await work
    except Exception as error:
        return getattr(error, "sqlstate", repr(error))
    return None


async def crowd(member, count):
    """So many members at once: each arrives, looks, and acts by turns."""

    async def be_there(number):
        one = member(number)
        await one.arrive()
        for turn in range(12):
            await one.look()
            await one.act(turn + number)
        await one.look()
        return one

    for one in await asyncio.gather(*(be_there(number) for number in range(count))):
        await one.connection.close()
