//! What texts do, as data: claim, text, effect. A misread text becomes a line here.

#![allow(clippy::too_many_lines, reason = "tables")]

use proptest::prelude::*;

use crate::sql::dialect::Dialect;
use crate::sql::dialect::Encoding;
use crate::sql::dialect::Strings;
use crate::sql::effect::Effect;
use crate::sql::effect::custom_settings;
use crate::sql::effect::effect;

const NONE: Effect = Effect::NONE;
const TOUCHES: Effect = Effect::TOUCHES;
const DDL: Effect = Effect::DDL;
const DROP: Effect = DDL.with(Effect::DROPS);
const TEMP: Effect = DDL.with(TOUCHES);
const RESETS: Effect = TOUCHES.with(Effect::RESETS);
const CUSTOM: Effect = TOUCHES.with(Effect::CUSTOM);
const LOCAL: Effect = Effect::LOCAL;
const LOCAL_CUSTOM: Effect = LOCAL.with(Effect::CUSTOM);
const OPAQUE: Effect = TOUCHES.with(Effect::OPAQUE);
const PREPARED: Effect = TOUCHES.with(Effect::STATEMENTS);
const SEQUENCE: Effect = Effect::SEQUENCE;
const UNKNOWN: Effect = Effect::UNKNOWN;

/// Claim, text, effect.
type Row = (&'static str, &'static str, Effect);

fn check(dialect: Dialect, rows: &[Row]) {
    let wrong: Vec<_> = rows
        .iter()
        .map(|(claim, text, expected)| (claim, text, *expected, effect(text.as_bytes(), dialect)))
        .filter(|(_, _, expected, found)| expected != found)
        .collect();
    assert!(wrong.is_empty(), "claim, text, expected, found: {wrong:#?}");
}

const EITHER: Dialect = Dialect { strings: Strings::Either, encoding: Encoding::AsciiSafe };
const STANDARD: Dialect = Dialect { strings: Strings::Standard, encoding: Encoding::AsciiSafe };
const ESCAPED: Dialect = Dialect { strings: Strings::Escaped, encoding: Encoding::AsciiSafe };

