//! Clients that do anything in any order read the same with and without stagedoor, although there are fewer servers
//! than clients. A seed tells the whole story: `SEED=7 cargo test --test e2e random` repeats one, `SEEDS=500` looks
//! further (`FROM=1000` from there on), `CONTEXT=9999` tells more of what came before, and `SHRINK=1` looks for a shorter
//! story that shows the same.

use crate::random::script::Cast;
use crate::random::script::Turn;
use crate::random::world::CUT_OFF;
use crate::random::world::Line;
use crate::random::world::Packets;
use crate::random::world::World;
use crate::support::deadline::Stopwatch;
use crate::support::dice::number;
use crate::support::postgres::Cluster;
use crate::support::raw::Client;
use crate::support::stagedoor::Stagedoor;

mod differences;
mod owed;
mod script;
mod words;
mod world;

/// Where and how stories are told.
struct Stage<'a> {
    label: &'a str,
    cluster: &'a Cluster,
    stagedoor: Stagedoor,
    cast: Cast,
    packets: &'a Packets,
}

impl Stage<'_> {
    fn tell(self) {
        let from = number("FROM").unwrap_or(0_u64);
        let seeds =
            number("SEED").map_or_else(|| from..from + number("SEEDS").unwrap_or(12), |seed| seed..seed + 1);
        let _watch = Stopwatch::start(format!("random stories {seeds:?}, {}", self.label));
        let witness = Witness(&self.stagedoor, self.cluster);
        for seed in seeds {
            let script = script::write(seed, self.cast);
            eprintln!("SEED={seed}, {}", self.label);
            if let Some(difference) = self.difference(&script) {
                let difference =
                    if number::<u64>("SHRINK").is_some() { self.shrink(script) } else { difference };
                panic!("SEED={seed}, {}: {difference}", self.label);
            }
        }
        drop(witness);
        self.stagedoor.finish();
    }

    /// Where the two worlds part, if they do.
    fn difference(&self, script: &[Turn]) -> Option<String> {
        let [direct, through] = [false, true].map(|through| {
            let database = self.cluster.database("story");
            self.cluster.admin(&format!("alter database \"{database}\" set lock_timeout to '100ms'"));
            self.cluster.admin_in(&database, words::TEMPORARY_SCHEMAS);
            let mut client = Client::connect(&self.cluster.direct(&database)).expect("a login");
            client.rows(&words::setup(self.cast.clients));
            client.leave();
            let target =
                if through { self.stagedoor.target(&database) } else { self.cluster.direct(&database) };
            World::play(target, self.packets, self.cast.clients, script)
        });
        if direct.last().is_some_and(|(_, line)| line == CUT_OFF) {
            return Some(format!("{CUT_OFF} without stagedoor: {direct:#?}"));
        }
        let at = (0..direct.len().max(through.len())).find(|at| direct.get(*at) != through.get(*at))?;
        let context = number("CONTEXT").unwrap_or(60);
        let tail = |story: &[Line], from: usize, count: usize| {
            let lines =
                story.iter().skip(from).take(count).map(|(number, line)| format!("  {number}: {line}\n"));
            lines.collect::<String>()
        };
        Some(format!(
            "\nboth:\n{}direct:\n{}through stagedoor:\n{}",
            tail(&direct, at.saturating_sub(context), at.min(context)),
            tail(&direct, at, 8),
            tail(&through, at, 8)
        ))
    }

    /// Leaves out whatever may be left out, and tells the difference of what remains.
    fn shrink(&self, mut script: Vec<Turn>) -> String {
        let mut found = String::new();
        let mut step = script.len() / 2;
        while step > 0 {
            let mut at = 0;
            while at < script.len() {
                let shorter: Vec<Turn> = script
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| !(at..at + step).contains(n))
                    .map(|(_, t)| t.clone())
                    .collect();
                match self.difference(&shorter) {
                    Some(difference) if !BESIDE_THE_POINT.iter().any(|words| difference.contains(words)) => {
                        (script, found) = (shorter, difference)
                    }
                    Some(_) | None => at += step,
                }
            }
            step /= 2;
        }
        found
    }
}

/// What only shows that too much was left out: nobody could come to rest, or a client spoke in the middle of a COPY.
const BESIDE_THE_POINT: [&str; 2] = ["came free within", CUT_OFF];

/// Where nobody answered any more: who keeps the servers, and why.
struct Witness<'a>(&'a Stagedoor, &'a Cluster);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let page = self.0.page("/metrics").body;
            let tells = |line: &&str| {
                ["stagedoor_pin", "stagedoor_client_c", "stagedoor_server_c"]
                    .iter()
                    .any(|name| line.starts_with(name))
            };
            page.lines().filter(tells).for_each(|line| eprintln!("  {line}"));
            let mut client = Client::connect(&self.1.direct("postgres")).expect("a login");
            for row in client.rows("select datname, state, wait_event_type, wait_event, query from pg_stat_activity where backend_type = 'client backend'") {
                eprintln!("  {row:?}");
            }
        }
    }
}

const CLIENTS: usize = 6;

/// One plain packet.
const PLAIN: &Packets = &[&[]];

#[test]
fn whatever_clients_do_they_read_the_same_as_without_stagedoor() {
    tell_pooled("transaction mode", PLAIN, false);
}

#[test]
fn so_they_do_with_settings_in_their_start_up_packets() {
    let packets: &Packets = &[
        &[
            ("application_name", "backstage_plugin_catalog"),
            ("options", "-c work_mem=9MB -c search_path=s1,public"),
            ("TimeZone", "Europe/Berlin"),
        ],
        &[
            ("client_encoding", "LATIN1"),
            ("options", "--my.setting=begun\\ so -c search_path=\"S\\ 2\" --statement-timeout=70s"),
            ("DateStyle", "SQL, DMY"),
        ],
    ];
    tell_pooled("with start-up packets", packets, false);
}

#[test]
fn so_they_do_on_servers_that_began_under_another_name() {
    let packets: &Packets = &[
        &[("application_name", "backstage_plugin_catalog"), ("options", "-c search_path=s1")],
        &[("application_name", "backstage_plugin_search"), ("options", "-c search_path=s1")],
        &[("options", "-c search_path=s1")],
    ];
    tell_pooled("with lent names", packets, true);
}

fn tell_pooled(label: &str, packets: &Packets, lends: bool) {
    let cluster = Cluster::shared();
    // A hang is found out sooner while many shorter stories are tried.
    let patience = if std::env::var_os("SHRINK").is_some() { "2s" } else { "30s" };
    let stagedoor =
        Stagedoor::start(cluster, &format!("pool: {{ maxServers: 3, acquireTimeout: {patience} }}"));
    let cast = Cast { clients: CLIENTS, bold_max: 2, packets: packets.len(), turns: 150, lends };
    Stage { label, cluster, stagedoor, cast, packets }.tell();
}

#[test]
fn so_they_do_in_session_mode() {
    let cluster = Cluster::shared();
    let stagedoor = Stagedoor::start(cluster, "pool: { mode: session, maxServers: 7 }");
    let cast = Cast { clients: CLIENTS, bold_max: CLIENTS, packets: 1, turns: 150, lends: false };
    Stage { label: "session mode", cluster, stagedoor, cast, packets: PLAIN }.tell();
}
