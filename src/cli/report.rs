//! What `check` has found, as text for a person or JSON for a script. Pure.

use std::fmt;
use std::fmt::Write as _;

use serde::Serialize;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    /// It works, and somebody should know something.
    Warning,
    Failed,
    /// An earlier step failed.
    Skipped,
}

/// One step of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was tried: DNS, TCP, TLS …
    pub name: &'static str,
    pub outcome: Outcome,
    /// What was seen, or why it failed.
    pub reason: String,
    /// What to change; empty where nothing is to be changed.
    pub mend: String,
    /// The certificates that it is about, the server's own first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<Certificate>,
}

/// A certificate, for whoever has to renew it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    pub subject: String,
    /// Host names and addresses.
    pub names: Vec<String>,
    pub issuer: String,
    /// Seconds since 1970.
    pub not_before: u64,
    pub not_after: u64,
    /// Below zero where it has ended.
    pub days_left: i64,
}

impl Step {
    #[must_use]
    pub fn passed(name: &'static str, seen: impl Into<String>) -> Self {
        Self {
            name,
            outcome: Outcome::Passed,
            reason: seen.into(),
            mend: String::new(),
            certificates: Vec::new(),
        }
    }

    #[must_use]
    pub fn warning(name: &'static str, reason: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warning, mend: mend.into(), ..Self::passed(name, reason) }
    }

    #[must_use]
    pub fn failed(name: &'static str, reason: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failed, mend: mend.into(), ..Self::passed(name, reason) }
    }

    /// The same, about these certificates.
    #[must_use]
    pub fn about(mut self, certificates: Vec<Certificate>) -> Self {
        self.certificates = certificates;
        self
    }

    #[must_use]
    pub fn skipped(name: &'static str) -> Self {
        Self { outcome: Outcome::Skipped, ..Self::passed(name, "not tried: an earlier step failed") }
    }
}

/// The steps of one upstream, or of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// `configuration`, or the upstream's `host:port`.
    pub subject: String,
    pub steps: Vec<Step>,
}

/// Everything a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub sections: Vec<Section>,
}

impl Report {
    /// Whether no step failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.steps().all(|step| step.outcome != Outcome::Failed)
    }

    /// For a person: a line a step, and below a bad one what to do.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for section in &self.sections {
            let _ = writeln!(text, "{}", section.subject);
            for step in &section.steps {
                let reason = step.reason.replace('\n', "\n      ");
                let _ = writeln!(text, "  {} {:<20} {reason}", mark(step.outcome), step.name);
                for certificate in &step.certificates {
                    let _ = writeln!(text, "      ▸ {certificate}");
                }
                if !step.mend.is_empty() {
                    let _ = writeln!(text, "      → {}", step.mend);
                }
            }
        }
        let failed = self.steps().filter(|step| step.outcome == Outcome::Failed).count();
        let _ = match failed {
            0 => writeln!(text, "everything that was checked works"),
            1 => writeln!(text, "1 step failed"),
            many => writeln!(text, "{many} steps failed"),
        };
        text
    }

    /// For a script: one object, ended by a newline.
    #[must_use]
    pub fn json(&self) -> String {
        let whole = serde_json::json!({ "good": self.is_good(), "sections": self.sections });
        format!("{whole:#}\n")
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.sections.iter().flat_map(|section| &section.steps)
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.subject)?;
        if !self.names.is_empty() {
            write!(f, ", for {}", self.names.join(", "))?;
        }
        write!(f, ", issued by {}, ", self.issuer)?;
        match self.days_left {
            ..0 => write!(f, "ended {} days ago", self.days_left.unsigned_abs()),
            days => write!(f, "ends in {days} days"),
        }
    }
}

fn mark(outcome: Outcome) -> char {
    match outcome {
        Outcome::Passed => '✓',
        Outcome::Warning => '!',
        Outcome::Failed => '✗',
        Outcome::Skipped => '·',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let steps = vec![
            Step::passed("DNS", "10.0.0.7"),
            Step::failed("TCP", "connection refused", "open port 5432 to this pod"),
            Step::skipped("TLS"),
        ];
        Report { sections: vec![Section { subject: "db.example:5432".to_owned(), steps }] }
    }

    #[test]
    fn a_person_reads_what_failed_and_what_to_do() {
        assert_eq!(
            report().text(),
            "db.example:5432\n\
             \x20 ✓ DNS                  10.0.0.7\n\
             \x20 ✗ TCP                  connection refused\n\
             \x20     → open port 5432 to this pod\n\
             \x20 · TLS                  not tried: an earlier step failed\n\
             1 step failed\n"
        );
    }

    #[test]
    fn a_script_reads_the_same() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!(value["good"], false);
        assert_eq!(value["sections"][0]["steps"][1]["outcome"], "failed");
        assert_eq!(value["sections"][0]["steps"][1]["mend"], "open port 5432 to this pod");
    }

    #[test]
    fn a_reason_of_several_lines_stays_below_its_step() {
        let steps = vec![Step::failed("configuration", "2 faults:\n  a: b\n  c: d", "")];
        let report = Report { sections: vec![Section { subject: "configuration".to_owned(), steps }] };
        assert!(report.text().contains("2 faults:\n        a: b\n        c: d\n"), "{}", report.text());
    }

    #[test]
    fn certificates_stand_below_their_step() {
        let certificate = |subject: &str, days_left| Certificate {
            subject: subject.to_owned(),
            names: if subject == "CN=leaf" { vec!["db.example".to_owned()] } else { Vec::new() },
            issuer: "CN=ca".to_owned(),
            not_before: 0,
            not_after: 86_400,
            days_left,
        };
        let step = Step::failed("TLS", "not trusted", "")
            .about(vec![certificate("CN=leaf", 3), certificate("CN=ca", -9)]);
        let report = Report { sections: vec![Section { subject: "db".to_owned(), steps: vec![step] }] };
        let below = "      ▸ CN=leaf, for db.example, issued by CN=ca, ends in 3 days\n      ▸ CN=ca, issued by CN=ca, ended 9 days ago\n";
        assert!(report.text().contains(below), "{}", report.text());
        let value: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(value["sections"][0]["steps"][0]["certificates"][1]["daysLeft"], -9);
    }

    #[test]
    fn a_warning_is_not_a_failure() {
        let steps = vec![Step::warning("clock", "7 s apart", "run chrony")];
        let report = Report { sections: vec![Section { subject: "db".to_owned(), steps }] };
        assert!(report.is_good());
        assert!(report.text().contains("! clock"));
        assert!(!self::report().is_good());
    }
}
