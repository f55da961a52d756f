//! What only the gateway's part of the file holds as text: addresses and log levels. Durations and sizes are in [`fengda_plugins::units`].

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use fengda_plugins::units::Reader;
pub(super) use fengda_plugins::units::{DurationText, Percent, SizeText};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserializer, Serialize, Serializer};

/// A field that holds an address and port, `127.0.0.1:8080` or `[::1]:8080`: `#[serde(with = "units::AddressText")]`.
pub(super) struct AddressText;

impl AddressText {
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
        d.deserialize_str(Reader { expected: "an address and port such as `127.0.0.1:8080`", parse: |text: &str| text.parse().ok() })
    }

    pub(super) fn serialize<S: Serializer>(address: &SocketAddr, s: S) -> Result<S::Ok, S::Error> {
        address.serialize(s)
    }
}

impl JsonSchema for AddressText {
    fn schema_name() -> Cow<'static, str> {
        "address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([0-9.]+|\\[[0-9a-fA-F:.]+\\]):[0-9]{1,5}$", "description": "An IP address and port: `127.0.0.1:8080`, `[::1]:8080`." })
    }
}

/// A field that holds an address and port, or `none`: `#[serde(with = "units::AddressOrNone")]`.
pub(super) struct AddressOrNone;

impl AddressOrNone {
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
        let parse = |text: &str| if text == "none" { Some(None) } else { text.parse().ok().map(Some) };
        d.deserialize_str(Reader { expected: "an address and port such as `127.0.0.1:9901`, or `none`", parse })
    }

    pub(super) fn serialize<S: Serializer>(address: &Option<SocketAddr>, s: S) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => address.serialize(s),
            None => s.serialize_str("none"),
        }
    }
}

impl JsonSchema for AddressOrNone {
    fn schema_name() -> Cow<'static, str> {
        "addressOrNone".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(none|([0-9.]+|\\[[0-9a-fA-F:.]+\\]):[0-9]{1,5})$", "description": "An IP address and port, as `127.0.0.1:9901`, or `none`." })
    }
}

/// Reads the duration of a key whose default depends on others.
pub(super) fn some_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    DurationText::deserialize(d).map(Some)
}

/// Reads the size of a key whose default depends on others.
pub(super) fn some_size<'de, D: Deserializer<'de>, T: TryFrom<u64>>(d: D) -> Result<Option<T>, D::Error> {
    SizeText::deserialize(d).map(Some)
}

/// A field that holds the least severe level that is logged: `#[serde(with = "units::LevelText")]`.
pub(super) struct LevelText;

impl LevelText {
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<log::LevelFilter, D::Error> {
        let expected = "one of `off`, `error`, `warn`, `info`, `debug`, `trace`";
        d.deserialize_str(Reader {
            expected,
            parse: |text: &str| text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_lowercase())),
        })
    }

    pub(super) fn serialize<S: Serializer>(level: &log::LevelFilter, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&level.as_str().to_ascii_lowercase())
    }
}

impl JsonSchema for LevelText {
    fn schema_name() -> Cow<'static, str> {
        "level".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["off", "error", "warn", "info", "debug", "trace"] })
    }
}

#[cfg(test)]
mod tests {
    use serde_yaml::Value;

    use super::*;

    #[test]
    fn an_address_is_a_number_and_a_port() {
        assert_eq!(AddressText::deserialize(Value::from("[::1]:8080")).unwrap().port(), 8080);
        for bad in ["localhost:1", "127.0.0.1", ":8080", ""] {
            assert!(AddressText::deserialize(Value::from(bad)).is_err(), "{bad}");
        }
    }
}
