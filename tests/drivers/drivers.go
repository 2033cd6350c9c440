// Go's lib/pq and pgx, as applications use them. Where to connect: see world.mjs; both read libpq's environment.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/lib/pq"
)

var (
	ctx   = context.Background()
	zones = []string{"UTC", "Asia/Tokyo", "Europe/Berlin"}
	tls   = "sslmode=disable"
)

const asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"

// must ends the claim that it is said in.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func equal(found, expected any) {
	if fmt.Sprint(found) != fmt.Sprint(expected) {
		panic(fmt.Sprintf("expected %v, found %v", expected, found))
	}
}

func sqlstate(err error) string {
	var ofPq *pq.Error
	var ofPgx *pgconn.PgError
	switch {
	case errors.As(err, &ofPq):
		return string(ofPq.Code)
	case errors.As(err, &ofPgx):
		return ofPgx.Code
	}
	return fmt.Sprint(err)
}

// atOnce runs work for each number below count, all at once.
func atOnce(count int, work func(number int)) {
	var group sync.WaitGroup
	failed := make(chan any, count)
	for number := 0; number < count; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			defer func() {
				if failure := recover(); failure != nil {
					failed <- failure
				}
			}()
			work(number)
		}(number)
	}
	group.Wait()
	if len(failed) > 0 {
		panic(<-failed)
	}
}

func open(options string) *sql.DB {
	db, err := sql.Open("postgres", tls+" "+options)
	must(err)
	return db
}

func withPgx(options string, work func(*pgx.Conn)) {
	connection, err := pgx.Connect(ctx, tls+" "+options)
	must(err)
	defer connection.Close(ctx)
	work(connection)
}

// one is the first column of the first row.
func one(row interface{ Scan(...any) error }) string {
	var value string
	must(row.Scan(&value))
	return value
}

func pqPrepares() {
	for _, binary := range []string{"no", "yes"} {
		db := open("binary_parameters=" + binary)
		db.SetMaxOpenConns(12)
		statement, err := db.Prepare("select $1::int + $2::int")
		must(err)
		atOnce(24, func(number int) {
			for turn := 0; turn < 10; turn++ {
				equal(one(statement.QueryRow(number, turn)), number+turn)
				equal(one(db.QueryRow("select $1::text || 'x'", fmt.Sprint(turn))), fmt.Sprint(turn)+"x")
			}
		})
		must(statement.Close())
		must(db.Close())
	}
}

func pqTransacts() {
	db := open("")
	defer db.Close()
	db.SetMaxOpenConns(8)
	_, err := db.Exec("create table go_ledger (n int primary key)")
	must(err)
	atOnce(8, func(number int) {
		for turn := 0; turn < 6; turn++ {
			transaction, err := db.Begin()
			must(err)
			insert, err := transaction.Prepare("insert into go_ledger values ($1)")
			must(err)
			_, err = insert.Exec(number*100 + turn)
			must(err)
			_, err = transaction.Exec("savepoint here")
			must(err)
			_, err = insert.Exec(number*100 + turn)
			equal(sqlstate(err), "23505")
			_, err = transaction.Exec("rollback to here")
			must(err)
			if turn%2 == 0 {
				must(transaction.Commit())
			} else {
				must(transaction.Rollback())
			}
		}
	})
	equal(one(db.QueryRow("select count(*) from go_ledger")), 24)
	transaction, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable, ReadOnly: true})
	must(err)
	_, err = transaction.Exec("delete from go_ledger")
	equal(sqlstate(err), "25006")
	must(transaction.Rollback())
}

func pqCopies() {
	db := open("")
	defer db.Close()
	_, err := db.Exec("create table go_copied (n int primary key, t text)")
	must(err)
	copyIn := func(rows int, last int) error {
		transaction, err := db.Begin()
		must(err)
		defer transaction.Rollback()
		statement, err := transaction.Prepare(pq.CopyIn("go_copied", "n", "t"))
		must(err)
		for n := 0; n < rows; n++ {
			if _, err = statement.Exec(n, "line\t\\"); err != nil {
				return err
			}
		}
		if _, err = statement.Exec(last, "last"); err != nil {
			return err
		}
		if _, err = statement.Exec(); err != nil {
			return err
		}
		must(statement.Close())
		return transaction.Commit()
	}
	equal(sqlstate(copyIn(100, 7)), "23505")
	must(copyIn(3000, 9999))
	equal(one(db.QueryRow("select count(*) from go_copied")), 3001)
}

