//! The part of `deny.toml` that we enforce, and the checks.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{licence, spec::Spec};

/// `deny.toml`. A key that is not here is an error: a rule that nobody enforces must not look like one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Policy {
    #[serde(rename = "graph")]
    _graph: serde::de::IgnoredAny,
    /// Only cargo-deny reads this: the advisory database cannot be had offline. `bans.deny` holds a snapshot of it.
    #[serde(rename = "advisories")]
    _advisories: serde::de::IgnoredAny,
    pub(crate) licenses: Licenses,
    pub(crate) bans: Bans,
    pub(crate) sources: Sources,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Licenses {
    /// SPDX names, with their exception if they have one.
    pub(crate) allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Bans {
    multiple_versions: Deny,
    pub(crate) skip: Vec<Entry>,
    pub(crate) deny: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Sources {
    unknown_registry: Deny,
    unknown_git: Deny,
    pub(crate) allow_registry: Vec<String>,
}

/// The only level there is: what is worth a rule is worth keeping.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Deny {
    Deny,
}

/// A crate, which of its versions, and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    #[serde(rename = "crate")]
    spec: Spec,
    reason: String,
}

/// A package as `cargo metadata` describes it.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression.
    pub(crate) license: Option<String>,
    /// Where it comes from; `None` for a path.
    pub(crate) source: Option<String>,
}

/// Everything in `packages` that `policy` does not allow, and everything in `policy` that is out of date; each begins with the crate's name.
pub(crate) fn violations(policy: &Policy, packages: &[Package]) -> Vec<String> {
    let Bans { multiple_versions: Deny::Deny, .. } = policy.bans;
    let Sources { unknown_registry: Deny::Deny, unknown_git: Deny::Deny, .. } = policy.sources;
    let mut found = Vec::new();
    for package in packages {
        let Package { name, version, license, source, .. } = package;
        match license.as_deref().map(|l| licence::allowed(l, &policy.licenses.allow)) {
            Some(Ok(true)) => {}
            Some(Ok(false)) => {
                found.push(format!("{name} {version}: its licence `{}` is not allowed", license.as_deref().unwrap_or_default()));
            }
            Some(Err(e)) => found.push(format!("{name} {version}: its licence cannot be read: {e}")),
            None => found.push(format!("{name} {version}: names no licence")),
        }
        if let Some(source) = source
            && !policy.sources.allow_registry.iter().any(|r| source.strip_prefix("registry+") == Some(r))
        {
            found.push(format!("{name} {version}: comes from {source}"));
        }
        for ban in policy.bans.deny.iter().filter(|b| b.spec.matches(name, version)) {
            found.push(format!("{name} {version}: banned, {}", ban.reason));
        }
    }
    found.extend(duplicates(&policy.bans.skip, packages));
    found
}

/// Crates with several versions, and skips for crates that have only one.
fn duplicates(skip: &[Entry], packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    for (name, all) in &versions {
        let left: Vec<_> = all.iter().copied().filter(|v| !skip.iter().any(|s| s.spec.matches(name, v))).collect();
        if left.len() > 1 {
            found.push(format!("{name} {}: several versions", left.join(" and ")));
        }
    }
    for entry in skip {
        if !versions.iter().any(|(name, all)| all.len() > 1 && all.iter().any(|v| entry.spec.matches(name, v))) {
            found.push(format!("{} is skipped ({}), but is no duplicate any more", entry.spec, entry.reason));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        [graph]
        [advisories]
        [licenses]
        allow = ["MIT"]
        [bans]
        multiple-versions = "deny"
        skip = [{ crate = "two@1.0.0", reason = "old" }]
        deny = [{ crate = "bad:<2.0.0", reason = "RUSTSEC-1" }]
        [sources]
        unknown-registry = "deny"
        unknown-git = "deny"
        allow-registry = ["https://index"]
    "#;

    fn package(name: &str, version: &str) -> Package {
        let source = Some("registry+https://index".to_owned());
        Package { name: name.into(), version: version.into(), license: Some("MIT".into()), source }
    }

    /// What is wrong with these packages beside the two that make the skip right.
    fn check(packages: impl IntoIterator<Item = Package>) -> Vec<String> {
        let mut all = vec![package("two", "1.0.0"), package("two", "2.0.0")];
        all.extend(packages);
        violations(&toml::from_str(POLICY).unwrap(), &all)
    }

    #[test]
    fn what_keeps_the_policy_passes() {
        assert_eq!(check([package("good", "1.0.0"), package("bad", "2.0.0")]), Vec::<String>::new());
        assert_eq!(check([Package { source: None, ..package("ours", "0.1.0") }]), Vec::<String>::new());
    }

    #[test]
    fn each_rule_catches_its_offender() {
        for (offenders, expected) in [
            (vec![Package { license: Some("GPL-3.0".into()), ..package("a", "1.0.0") }], "a 1.0.0: its licence `GPL-3.0` is not allowed"),
            (vec![Package { license: None, ..package("a", "1.0.0") }], "a 1.0.0: names no licence"),
            (
                vec![Package { license: Some("MIT OR".into()), ..package("a", "1.0.0") }],
                "a 1.0.0: its licence cannot be read: a name is missing at the end",
            ),
            (vec![Package { source: Some("git+https://index".into()), ..package("a", "1.0.0") }], "a 1.0.0: comes from git+https://index"),
            (
                vec![Package { source: Some("registry+https://other".into()), ..package("a", "1.0.0") }],
                "a 1.0.0: comes from registry+https://other",
            ),
            (vec![package("a", "1.0.0"), package("a", "2.0.0")], "a 1.0.0 and 2.0.0: several versions"),
            (vec![package("two", "3.0.0")], "two 2.0.0 and 3.0.0: several versions"),
            (vec![package("bad", "1.9.9")], "bad 1.9.9: banned, RUSTSEC-1"),
        ] {
            assert_eq!(check(offenders), [expected]);
        }
    }

    #[test]
    fn a_skip_that_is_needed_no_more_is_a_violation() {
        let found = violations(&toml::from_str(POLICY).unwrap(), &[package("two", "2.0.0")]);
        assert_eq!(found, ["two@1.0.0 is skipped (old), but is no duplicate any more"]);
    }

    #[test]
    fn a_rule_that_is_not_enforced_is_refused() {
        assert!(toml::from_str::<Policy>(&POLICY.replace("[licenses]", "[licenses]\nexceptions = []")).is_err());
        assert!(toml::from_str::<Policy>(&POLICY.replace("unknown-git = \"deny\"", "unknown-git = \"warn\"")).is_err());
        assert!(toml::from_str::<Policy>(&POLICY.replace("bad:<2.0.0", "bad:^2")).is_err());
    }
}
