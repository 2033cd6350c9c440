#!/bin/sh
# psql and pgbench, as a person at a terminal uses them. Where to connect is in libpq's environment.
#   $1  a directory to write into
set -eu
directory=$1
psql="psql --no-psqlrc --quiet --no-align --tuples-only --set ON_ERROR_STOP=1"

claim() { # claim "what" "expected" "found"
    if [ "$2" = "$3" ]; then printf 'ok    %s\n' "$1"; else printf "FAIL  %s: expected '%s', found '%s'\n" "$1" "$2" "$3"; exit 1; fi
}

$psql -c 'drop table if exists bench_notes; create table bench_notes (id int primary key, note text)'
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
bench() { # bench "what" options…
    what=$1; shift
    if ! pgbench --no-vacuum "$@" > "$directory/pgbench.log" 2>&1; then cat "$directory/pgbench.log"; echo "FAIL  $what"; exit 1; fi
    claim "$what: no transaction failed" '0' "$(sed -n 's/^number of failed transactions: \([0-9]*\).*/\1/p' "$directory/pgbench.log")"
}
bench 'pgbench, simple' --client=8 --transactions=50 --protocol=simple
bench 'pgbench, extended' --client=8 --transactions=50 --protocol=extended
bench 'pgbench, prepared' --client=8 --transactions=50 --protocol=prepared
bench 'pgbench, prepared, reading' --client=8 --transactions=200 --protocol=prepared --select-only
bench 'pgbench, a connection for each transaction' --client=4 --transactions=15 --connect
claim 'what pgbench wrote is consistent' 't' "$($psql -c 'select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches) and (select sum(delta) from pgbench_history) = (select sum(tbalance) from pgbench_tellers)')"
claim 'every transaction is there' "$((3 * 8 * 50 + 4 * 15))" "$($psql -c 'select count(*) from pgbench_history')"
