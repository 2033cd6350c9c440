//! `stagedoor check`: what was seen of each upstream, judged step by step.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::cli::arguments::CheckArguments;
use crate::cli::arguments::Output;
use crate::cli::arguments::complain;
use crate::cli::arguments::say;
use crate::cli::exit::Exit;
use crate::cli::observe::Attempt;
use crate::cli::observe::Configured;
use crate::cli::observe::Observed;
use crate::cli::observe::ServerSeen;
use crate::cli::observe::TlsSeen;
use crate::cli::observe::Trouble;
use crate::cli::observe::observe;
use crate::cli::report::Certificate;
use crate::cli::report::Report;
use crate::cli::report::Section;
use crate::cli::report::Step;
use crate::config::load::Sources;
use crate::config::load::load;
use crate::config::model::Address;
use crate::config::model::Config;
use crate::config::model::Upstream;
use crate::tls::certificate::Facts;

/// A clock this far off is worth a word: certificates and tokens have a beginning and an end.
const SKEW_SECONDS_WORTH_A_WORD: u64 = 5;

/// Beyond this, tokens of cloud providers (15 minutes, signed with five of tolerance) stop to work.
const SKEW_SECONDS_MAX: u64 = 300;

/// A certificate that ends sooner is worth a word.
const CERTIFICATE_DAYS_WORTH_A_WORD: i64 = 30;

/// The oldest version that the PostgreSQL project and Backstage still support is 14.
const VERSION_OLDEST: u32 = 140_000;

const DAY_SECONDS: i64 = 86_400;

/// What the judgement depends on beside what was seen.
#[derive(Clone, Copy, Debug)]
struct Circumstances {
    replicas: u32,
    /// Our clock, in seconds since the epoch.
    now: i64,
}

pub(super) fn run(sources: &Sources, arguments: &CheckArguments) -> Exit {
    let (report, exit) = match load(sources) {
        Ok(loaded) => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let mut report = Report { sections: vec![configuration(&loaded.config, loaded.files.len())] };
                report.sections.extend(runtime.block_on(upstreams(&loaded.config, arguments.replicas)));
                let exit = if report.is_good() { Exit::Success } else { Exit::Failure };
                (report, exit)
            }
            Err(error) => {
                complain(&format!("the runtime cannot start: {error}"));
                return Exit::Failure;
            }
        },
        Err(faults) => {
            let step = Step::failed("configuration", faults.to_string(), "");
            let section = Section { subject: "configuration".to_owned(), steps: vec![step] };
            (Report { sections: vec![section] }, Exit::Configuration)
        }
    };
    match arguments.output {
        Output::Text => say(&report.text()),
        Output::Json => say(&report.json()),
    }
    exit
}

fn configuration(config: &Config, files: usize) -> Section {
    let (upstreams, routes) = (config.upstreams.len(), config.routes.len());
    let seen = format!("{files} files, {upstreams} upstreams, {routes} routes");
    let warnings = config.warnings.iter().map(|warning| Step::warning("configuration", warning, ""));
    let steps = std::iter::once(Step::passed("configuration", seen)).chain(warnings).collect();
    Section { subject: "configuration".to_owned(), steps }
}

/// One after the other: a report that reads in order is worth a second.
async fn upstreams(config: &Config, replicas: u32) -> Vec<Section> {
    let mut sections = Vec::new();
    for upstream in &config.upstreams {
        let seen = observe(Arc::clone(upstream), config).await;
        let steps = judge(upstream, &seen, Circumstances { replicas, now: now() });
        sections.push(Section { subject: upstream.name.clone(), steps });
    }
    sections
}

