//! What is compared, on this machine and on loopback only: a throw-away PostgreSQL that accepts TLS alone, and
//! three ways to it: verified TLS directly, stagedoor, PgBouncer. Same budget, same SCRAM towards the client.

import { chmodSync, chownSync, existsSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { accepts, freePort, output, start } from './processes.mjs';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const POSTGRES_BIN = process.env.POSTGRES_BIN ?? '/usr/lib/postgresql/15/bin';
const PGBOUNCER = process.env.PGBOUNCER ?? '/usr/sbin/pgbouncer';
const STAGEDOOR = process.env.STAGEDOOR ?? join(ROOT, 'target/release/stagedoor');

/** Server connections that either pooler may have. */
export const SERVERS_MAX = 20;

const USER = 'bench';
const PASSWORD = 'bench-only';
const DATABASE = 'bench';

/** Sets everything up in `directory`; the processes are ended by `endAll`. */
export async function set(directory) {
  for (const program of [STAGEDOOR, PGBOUNCER, join(POSTGRES_BIN, 'postgres')]) {
    if (!existsSync(program)) throw new Error(`${program} is not there (cargo build --release; apt-get install pgbouncer postgresql)`);
  }
  chmodSync(directory, 0o755);
  const file = (name, text, mode = 0o644) => {
    const path = join(directory, name);
    writeFileSync(path, text, { mode });
    return own(path);
  };
  certificates(directory, file);
  const postgres = await startPostgres(directory, file);
  const pgbouncer = await startPgbouncer(directory, file, postgres.port);
  const stagedoor = await startStagedoor(directory, file, postgres.port);
  const verified = { PGSSLMODE: 'verify-full', PGSSLROOTCERT: join(directory, 'ca.crt') };
  const plain = { PGSSLMODE: 'disable' };
  const login = { PGUSER: USER, PGPASSWORD: PASSWORD, PGDATABASE: DATABASE, PGHOST: 'localhost', PGHOSTADDR: '127.0.0.1' };
  const target = (name, port, tls, pid, prepared) => ({ name, pid, prepared, env: { ...login, ...tls, PGPORT: String(port) } });
  return {
    versions: versions(),
    targets: [
      target('direct', postgres.port, verified, undefined, Infinity),
      target('pgbouncer', pgbouncer.port, plain, pgbouncer.pid, preparedWithPgbouncer()),
      // A server stays with the client that named a statement, so more clients than servers would wait.
      target('stagedoor', stagedoor.port, plain, stagedoor.pid, SERVERS_MAX),
    ],
  };
}

/** PostgreSQL and PgBouncer run as `postgres` when we are root, and read these. */
function own(path) {
  if (process.getuid() !== 0) return path;
  const [uid, gid] = ['-u', '-g'].map((flag) => Number(output('id', [flag, 'postgres'])));
  chownSync(path, uid, gid);
  return path;
}

function certificates(directory, file) {
  const at = (name) => join(directory, name);
  const key = ['-newkey', 'rsa:2048', '-nodes', '-keyout'];
  output('openssl', ['req', '-x509', ...key, at('ca.key'), '-out', at('ca.crt'), '-days', '2', '-subj', '/CN=bench CA',
    '-addext', 'basicConstraints=critical,CA:TRUE']);
  output('openssl', ['req', ...key, at('server.key'), '-out', at('server.csr'), '-subj', '/CN=localhost']);
  file('extensions', 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n');
  output('openssl', ['x509', '-req', '-in', at('server.csr'), '-CA', at('ca.crt'), '-CAkey', at('ca.key'),
    '-CAcreateserial', '-days', '2', '-out', at('server.crt'), '-extfile', at('extensions')]);
  chmodSync(at('ca.crt'), 0o644);
  chmodSync(at('server.crt'), 0o644);
  chmodSync(own(at('server.key')), 0o600);
}

async function startPostgres(directory, file) {
  const data = join(directory, 'data');
  own(directory);
  const port = await freePort();
  const password = file('password', PASSWORD, 0o600);
  output(join(POSTGRES_BIN, 'initdb'), ['-D', data, '-U', USER, '--auth=scram-sha-256', `--pwfile=${password}`, '-E', 'UTF8',
    '--locale=C.UTF-8', '--no-sync'], { server: true });
  const hba = file('hba.conf', 'hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl all all ::1/128 scram-sha-256\n');
  const settings = { port, listen_addresses: 'localhost', unix_socket_directories: '', max_connections: 200, fsync: 'off',
    ssl: 'on', ssl_cert_file: join(directory, 'server.crt'), ssl_key_file: join(directory, 'server.key'), hba_file: hba };
  const flags = Object.entries(settings).flatMap(([key, value]) => ['-c', `${key}=${value}`]);
  const server = start(join(POSTGRES_BIN, 'postgres'), ['-D', data, ...flags], { server: true });
  await accepts(server, port);
  const env = { PGUSER: USER, PGPASSWORD: PASSWORD, PGHOST: 'localhost', PGPORT: String(port), PGSSLMODE: 'verify-full',
    PGSSLROOTCERT: join(directory, 'ca.crt') };
  output('psql', ['-qc', `create database ${DATABASE}`, 'postgres'], { env });
  output('pgbench', ['-i', '-q', '-s', '1', DATABASE], { env });
  return { port };
}

async function startPgbouncer(directory, file, upstream) {
  const port = await freePort();
  const users = file('users.txt', `"${USER}" "${PASSWORD}"\n`, 0o600);
  const ini = file('pgbouncer.ini', `[databases]
${DATABASE} = host=localhost port=${upstream} dbname=${DATABASE}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${users}
pool_mode = transaction
default_pool_size = ${SERVERS_MAX}
max_db_connections = ${SERVERS_MAX}
max_client_conn = 1000
server_tls_sslmode = verify-full
server_tls_ca_file = ${join(directory, 'ca.crt')}
log_connections = 0
log_disconnections = 0
`);
  const child = start(PGBOUNCER, [ini], { server: true });
  await accepts(child, port);
  return { port, pid: child.pid };
}

async function startStagedoor(directory, file, upstream) {
  const [port, admin] = [await freePort(), await freePort()];
  const config = file('app-config.yaml', `backend:
  database:
    client: pg
    connection: { host: localhost, port: ${upstream}, user: ${USER}, password: ${PASSWORD}, ssl: { ca: { $file: ./ca.crt } } }
stagedoor:
  listen: { port: ${port} }
  admin: { host: 127.0.0.1, port: ${admin} }
  pool: { maxServers: ${SERVERS_MAX} }
`);
  const child = start(STAGEDOOR, ['run', '--config', config]);
  await accepts(child, port);
  return { port, pid: child.pid };
}

const firstLine = (program, args) => output(program, args).trim().split('\n')[0];

const versions = () => ({
  stagedoor: firstLine(STAGEDOOR, ['--version']),
  pgbouncer: firstLine(PGBOUNCER, ['--version']),
  postgresql: firstLine(join(POSTGRES_BIN, 'postgres'), ['--version']),
  pgbench: firstLine('pgbench', ['--version']),
});

/** Most clients with named statements: none before PgBouncer 1.21, which cannot follow them in transaction mode. */
function preparedWithPgbouncer() {
  const [, major, minor] = /(\d+)\.(\d+)/.exec(firstLine(PGBOUNCER, ['--version']));
  return Number(major) > 1 || Number(minor) >= 21 ? Infinity : 0;
}
