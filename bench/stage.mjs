//! What is compared: three ways to one PostgreSQL, on this machine and over loopback. Verified TLS directly, PgBouncer,
//! stagedoor: the same budget of servers, the same verification of them, the same SCRAM towards the client.

import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { clientEnvironment, DATABASE, fileForServers, PASSWORD, POSTGRES_BIN, startDatabase, USER } from './database.mjs';
import { accepts, end, freePort, output, start } from './processes.mjs';
import { CLIENTS_MAX, ROOT, SERVERS_MAX } from './settings.mjs';

export const STAGEDOOR = process.env.STAGEDOOR ?? join(ROOT, 'target/release/stagedoor');
const PGBOUNCER = process.env.PGBOUNCER ?? '/usr/sbin/pgbouncer';

/** Starts the database in `directory`. A contender's `spawn` starts one that is fresh; direct has none to start. */
export async function set(directory) {
  for (const program of [STAGEDOOR, PGBOUNCER, join(POSTGRES_BIN, 'postgres')]) {
    if (!existsSync(program)) throw new Error(`${program} is not there (cargo build --release; make deps-bench)`);
  }
  chmodSync(directory, 0o755);
  const database = await startDatabase(directory);
  const verifier = database.query(`select rolpassword from pg_authid where rolname = '${USER}'`);
  const prepares = pgbouncerPrepares();
  const contenders = [
    { name: 'direct', prepares: true, spawn: () => ({ env: database.env }) },
    { name: 'pgbouncer', prepares, program: PGBOUNCER, spawn: () => spawnPgbouncer(directory, database, verifier) },
    { name: 'stagedoor', prepares: true, program: STAGEDOOR, spawn: (wrap) => spawnStagedoor(directory, database, wrap) },
    // Given the password itself, as where pg_authid cannot be read, it derives keys anew for each login.
    { name: 'pgbouncer, password', only: /^connect /, program: PGBOUNCER, spawn: () => spawnPgbouncer(directory, database, PASSWORD) },
  ];
  return { directory, database, contenders, versions: versions(), tls: {} };
}

/** A contender that is running and accepts clients. */
export async function raise(contender) {
  const instance = { ...contender, ...(await contender.spawn()) };
  if (instance.child) await accepts(instance.child, instance.env.PGPORT);
  return instance;
}

export const lower = (instance) => instance.child && end(instance.child);

/** The TLS of the server that a query by `instance` runs on. */
export const tlsOf = ({ env }) =>
  output('psql', ['-qAtc', "select version || ' ' || cipher from pg_stat_ssl where pid = pg_backend_pid()"], { env }).trim();

/** `secret` is the user's password, or the verifier that PostgreSQL keeps of it, with which PgBouncer's logins are cheapest. */
async function spawnPgbouncer(directory, database, secret) {
  const port = await freePort();
  const file = (kind, text) => fileForServers(join(directory, `pgbouncer-${port}.${kind}`), text, 0o600);
  const ini = file('ini', `[databases]
${DATABASE} = host=localhost port=${database.port} dbname=${DATABASE}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${file('users', `"${USER}" "${secret}"\n`)}
pool_mode = transaction
default_pool_size = ${SERVERS_MAX}
max_db_connections = ${SERVERS_MAX}
max_client_conn = ${CLIENTS_MAX}
server_tls_sslmode = verify-full
server_tls_ca_file = ${database.ca}
log_connections = 0
log_disconnections = 0
`);
  const child = start(PGBOUNCER, [ini], { server: true });
  return { child, pid: child.pid, env: clientEnvironment(port) };
}

/** `wrap` is a command that runs it, such as valgrind. */
async function spawnStagedoor(directory, database, wrap = []) {
  const [port, admin] = [await freePort(), await freePort()];
  const config = join(directory, `stagedoor-${port}.yaml`);
  writeFileSync(config, `backend:
  database:
    client: pg
    connection: { host: localhost, port: ${database.port}, user: ${USER}, password: ${PASSWORD}, ssl: { ca: { $file: ./ca.crt } } }
stagedoor:
  listen: { port: ${port}, maxClients: ${CLIENTS_MAX} }
  admin: { host: 127.0.0.1, port: ${admin} }
  pool: { maxServers: ${SERVERS_MAX} }
`);
  const [program, ...args] = [...wrap, STAGEDOOR, 'run', '--config', config];
  const child = start(program, args);
  return { child, pid: child.pid, env: clientEnvironment(port), ready: `http://127.0.0.1:${admin}/readyz` };
}

const firstLine = (program, args) => output(program, args).trim().split('\n')[0];

const versions = () => ({
  stagedoor: firstLine(STAGEDOOR, ['--version']),
  pgbouncer: firstLine(PGBOUNCER, ['--version']),
  postgresql: firstLine(join(POSTGRES_BIN, 'postgres'), ['--version']),
  pgbench: firstLine('pgbench', ['--version']),
  node: `Node.js ${process.version}`,
});

/** Before 1.21 PgBouncer cannot follow named statements in transaction mode. */
function pgbouncerPrepares() {
  const [, major, minor] = /(\d+)\.(\d+)/.exec(firstLine(PGBOUNCER, ['--version']));
  return Number(major) > 1 || Number(minor) >= 21;
}
