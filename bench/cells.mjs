//! What is measured: groups of cells. A group has fresh processes, so that no cell inherits the memory of another kind;
//! their servers are connected already, unless it is `cold`. `measure` runs a cell once for one contender,
//! and `repeat` says how often it does so in a round, where once is soon done.

import * as bulk from './bulk.mjs';
import * as idle from './idle.mjs';
import * as node from './node_pool.mjs';
import * as pgbench from './pgbench.mjs';
import * as rest from './rest.mjs';
import { CELLS, QUICK } from './settings.mjs';

const pooler = (contender) => contender.name !== 'direct';
const statements = (mode, clients) => ({ name: `${mode} c=${clients}`, mode, clients, measure: pgbench.measure });
const driven = (driver) => ({ name: `node ${driver}`, driver, measure: node.measure });
const moved = (name, kind) => ({ name, kind, repeat: QUICK ? 1 : 3, measure: bulk.measure });
const beside = (count, clients) => ({ ...statements('simple', clients), name: `idle ${count}, simple c=${clients}` });

/** `before` is no choice of its own: the cells of its group need it. */
const crowd = (count) => ({
  name: `idle ${count}`,
  before: { name: `idle ${count}`, count, measure: idle.measure, of: pooler },
  cells: [8, 64].map((clients) => beside(count, clients)),
});

const ALL = [
  {
    name: 'statements',
    cells: [
      ...['simple', 'extended', 'prepared'].flatMap((mode) => [1, 8, 64, 256].map((clients) => statements(mode, clients))),
      { name: 'connect c=8', mode: 'simple', clients: 8, connect: true, measure: pgbench.measure },
      driven('pg'),
      driven('knex'),
    ],
  },
  { name: 'bulk', cold: true, cells: [moved('rows out', 'rows'), moved('copy out', 'copy_out'), moved('copy in', 'copy_in')] },
  crowd(1000),
  crowd(5000),
  { name: 'rest', unstarted: true, cells: [{ name: 'start', repeat: 5, measure: rest.measure }] },
];

/** Enough to see where a change leads. */
const FEW = ['simple c=1', 'simple c=8', 'simple c=64', 'extended c=8', 'prepared c=8', 'connect c=8', 'node pg', 'rows out', 'copy out',
  'copy in', 'idle 1000, simple c=8', 'start'];

const chosen = (cell, group) => (CELLS ? CELLS.test(cell.name) || CELLS.test(group.name) : !QUICK || FEW.includes(cell.name));

/** The groups and cells of this run. */
export const GROUPS = ALL.map((group) => ({ ...group, cells: group.cells.filter((cell) => chosen(cell, group)) })).filter(
  (group) => group.cells.length > 0,
);