#[expect(clippy::disallowed_methods, reason = "the clock is what is checked")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The steps of one upstream.
fn judge(upstream: &Upstream, seen: &Observed, given: Circumstances) -> Vec<Step> {
    let mut steps = Vec::new();
    if matches!(upstream.address, Address::Tcp { .. }) {
        steps.push(step("DNS", &seen.dns, |ips| Step::passed("DNS", list(ips))));
    }
    steps.push(step("connection", &seen.tcp, |to| Step::passed("connection", to)));
    steps.extend(seen.login.configured.iter().flat_map(|own| configured(own, given.now)));
    let mut tls = step("TLS", &seen.login.tls, |tls| judge_tls(tls, given.now));
    if let Attempt::Failed(trouble) = &seen.login.tls {
        tls = tls.about(certificates(&trouble.chain, given.now));
    }
    steps.push(tls);
    steps.push(step("authentication", &seen.login.authentication, |method| {
        Step::passed("authentication", method)
    }));
    let server = &seen.login.server;
    steps.push(step("server version", server, version));
    steps.push(step("CREATE DATABASE", server, create_database));
    steps
        .push(step("max_connections", server, |server| budget(upstream.servers_max, server, given.replicas)));
    steps.push(step("clock", server, |server| clock(server.clock.abs_diff(given.now))));
    steps
}

/// A failure or an untried stage is a step as it stands; what was seen is judged.
fn step<T>(name: &'static str, attempt: &Attempt<T>, judge: impl FnOnce(&T) -> Step) -> Step {
    match attempt {
        Attempt::Done(seen) => judge(seen),
        Attempt::Failed(Trouble { reason, mend, .. }) => Step::failed(name, reason, mend),
        Attempt::NotTried => Step::skipped(name),
    }
}

