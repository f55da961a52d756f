//! Types for what must never be printed by accident: customers' words and keys.

use std::{borrow::Cow, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, Unexpected, Visitor},
};

/// Words that belong to one tenant's customer: a question, an answer, an id the client chose.
///
/// `Debug` shows only the length, and there is no `Display` and no `Serialize`, so neither a log line nor a
/// derived formatter can leak it. Reading it takes a call to [`Text::expose`], which is easy to find in review.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Text(Arc<str>);

impl Text {
    /// The words themselves. Only for what goes back to the same customer: the answer, the model, the store.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Text {
    fn from(s: &str) -> Self {
        Self(s.into())
    }
}

impl From<String> for Text {
    fn from(s: String) -> Self {
        Self(s.into())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "‹{} bytes›", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
    }
}

/// A key or password from the configuration. `Debug` shows nothing of it, not even its length.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(s: String) -> Self {
        Self(s.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("‹secret›")
    }
}

/// Any type is taken from the format, and all but text refused here: what formats and serde say of a wrong type quotes the value.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(SecretVisitor)
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl JsonSchema for Text {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

struct SecretVisitor;

impl SecretVisitor {
    fn wrong<E: de::Error>(&self, found: &str) -> Result<Secret, E> {
        Err(E::invalid_type(Unexpected::Other(found), self))
    }
}

/// Of lists, mappings and nothing serde itself names only the type.
impl Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret as text, in quotes if it looks like a number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret(text.into()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
        Ok(text.into())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        self.wrong("a boolean")
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        self.wrong("a number")
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        self.wrong("a number")
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Secret, E> {
        self.wrong("a number")
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Secret, E> {
        self.wrong("a number")
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        self.wrong("a number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_words() {
        #[derive(Debug)]
        #[allow(dead_code, reason = "only its Debug output is looked at")]
        struct Holder {
            q: Text,
            key: Secret,
        }
        let shown = format!("{:?}", Holder { q: "my pin is 1234".into(), key: "hunter2".to_owned().into() });
        assert_eq!(shown, "Holder { q: ‹14 bytes›, key: ‹secret› }");
    }

    #[test]
    fn a_secret_of_a_wrong_type_is_not_quoted() {
        for (given, found) in [
            ("8675309", "a number"),
            ("-8675309", "a number"),
            ("8675309.5", "a number"),
            ("86753098675309867530986753098675309", "a number"),
            ("true", "a boolean"),
            ("[8675309]", "sequence"),
            ("{8675309: x}", "map"),
            ("~", "unit value"),
        ] {
            let expected = format!("invalid type: {found}, expected a secret as text, in quotes if it looks like a number");
            let said = serde_yaml::from_str::<Secret>(given).unwrap_err().to_string();
            assert!(said.starts_with(&expected) && !said.contains("8675309"), "{said}");
            if let Ok(value) = serde_yaml::from_str::<serde_yaml::Value>(given) {
                assert_eq!(serde_yaml::from_value::<Secret>(value).unwrap_err().to_string(), expected);
            }
        }
        assert_eq!(serde_yaml::from_str::<Secret>("'8675309'").unwrap().expose(), "8675309");
    }
}
