//! Values with a unit as people write them, read alike everywhere in the configuration: durations and sizes.

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Unexpected, Visitor},
};

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

/// A field that holds a [`Duration`] and is written as text: `#[serde(with = "units::DurationText")]`.
///
/// It reads the field, writes its default, and says in the schema what may be written.
pub struct DurationText;

impl DurationText {
    /// See [`parse_duration`].
    ///
    /// # Errors
    /// The value is not a string, or not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        d.deserialize_str(Reader {
            expected: "a duration with its unit, as `500ms`, `30s` or `5m`",
            parse: |text: &str| parse_duration(text).ok(),
        })
    }

    /// Writes the longest unit of which it is a whole number.
    ///
    /// # Errors
    /// The format's.
    pub fn serialize<S: Serializer>(duration: &Duration, s: S) -> Result<S::Ok, S::Error> {
        let ms = duration.as_millis();
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
        let whole = units.into_iter().find(|(unit, _)| ms != 0 && ms.is_multiple_of(*unit));
        let (unit_ms, unit) = whole.unwrap_or((1, "s"));
        s.collect_str(&format_args!("{}{unit}", ms / unit_ms))
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "description": "A whole number and its unit: `500ms`, `30s`, `5m`, `12h`, `7d`." })
    }
}

/// A field that holds a number of bytes and is written as text: `#[serde(with = "units::SizeText")]`. See [`DurationText`].
pub struct SizeText;

impl SizeText {
    const UNITS: [(u64, &str); 7] =
        [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "KB"), (1, "B")];

    /// Reads a whole number with a unit: `B`, `KiB`, `MiB`, `GiB`, or `KB`, `MB`, `GB`.
    ///
    /// # Errors
    /// The value is not a string, not a size, or too large for the field.
    pub fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<u64>>(d: D) -> Result<T, D::Error> {
        let parse = |text: &str| {
            let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
            let (bytes, _) = Self::UNITS.into_iter().find(|(_, name)| *name == unit)?;
            number.parse::<u64>().ok()?.checked_mul(bytes)?.try_into().ok()
        };
        d.deserialize_str(Reader { expected: "a size such as `64KiB` or `1MiB`", parse })
    }

    /// Writes the first unit of which it is a whole number.
    ///
    /// # Errors
    /// The format's.
    pub fn serialize<S: Serializer, T: Copy + TryInto<u64>>(size: &T, s: S) -> Result<S::Ok, S::Error> {
        let bytes: u64 = (*size).try_into().unwrap_or(u64::MAX);
        let whole = Self::UNITS.into_iter().find(|(unit, _)| bytes != 0 && bytes.is_multiple_of(*unit));
        let (unit_bytes, unit) = whole.unwrap_or((1, "B"));
        s.collect_str(&format_args!("{}{unit}", bytes / unit_bytes))
    }
}

impl JsonSchema for SizeText {
    fn schema_name() -> Cow<'static, str> {
        "size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|KB|MB|GB)$", "description": "A whole number and its unit: `512B`, `64KiB`, `1MiB`, `1KB`." })
    }
}

/// A whole number of per cent up to 100: `50%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(into = "String")]
#[schemars(with = "String", rename = "percent", extend("pattern" = "^[0-9]+%$"))]
pub struct Percent(pub u32);

impl From<Percent> for String {
    fn from(Percent(number): Percent) -> Self {
        format!("{number}%")
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let parse = |text: &str| {
            let digits = text.strip_suffix('%').filter(|n| n.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse().ok().filter(|n| *n <= 100).map(Self)
        };
        d.deserialize_str(Reader { expected: "a percentage from `0%` to `100%`, in whole numbers", parse })
    }
}

/// Reads text with `parse`; anything else, and any other text, is not what was `expected`.
pub struct Reader<F> {
    /// What would be right, with examples: goes into the message.
    pub expected: &'static str,
    /// `None` for text that is something else.
    pub parse: F,
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
    use super::*;

    #[test]
    fn percent_are_whole_and_at_most_all() {
        let read = |text: &str| Percent::deserialize(serde_yaml::Value::from(text)).map(|Percent(number)| number);
        assert_eq!(["0%", "25%", "100%"].map(|t| read(t).unwrap()), [0, 25, 100]);
        assert!(["", "%", "25", "101%", "2.5%", "-1%", "+1%", "25 %", "25%%"].iter().all(|t| read(t).is_err()));
        assert!(Percent::deserialize(serde_yaml::Value::from(25)).is_err());
    }

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        for (text, ms) in [("0s", 0), ("25ms", 25), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("7d", 604_800_000)] {
            assert_eq!(parse_duration(text).unwrap().as_millis(), ms);
        }
        for bad in ["", "30", "s", "1.5s", "-1s", "1 s", "1w", "99999999999999999999s", "18446744073709551615d", "１s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_need_a_whole_number_and_a_unit() {
        let read = |text: &str| SizeText::deserialize::<_, u64>(serde_yaml::Value::from(text));
        let sizes = ["0B", "64KiB", "1MiB", "1KB", "2GiB", "3MB"].map(|t| read(t).unwrap());
        assert_eq!(sizes, [0, 65_536, 1_048_576, 1_000, 2_147_483_648, 3_000_000]);
        for bad in ["", "64", "64kib", "64K", "1TiB", "18446744073709551615KiB"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(
            SizeText::deserialize::<_, u8>(serde_yaml::Value::from("1KiB")).unwrap_err().to_string(),
            "invalid value: string \"1KiB\", expected a size such as `64KiB` or `1MiB`"
        );
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for text in ["0s", "1500ms", "30s", "1m", "12h", "7d"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(DurationText::serialize(&duration, serde_yaml::value::Serializer).unwrap(), text);
        }
        for text in ["0B", "100B", "64KiB", "1MiB", "3KB"] {
            let size: u64 = SizeText::deserialize(serde_yaml::Value::from(text)).unwrap();
            assert_eq!(SizeText::serialize(&size, serde_yaml::value::Serializer).unwrap(), text);
        }
    }
}
