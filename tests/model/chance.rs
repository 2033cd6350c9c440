//! Stories by chance: a seed tells the whole of one.

use crate::dice::Dice;
use crate::script::Home;
use crate::script::Line;
use crate::script::Say;
use crate::script::Story;
use crate::script::Then;

/// Statements that belong together. `{c}` is the client's number, `{n}` a small one. A story has some of these, so
/// that what belongs together meets.
const THEMES: [&[&str]; 13] = [
    &[
        "set work_mem to '{n}MB'",
        "set search_path to s{n}",
        "set timezone to 'Etc/GMT+{n}'",
        "set application_name to 'a{n}'",
        "set local work_mem to '{n}MB'",
        "set local timezone to 'Etc/GMT+{n}'",
        "set work_mem to 'nonsense'",
        "reset work_mem",
        "reset timezone",
        "set timezone to default",
        "select current_setting('work_mem'), current_setting('timezone'), current_setting('search_path')",
        "show timezone",
    ],
    &[
        "reset all",
        "reset application_name",
        "set application_name to 'a{n}'",
        "set work_mem to '{n}MB'",
        "select current_setting('application_name'), current_setting('work_mem')",
        "discard all",
    ],
    &[
        "select set_config('work_mem', '{n}MB', false)",
        "select set_config('timezone', 'Etc/GMT+{n}', true)",
        "select set_config('work_mem', '{n}MB', true), current_setting('work_mem')",
        "do $$ begin perform set_config('work_mem', '{n}MB', false); end $$",
        "select set_config('intervalstyle', 'iso_8601', false)",
        "select current_setting('work_mem'), current_setting('timezone'), current_setting('intervalstyle')",
        "reset all",
    ],
    &[
        "set app.x to 'v{n}'",
        "set local app.x to 'v{n}'",
        "set app.y to 'v{n}'",
        "reset app.x",
        "select set_config('app.y', 'v{n}', true)",
        "select current_setting('app.x', true), current_setting('app.y', true)",
        "show app.x",
        "discard all",
    ],
    &[
        "set role bob",
        "set role amy",
        "set local role amy",
        "set role none",
        "reset role",
        "set role nobody",
        "select current_user, current_setting('role')",
        "set work_mem to '{n}MB'",
    ],
    &[
        "begin",
        "begin",
        "commit",
        "commit",
        "rollback",
        "savepoint a",
        "rollback to a",
        "release a",
        "select 1/0",
        "select public.boom()",
        "selekt",
        "insert into public.log_{c} values ({n})",
        "select count(*) from public.log_{c}",
        "set work_mem to '{n}MB'",
        "set timezone to 'Etc/GMT+{n}'",
        "set local work_mem to '{n}MB'",
        "select current_setting('work_mem')",
    ],
    &[
        "begin; set local work_mem to '{n}MB'; show work_mem; commit; show work_mem",
        "set timezone to 'Etc/GMT+{n}'; selekt",
        "set timezone to 'Etc/GMT+{n}'; select 1/0",
        "insert into public.log_{c} values ({n}); select public.boom()",
        "begin; insert into public.log_{c} values ({n})",
        "set app.x to 'v{n}'; rollback",
        "set work_mem to '{n}MB'; commit; select 1/0",
        "select {n}; select {n}",
        "/* nothing */",
        "select count(*) from public.log_{c}",
        "select current_setting('work_mem'), current_setting('timezone'), current_setting('app.x', true)",
    ],
    &[
        "create temp table t{n} (n int)",
        "create temp table t{n} (n int) on commit drop",
        "drop table t{n}",
        "select to_regclass('pg_temp.t1') is not null, to_regclass('pg_temp.t2') is not null",
        "discard temp",
        "discard all",
        "begin",
        "commit",
        "rollback",
    ],
    &[
        "listen c{n}",
        "unlisten c{n}",
        "unlisten *",
        "notify c{n}",
        "select count(*) from pg_listening_channels()",
        "select pg_advisory_lock({n})",
        "select pg_advisory_unlock({n})",
        "select pg_advisory_unlock_all()",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        "begin",
        "rollback",
        "commit",
    ],
    &[
        "declare cur cursor with hold for select n from generate_series(1, 3) n",
        "declare cur cursor for select n from generate_series(1, 3) n",
        "fetch {n} from cur",
        "close cur",
        "close all",
        "select count(*) from pg_cursors where is_holdable",
        "begin",
        "commit",
        "rollback",
    ],
    &[
        "prepare a as select current_setting('work_mem'), {n}",
        "prepare b as select {n}",
        "execute a",
        "execute b",
        "deallocate a",
        "deallocate b",
        "deallocate all",
        "deallocate a; deallocate b",
        "select count(*) from pg_prepared_statements where from_sql",
        "discard all",
    ],
    &[
        "select nextval('public.numbers_{c}')",
        "select currval('public.numbers_{c}')",
        "discard sequences",
        "load 'auto_explain'",
        "discard all",
    ],
    &[
        "select name from whose",
        "select name from whose",
        "set search_path to s{n}",
        "set search_path to nowhere",
        "set local search_path to s{n}",
        "reset search_path",
        "begin",
        "commit",
        "rollback",
    ],
];