fn list(ips: &[IpAddr]) -> String {
    ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

fn judge_tls(seen: &TlsSeen, now: i64) -> Step {
    let TlsSeen::Handshake { verified, version, cipher, chain } = seen else {
        let mend = "give the server a certificate and leave stagedoor.tls.mode away";
        return Step::warning("TLS", "none: stagedoor.tls.mode is insecure-plaintext", mend);
    };
    let shown = certificates(chain, now);
    let facts = format!("{version} {cipher}");
    if !verified {
        let mend = "give ssl.ca and leave stagedoor.tls.mode away";
        let reason = format!("not verified: anybody could be this server. {facts}");
        return Step::warning("TLS", reason, mend).about(shown);
    }
    if shown.iter().any(|one| one.days_left < CERTIFICATE_DAYS_WORTH_A_WORD) {
        return Step::warning("TLS", facts, "renew the certificate that ends soon").about(shown);
    }
    Step::passed("TLS", facts).about(shown)
}

/// What our own configuration gives: trusted authorities, and what we show.
fn configured(own: &Configured, now: i64) -> Vec<Step> {
    let mut steps = vec![authorities(&own.authorities, now)];
    if let Some(own) = &own.client_certificate {
        let shown = certificates(std::slice::from_ref(own), now);
        let ends_soon = shown.iter().any(|one| one.days_left < CERTIFICATE_DAYS_WORTH_A_WORD);
        let step = if ends_soon {
            Step::warning("client certificate", "it ends soon", "renew ssl.cert and ssl.key")
        } else {
            Step::passed("client certificate", "is there, with its key")
        };
        steps.push(step.about(shown));
    }
    steps
}

/// One that has ended is shown, for a server of its would be refused; so is one that ends soon.
fn authorities(given: &[Facts], now: i64) -> Step {
    let name = "authorities";
    if given.is_empty() {
        return Step::passed(name, "those of Mozilla's list (no ssl.ca is given)");
    }
    let mut all = certificates(given, now);
    let first = all.iter().map(|one| one.days_left).min().unwrap_or(0);
    all.retain(|one| one.days_left < CERTIFICATE_DAYS_WORTH_A_WORD);
    if all.is_empty() {
        return Step::passed(name, format!("{} in ssl.ca, the first ends in {first} days", given.len()));
    }
    let reason = format!("{} of {} in ssl.ca have ended or end soon", all.len(), given.len());
    Step::warning(name, reason, "add their successors to ssl.ca, if a server still needs them").about(all)
}

fn certificates(chain: &[Facts], now: i64) -> Vec<Certificate> {
    let read = |facts: &Facts| Certificate {
        subject: facts.subject.clone(),
        names: facts.names.clone().unwrap_or_default(),
        issuer: facts.issuer.clone(),
        not_before: facts.not_before,
        not_after: facts.not_after,
        days_left: (i64::try_from(facts.not_after).unwrap_or(i64::MAX) - now).div_euclid(DAY_SECONDS),
    };
    chain.iter().map(read).collect()
}

fn version(server: &ServerSeen) -> Step {
    let name = "server version";
    if server.in_recovery {
        let mend = "point backend.database.connection.host at the primary (the writer endpoint)";
        return Step::failed(name, format!("{}, a read-only standby", server.version), mend);
    }
    if server.version_number < VERSION_OLDEST {
        return Step::warning(name, format!("{}, no longer supported", server.version), "upgrade PostgreSQL");
    }
    Step::passed(name, &server.version)
}

fn create_database(server: &ServerSeen) -> Step {
    let name = "CREATE DATABASE";
    if server.may_create_database {
        return Step::passed(name, "allowed");
    }
    let mend = "needed only where plugins' databases are not there yet: ALTER ROLE … CREATEDB, or create them and \
                set backend.database.ensureExists: false";
    Step::warning(name, "this role may not create databases", mend)
}

fn budget(servers_max: usize, server: &ServerSeen, replicas: u32) -> Step {
    let name = "max_connections";
    let usable = server.connections_max.saturating_sub(server.connections_reserved);
    let wanted = u64::try_from(servers_max).unwrap_or(u64::MAX).saturating_mul(u64::from(replicas));
    let facts = format!(
        "{usable} usable, {} in use by everybody; the budget is {servers_max} × {replicas} replicas = {wanted}",
        server.connections_now
    );
    if wanted <= u64::from(usable) {
        return Step::passed(name, facts);
    }
    let mend = format!("set stagedoor.pool.maxServers to {} at most", (usable / replicas.max(1)).max(1));
    Step::failed(name, facts, mend)
}

fn clock(apart: u64) -> Step {
    let facts = format!("{apart} s apart");
    let mend = "let both machines keep time by NTP";
    if apart <= SKEW_SECONDS_WORTH_A_WORD {
        Step::passed("clock", facts)
    } else if apart <= SKEW_SECONDS_MAX {
        Step::warning("clock", facts, mend)
    } else {
        Step::failed("clock", facts, mend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::backstage::tests::config;
    use crate::cli::observe::Login;
    use crate::cli::report::Outcome;

    const NOW: i64 = 1_700_000_000;

    fn server() -> ServerSeen {
        ServerSeen {
            version: "17.2".to_owned(),
            version_number: 170_002,
            connections_max: 100,
            connections_reserved: 3,
            may_create_database: true,
            connections_now: 7,
            clock: NOW + 1,
            in_recovery: false,
        }
    }

    /// One that ends in so many days.
    fn certificate(days: i64) -> Facts {
        let key = rcgen::KeyPair::generate().unwrap();
        let own =
            rcgen::CertificateParams::new(["db.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        let not_after = u64::try_from(NOW + days * DAY_SECONDS).unwrap();
        let mut facts = Facts::read(own.der()).unwrap();
        facts.not_after = not_after;
        facts
    }

    fn tls(verified: bool, days: i64) -> TlsSeen {
        TlsSeen::Handshake {
            verified,
            version: "TLSv1.3".to_owned(),
            cipher: "TLS13_AES_256_GCM_SHA384".to_owned(),
            chain: vec![certificate(days)],
        }
    }

    fn seen(tls: TlsSeen, server: ServerSeen) -> Observed {
        Observed {
            dns: Attempt::Done(vec![[10, 0, 0, 7].into()]),
            tcp: Attempt::Done("10.0.0.7:5432".to_owned()),
            login: Login {
                configured: Some(Configured {
                    authorities: vec![certificate(3650)],
                    client_certificate: None,
                }),
                tls: Attempt::Done(tls),
                authentication: Attempt::Done("SCRAM-SHA-256-PLUS".to_owned()),
                server: Attempt::Done(server),
            },
        }
    }

    /// The outcome of the step `name`, with `replicas` of Backstage.
    fn judged(seen: &Observed, replicas: u32, name: &str) -> Step {
        let steps = judge(&config().upstreams[0], seen, Circumstances { replicas, now: NOW });
        steps.into_iter().find(|step| step.name == name).unwrap()
    }

    #[test]
    fn a_good_upstream_passes_every_step() {
        let steps = judge(
            &config().upstreams[0],
            &seen(tls(true, 90), server()),
            Circumstances { replicas: 1, now: NOW },
        );
        assert_eq!(steps.len(), 9);
        assert!(steps.iter().all(|step| step.outcome == Outcome::Passed), "{steps:#?}");
    }

    #[test]
    fn each_weakness_is_named_with_its_mend() {
        let with = |change: fn(&mut ServerSeen)| {
            let mut server = server();
            change(&mut server);
            seen(tls(true, 90), server)
        };
        let cases = [
            (seen(tls(true, 29), server()), "TLS", Outcome::Warning, "renew"),
            (seen(tls(false, 90), server()), "TLS", Outcome::Warning, "ssl.ca"),
            (seen(TlsSeen::Plaintext, server()), "TLS", Outcome::Warning, "certificate"),
            (with(|it| it.in_recovery = true), "server version", Outcome::Failed, "primary"),
            (with(|it| it.version_number = 130_012), "server version", Outcome::Warning, "upgrade"),
            (with(|it| it.may_create_database = false), "CREATE DATABASE", Outcome::Warning, "ensureExists"),
            (with(|it| it.connections_max = 20), "max_connections", Outcome::Failed, "maxServers to 17 "),
            (with(|it| it.clock = NOW - 60), "clock", Outcome::Warning, "NTP"),
            (with(|it| it.clock = NOW + 3600), "clock", Outcome::Failed, "NTP"),
        ];
        for (seen, name, outcome, mend) in cases {
            let step = judged(&seen, 1, name);
            assert!(step.outcome == outcome && step.mend.contains(mend), "{step:?}");
        }
    }

    #[test]
    fn our_own_certificates_are_counted_and_those_that_end_are_shown() {
        let mut seen = seen(tls(true, 90), server());
        let own = Configured {
            authorities: vec![certificate(3650), certificate(-1), certificate(7)],
            client_certificate: Some(certificate(12)),
        };
        seen.login.configured = Some(own);
        let step = judged(&seen, 1, "authorities");
        assert_eq!((step.outcome, step.certificates.len()), (Outcome::Warning, 2), "{step:?}");
        let step = judged(&seen, 1, "client certificate");
        assert_eq!((step.outcome, step.certificates[0].days_left), (Outcome::Warning, 12), "{step:?}");
    }

    #[test]
    fn a_chain_that_was_not_believed_is_shown_all_the_same() {
        let chain = vec![certificate(-3), certificate(90)];
        let trouble = Trouble { reason: "has expired".to_owned(), mend: String::new(), chain };
        let seen = Observed {
            login: Login { tls: Attempt::Failed(trouble), ..Login::default() },
            ..Observed::default()
        };
        let step = judged(&seen, 1, "TLS");
        assert_eq!(step.outcome, Outcome::Failed);
        assert_eq!(step.certificates.iter().map(|one| one.days_left).collect::<Vec<_>>(), [-3, 90]);
    }

    #[test]
    fn replicas_multiply_the_budget() {
        let seen = seen(tls(true, 90), server());
        assert_eq!(judged(&seen, 4, "max_connections").outcome, Outcome::Passed);
        let step = judged(&seen, 5, "max_connections");
        assert_eq!(step.outcome, Outcome::Failed);
        assert_eq!(step.mend, "set stagedoor.pool.maxServers to 19 at most");
    }

    #[test]
    fn after_a_failure_the_rest_is_skipped() {
        let trouble = Trouble {
            reason: "no such host".to_owned(),
            mend: "look at the name".to_owned(),
            chain: Vec::new(),
        };
        let seen = Observed { dns: Attempt::Failed(trouble), ..Observed::default() };
        let steps = judge(&config().upstreams[0], &seen, Circumstances { replicas: 1, now: NOW });
        assert_eq!(steps[0].outcome, Outcome::Failed);
        assert!(steps[1..].iter().all(|step| step.outcome == Outcome::Skipped));
    }
}
