//! The ways in which a tenant asks for too much.

use std::time::Duration;

use clap::ValueEnum;

/// What the aggressor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// Nothing: how much two measurements of the same differ on this machine.
    Nothing,
    /// Cheap turns at ten times its rate limit, which is the victim's rate.
    Rate,
    /// As many slow turns as ten times its fair share of `limits.in_flight`.
    InFlight,
    /// Scripts that never end, 32 at a time.
    Loops,
    /// Bodies of nearly `limits.body` with too long a question, ten for each short one that the victim sends.
    Bodies,
    /// Bodies of the same length and as often, to an application behind the gateway.
    Uploads,
}

impl Attack {
    /// How many requests the aggressor has under way at most.
    pub(super) fn workers(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Rate => 64,
            Self::InFlight => 10 * FAIR_SHARE,
            Self::Loops => 32,
            Self::Bodies | Self::Uploads => 16,
        }
    }

    /// The pause of one worker from one request to the next, if the victim sends `rate` messages a second.
    pub(super) fn pace(self, rate: u32) -> Duration {
        match self {
            Self::Rate | Self::Bodies | Self::Uploads => Duration::from_secs(1) * self.workers() / (10 * rate),
            Self::Nothing | Self::InFlight | Self::Loops => Duration::ZERO,
        }
    }

    /// The question.
    pub(super) fn query(self) -> String {
        match self {
            Self::Nothing | Self::Rate => "你好".to_owned(),
            Self::InFlight => SLOW.to_owned(),
            Self::Loops => LOOP.to_owned(),
            Self::Bodies | Self::Uploads => "多".repeat(BODY / 3),
        }
    }

    /// Where it is sent.
    pub(super) fn path(self) -> &'static str {
        if self == Self::Uploads { UPLOAD } else { CHAT }
    }

    /// Top-level keys of the gateway's configuration.
    pub(super) fn limits(self) -> String {
        match self {
            Self::InFlight => format!("limits: {{ in_flight: {} }}\n", 2 * FAIR_SHARE),
            _ => String::new(),
        }
    }

    /// The aggressor's own rate limit, if the victim sends `rate` messages a second.
    pub(super) fn rate_limit(self, rate: u32) -> u32 {
        if self == Self::Rate { rate } else { 100_000 }
    }
}

/// Where customers talk.
pub(super) const CHAT: &str = "/v1/chat";
/// Where the application takes files.
pub(super) const UPLOAD: &str = "/upload";
/// What two tenants may have in flight each.
const FAIR_SHARE: u32 = 50;
/// Length of a huge body's question in bytes; `limits.body` is 1 MiB.
const BODY: usize = 1_000_000;
/// The question that the model takes its time for.
pub(super) const SLOW: &str = "slow";
/// The question that the aggressor's script never answers.
pub(super) const LOOP: &str = "loop";
