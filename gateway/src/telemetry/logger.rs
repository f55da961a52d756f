//! The process's log: one JSON object a line on standard error, for our own events and for what libraries say through `log`.

use std::{
    borrow::Cow,
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use fengda_plugins::api::{Clock, Incident, Timestamp};
use log::{LevelFilter, Log, Metadata, Record};
use serde::Serialize;

use super::{Event, Sink};

struct Logger {
    sink: Sink,
    clock: Clock,
    level: AtomicU8,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Our own crates. Of libraries there is never more than info, whatever the level: their debug and trace messages hold raw requests.
const OWN: &str = "fengda";
/// Libraries whose info is about themselves: only their warnings and errors.
const QUIET: [&str; 2] = ["fjall", "lsm_tree"];

/// Starts logging at a level, or changes the level.
pub fn init(level: LevelFilter) {
    let logger = LOGGER.get_or_init(|| Logger { sink: Sink::stderr(), clock: Clock::system(), level: AtomicU8::new(0) });
    logger.level.store(level as u8, Ordering::Relaxed);
    log::set_max_level(level);
    // Fails only if a host program that embeds the gateway has a logger of its own: then libraries log there.
    let _ = log::set_logger(logger);
    Incident::log_with(|incident| emit(&Event::Plugin(*incident)));
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Panics since [`log_panics`] was called.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Logs where a panic happened instead of its message, which may quote a customer's words.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let at = panic.location().map_or_else(|| "somewhere".to_owned(), ToString::to_string);
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        emit(&Event::Panicked { at: &at, thread: &thread });
        // The process may be about to end.
        Sink::flush();
    }));
}

/// Logs one of our events, if its level is on.
pub fn emit(event: &Event<'_>) {
    let Some(logger) = LOGGER.get() else { return };
    if event.level() as u8 <= logger.level.load(Ordering::Relaxed) {
        logger.sink.write(line(logger.clock.now(), event.level(), event));
    }
}

/// A log line: time and level, then the fields of `body`. JSON escapes control characters, so a line is always one line.
pub fn line(at: Timestamp, level: log::Level, body: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a, B> {
        ts: String,
        level: &'static str,
        #[serde(flatten)]
        body: &'a B,
    }
    let level = match level {
        log::Level::Error => "error",
        log::Level::Warn => "warn",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    };
    let mut out = serde_json::to_vec(&Line { ts: rfc3339(at), level, body }).expect("log events are plain maps with string keys");
    out.push(b'\n');
    out
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let most = match metadata.target() {
            target if target.starts_with(OWN) => log::Level::Trace,
            target if QUIET.iter().any(|library| target.starts_with(library)) => log::Level::Warn,
            _ => log::Level::Info,
        };
        metadata.level() <= most && metadata.level() as u8 <= self.level.load(Ordering::Relaxed)
    }

    fn log(&self, record: &Record<'_>) {
        #[derive(Serialize)]
        struct Said<'a> {
            target: &'a str,
            message: Cow<'a, str>,
        }
        if self.enabled(record.metadata()) {
            let message = record.args().as_str().map_or_else(|| Cow::Owned(record.args().to_string()), Cow::Borrowed);
            self.sink.write(line(self.clock.now(), record.level(), &Said { target: record.target(), message }));
        }
    }

    fn flush(&self) {
        Sink::flush();
    }
}

/// `2026-11-22T15:17:00.123Z`, after Howard Hinnant's `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>).
pub fn rfc3339(at: Timestamp) -> String {
    let (days, ms) = (at.0 / 86_400_000, at.0 % 86_400_000);
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (s, ms) = (ms / 1000, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_right_over_leap_days_and_year_ends() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_798_761_599_001, "2026-12-31T23:59:59.001Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(ms)), text);
        }
    }

    #[test]
    fn control_characters_cannot_break_a_line() {
        #[derive(Serialize)]
        struct Said {
            message: &'static str,
        }
        let out = line(Timestamp(0), log::Level::Warn, &Said { message: "a\n\"b\"\x1b[31m\0" });
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "{\"ts\":\"1970-01-01T00:00:00.000Z\",\"level\":\"warn\",\"message\":\"a\\n\\\"b\\\"\\u001b[31m\\u0000\"}\n");
    }

    #[test]
    fn libraries_log_no_more_than_info() {
        let logger = Logger { sink: Sink::stderr(), clock: Clock::system(), level: AtomicU8::new(LevelFilter::Trace as u8) };
        let enabled = |target, level| logger.enabled(&Metadata::builder().target(target).level(level).build());
        assert!(!enabled("pingora_core::protocols::http::v1", log::Level::Trace));
        assert!(!enabled("one::that::is::added::tomorrow", log::Level::Debug));
        assert!(enabled("pingora_core::services", log::Level::Info));
        assert!(!enabled("lsm_tree::tree", log::Level::Info));
        assert!(enabled("fengda::turn", log::Level::Trace));
    }
}
