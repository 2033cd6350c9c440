// PostgreSQL's JDBC driver, as applications use it. Where to connect: see world.mjs.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyIn;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

public class Jdbc {
    interface Work {
        void run(Connection connection) throws Exception;
    }

    interface Claim {
        void run() throws Exception;
    }

    static final String[] ZONES = {"UTC", "Asia/Tokyo", "Europe/Berlin"};

    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        if (System.getenv("DRIVERS_CA_FILE") != null) {
            properties.put("sslmode", "verify-full");
            properties.put("sslrootcert", System.getenv("DRIVERS_CA_FILE"));
        }
        for (int index = 0; index < options.length; index += 2) properties.put(options[index], options[index + 1]);
        String where = System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        return DriverManager.getConnection("jdbc:postgresql://" + where, properties);
    }

    static void with(Work work, String... options) throws Exception {
        try (Connection connection = connect(options)) {
            work.run(connection);
        }
    }

    static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static String value(Connection connection, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            return value(statement, parameters);
        }
    }

    static String value(PreparedStatement statement, Object... parameters) throws SQLException {
        for (int index = 0; index < parameters.length; index += 1) statement.setObject(index + 1, parameters[index]);
        try (ResultSet rows = statement.executeQuery()) {
            return rows.next() ? rows.getString(1) : null;
        }
    }

    static String sqlstate(Claim work) throws Exception {
        try {
            work.run();
            return null;
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    static void equal(Object found, Object expected) {
        if (!String.valueOf(found).equals(String.valueOf(expected))) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    interface Task {
        void run(int number) throws Exception;
    }

    /** So many at once, each in a thread of its own. */
    static void atOnce(int count, Task task) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(count);
        try {
            List<Future<Void>> ends = new ArrayList<>();
            for (int number = 0; number < count; number += 1) {
                int mine = number;
                ends.add(threads.submit((Callable<Void>) () -> {
                    task.run(mine);
                    return null;
                }));
            }
            for (Future<Void> end : ends) end.get();
        } finally {
            threads.shutdownNow();
        }
    }

    static void preparedStatements() throws Exception {
        for (String mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            atOnce(8, number -> with(connection -> {
                try (PreparedStatement kept = connection.prepareStatement("select ?::int + " + number)) {
                    for (int turn = 0; turn < 15; turn += 1) {
                        equal(value(kept, turn), turn + number);
                        equal(value(connection, "select ?::text || " + number, "x" + turn), "x" + turn + number);
                        equal(value(connection, "select 'same for all'"), "same for all");
                    }
                }
            }, "prepareThreshold", "2", "preparedStatementCacheQueries", "4", "preferQueryMode", mode));
        }
    }

    static void typesArrive() throws Exception {
        for (String binary : List.of("true", "false")) {
            with(connection -> {
                String sql = "select ?::int, ?::text, ?::bytea, ?::int[], ?::timestamptz, ?::numeric, ?::jsonb";
                try (PreparedStatement statement = connection.prepareStatement(sql)) {
                    for (int turn = 0; turn < 4; turn += 1) {
                        Array numbers = connection.createArrayOf("int4", new Integer[] {1, null, 3});
                        java.sql.Timestamp when = java.sql.Timestamp.from(java.time.Instant.parse("2026-01-02T03:04:05.678Z"));
                        Object[] values = {7, "l'été 🎭", new byte[] {0, -1, 10}, numbers, when, new java.math.BigDecimal("1.50")};
                        for (int index = 0; index < values.length; index += 1) statement.setObject(index + 1, values[index]);
                        statement.setObject(7, "{\"a\": 1}", Types.OTHER);
                        try (ResultSet rows = statement.executeQuery()) {
                            rows.next();
                            equal(rows.getInt(1), 7);
                            equal(rows.getString(2), values[1]);
                            equal(Arrays.toString(rows.getBytes(3)), "[0, -1, 10]");
                            equal(Arrays.toString((Object[]) rows.getArray(4).getArray()), "[1, null, 3]");
                            equal(rows.getTimestamp(5), when);
                            equal(rows.getBigDecimal(6), "1.50");
                            equal(rows.getString(7), "{\"a\": 1}");
                        }
                    }
                }
            }, "prepareThreshold", "1", "binaryTransfer", binary);
        }
    }

    static void fetchSize() throws Exception {
        with(connection -> {
            connection.setAutoCommit(false);
            try (Statement one = connection.createStatement(); Statement other = connection.createStatement()) {
                one.setFetchSize(77);
                other.setFetchSize(10);
                try (ResultSet rows = one.executeQuery("select n from generate_series(1, 1000) n");
                        ResultSet others = other.executeQuery("select -n from generate_series(1, 1000) n")) {
                    int sum = 0;
                    while (rows.next() && others.next()) sum += rows.getInt(1) - 2 * others.getInt(1);
                    equal(sum, 3 * 500500);
                }
            }
            connection.commit();
        });
    }

    static void batches() throws Exception {
        for (String rewrite : List.of("false", "true")) {
            with(connection -> {
                execute(connection, "drop table if exists batch; create table batch (id serial, n int primary key)");
                String sql = "insert into batch (n) values (?)";
                try (PreparedStatement statement = connection.prepareStatement(sql, Statement.RETURN_GENERATED_KEYS)) {
                    for (int n = 0; n < 700; n += 1) {
                        statement.setInt(1, n);
                        statement.addBatch();
                    }
                    equal(statement.executeBatch().length, 700);
                    int keys = 0;
                    try (ResultSet rows = statement.getGeneratedKeys()) {
                        while (rows.next()) keys += 1;
                    }
                    equal(keys, 700);
                    for (int n : new int[] {1000, 1001, 5}) {
                        statement.setInt(1, n);
                        statement.addBatch();
                    }
                    equal(sqlstate(statement::executeBatch), "23505");
                }
                equal(value(connection, "select count(*) from batch"), 700);
            }, "reWriteBatchedInserts", rewrite);
        }
    }

    static void copy() throws Exception {
        with(connection -> {
            execute(connection, "drop table if exists copied; create table copied (n int primary key)");
            CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 5000; n += 1) lines.append(n).append('\n');
            byte[] bytes = lines.toString().getBytes(StandardCharsets.UTF_8);
            CopyIn given = copies.copyIn("copy copied from stdin");
            given.writeToCopy(bytes, 0, 100);
            given.cancelCopy();
            equal(value(connection, "select count(*) from copied"), 0);
            equal(copies.copyIn("copy copied from stdin", new ByteArrayInputStream(bytes)), 5000);
            equal(sqlstate(() -> copies.copyIn("copy copied from stdin", new ByteArrayInputStream(bytes))), "23505");
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            equal(copies.copyOut("copy (select n from copied order by n) to stdout", out), 5000);
            equal(out.toString(StandardCharsets.UTF_8), lines);
        });
    }

    static void savepoints() throws Exception {
        for (String autosave : List.of("never", "always", "conservative")) {
            with(connection -> {
                execute(connection, "drop table if exists nested; create table nested (n int primary key)");
                connection.setAutoCommit(false);
                execute(connection, "insert into nested values (1)");
                Savepoint here = connection.setSavepoint("here");
                equal(sqlstate(() -> execute(connection, "insert into nested values (1)")), "23505");
                connection.rollback(here);
                connection.releaseSavepoint(connection.setSavepoint());
                execute(connection, "insert into nested values (2)");
                connection.commit();
                equal(sqlstate(() -> execute(connection, "insert into nested values (2)")), "23505");
                equal(sqlstate(() -> value(connection, "select 1")), autosave.equals("always") ? null : "25P02");
                connection.rollback();
                equal(value(connection, "select count(*) from nested"), 2);
                connection.rollback();
            }, "autosave", autosave, "prepareThreshold", "1");
        }
    }

    static void characteristics() throws Exception {
        with(connection -> {
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            connection.setReadOnly(true);
            connection.setAutoCommit(false);
            equal(value(connection, "show transaction_isolation"), "serializable");
            equal(sqlstate(() -> execute(connection, "create table never (n int)")), "25006");
            connection.rollback();
            connection.setReadOnly(false);
            connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            equal(value(connection, "show transaction_isolation"), "read committed");
            connection.rollback();
        });
    }

    static void cancels() throws Exception {
        with(sleeper -> with(other -> {
            try (Statement statement = sleeper.createStatement()) {
                Thread cancel = new Thread(() -> {
                    try {
                        while (value(other, "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()").equals("0")) {}
                        statement.cancel();
                    } catch (SQLException error) {
                        throw new AssertionError(error);
                    }
                });
                cancel.start();
                equal(sqlstate(() -> statement.execute("select pg_sleep(50)")), "57014");
                cancel.join();
                statement.setQueryTimeout(1);
                equal(sqlstate(() -> statement.execute("select pg_sleep(50)")), "57014");
                equal(value(sleeper, "select 1"), 1);
            }
        }));
    }

    static void notifications() throws Exception {
        with(listener -> with(speaker -> {
            execute(listener, "listen stage");
            for (int turn = 0; turn < 5; turn += 1) value(speaker, "select pg_notify('stage', ?)", "turn " + turn);
            List<String> heard = new ArrayList<>();
            long end = System.nanoTime() + 20_000_000_000L;
            while (heard.size() < 5 && System.nanoTime() < end) {
                PGNotification[] some = listener.unwrap(PGConnection.class).getNotifications(1000);
                if (some != null) for (PGNotification it : some) heard.add(it.getName() + " " + it.getParameter());
            }
            equal(heard, "[stage turn 0, stage turn 1, stage turn 2, stage turn 3, stage turn 4]");
            execute(listener, "unlisten *");
        }));
    }

    static void functionCalls() throws Exception {
        with(connection -> {
            connection.setAutoCommit(false);
            // Large objects are read and written by the protocol's FunctionCall.
            LargeObjectManager objects = connection.unwrap(PGConnection.class).getLargeObjectAPI();
            long id = objects.createLO();
            byte[] bytes = new byte[100_000];
            for (int index = 0; index < bytes.length; index += 1) bytes[index] = (byte) (index % 251);
            try (LargeObject object = objects.open(id, LargeObjectManager.WRITE)) {
                object.write(bytes);
            }
            try (LargeObject object = objects.open(id, LargeObjectManager.READ)) {
                equal(Arrays.equals(object.read(bytes.length), bytes), true);
                object.seek(777);
                equal(object.read(1)[0], bytes[777]);
            }
            objects.delete(id);
            connection.commit();
            equal(sqlstate(() -> objects.open(id, LargeObjectManager.READ).close()), "42704");
            connection.rollback();
        });
    }

    static void refCursors() throws Exception {
        with(connection -> {
            execute(connection, "create or replace function twice(inout n int) language sql as 'select 2 * n'");
            execute(connection, "create or replace function numbers() returns refcursor language plpgsql as "
                + "$$ declare it refcursor; begin open it for select n from generate_series(1, 5) n; return it; end $$");
            connection.setAutoCommit(false);
            try (CallableStatement call = connection.prepareCall("{? = call twice(?)}")) {
                call.registerOutParameter(1, Types.INTEGER);
                call.setInt(2, 21);
                call.execute();
                equal(call.getInt(1), 42);
            }
            try (CallableStatement call = connection.prepareCall("{? = call numbers()}")) {
                call.registerOutParameter(1, Types.REF_CURSOR);
                call.execute();
                int sum = 0;
                try (ResultSet rows = (ResultSet) call.getObject(1)) {
                    while (rows.next()) sum += rows.getInt(1);
                }
                equal(sum, 15);
            }
            connection.commit();
        });
    }

    static void metadata() throws Exception {
        with(connection -> {
            execute(connection, "create schema if not exists described; drop table if exists described.it; create table described.it (n int primary key, t text not null)");
            connection.setSchema("described");
            equal(connection.getSchema(), "described");
            List<String> columns = new ArrayList<>();
            try (ResultSet rows = connection.getMetaData().getColumns(null, "described", "it", null)) {
                while (rows.next()) columns.add(rows.getString("COLUMN_NAME") + " " + rows.getString("TYPE_NAME"));
            }
            equal(columns, "[n int4, t text]");
            try (PreparedStatement statement = connection.prepareStatement("select n, t from it where n = ?")) {
                equal(statement.getMetaData().getColumnTypeName(2), "text");
                equal(statement.getParameterMetaData().getParameterTypeName(1), "int4");
            }
        });
    }

    static void crowd() throws Exception {
        atOnce(12, number -> with(connection -> {
            execute(connection, "create schema if not exists j" + number);
            connection.setSchema("j" + number);
            execute(connection, "create table whose as select " + number + " as whose; create table notes (n int)");
            execute(connection, "set work_mem to '" + (1 + number) + "MB'");
            String sql = "select concat_ws('|', current_setting('application_name'), current_setting('TimeZone'),"
                + " current_setting('work_mem'), current_schema(), whose) from whose";
            String zone = ZONES[number % 3];
            execute(connection, "set time zone '" + zone + "'");
            try (PreparedStatement look = connection.prepareStatement(sql)) {
                for (int turn = 0; turn < 15; turn += 1) {
                    String all = String.join("|", "member " + number, zone, 1 + number + "MB", "j" + number, "" + number);
                    equal(value(look), all);
                    switch ((turn + number) % 5) {
                        case 0:
                            zone = ZONES[turn % 3];
                            value(connection, "select set_config('TimeZone', ?, false)", zone);
                            break;
                        case 1:
                            connection.setAutoCommit(false);
                            execute(connection, "set search_path to nowhere; set local work_mem to '99MB'");
                            equal(value(connection, "show work_mem"), "99MB");
                            connection.rollback();
                            connection.setAutoCommit(true);
                            break;
                        case 2:
                            execute(connection, "create temp table mine as select " + number + " as n");
                            equal(value(connection, "select n from mine"), number);
                            execute(connection, "drop table mine");
                            equal(sqlstate(() -> value(connection, "select n from mine")), "42P01");
                            break;
                        case 3:
                            value(connection, "select pg_advisory_lock(12)");
                            equal(value(look), all);
                            equal(value(connection, "select pg_advisory_unlock(12)"), "t");
                            break;
                        default:
                            connection.setAutoCommit(false);
                            value(connection, "insert into notes values (?) returning n", turn);
                            equal(value(look), all);
                            connection.commit();
                            connection.setAutoCommit(true);
                    }
                }
            }
        }, "ApplicationName", "member " + number, "prepareThreshold", "3"));
    }

    static boolean failed = false;

    static void claim(String what, Claim work) {
        if (!what.contains(System.getenv().getOrDefault("DRIVERS_ONLY", ""))) return;
        long begun = System.nanoTime();
        try {
            work.run();
            System.out.printf("ok    %s (%d ms)%n", what, (System.nanoTime() - begun) / 1_000_000);
        } catch (Throwable error) {
            failed = true;
            System.out.print("FAIL  " + what + ": ");
            error.printStackTrace(System.out);
        }
    }

    public static void main(String[] arguments) {
        claim("prepared statements stay usable in every query mode", Jdbc::preparedStatements);
        claim("values of every usual type arrive in text and binary", Jdbc::typesArrive);
        claim("two results are fetched in portions at once", Jdbc::fetchSize);
        claim("a batch has its counts, keys and error", Jdbc::batches);
        claim("COPY goes in and out, is given up and fails", Jdbc::copy);
        claim("savepoints undo their own part, the driver's own too", Jdbc::savepoints);
        claim("a connection's isolation and access are its own", Jdbc::characteristics);
        claim("a statement is cancelled, by hand and by its time-out", Jdbc::cancels);
        claim("notifications reach who listens", Jdbc::notifications);
        claim("functions are called by the protocol's own message", Jdbc::functionCalls);
        claim("functions return values and cursors", Jdbc::refCursors);
        claim("what the catalog says of a schema is found", Jdbc::metadata);
        claim("twelve clients at once find what is theirs", Jdbc::crowd);
        System.exit(failed ? 1 : 0);
    }
}