func pqListens() {
	listener := pq.NewListener(tls, time.Second, time.Second, nil)
	defer listener.Close()
	must(listener.Listen("stage"))
	db := open("")
	defer db.Close()
	for turn := 0; turn < 5; turn++ {
		_, err := db.Exec("select pg_notify('stage', $1)", fmt.Sprint(turn))
		must(err)
	}
	for turn := 0; turn < 5; turn++ {
		select {
		case heard := <-listener.Notify:
			equal(heard.Channel+" "+heard.Extra, fmt.Sprintf("stage %d", turn))
		case <-time.After(20 * time.Second):
			panic("no notification")
		}
	}
	must(listener.Ping())
	must(listener.UnlistenAll())
}

func pqCancels() {
	db := open("")
	defer db.Close()
	late, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := db.ExecContext(late, "select pg_sleep(50)")
	equal(sqlstate(err), "57014")
	for one(db.QueryRow(asleep)) != "0" {
	}
}

func pgxCaches() {
	for _, mode := range []string{"prepare", "describe"} {
		atOnce(12, func(number int) {
			withPgx("statement_cache_mode="+mode+" statement_cache_capacity=4", func(connection *pgx.Conn) {
				kept := fmt.Sprintf("select $1::int * %d", number)
				if mode == "prepare" {
					_, err := connection.Prepare(ctx, "kept", kept)
					must(err)
					kept = "kept"
				}
				for turn := 0; turn < 16; turn++ {
					var product int
					must(connection.QueryRow(ctx, kept, turn).Scan(&product))
					equal(product, turn*number)
					text := fmt.Sprintf("select $1::text || '%d'", turn%6)
					equal(one(connection.QueryRow(ctx, text, "x")), fmt.Sprint("x", turn%6))
					equal(one(connection.QueryRow(ctx, "select $1::text", pgx.QuerySimpleProtocol(true), "simple")), "simple")
				}
			})
		})
	}
}

func pgxBatches() {
	withPgx("", func(connection *pgx.Conn) {
		_, err := connection.Exec(ctx, "create table go_batch (n int primary key)")
		must(err)
		batch := &pgx.Batch{}
		for n := 0; n < 100; n++ {
			batch.Queue("insert into go_batch values ($1) returning n", n)
		}
		results := connection.SendBatch(ctx, batch)
		for n := 0; n < 100; n++ {
			var found int
			must(results.QueryRow().Scan(&found))
			equal(found, n)
		}
		must(results.Close())
		// A batch is one transaction.
		batch = &pgx.Batch{}
		batch.Queue("insert into go_batch values ($1)", 1000)
		batch.Queue("insert into go_batch values ($1)", 5)
		batch.Queue("insert into go_batch values ($1)", 1001)
		equal(sqlstate(connection.SendBatch(ctx, batch).Close()), "23505")
		var count int
		must(connection.QueryRow(ctx, "select count(*) from go_batch").Scan(&count))
		equal(count, 100)
	})
}

func pgxCopies() {
	withPgx("", func(connection *pgx.Conn) {
		_, err := connection.Exec(ctx, "create table go_binary (n int primary key, t text)")
		must(err)
		copyIn := func(rows ...[]any) error {
			_, err := connection.CopyFrom(ctx, pgx.Identifier{"go_binary"}, []string{"n", "t"}, pgx.CopyFromRows(rows))
			return err
		}
		equal(sqlstate(copyIn([]any{1, "a"}, []any{1, "b"})), "23505")
		must(copyIn([]any{1, "a"}, []any{2, "é\t"}))
		var out strings.Builder
		_, err = connection.PgConn().CopyTo(ctx, &out, "copy go_binary to stdout")
		must(err)
		equal(out.String(), "1\ta\n2\té\\t\n")
	})
}

func pgxListens() {
	withPgx("", func(listener *pgx.Conn) {
		withPgx("", func(speaker *pgx.Conn) {
			_, err := listener.Exec(ctx, "listen stage")
			must(err)
			for turn := 0; turn < 5; turn++ {
				_, err = speaker.Exec(ctx, "select pg_notify('stage', $1)", fmt.Sprint(turn))
				must(err)
			}
			patience, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			for turn := 0; turn < 5; turn++ {
				heard, err := listener.WaitForNotification(patience)
				must(err)
				equal(heard.Payload, turn)
			}
		})
	})
}

func pgxCancels() {
	withPgx("", func(sleeper *pgx.Conn) {
		withPgx("", func(other *pgx.Conn) {
			count := func() (count int) {
				must(other.QueryRow(ctx, asleep).Scan(&count))
				return
			}
			done := make(chan error)
			go func() {
				_, err := sleeper.Exec(ctx, "select pg_sleep(50)")
				done <- err
			}()
			for count() == 0 {
			}
			must(sleeper.PgConn().CancelRequest(ctx))
			equal(sqlstate(<-done), "57014")
			equal(one(sleeper.QueryRow(ctx, "select 'here'")), "here")
			// Here pgx gives the connection up, and cancels what it left behind.
			late, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			_, err := sleeper.Exec(late, "select pg_sleep(50)")
			equal(errors.Is(err, context.DeadlineExceeded) && sleeper.IsClosed(), true)
			for count() > 0 {
			}
		})
	})
}

