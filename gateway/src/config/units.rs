//! Values with a unit: durations, sizes, addresses. Each reader says what it takes when it is given something else.

use std::{fmt, net::SocketAddr, time::Duration};

use fengda_plugins::units::parse_duration;
use serde::{
    Deserializer,
    de::{self, Unexpected, Visitor},
};

/// `500ms`, `30s`, `5m`, `12h`, `7d`.
pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    let parse = |text: &str| parse_duration(text).ok();
    d.deserialize_str(Reader { expected: "a duration such as `500ms`, `30s`, `5m` or `7d`", parse })
}

/// `512B`, `64KiB`, `1MiB`, `1KB` … in bytes.
pub(super) fn size<'de, D: Deserializer<'de>, T: TryFrom<u64>>(d: D) -> Result<T, D::Error> {
    let parse = |text: &str| {
        let (number, unit) = split(text)?;
        let bytes = match unit {
            "B" => 1,
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.checked_mul(bytes)?.try_into().ok()
    };
    d.deserialize_str(Reader { expected: "a size such as `64KiB` or `1MiB`", parse })
}

/// `127.0.0.1:8080`, `[::1]:8080`.
pub(super) fn address<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
    d.deserialize_str(Reader { expected: "an address and port such as `127.0.0.1:8080`", parse: |text: &str| text.parse().ok() })
}

/// `off`, `error`, `warn`, `info`, `debug`, `trace`.
pub(super) fn level<'de, D: Deserializer<'de>>(d: D) -> Result<log::LevelFilter, D::Error> {
    d.deserialize_str(Reader { expected: "one of `off`, `error`, `warn`, `info`, `debug`, `trace`", parse: |text: &str| text.parse().ok() })
}

/// A number and its unit; `None` unless the number is plain digits.
fn split(text: &str) -> Option<(u64, &str)> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    Some((number.parse().ok()?, unit))
}

/// Reads text with `parse`; anything else, and any other text, is not what was `expected`.
struct Reader<F> {
    expected: &'static str,
    parse: F,
}

impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for Reader<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use serde_yaml::Value;

    use super::*;

    #[test]
    fn units_are_read_and_anything_else_is_refused() {
        let durations = ["500ms", "0s", "30s", "5m", "2h", "7d"].map(|t| duration(Value::from(t)).unwrap().as_millis());
        assert_eq!(durations, [500, 0, 30_000, 300_000, 7_200_000, 604_800_000]);
        let sizes = ["0B", "64KiB", "1MiB", "1KB", "2GiB", "3MB"].map(|t| size::<_, u64>(Value::from(t)).unwrap());
        assert_eq!(sizes, [0, 65_536, 1_048_576, 1_000, 2_147_483_648, 3_000_000]);
        for bad in ["", "30", "s", "30 s", "-1s", "+1s", "1.5s", "30S", "1y", "99999999999999999999s", "18446744073709551615d", "３s"] {
            assert!(duration(Value::from(bad)).is_err(), "{bad}");
        }
        for bad in ["", "64", "64kib", "64K", "1TiB", "18446744073709551615KiB"] {
            assert!(size::<_, u64>(Value::from(bad)).is_err(), "{bad}");
        }
        assert_eq!(
            size::<_, u8>(Value::from("1KiB")).unwrap_err().to_string(),
            "invalid value: string \"1KiB\", expected a size such as `64KiB` or `1MiB`"
        );
        assert!(duration(Value::from(30)).is_err() && address(Value::from("localhost:1")).is_err());
        assert_eq!(address(Value::from("[::1]:8080")).unwrap().port(), 8080);
    }
}