/// What is read in the time zone in which it was parsed.
const MOMENTS: &[&str] = &[
    "select extract(epoch from timestamptz '2026-01-01 00:00')::int",
    "select extract(epoch from timestamptz '2026-01-01 00:00')::int",
    "select extract(epoch from timestamptz '2026-01-01 00:00')::int",
    "set work_mem to '{n}MB'",
    "set timezone to 'Etc/GMT+{n}'",
    "set timezone to default",
    "set local timezone to 'Etc/GMT+{n}'",
    "set search_path to s{n}",
    "select current_setting('timezone')",
    "begin",
    "commit",
    "rollback",
];

/// What has to do with nothing.
const PLAIN: [&str; 4] =
    ["select {n}", "select n from generate_series(1, 3) n", "select current_setting('work_mem')", "selekt"];

const NAMES: [&str; 3] = ["", "a", "b"];

struct Author {
    dice: Dice,
    /// Nobody goes back to what it began with in a transaction: see `stories::a_first_reset_in_a_transaction`.
    tame: bool,
    themes: Vec<&'static [&'static str]>,
    /// How often, of ten, the extended protocol is spoken.
    extended: usize,
    copies: bool,
}

/// Whether a statement with a name has a constant that hangs on settings: behind a SET in one batch nobody knows by which
/// it is read.
fn reads_by_settings(say: &Say) -> bool {
    matches!(say, Say::Parse { name, text } if !name.is_empty() && text.contains("timestamptz"))
}

/// The story of a seed.
pub fn story(seed: u64) -> Story {
    let mut dice = Dice::new(seed);
    let clients = 2 + dice.below(3);
    let has_moments = dice.below(12) == 0;
    let themes: Vec<&[&str]> = (0..1 + dice.below(3)).map(|_| THEMES[dice.below(THEMES.len())]).collect();
    let themes = if has_moments { vec![MOMENTS] } else { themes };
    let homes = homes(&mut dice, clients);
    let servers = 1 + dice.below(clients - 1);
    let gathered_max = if dice.below(8) == 0 { 160 } else { usize::MAX };
    let extended = dice.below(9);
    let copies = dice.below(4) == 0;
    let tame =
        homes.iter().any(|home: &Home| home.startup.iter().any(|(name, _)| name == "application_name"));
    let mut author = Author { dice, tame, themes, extended, copies };
    let mut lines = Vec::new();
    for client in (0..clients).filter(|_| has_moments) {
        let says = vec![Say::Query(format!("set timezone to 'Etc/GMT+{client}'"))];
        lines.push(Line { client, then: Then::Rest, says });
    }
    let mut here: Vec<usize> = (0..clients).collect();
    for _ in 0..8 * clients {
        if here.is_empty() {
            break;
        }
        let place = author.dice.below(here.len());
        let client = here[place];
        let synced = |say| if reads_by_settings(&say) { vec![Say::Sync, say] } else { vec![say] };
        let mut says: Vec<Say> = author.says(client).into_iter().flat_map(synced).collect();
        if author.dice.below(40) == 0 {
            let cut = author.dice.below(says.len() + 1);
            says.truncate(cut);
            says.push(if author.dice.below(2) == 0 { Say::Goodbye } else { Say::Vanish });
            here.remove(place);
        }
        lines.push(Line { client, then: Then::Rest, says });
    }
    Story { servers, homes, lines, dice: Some(seed), gathered_max, loud: false }
}

fn homes(dice: &mut Dice, clients: usize) -> Vec<Home> {
    let varied = dice.below(3) == 0;
    (0..clients)
        .map(|_| {
            let mut home = Home::default();
            if !varied {
                return home;
            }
            home.database = dice.below(4) / 3;
            let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            if dice.below(2) == 0 {
                home.startup.push(pair("application_name", ["one", "two"][dice.below(2)]));
            }
            if dice.below(4) == 0 {
                home.startup.push(pair("work_mem", "9MB"));
                home.startup.push(pair("timezone", "Etc/GMT+9"));
            }
            if dice.below(6) == 0 {
                home.startup.push(pair("app.x", "began"));
            }
            home.session_mode = dice.below(12) == 0;
            home
        })
        .collect()
}

impl Author {
    fn text(&mut self, client: usize) -> String {
        loop {
            let text = self.any_text(client);
            let resets =
                ["reset all", "reset application_name", "discard all"].iter().any(|word| text.contains(word));
            if !self.tame || !resets {
                return text;
            }
        }
    }

