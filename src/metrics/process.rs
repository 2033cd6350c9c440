//! `process_*`: what the kernel says of this process, read at each scrape. Linux only; elsewhere they are absent.

use std::fs;

use prometheus::Counter;
use prometheus::Gauge;
use prometheus::IntGauge;
use prometheus::core::Collector;
use prometheus::core::Desc;
use prometheus::proto::MetricFamily;

use crate::metrics::families::known;

/// Ticks a second of `/proc/self/stat`: `USER_HZ`, which is 100 on every platform that Rust's Linux targets name.
const TICKS_PER_SECOND: f64 = 100.0;

/// The usual families of Prometheus' client libraries.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    cpu_seconds: Counter,
    start_time: Gauge,
    resident: IntGauge,
    virtual_memory: IntGauge,
    threads: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
}

impl ProcessCollector {
    pub(super) fn new() -> Self {
        let whole = |name: &str, help: &str| known(IntGauge::new(name, help));
        Self {
            cpu_seconds: known(Counter::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            )),
            start_time: known(Gauge::new(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            )),
            resident: whole("process_resident_memory_bytes", "Resident memory size in bytes."),
            virtual_memory: whole("process_virtual_memory_bytes", "Virtual memory size in bytes."),
            threads: whole("process_threads", "Number of OS threads in the process."),
            open_fds: whole("process_open_fds", "Number of open file descriptors."),
            max_fds: whole("process_max_fds", "Maximum number of open file descriptors."),
        }
    }

    fn update(&self) {
        if let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::parse) {
            let spent = stat.cpu_ticks / TICKS_PER_SECOND;
            self.cpu_seconds.inc_by((spent - self.cpu_seconds.get()).max(0.0));
            if let Some(boot) = read("/proc/stat").as_deref().and_then(boot_time) {
                self.start_time.set(boot + stat.start_ticks / TICKS_PER_SECOND);
            }
        }
        let status = read("/proc/self/status").unwrap_or_default();
        set(&self.resident, number_after(&status, "VmRSS:").map(kibibytes));
        set(&self.virtual_memory, number_after(&status, "VmSize:").map(kibibytes));
        set(&self.threads, number_after(&status, "Threads:"));
        set(&self.open_fds, open_fds());
        let limits = read("/proc/self/limits").unwrap_or_default();
        set(&self.max_fds, number_after(&limits, "Max open files"));
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.resident, &self.virtual_memory, &self.threads, &self.open_fds, &self.max_fds];
        let whole = gauges.into_iter().flat_map(Collector::desc);
        self.cpu_seconds.desc().into_iter().chain(self.start_time.desc()).chain(whole).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.update();
        let gauges = [&self.resident, &self.virtual_memory, &self.threads, &self.open_fds, &self.max_fds];
        let whole = gauges.into_iter().flat_map(Collector::collect);
        self.cpu_seconds.collect().into_iter().chain(self.start_time.collect()).chain(whole).collect()
    }
}

/// What we need of `/proc/self/stat` (proc(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: f64,
    start_ticks: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the command in parentheses and may hold spaces: count from the last ')'.
        let (_, rest) = text.rsplit_once(')')?;
        let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)? })
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn set(gauge: &IntGauge, value: Option<i64>) {
    if let Some(value) = value {
        gauge.set(value);
    }
}

/// The first number after `key` at the start of a line.
fn number_after(text: &str, key: &str) -> Option<i64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn kibibytes(number: i64) -> i64 {
    number.saturating_mul(1024)
}

/// Seconds since the epoch at which the machine started.
fn boot_time(stat: &str) -> Option<f64> {
    let rest = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    rest.trim().parse().ok()
}

fn open_fds() -> Option<i64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    i64::try_from(count.saturating_sub(1)).ok() // One of them is the directory itself.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_move_the_fields() {
        let text = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 17 18 1234 20 21";
        assert_eq!(Stat::parse(text), Some(Stat { cpu_ticks: 200.0, start_ticks: 1234.0 }));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }

    #[test]
    fn the_limits_table_is_read() {
        let text = "Limit  Soft  Hard  Units\nMax open files            1024                 4096  files\n";
        assert_eq!(number_after(text, "Max open files"), Some(1024));
        assert_eq!(number_after("Max open files   unlimited", "Max open files"), None);
    }

    #[test]
    fn on_linux_every_number_is_there() {
        let collector = ProcessCollector::new();
        collector.update();
        assert!(collector.resident.get() > 1 << 20);
        assert!(collector.threads.get() > 0);
        assert!(collector.open_fds.get() > 2);
        assert!(collector.max_fds.get() > collector.open_fds.get());
        assert!(collector.start_time.get() > 1.6e9);
        assert!(collector.virtual_memory.get() >= collector.resident.get());
    }
}
