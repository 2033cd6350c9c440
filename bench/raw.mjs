//! A client of PostgreSQL's protocol that costs next to nothing, so that it is not the client who is measured:
//! it logs in by SCRAM, sends text, counts what comes, and throws it away.

import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { connect as connectTls } from 'node:tls';

const HEADER_BYTES = 5;

/** A copy goes in frames of 8 KiB, as from psql, several of them in a write. */
const COPY_FRAME_BYTES = 8192;
const COPY_FRAMES_A_WRITE = 8;

const cstring = (text) => Buffer.from(`${text}\0`);

function message(tag, ...parts) {
  const body = Buffer.concat(parts);
  const head = Buffer.alloc(tag.length + 4, tag);
  head.writeUInt32BE(body.length + 4, tag.length);
  return Buffer.concat([head, body]);
}

/** A connection that has logged in with the variables of libpq in `env`. */
export async function connect(env) {
  const socket = await dial(env);
  const raw = new Raw(socket);
  const parameters = ['user', env.PGUSER, 'database', env.PGDATABASE, ''].map(cstring);
  socket.write(message('', Buffer.from([0, 3, 0, 0]), ...parameters));
  await raw.logIn(env.PGUSER, env.PGPASSWORD);
  return raw;
}

async function dial(env) {
  const socket = createConnection({ host: env.PGHOSTADDR, port: Number(env.PGPORT), noDelay: true });
  await happens(socket, 'connect');
  if (env.PGSSLMODE !== 'verify-full') return socket;
  socket.write(Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]));
  const answer = await happens(socket, 'data');
  if (answer.toString() !== 'S') throw new Error('the server has no TLS');
  const secure = connectTls({ socket, ca: readFileSync(env.PGSSLROOTCERT), servername: env.PGHOST });
  await happens(secure, 'secureConnect');
  return secure;
}

const happens = (socket, event) =>
  new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.once(event, (value) => (socket.off('error', reject), resolve(value)));
  });

class Raw {
  #socket;
  #head = Buffer.alloc(0);
  #left = 0;
  /** The frame that is gathered, or undefined while one passes. */
  #frame;
  #waiting;

  constructor(socket) {
    this.#socket = socket;
    this.bytes = 0;
    socket.on('data', (chunk) => this.#read(chunk));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('the server has closed the connection')));
  }

  /** Runs one simple query; the bytes that came for it. */
  async query(text) {
    const before = this.bytes;
    this.#socket.write(message('Q', cstring(text)));
    await this.#until('Z');
    return this.bytes - before;
  }

  /** Runs a COPY FROM STDIN with `bytes` of lines as long as `line`; the bytes that were sent. */
  async copyIn(text, line, bytes) {
    this.#socket.write(message('Q', cstring(text)));
    await this.#until('G');
    const lines = `${line}\n`.repeat(Math.floor(COPY_FRAME_BYTES / (line.length + 1)));
    const frames = Buffer.concat(Array(COPY_FRAMES_A_WRITE).fill(message('d', Buffer.from(lines))));
    let sent = 0;
    const done = this.#until('Z');
    while (sent < bytes) {
      sent += frames.length;
      if (!this.#socket.write(frames)) await Promise.race([happens(this.#socket, 'drain'), done]);
    }
    this.#socket.write(message('c'));
    await done;
    return sent;
  }

  end() {
    this.#socket.end(message('X'));
  }

  async logIn(user, password) {
    const nonce = randomBytes(18).toString('base64');
    const bare = `n=,r=${nonce}`;
    await this.#until('R');
    this.#socket.write(message('p', cstring('SCRAM-SHA-256'), lengthOf(`n,,${bare}`), Buffer.from(`n,,${bare}`)));
    const first = (await this.#until('R')).subarray(4).toString();
    this.#socket.write(message('p', Buffer.from(lastOf(bare, first, password))));
    await this.#until('Z');
  }

  #until(tag) {
    return new Promise((resolve, reject) => (this.#waiting = { tag, resolve, reject }));
  }

  #fail(error) {
    this.#waiting?.reject(error);
  }

  /** Rows and copy data pass without a look; a frame of any other kind is gathered. */
  #read(chunk) {
    this.bytes += chunk.length;
    let at = 0;
    while (at < chunk.length) {
      if (this.#left === 0) {
        const missing = HEADER_BYTES - this.#head.length;
        this.#head = Buffer.concat([this.#head, chunk.subarray(at, at + missing)]);
        at = Math.min(chunk.length, at + missing);
        if (this.#head.length < HEADER_BYTES) return;
        this.#left = this.#head.readUInt32BE(1) - 4;
        this.#frame = this.#head[0] === 0x44 || this.#head[0] === 0x64 ? undefined : [];
      }
      const here = Math.min(this.#left, chunk.length - at);
      this.#frame?.push(chunk.subarray(at, at + here));
      at += here;
      this.#left -= here;
      if (this.#left === 0) this.#ended();
    }
  }

  #ended() {
    const tag = String.fromCharCode(this.#head[0]);
    this.#head = Buffer.alloc(0);
    if (this.#frame === undefined) return;
    const body = Buffer.concat(this.#frame);
    if (tag === 'E') this.#fail(new Error(body.toString('latin1').replaceAll('\0', ' ')));
    if (tag === this.#waiting?.tag) this.#waiting.resolve(body);
  }
}

const lengthOf = (text) => {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(Buffer.byteLength(text));
  return length;
};

const hmac = (key, text) => createHmac('sha256', key).update(text).digest();

/** Salted passwords are kept, as a driver may: thousands of logins cost the server's half alone. */
const salted = new Map();

function saltedPassword(password, salt, rounds) {
  const key = `${salt} ${rounds}`;
  if (!salted.has(key)) salted.set(key, pbkdf2Sync(password, Buffer.from(salt, 'base64'), Number(rounds), 32, 'sha256'));
  return salted.get(key);
}

/** The client's last message of SCRAM (RFC 5802, 3). The server's proof is not looked at. */
function lastOf(bare, first, password) {
  const [, nonce, salt, rounds] = /^r=([^,]+),s=([^,]+),i=(\d+)/.exec(first);
  const without = `c=biws,r=${nonce}`;
  const key = hmac(saltedPassword(password, salt, rounds), 'Client Key');
  const signature = hmac(createHash('sha256').update(key).digest(), `${bare},${first},${without}`);
  return `${without},p=${Buffer.from(key.map((byte, i) => byte ^ signature[i])).toString('base64')}`;
}