    fn any_text(&mut self, client: usize) -> String {
        let theme = match self.dice.below(6) {
            0 => &PLAIN,
            _ => self.themes[self.dice.below(self.themes.len())],
        };
        let text = theme[self.dice.below(theme.len())];
        let number = (1 + self.dice.below(2)).to_string();
        let mut text = text.replace("{c}", &client.to_string()).replace("{n}", &number);
        let speaks = ["execute", "prepare", "deallocate"].iter().any(|word| text.contains(word));
        if self.dice.below(30) == 0 && !speaks {
            text.push_str(" /* ");
            text.push_str(&"x".repeat(200));
            text.push_str(" */");
        }
        text
    }

    /// A Parse. What speaks of prepared statements has no name, or it might execute itself; nor has FETCH, of which
    /// PostgreSQL decides at its Parse whether it returns rows.
    fn parse(&mut self, client: usize) -> Say {
        let name = self.name();
        loop {
            let text = self.text(client);
            let is_one = !text.contains(';') || text.starts_with("do");
            if is_one
                && (name.is_empty()
                    || !["execute", "prepare", "deallocate", "fetch"]
                        .iter()
                        .any(|word| text.starts_with(word)))
            {
                return Say::Parse { name, text };
            }
        }
    }

    fn name(&mut self) -> String {
        NAMES[self.dice.below(NAMES.len())].to_owned()
    }

    fn portal(&mut self) -> String {
        ["", "", "p"][self.dice.below(3)].to_owned()
    }

    /// What a client says at a time: whole batches, mostly.
    fn says(&mut self, client: usize) -> Vec<Say> {
        if self.copies && self.dice.below(4) == 0 {
            return self.copy(client);
        }
        if self.dice.below(10) >= self.extended {
            return vec![Say::Query(self.text(client))];
        }
        match self.dice.below(4) {
            0 => self.whole(client),
            1 => vec![self.parse(client), Say::Sync],
            2 => {
                let name = self.name();
                vec![
                    Say::Bind { portal: String::new(), name, given: 0 },
                    Say::Execute { portal: String::new(), limit: 0 },
                    Say::Sync,
                ]
            }
            _ => self.anything(client),
        }
    }

    fn whole(&mut self, client: usize) -> Vec<Say> {
        let parse = self.parse(client);
        let name = if let Say::Parse { name, .. } = &parse { name.clone() } else { String::new() };
        let mut says = vec![
            parse,
            Say::Bind { portal: String::new(), name, given: 0 },
            Say::DescribePortal(String::new()),
            Say::Execute { portal: String::new(), limit: 0 },
        ];
        if self.dice.below(4) > 0 {
            says.push(Say::Sync);
        }
        says
    }

    /// Messages in any order, most often ended by a Sync.
    fn anything(&mut self, client: usize) -> Vec<Say> {
        let mut says = Vec::new();
        for _ in 0..1 + self.dice.below(6) {
            let say = match self.dice.below(22) {
                0..=3 => self.parse(client),
                4..=7 => {
                    let given = u16::from(self.dice.below(12) == 0);
                    Say::Bind { portal: self.portal(), name: self.name(), given }
                }
                8..=11 => Say::Execute { portal: self.portal(), limit: u32::from(self.dice.below(3) == 0) },
                12 | 13 => Say::DescribeStatement(self.name()),
                14 => Say::DescribePortal(self.portal()),
                15 | 16 => Say::CloseStatement(self.name()),
                17 => Say::ClosePortal(self.portal()),
                18 => Say::Flush,
                19 => Say::Query(self.text(client)),
                20 if self.dice.below(3) == 0 => Say::Call,
                _ => Say::Sync,
            };
            says.push(say);
        }
        if self.dice.below(6) > 0 {
            says.push(Say::Sync);
        }
        says
    }

    fn copy(&mut self, client: usize) -> Vec<Say> {
        if self.dice.below(4) == 0 {
            return vec![Say::Query("copy (select n from generate_series(1, 2) n) to stdout".to_owned())];
        }
        let text = format!("copy public.log_{client} from stdin");
        let simple = self.dice.below(2) == 0;
        let mut says = if simple {
            vec![Say::Query(text)]
        } else {
            vec![
                Say::Parse { name: String::new(), text },
                Say::Bind { portal: String::new(), name: String::new(), given: 0 },
                Say::Execute { portal: String::new(), limit: 0 },
            ]
        };
        if self.dice.below(3) == 0 {
            says.push(Say::Sync);
        }
        for _ in 0..self.dice.below(3) {
            says.push(Say::CopyData(["1", "2", "x"][self.dice.below(3)].to_owned()));
        }
        says.push(if self.dice.below(3) == 0 { Say::CopyFail } else { Say::CopyDone });
        if !simple || self.dice.below(2) == 0 {
            says.push(Say::Sync);
        }
        says
    }
}
