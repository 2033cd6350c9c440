#!/bin/sh
# psql and pgbench, as a person at a terminal uses them. Where to connect is in libpq's environment.
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
psql="psql --no-psqlrc --quiet --no-align --tuples-only --set ON_ERROR_STOP=1"

claim() { # claim "what" "expected" "found"
    if [ "$2" = "$3" ]; then printf 'ok    %s\n' "$1"; else printf "FAIL  %s: expected '%s', found '%s'\n" "$1" "$2" "$3"; exit 1; fi
}

$psql -c 'create table bench_notes (id int primary key, note text)'
claim 'a table is described' 'id|integer' "$($psql -c '\d bench_notes' | sed -n 's/^\(id|integer\).*/\1/p')"
claim 'tables are listed' '1' "$($psql -c '\dt' | grep -c bench_notes)"

seq 1 20000 | sed 's/.*/&,note &/' > "$directory/notes.csv"
$psql -c "copy bench_notes from stdin csv" < "$directory/notes.csv"
claim 'COPY FROM STDIN takes every row' '20000' "$($psql -c 'select count(*) from bench_notes')"
$psql -c "copy (select * from bench_notes order by id) to stdout csv" > "$directory/out.csv"
claim 'COPY TO STDOUT gives them back' "$(cksum < "$directory/notes.csv")" "$(cksum < "$directory/out.csv")"
$psql -c 'truncate bench_notes'
$psql -c "\\copy bench_notes from '$directory/notes.csv' csv"
$psql -c "\\copy bench_notes to '$directory/copy.csv' csv"
claim '\copy goes in and out' '20000' "$(grep -c note "$directory/copy.csv")"
claim 'a broken COPY leaves nothing' '0 20000' "$(printf 'x,y\n' | $psql -c 'copy bench_notes from stdin csv' 2>/dev/null && echo 1 || echo "0 $($psql -c 'select count(*) from bench_notes')")"

claim 'several statements, one result each' '1 2' "$($psql -c 'select 1; select 2' | tr '\n' ' ' | sed 's/ $//')"
claim 'variables of the session stay' 'UTC 7MB' "$(printf "set timezone to 'UTC';\nset work_mem to '7MB';\nshow timezone;\nshow work_mem;\n" | $psql | tr '\n' ' ' | sed 's/ $//')"
claim 'a transaction at the prompt' '3' "$(printf "begin;\ncreate temp table t (n int) on commit drop;\ninsert into t values (1), (2);\nselect sum(n) from t;\ncommit;\n" | $psql)"
claim '\gexec runs what a query wrote' '42' "$(printf "select 'select 42'\n\\gexec\n" | $psql)"
claim 'FETCH_COUNT reads through a cursor' '5000' "$(printf "\\set FETCH_COUNT 100\nselect n from generate_series(1, 5000) n;\n" | $psql | wc -l | tr -d ' ')"

pgbench --initialize --init-steps=dtgvp --scale=1 --quiet 2> "$directory/pgbench.log" || { cat "$directory/pgbench.log"; exit 1; }
# A thread for each client: PQprepare waits for its answer, and that must not keep others from ending their transactions.
bench() { # bench "what" options…
    what=$1; shift
    if ! pgbench --no-vacuum "$@" > "$directory/pgbench.log" 2>&1; then cat "$directory/pgbench.log"; echo "FAIL  $what"; exit 1; fi
    claim "$what: no transaction failed" '0' "$(sed -n 's/^number of failed transactions: \([0-9]*\).*/\1/p' "$directory/pgbench.log")"
}
bench 'pgbench, simple' --client=12 --jobs=12 --transactions=40 --protocol=simple
bench 'pgbench, extended' --client=12 --jobs=12 --transactions=40 --protocol=extended
bench 'pgbench, prepared' --client=12 --jobs=12 --transactions=40 --protocol=prepared
bench 'pgbench, prepared, reading' --client=12 --jobs=12 --transactions=150 --protocol=prepared --select-only
bench 'pgbench, a connection for each transaction' --client=4 --transactions=15 --connect
claim 'what pgbench wrote is consistent' 't' "$($psql -c 'select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches) and (select sum(delta) from pgbench_history) = (select sum(tbalance) from pgbench_tellers)')"
claim 'every transaction is there' "$((3 * 12 * 40 + 4 * 15))" "$($psql -c 'select count(*) from pgbench_history')"

$psql -c 'create table pages (client int, page int, unique (client, page))'
cat > "$directory/pipeline.sql" <<'SQL'
\set page random(1, 1000000000)
\startpipeline
begin;
insert into pages values (:client_id, :page);
select count(*) from pages where client = :client_id and page = :page;
savepoint here;
delete from pages where client = :client_id and page = :page;
rollback to here;
commit;
select 1;
\endpipeline
SQL
bench 'pgbench, pipelines' --client=12 --jobs=12 --transactions=30 --protocol=extended --file="$directory/pipeline.sql"
bench 'pgbench, pipelines of prepared statements' --client=12 --jobs=12 --transactions=30 --protocol=prepared --file="$directory/pipeline.sql"
claim 'every page is there' "$((2 * 12 * 30))" "$($psql -c 'select count(*) from pages')"

# Division by zero is the claim that pgbench can make: it ends the client.
cat > "$directory/session.sql" <<'SQL'
\set memory 1024 * (1 + :client_id)
set work_mem to :memory;
begin;
set local application_name to 'somebody else';
create temp table mine (n int) on commit drop;
insert into mine values (:client_id);
select 1 / (count(*) = 1 and min(n) = :client_id)::int from mine;
commit;
select 1 / (setting::int = :memory)::int from pg_settings where name = 'work_mem';
select pg_advisory_lock(7);
select 1 / pg_advisory_unlock(7)::int;
SQL
bench 'pgbench, a session of its own for each client' --client=12 --jobs=12 --transactions=15 --protocol=simple --file="$directory/session.sql"

$psql -c 'select pg_sleep(60)' 2> "$directory/cancelled" & sleeper=$!
while [ "$($psql -c "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()")" != 1 ]; do :; done
kill -INT $sleeper
wait $sleeper && ended=0 || ended=1
claim 'Ctrl-C cancels the query' '1 ERROR:  canceling statement due to user request' "$ended $(grep ERROR "$directory/cancelled")"