#[test]
fn what_backstage_and_knex_say() {
    check(
        EITHER,
        &[
            ("nothing", "", NONE),
            ("keepalive", "select 1", NONE),
            ("first words", "select version();", NONE),
            ("search path", r#"set search_path to "catalog","public""#, TOUCHES),
            ("role", r#"SET ROLE "Backstage""#, TOUCHES),
            ("transaction", "BEGIN;", NONE),
            ("commit", "COMMIT;", NONE),
            ("savepoint", "SAVEPOINT trx2;", NONE),
            ("rollback to", "ROLLBACK TO SAVEPOINT trx2", NONE),
            ("isolation", "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY", NONE),
            ("select", KNEX_SELECT, NONE),
            ("update", r#"update "t" set "is_locked" = $1 where "is_locked" = $2"#, NONE),
            (
                "upsert",
                r#"insert into "t" ("a") values ($1) on conflict ("a") do update set "a" = excluded."a""#,
                NONE,
            ),
            ("claim", "select * from refresh_state for update skip locked limit 5", NONE),
            ("notify", "select pg_notify($1, $2)", NONE),
            ("listen", "LISTEN event_bus_publish", TOUCHES),
            ("temp table", "CREATE TEMP TABLE documents_to_insert (a text) ON COMMIT DROP", TEMP),
            ("create database", r#"CREATE DATABASE "backstage_plugin_app""#, DDL.with(Effect::DATABASE_DDL)),
            ("create schema", r#"CREATE SCHEMA IF NOT EXISTS "app" AUTHORIZATION "role""#, DDL),
            ("cancel", "SELECT pg_cancel_backend($1)", Effect::SIGNALS),
            (
                "serial key",
                r#"create table "t" ("id" bigserial primary key, "x" text not null default '')"#,
                DDL,
            ),
            ("index", "create index concurrently i on t (a)", DDL),
            ("lock", "LOCK TABLE t IN EXCLUSIVE MODE", NONE),
        ],
    );
}

#[test]
fn settings_touch_the_session_unless_they_pass_with_the_transaction() {
    check(
        EITHER,
        &[
            ("set to", "SET work_mem TO '8MB'", TOUCHES),
            ("set =", "set work_mem=8", TOUCHES),
            ("session", "SET SESSION statement_timeout = 0", TOUCHES),
            ("mixed case", "sEt x = 1", TOUCHES),
            ("time zone", "SET TIME ZONE 'UTC'", TOUCHES),
            ("time zone back", "SET TIME ZONE LOCAL", RESETS),
            ("names", "SET NAMES 'UTF8'", TOUCHES),
            ("characteristics", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", TOUCHES),
            ("authorization", "SET SESSION AUTHORIZATION bob", TOUCHES),
            ("authorization back", "SET SESSION AUTHORIZATION DEFAULT", RESETS),
            ("role back", "SET ROLE NONE", RESETS),
            ("default", "SET search_path TO DEFAULT", RESETS),
            ("default of the next statement", "SET x = 1; SELECT 1", TOUCHES),
            ("reset", "RESET search_path", RESETS),
            ("reset all", "RESET ALL", RESETS),
            ("reset role", "RESET ROLE", RESETS),
            ("local", "SET LOCAL work_mem = '8MB'", LOCAL),
            ("local role", "SET LOCAL ROLE bob", LOCAL),
            ("local custom", "SET LOCAL app.tenant = 'x'", LOCAL_CUSTOM),
            ("transaction", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", NONE),
            ("constraints", "SET CONSTRAINTS ALL DEFERRED", NONE),
            ("custom", "SET app.tenant = 'x'", CUSTOM),
            ("custom, session", "SET SESSION app.tenant = 'x'", CUSTOM),
            ("custom, quoted", r#"SET "app"."tenant" = 'x'"#, CUSTOM),
            ("custom, quoted whole", r#"SET "app.tenant" = 'x'"#, CUSTOM),
            ("custom, reset", "RESET app.tenant", CUSTOM.with(Effect::RESETS)),
            ("custom named local", "SET local.x = 1", CUSTOM),
            ("custom named session", "SET session.x = 1", CUSTOM),
            ("custom named transaction", "SET transaction.x TO 1", CUSTOM),
            ("custom, blanks", "SET app . /* dot */ tenant = 1", CUSTOM),
            ("custom, odd name", r#"SET "app.te nant" = 1"#, OPAQUE),
            ("a setting called local", "SET local TO 1", TOUCHES),
            ("quoted local", r#"SET "local" = 1"#, TOUCHES),
            ("in a transaction", "BEGIN; SET x = 1; COMMIT", TOUCHES),
            ("local in a transaction", "BEGIN; SET LOCAL x = 1; COMMIT", LOCAL),
            ("unfinished", "SET", TOUCHES),
            ("show", "SHOW search_path", NONE),
            ("view", "UPDATE pg_catalog.pg_settings SET setting = 'x' WHERE name = 'y'", TOUCHES),
            ("quoted view", r#"with a as (update "pg_settings" set setting = 1) select 1"#, TOUCHES),
            ("view, read", "SELECT * FROM pg_settings", NONE),
        ],
    );
}

#[test]
fn set_config_is_read_by_its_arguments() {
    check(
        EITHER,
        &[
            ("plain", "select set_config('search_path', 'x', false)", TOUCHES),
            ("local", "select set_config('search_path', 'x', true)", LOCAL),
            ("local custom", "SELECT set_config('app.t', $1, TRUE)", LOCAL_CUSTOM),
            ("local by parameter", "select set_config('x', $1, $2)", TOUCHES),
            ("local by expression", "select set_config('x', 'y', not true)", TOUCHES),
            ("local by default of an outer call", "select f(set_config('x', 'y', false), true)", TOUCHES),
            (
                "inner in a local one",
                "select set_config('a', set_config('b.c', '', false), true)",
                CUSTOM.with(LOCAL),
            ),
            ("custom", "select set_config('app.t', $1, false)", CUSTOM),
            ("name by parameter", "select set_config($1, $2, false)", OPAQUE),
            ("name by expression", "select set_config('app' || '.x', 'y', false)", OPAQUE),
            ("name by cast", "select set_config('app.x'::text, 'y', false)", OPAQUE),
            ("name with escapes", r"select set_config(E'app\x2ex', 'y', false)", OPAQUE),
            ("name in two pieces", "select set_config('app'\n'.x', 'y', false)", OPAQUE),
            ("dollar quoted", "select set_config($$app.x$$, 'y', false)", CUSTOM),
            ("by name", "select set_config(is_local => true, setting_name => 'a', new_value => 'b')", OPAQUE),
            ("qualified", "select pg_catalog.set_config('a', 'b', false)", TOUCHES),
            ("quoted", r#"select "set_config"('a', 'b', false)"#, TOUCHES),
            ("quoted in capitals is another", r#"select "SET_CONFIG"('a', 'b', false)"#, NONE),
            ("in capitals", "SELECT SET_CONFIG('a', 'b', false)", TOUCHES),
            ("blank before", "select set_config /* ( */ \n ('a', 'b', false)", TOUCHES),
            ("in where", "delete from t where set_config('a', 'b', false) = ''", TOUCHES),
            ("no call", "select set_config from t", NONE),
            ("longer name", "select my_set_config('a', 'b', false)", NONE),
            ("text", "select 'set_config(''a'', ''b'', false)'", NONE),
            ("unicode escapes may spell it", r#"select U&"set\005fconfig"('a', 'b', false)"#, UNKNOWN),
            ("unfinished", "select set_config(", OPAQUE),
        ],
    );
}

#[test]
fn what_cannot_be_asked_for_has_a_bit_each() {
    check(
        EITHER,
        &[
            ("nextval", "select nextval('s')", SEQUENCE),
            ("nextval, qualified", r#"insert into t values ("pg_catalog"."nextval"('s'))"#, SEQUENCE),
            ("currval", "select currval('s')", SEQUENCE),
            ("lastval", "select lastval()", SEQUENCE),
            ("setval", "SELECT pg_catalog.setval('s', 1, false)", SEQUENCE),
            ("default of a new table", "create table t (a int default nextval('s'::regclass))", DDL),
            ("default, qualified", "create table t (a int default pg_catalog.nextval('s'))", DDL),
            ("default from now on", "ALTER TABLE ONLY t ALTER COLUMN a SET DEFAULT nextval('s')", DDL),
            ("default that fills", "ALTER TABLE t ADD a int DEFAULT nextval('s')", DDL.with(SEQUENCE)),
            ("in a new table's rows", "create table t as select nextval('s')", DDL.with(SEQUENCE)),
            ("next value", "select max(nextval) from t", NONE),
            ("seed", "select setseed(0.5)", Effect::SEED),
            ("load", "LOAD 'auto_explain'", Effect::LIBRARY),
            ("call", "CALL p()", OPAQUE),
            ("runs text", "select query_to_xml('select 1', true, false, '')", OPAQUE),
            ("dblink", "select dblink_connect('a', 'host=b')", OPAQUE),
            ("unasked", "select random(), now()", NONE),
        ],
    );
}

#[test]
fn objects_of_the_session() {
    check(
        EITHER,
        &[
            ("temporary", "create temporary table t (a int)", TEMP),
            ("local temp", "CREATE LOCAL TEMP TABLE t (a int)", TEMP),
            ("temp view", "CREATE OR REPLACE TEMP VIEW v AS SELECT 1", TEMP),
            ("temp sequence", "CREATE TEMPORARY SEQUENCE s", TEMP),
            ("into temp", "SELECT * INTO TEMP t FROM x", TOUCHES),
            ("into local temporary", "SELECT * INTO LOCAL TEMPORARY TABLE t FROM x", TOUCHES),
            ("by schema", "CREATE TABLE pg_temp.t (a int)", TEMP),
            ("by quoted schema", r#"CREATE TABLE "pg_temp".t (a int)"#, TEMP),
            ("by numbered schema", "CREATE TABLE pg_temp_3.t (a int)", TEMP),
            ("column called temp", "select temp, temperature from weather where temp > 3", NONE),
            ("quoted temp", r#"select "temp" from "temporary""#, NONE),
            ("drop", "DROP TABLE t", DROP),
            ("advisory lock", "select pg_advisory_lock(1)", TOUCHES),
            ("advisory lock, shared", "select pg_catalog.pg_try_advisory_lock_shared(1, 2)", TOUCHES),
            ("advisory unlock", "SELECT pg_advisory_unlock_all()", TOUCHES),
            ("advisory lock of a transaction", "select pg_advisory_xact_lock(1)", NONE),
            ("tried, of a transaction", "select pg_try_advisory_xact_lock_shared(1)", NONE),
            ("unlisten", "UNLISTEN *", TOUCHES),
            ("notify", "NOTIFY c, 'LISTEN c'", NONE),
            ("prepare", "PREPARE p AS SELECT 1", PREPARED),
            (
                "prepare with types",
                "PREPARE p (int, numeric(10, 2)) AS SELECT nextval('s')",
                PREPARED.with(SEQUENCE),
            ),
            ("prepare transaction", "PREPARE TRANSACTION 'x'", NONE),
            ("prepare what is called transaction", "PREPARE transaction AS SELECT 1", PREPARED),
            ("commit prepared", "COMMIT PREPARED 'x'", NONE),
            ("execute", "EXECUTE p(1)", PREPARED),
            ("execute explained", "EXPLAIN ANALYZE EXECUTE p(1)", PREPARED),
            ("execute into a table", "CREATE TABLE t AS EXECUTE p", DDL.with(PREPARED)),
            ("a trigger", "CREATE TRIGGER g AFTER INSERT ON t EXECUTE FUNCTION f()", DDL),
            ("a privilege", "GRANT EXECUTE ON FUNCTION f() TO bob", NONE),
            ("deallocate", "DEALLOCATE p", PREPARED),
            ("deallocate all", "DEALLOCATE PREPARE ALL", PREPARED.with(Effect::DEALLOCATE_ALL)),
            ("cursor", "DECLARE c CURSOR FOR SELECT 1", NONE),
            ("cursor with hold", "DECLARE c BINARY NO SCROLL CURSOR WITH HOLD FOR SELECT 1", TOUCHES),
            ("cursor without hold", "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1", NONE),
            ("a cte called hold", "WITH hold AS (SELECT 1) SELECT * FROM hold", NONE),
            ("close", "CLOSE ALL", TOUCHES),
            ("discard all", "DISCARD ALL", RESETS.with(Effect::DISCARD_ALL)),
            ("discard sequences", "discard sequences", TOUCHES.with(Effect::DISCARD_SEQUENCES)),
            ("discard temp", "DISCARD TEMP", TOUCHES),
        ],
    );
}

#[test]
fn definitions_and_what_only_looks_like_a_setting_in_them() {
    check(
        EITHER,
        &[
            (
                "function with a setting",
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET x = 1 AS 'SET y = 1'",
                DDL,
            ),
            (
                "function body",
                "CREATE FUNCTION f() RETURNS int AS $$ BEGIN; SET x = 1; $$ LANGUAGE plpgsql",
                DDL,
            ),
            ("alter table", "ALTER TABLE t ALTER c SET NOT NULL", DDL),
            ("alter role", "ALTER ROLE bob SET work_mem = 1", DDL.with(Effect::ALTER_DEFAULTS)),
            ("alter role's password", "ALTER ROLE bob PASSWORD 'set'", DDL),
            ("alter user", "ALTER USER ALL IN DATABASE d RESET ALL", DDL.with(Effect::ALTER_DEFAULTS)),
            ("alter system", "ALTER SYSTEM SET x = 1", DDL.with(Effect::ALTER_DEFAULTS)),
            ("drop database", "drop database if exists d", DROP.with(Effect::DATABASE_DDL)),
            ("copy", "COPY t TO PROGRAM 'set x'", NONE),
            ("label", "SECURITY LABEL ON TABLE t IS 'set'", NONE),
            ("import", "IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c", NONE),
            ("explain", "EXPLAIN (ANALYZE, FORMAT json) SELECT 1", NONE),
            ("explain a call", "EXPLAIN (ANALYZE) SELECT nextval('s')", SEQUENCE),
            ("explain create", "EXPLAIN (COSTS off) CREATE TEMP TABLE t AS SELECT 1", TEMP),
            ("explain in brackets", "EXPLAIN ((SELECT 1)); SET x = 1", TOUCHES),
            ("on delete set null", "CREATE TABLE t (a int REFERENCES b ON DELETE SET NULL)", DDL),
            (
                "terminate",
                r#"select pid, "pg_terminate_backend"(pid, 5) from pg_stat_activity"#,
                Effect::SIGNALS,
            ),
            ("no signal", "select pg_blocking_pids(1)", NONE),
        ],
    );
}

#[test]
fn a_do_is_read_as_far_as_it_shows() {
    check(
        EITHER,
        &[
            (
                "migration",
                "DO $$ BEGIN IF NOT EXISTS (SELECT 1) THEN CREATE TYPE x AS ENUM (); END IF; END $$",
                TEMP,
            ),
            ("dynamic", "DO $$ BEGIN EXECUTE 'SET a.b = 1'; END $$", OPAQUE),
            (
                "custom",
                "DO LANGUAGE plpgsql $x$ BEGIN PERFORM set_config('a.b', '1', false); END $x$",
                CUSTOM,
            ),
            ("custom by set", "do $$begin set a.b = 1; end$$", CUSTOM),
            ("sequence", "DO $$ BEGIN PERFORM nextval('s'); END $$", TOUCHES.with(SEQUENCE)),
            ("call", "DO $$ BEGIN CALL p(); END $$", OPAQUE),
            ("string", "DO 'BEGIN END'", OPAQUE),
            ("another language", "DO LANGUAGE plpython3u $$ plpy.execute('set a.b = 1') $$", OPAQUE),
            ("another language, behind", "DO $$ 1 $$ LANGUAGE 'plperl'", OPAQUE),
            ("trigger", "DO $$ BEGIN CREATE TRIGGER g AFTER INSERT ON t EXECUTE FUNCTION f(); END $$", TEMP),
            ("grant", "DO $$ BEGIN GRANT EXECUTE ON FUNCTION f() TO bob; END $$", TOUCHES),
            ("on conflict", "DO $$ BEGIN INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING; END $$", TOUCHES),
            (
                "role's defaults",
                "DO $$ BEGIN ALTER ROLE bob SET x = 1; END $$",
                TEMP.with(Effect::ALTER_DEFAULTS),
            ),
            ("do of an upsert", "INSERT INTO t VALUES ('x') ON CONFLICT DO NOTHING", NONE),
        ],
    );
}

#[test]
fn strings_comments_and_identifiers_end_where_postgres_ends_them() {
    check(
        STANDARD,
        &[
            ("two statements", "SELECT 1; SET x=1", TOUCHES),
            ("no blank", "SELECT 1;SET x=1", TOUCHES),
            ("empty statements", ";; ; SET x=1", TOUCHES),
            ("comment before", "/* a */ -- b\n SET x=1", TOUCHES),
            ("comment within", "SET/**/x=1", TOUCHES),
            ("in a comment", "/* ; set x=1 */ SELECT 1", NONE),
            ("in a line comment", "SELECT 1 -- ; SET x=1", NONE),
            ("line ends at return", "SELECT 1 --\r; SET x=1", TOUCHES),
            ("nested", "/* /* */ ; SET x=1 */ SELECT 1", NONE),
            ("nested and closed", "/* /* */ */ SET x=1", TOUCHES),
            ("slash star slash", "/*/ SELECT 1; */ SET x=1", TOUCHES),
            ("stars", "/***/ SET x=1", TOUCHES),
            ("comment in an operator", "SELECT 1 +/* ; SET x=1 */ 2", NONE),
            ("comment behind an operator", "SELECT 1 +--1\n;SET x=1", TOUCHES),
            ("not a comment", "SELECT 4 / 2 - 1; SET x=1", TOUCHES),
            ("unending comment", "SELECT 1 /* ; SET x=1", NONE),
            ("unending nested comment", "/* /* */ SET x=1", NONE),
            ("in a string", "select 'set'", NONE),
            ("doubled quote", "SELECT 'it''s; SET x=1'", NONE),
            ("string ends", "SELECT 'a'; SET x='1'", TOUCHES),
            ("backslash is nothing", r"SELECT 'a\'; SET x=1", TOUCHES),
            ("unending string", "SELECT '; SET x=1", NONE),
            ("quote after comment mark", "SELECT '--'; SET x=1", TOUCHES),
            ("escape string", r"SELECT E'\'; SET x=1'", NONE),
            ("escape string, small", r"SELECT e'\\'; SET x=1", TOUCHES),
            ("escape string, doubled", r"SELECT E'a''\'; SET x=1'", NONE),
            ("escape string goes on", "SELECT E'a'\n'\\'; SET x=1'", NONE),
            ("goes on behind a comment", "SELECT E'a' -- c\n -- d\n '\\'; SET x=1'", NONE),
            ("does not go on in a line", r"SELECT E'a' '\'; SET x=1", TOUCHES),
            ("a name ending in e", r"SELECT type'\'; SET x=1", TOUCHES),
            ("unending escape", r"SELECT E'\", NONE),
            ("national", r"SELECT N'\'; SET x=1", TOUCHES),
            ("bits", r"SELECT B'\'; SET x=1", TOUCHES),
            ("hex", r"SELECT x'\'; SET x=1", TOUCHES),
            ("unicode", r"SELECT U&'\'; SET x=1", TOUCHES),
            ("and, not unicode", "SELECT u & 'a'; SET x=1", TOUCHES),
            ("quoted identifier", r#"SELECT "; SET x=1""#, NONE),
            ("doubled double quote", r#"SELECT "a""; SET x=1""#, NONE),
            ("unending identifier", r#"SELECT "; SET x=1"#, NONE),
            ("dollars", "SELECT $$; SET x=1 $$", NONE),
            ("dollars end", "SELECT $$ $$; SET x=1", TOUCHES),
            ("tag", "SELECT $a$ $$; SET x=1; $b$ $a$", NONE),
            ("tag ends", "SELECT $a$ $b$a$; SET x=1", TOUCHES),
            ("tags mind case", "SELECT $a$ $A$; SET x=1 $a$", NONE),
            ("tag with digits", "SELECT $a1$ ; SET x=1 $a1$", NONE),
            ("no tag may begin with a digit", "SELECT $1$; SET x=1", TOUCHES),
            ("dollars behind a parameter", "SELECT $1$$; SET x=1 $$", NONE),
            ("dollars within a word", "SELECT a$$; SET x=1; SELECT b$$", TOUCHES),
            ("unending dollars", "SELECT $$; SET x=1", NONE),
            ("half a tag", "SELECT $a ; SET x=1", TOUCHES),
            ("tag beyond ASCII", "SELECT $é$; SET x=1 $é$", NONE),
            ("identifier with a dollar", "SELECT set$1; set2 = 1", NONE),
            ("identifier beyond ASCII", "SELECT 1; éset x=1", NONE),
            ("word behind one beyond ASCII", "SELECT é; SET x=1", TOUCHES),
            ("text beyond ASCII", "SELECT 'größe — ; SET x=1'", NONE),
            ("number and word", "SELECT 1e'\\'; SET x=1'", NONE),
            ("range", "SELECT a[1:2], 1..2, .5; SET x=1", TOUCHES),
            ("cast", "SELECT '1'::int; SET x=1", TOUCHES),
            ("after NUL", "SELECT 1\0; SET x=1", NONE),
            ("vertical tab", "SELECT 1;\u{b}\u{c}SET x=1", TOUCHES),
            ("psql's variables are not ours", "SELECT :'x'; SET x=1", TOUCHES),
        ],
    );
}

#[test]
fn without_standard_strings_a_backslash_escapes() {
    check(
        ESCAPED,
        &[
            ("escaped quote", r"SELECT '\'; SET x=1'", NONE),
            ("escaped backslash", r"SELECT '\\'; SET x=1", TOUCHES),
            ("goes on", "SELECT 'a'\n'\\'; SET x=1'", NONE),
            ("national", r"SELECT N'\'; SET x=1'", NONE),
            ("not in dollars", r"SELECT $$\$$; SET x=1", TOUCHES),
            ("not in bits", r"SELECT B'\'; SET x=1", TOUCHES),
            ("not in identifiers", r#"SELECT "\"; SET x=1"#, TOUCHES),
        ],
    );
}

#[test]
fn if_the_setting_is_not_known_both_readings_count() {
    check(
        EITHER,
        &[
            ("set in the standard reading", r"SELECT '\'; SET x=1 --'", TOUCHES),
            ("set in the escaped reading", r"SELECT '\' || '; SET x=1; --'; SELECT '", TOUCHES),
            ("set in neither", r"SELECT 'C:\dir', 'SET x=1'", NONE),
            ("in a DO", r"DO $$ BEGIN PERFORM '\' || 'nextval(', nextval(1); END $$", TOUCHES.with(SEQUENCE)),
        ],
    );
}

#[test]
fn encodings_that_hide_ascii_are_not_read() {
    let dialect = Dialect { strings: Strings::Standard, encoding: Encoding::AsciiUnsafe };
    check(
        dialect,
        &[("ASCII", "SELECT 1", NONE), ("beyond", "SELECT 'é'", UNKNOWN), ("after NUL", "x\0é", NONE)],
    );
}

#[test]
fn custom_settings_are_named_in_lower_case() {
    let text =
        b"SET App.Tenant = 1; RESET \"b.C\"; SELECT set_config('a.b', '', false), set_config('x', '', false);
        DO $$ BEGIN SET in_do.x = 1; END $$; SET LOCAL l.x = 1";
    let mut names = Vec::new();
    custom_settings(text, EITHER, &mut |name| names.push(name.to_owned()));
    assert_eq!(names, ["app.tenant", "b.c", "a.b", "in_do.x", "l.x"]);
}

const KNEX_SELECT: &str = r#"select "entity_id", "final_entity", "last_updated_at" from "final_entities" inner join "refresh_state" on "refresh_state"."entity_id" = "final_entities"."entity_id" where "entity_ref" = $1 order by "a" asc limit $2"#;

/// Pieces that lexers stumble over, in any order.
fn nasty() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "'",
        "\"",
        "\\",
        "$$",
        "$a$",
        "$",
        "1",
        "E'",
        "U&'",
        "U&\"",
        "/*",
        "*/",
        "--",
        "\n",
        "\r",
        ";",
        "(",
        ")",
        ",",
        ".",
        " ",
        "SET ",
        "a.b",
        "LOCAL ",
        "DO ",
        "PREPARE ",
        "AS ",
        "EXPLAIN ",
        "set_config(",
        "nextval(",
        "true)",
        "é",
        "\0",
        "BEGIN ",
        "CREATE TEMP ",
        "ALTER ROLE ",
        "pg_cancel_backend(",
        "1073741824",
        "=",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..40)
        .prop_map(|some| some.concat().into_bytes())
}

proptest! {
    #[test]
    fn any_bytes_have_an_effect(text in prop::collection::vec(any::<u8>(), 0..200)) {
        for dialect in [EITHER, STANDARD, ESCAPED] {
            effect(&text, dialect);
        }
    }

    #[test]
    fn any_nasty_text_has_an_effect_and_either_holds_both(text in nasty()) {
        let both = effect(&text, STANDARD) | effect(&text, ESCAPED);
        prop_assert_eq!(effect(&text, EITHER), both);
    }

    #[test]
    fn a_comment_before_changes_nothing(text in nasty(), which in 0..4_usize) {
        let comments = ["/* SET x=1; */", "/* /* ' */ \" */ ", "-- $$ SET x=1\n", " \t\n"];
        let commented = [comments[which].as_bytes(), &text].concat();
        prop_assert_eq!(effect(&text, STANDARD), effect(&commented, STANDARD));
    }

    #[test]
    fn a_comment_behind_changes_nothing(at in 0..TEXTS.len(), which in 0..4_usize) {
        let comments = [" /* SET x=1; */", "/* /* ' */ \" */", "-- $$ ; SET x=1", ";"];
        let text = TEXTS[at].as_bytes();
        let commented = [text, comments[which].as_bytes()].concat();
        prop_assert_eq!(effect(text, STANDARD), effect(&commented, STANDARD));
    }

    #[test]
    fn a_neutral_statement_beside_changes_nothing(at in 0..TEXTS.len()) {
        let alone = effect(TEXTS[at].as_bytes(), EITHER);
        let between = format!("SELECT 'a', $$b$$, \"c\";{};SELECT 1", TEXTS[at]);
        prop_assert_eq!(alone, effect(between.as_bytes(), EITHER));
    }
}

const TEXTS: [&str; 8] = [
    KNEX_SELECT,
    "SET a.b = 'x'",
    "SELECT set_config('x', 'y', false)",
    "EXPLAIN (ANALYZE) SELECT nextval('s')",
    "PREPARE p (int) AS SELECT $1",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "DO $$ BEGIN PERFORM setseed(1); END $$",
    "ALTER ROLE bob SET x = 1",
];
