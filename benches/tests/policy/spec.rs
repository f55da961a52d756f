//! Which versions of a crate a rule means, as cargo-deny writes it: `name`, `name@1.2.3`, `name:>=1.2.0,<1.3.4`.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error};

/// A crate and some of its versions.
pub(crate) struct Spec {
    text: String,
    name: String,
    /// All of them must hold.
    bounds: Vec<(Op, Version)>,
}

#[derive(Clone, Copy)]
enum Op {
    Exact,
    Less,
    AtLeast,
}

/// major, minor, patch. Pre-releases count as their release: a rule that is a little too strict shows itself.
type Version = [u64; 3];

impl Spec {
    fn parse(text: &str) -> Result<Self, String> {
        let (name, bounds) = if let Some((name, version)) = text.split_once('@') {
            (name, vec![(Op::Exact, parse_version(version)?)])
        } else if let Some((name, range)) = text.split_once(':') {
            (name, range.split(',').map(parse_bound).collect::<Result<_, _>>()?)
        } else {
            (text, Vec::new())
        };
        Ok(Self { text: text.to_owned(), name: name.to_owned(), bounds })
    }

    /// Whether it means this version of this crate. A version that cannot be read is meant: it needs a look.
    pub(crate) fn matches(&self, name: &str, version: &str) -> bool {
        self.name == name
            && parse_version(version).map_or(true, |version| {
                self.bounds.iter().all(|(op, bound)| match op {
                    Op::Exact => version == *bound,
                    Op::Less => version < *bound,
                    Op::AtLeast => version >= *bound,
                })
            })
    }
}

fn parse_bound(text: &str) -> Result<(Op, Version), String> {
    let text = text.trim();
    if let Some(version) = text.strip_prefix(">=") {
        Ok((Op::AtLeast, parse_version(version)?))
    } else if let Some(version) = text.strip_prefix('<') {
        Ok((Op::Less, parse_version(version)?))
    } else {
        Err(format!("`{text}` is neither `>=` nor `<` a version"))
    }
}

fn parse_version(text: &str) -> Result<Version, String> {
    let release = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Result<Vec<u64>, _> = release.split('.').map(str::parse).collect();
    parts.ok().and_then(|p| p.try_into().ok()).ok_or_else(|| format!("`{text}` is not a version of three numbers"))
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Spec {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_means_its_versions() {
        for (spec, inside, outside) in [
            ("a", &["0.1.0", "9.9.9"][..], &[][..]),
            ("a@1.2.3", &["1.2.3", "1.2.3+deprecated"], &["1.2.4", "1.20.3"]),
            ("a:<1.10.0", &["0.0.1", "1.9.9"], &["1.10.0", "2.0.0"]),
            ("a:>=1.2.0,<1.3.4", &["1.2.0", "1.3.3"], &["1.1.9", "1.3.4"]),
        ] {
            let spec = Spec::parse(spec).unwrap();
            assert!(inside.iter().all(|v| spec.matches("a", v)), "{spec}");
            assert!(!outside.iter().any(|v| spec.matches("a", v)), "{spec}");
            assert!(!spec.matches("b", "1.2.3"));
        }
    }

    #[test]
    fn what_cannot_be_compared_is_an_error_or_a_match() {
        for bad in ["a@1", "a:^1.0.0", "a:1.0.0", "a:<1.x.0", "a:"] {
            assert!(Spec::parse(bad).is_err(), "{bad}");
        }
        assert!(Spec::parse("a@1.2.3").unwrap().matches("a", "nonsense"));
    }
}
