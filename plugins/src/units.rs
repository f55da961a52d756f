//! Durations as people write them, read alike by every plugin's configuration: `500ms`, `30s`, `5m`, `2h`, `7d`.

use std::{fmt, time::Duration};

use serde::{Deserializer, de};

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: write a whole number and a unit (ms, s, m, h, d), as `30s`")]
pub struct DurationError(String);

/// Reads a whole number with a unit: `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// It is something else, or longer than 2^64 milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let bad = || DurationError(text.chars().take(32).collect());
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(bad)
}

/// [`parse_duration`] for `#[serde(deserialize_with)]`.
///
/// # Errors
/// The value is not a string, or not a duration.
pub fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration with its unit, as `500ms`, `30s` or `5m`")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            parse_duration(text).map_err(E::custom)
        }
    }
    d.deserialize_str(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        for (text, ms) in [("0s", 0), ("25ms", 25), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("7d", 604_800_000)] {
            assert_eq!(parse_duration(text).unwrap().as_millis(), ms);
        }
        for bad in ["", "30", "s", "1.5s", "-1s", "1 s", "1w", "99999999999999999999s", "18446744073709551615d", "１s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