func pgxLargeObjects() {
	withPgx("", func(connection *pgx.Conn) {
		transaction, err := connection.Begin(ctx)
		must(err)
		objects := transaction.LargeObjects()
		id, err := objects.Create(ctx, 0)
		must(err)
		object, err := objects.Open(ctx, id, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
		must(err)
		_, err = object.Write([]byte("stage door"))
		must(err)
		_, err = object.Seek(6, 0)
		must(err)
		rest := make([]byte, 4)
		_, err = object.Read(rest)
		must(err)
		equal(string(rest), "door")
		must(objects.Unlink(ctx, id))
		must(transaction.Commit(ctx))
	})
}

func pgxCrowd() {
	atOnce(12, func(number int) {
		withPgx(fmt.Sprintf("application_name='member %d'", number), func(connection *pgx.Conn) {
			run := func(text string, arguments ...any) {
				_, err := connection.Exec(ctx, text, arguments...)
				must(err)
			}
			zone := zones[number%3]
			run(fmt.Sprintf("create schema g%d; set search_path to g%d; set work_mem to '%dMB'; set time zone '%s'", number, number, number+1, zone))
			run(fmt.Sprintf("create table whose as select %d as whose", number))
			const look = `select concat_ws('|', current_setting('application_name'), current_setting('TimeZone'),
				current_setting('work_mem'), current_schema(), whose) from whose`
			for turn := 0; turn < 15; turn++ {
				mine := fmt.Sprintf("member %d|%s|%dMB|g%d|%d", number, zone, number+1, number, number)
				equal(one(connection.QueryRow(ctx, look)), mine)
				switch (turn + number) % 4 {
				case 0:
					zone = zones[turn%3]
					run("select set_config('TimeZone', $1, false)", zone)
				case 1:
					transaction, err := connection.Begin(ctx)
					must(err)
					run("set search_path to nowhere")
					run("set local work_mem to '99MB'")
					equal(one(connection.QueryRow(ctx, "show work_mem")), "99MB")
					must(transaction.Rollback(ctx))
				case 2:
					run(fmt.Sprintf("create temp table mine as select '%d' as n", number))
					equal(one(connection.QueryRow(ctx, "select n from pg_temp.mine")), number)
					run("drop table mine")
				case 3:
					run("select pg_advisory_lock(12)")
					equal(one(connection.QueryRow(ctx, look)), mine)
					equal(one(connection.QueryRow(ctx, "select pg_advisory_unlock(12)::text")), "true")
				}
			}
		})
	})
}

// claim tells whether work came to its end without a panic.
func claim(what string, work func()) (held bool) {
	if !strings.Contains(what, os.Getenv("DRIVERS_ONLY")) {
		return true
	}
	begun := time.Now()
	defer func() {
		if failure := recover(); failure != nil {
			fmt.Printf("FAIL  %s: %v\n", what, failure)
			held = false
		}
	}()
	work()
	fmt.Printf("ok    %s (%d ms)\n", what, time.Since(begun).Milliseconds())
	return true
}

func main() {
	if ca := os.Getenv("DRIVERS_CA_FILE"); ca != "" {
		tls = "sslmode=verify-full sslrootcert=" + ca
	}
	held := true
	for _, it := range []struct {
		what string
		work func()
	}{
		{"lib/pq: a statement is prepared on each connection of a pool", pqPrepares},
		{"lib/pq: a transaction with savepoints is kept or undone", pqTransacts},
		{"lib/pq: COPY goes in, and fails whole", pqCopies},
		{"lib/pq: notifications reach who listens", pqListens},
		{"lib/pq: what takes too long is cancelled", pqCancels},
		{"pgx: statements are kept prepared, or described, or neither", pgxCaches},
		{"pgx: a batch is one pipeline and one transaction", pgxBatches},
		{"pgx: COPY goes in and out", pgxCopies},
		{"pgx: notifications reach who listens", pgxListens},
		{"pgx: a query is cancelled, by hand and by its deadline", pgxCancels},
		{"pgx: large objects are written and read", pgxLargeObjects},
		{"pgx: twelve clients at once find what is theirs", pgxCrowd},
	} {
		held = claim(it.what, it.work) && held
	}
	if !held {
		os.Exit(1)
	}
}
