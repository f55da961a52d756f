//! The process as its operating system sees it, under the names that all Prometheus clients use
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>). Elsewhere than on Linux they stay 0.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

use fengda_plugins::api::{Family, Meters};
use rustix::param::{clock_ticks_per_second, page_size};

const fn family(name: &'static str, help: &'static str) -> Family {
    Family { name, help, labels: &[] }
}

const CPU: Family = family("process_cpu_seconds_total", "CPU time of the process, user and system.");
const MEMORY: Family = family("process_resident_memory_bytes", "Memory of the process that is in RAM.");
const THREADS: Family = family("process_threads", "Threads of the process.");
const FILES: Family = family("process_open_fds", "Files and sockets that the process has open.");
const MAX_FILES: Family = family("process_max_fds", "Most files and sockets that it may have open.");
const START: Family = family("process_start_time_seconds", "When the process began, in seconds since the Unix epoch.");

/// Has them read at each scrape.
pub(super) fn register(meters: &Meters) {
    let gauge = |family| meters.gauge(family).with_label_values::<&str>(&[]);
    let cpu = meters.sum(CPU).with_label_values::<&str>(&[]);
    let (memory, threads, files, max_files, start) = (gauge(MEMORY), gauge(THREADS), gauge(FILES), gauge(MAX_FILES), gauge(START));
    let ticks_seen = AtomicU64::new(0);
    meters.before_gather(move |_| {
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
            let ticks = clock_ticks_per_second() as f64;
            cpu.inc_by(stat.cpu_ticks.saturating_sub(ticks_seen.swap(stat.cpu_ticks, Ordering::Relaxed)) as f64 / ticks);
            memory.set(stat.resident_pages.saturating_mul(i64::try_from(page_size()).unwrap_or(4096)));
            threads.set(stat.threads);
            start.set(booted_at() + i64::try_from(stat.start_ticks / clock_ticks_per_second()).unwrap_or(0));
        }
        files.set(fs::read_dir("/proc/self/fd").map_or(0, |open| i64::try_from(open.count()).unwrap_or(i64::MAX)));
        max_files.set(most_files());
    });
}

/// The fields of `/proc/self/stat` that are told (proc_pid_stat(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    threads: i64,
    start_ticks: u64,
    resident_pages: i64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field, the name in parentheses, can hold anything; the third is the first after it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let (user, system) = (field(14)?.parse::<u64>().ok()?, field(15)?.parse::<u64>().ok()?);
        Some(Self {
            cpu_ticks: user + system,
            threads: field(20)?.parse().ok()?,
            start_ticks: field(22)?.parse().ok()?,
            resident_pages: field(24)?.parse().ok()?,
        })
    }
}

/// When the machine began, in seconds since the Unix epoch; 0 if it does not say.
fn booted_at() -> i64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0)
}

/// The soft limit; -1 if there is none, 0 if it cannot be read.
fn most_files() -> i64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next().map(str::to_owned));
    soft.map_or(0, |soft| soft.parse().unwrap_or(-1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_stat_are_found_whatever_the_process_is_called() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 12 8 0 0 20 0 5 0 9000 1000000 250 18446744073709551615 1 1";
        let expected = Stat { cpu_ticks: 20, threads: 5, start_ticks: 9000, resident_pages: 250 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("42 (cut"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_seen() {
        let meters = Meters::default();
        register(&meters);
        let families = meters.gather();
        let value = |name: &str| families.iter().find(|f| f.name() == name).unwrap().get_metric()[0].get_gauge().get_value();
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0 && value("process_threads") >= 1.0);
        assert!(value("process_start_time_seconds") > 1.6e9);
    }
}
