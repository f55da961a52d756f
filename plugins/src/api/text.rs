//! Types for what must never be printed by accident: customers' words and keys.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer};

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

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
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
}
