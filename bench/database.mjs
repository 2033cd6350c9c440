//! A throw-away PostgreSQL on loopback that accepts TLS alone, and its certificates.

import { chmodSync, chownSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { accepts, freePort, output, start } from './processes.mjs';

export const POSTGRES_BIN = process.env.POSTGRES_BIN ?? '/usr/lib/postgresql/15/bin';

export const USER = 'bench';
export const PASSWORD = 'bench-only';
export const DATABASE = 'bench';

/** The environment of a client: of the port of a pooler in plaintext, or with `ca` over TLS that is verified. */
export const clientEnvironment = (port, ca) => ({
  PGUSER: USER, PGPASSWORD: PASSWORD, PGDATABASE: DATABASE, PGHOST: 'localhost', PGHOSTADDR: '127.0.0.1', PGPORT: String(port),
  ...(ca ? { PGSSLMODE: 'verify-full', PGSSLROOTCERT: ca } : { PGSSLMODE: 'disable' }),
});

/** Starts it with its files in `directory`. */
export async function startDatabase(directory) {
  own(directory);
  const ca = certificates(directory);
  const data = join(directory, 'data');
  const port = await freePort();
  const password = fileForServers(join(directory, 'password'), PASSWORD, 0o600);
  output(join(POSTGRES_BIN, 'initdb'), ['-D', data, '-U', USER, '--auth=scram-sha-256', `--pwfile=${password}`, '-E', 'UTF8',
    '--locale=C.UTF-8', '--no-sync'], { server: true });
  const hba = fileForServers(join(directory, 'hba.conf'), 'hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl all all ::1/128 scram-sha-256\n');
  const settings = { port, listen_addresses: 'localhost', unix_socket_directories: '', max_connections: 400, fsync: 'off',
    max_wal_size: '4GB', ssl: 'on', ssl_cert_file: join(directory, 'server.crt'), ssl_key_file: join(directory, 'server.key'), hba_file: hba };
  const flags = Object.entries(settings).flatMap(([key, value]) => ['-c', `${key}=${value}`]);
  const server = start(join(POSTGRES_BIN, 'postgres'), ['-D', data, ...flags], { server: true });
  await accepts(server, port);
  const env = clientEnvironment(port, ca);
  const query = (text, database = DATABASE) => output('psql', ['-qAtc', text, database], { env }).trim();
  query(`create database ${DATABASE}`, 'postgres');
  output('pgbench', ['-i', '-q', '-s', '1', DATABASE], { env });
  query('create schema plugin; create unlogged table bulk (line text)');
  return { port, ca, env, query };
}

/** Writes a file that the servers may read: they run as `postgres` when we are root. */
export function fileForServers(path, text, mode = 0o644) {
  writeFileSync(path, text, { mode });
  return own(path);
}

function own(path) {
  if (process.getuid() !== 0) return path;
  const [uid, gid] = ['-u', '-g'].map((flag) => Number(output('id', [flag, 'postgres'])));
  chownSync(path, uid, gid);
  return path;
}

/** An authority and a certificate for localhost; the path of the authority's. */
function certificates(directory) {
  const at = (name) => join(directory, name);
  const key = ['-newkey', 'rsa:2048', '-nodes', '-keyout'];
  output('openssl', ['req', '-x509', ...key, at('ca.key'), '-out', at('ca.crt'), '-days', '2', '-subj', '/CN=bench CA',
    '-addext', 'basicConstraints=critical,CA:TRUE']);
  output('openssl', ['req', ...key, at('server.key'), '-out', at('server.csr'), '-subj', '/CN=localhost']);
  writeFileSync(at('extensions'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n');
  output('openssl', ['x509', '-req', '-in', at('server.csr'), '-CA', at('ca.crt'), '-CAkey', at('ca.key'),
    '-CAcreateserial', '-days', '2', '-out', at('server.crt'), '-extfile', at('extensions')]);
  chmodSync(at('ca.crt'), 0o644);
  chmodSync(at('server.crt'), 0o644);
  chmodSync(own(at('server.key')), 0o600);
  return at('ca.crt');
}
