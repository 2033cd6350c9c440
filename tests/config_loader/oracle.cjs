// Answers for tests/config_loader/main.rs: what Backstage's config-loader and pg-connection-string make of each case.
//   node oracle.cjs CASES.json   with { configs: [{ dir, args, env }], strings: [text] }
//   → { configs: [{ value } | { error }], strings: [{ value } | { error }] } on stdout
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { ConfigSources } = require('@backstage/config-loader');
const { parse } = require('pg-connection-string');

// The libraries warn on stderr and by emitWarning; stdout is for the answer.
console.warn = console.error;

async function config({ dir, args, env }) {
  const before = { cwd: process.cwd(), env: process.env };
  process.env = { ...env };
  process.chdir(dir);
  try {
    const source = ConfigSources.default({
      argv: ['node', 'backend', ...args.flatMap(arg => ['--config', arg])],
      rootDir: dir,
      env: process.env,
      watch: false,
    });
    const reader = await ConfigSources.toConfig(source);
    const value = reader.getOptional() ?? {};
    reader.close();
    return { value };
  } catch (error) {
    return { error: String(error) };
  } finally {
    process.chdir(before.cwd);
    process.env = before.env;
  }
}

function string(text) {
  try {
    // A function cannot be written as JSON; that there is one is what matters.
    return { value: JSON.parse(JSON.stringify(parse(text), (_, v) => (typeof v === 'function' ? 'skipped' : v))) };
  } catch (error) {
    return { error: String(error) };
  }
}

(async () => {
  const cases = JSON.parse(fs.readFileSync(path.resolve(process.argv[2]), 'utf8'));
  const answer = { configs: [], strings: cases.strings.map(string) };
  for (const one of cases.configs) answer.configs.push(await config(one));
  process.stdout.write(JSON.stringify(answer));
})();
