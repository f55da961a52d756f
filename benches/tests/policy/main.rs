//! Holds the dependencies against `deny.toml` without a network and without cargo-deny, and the errors of all crates against one rule, so
//! that every `cargo test` does.

#![allow(clippy::unwrap_used, reason = "its helpers are tests too")]

mod errors;
mod licence;
mod policy;
mod spec;

use std::{collections::HashSet, env, fs, process::Command};

use serde::Deserialize;

use policy::{Package, Policy, violations};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// What `cargo` prints; run where the workspace is.
fn cargo(args: &[&str]) -> String {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The packages that are built here; those of other targets need not be on this machine. `cargo metadata` also has what only a
/// feature that is off would need (`ring` of rustls-webpki, say); `cargo tree` does not.
fn packages() -> Vec<Package> {
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
    let metadata = cargo(&["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", host]);
    let edges = ["--edges", "normal,build,dev", "--prefix", "none", "--no-dedupe", "--format", "{p}"];
    let tree = cargo(&[&["tree", "--offline", "--locked", "--workspace", "--target", host][..], &edges].concat());
    let built: HashSet<(&str, &str)> =
        tree.lines().filter_map(|l| l.split_once(" v")).map(|(name, rest)| (name, rest.split(' ').next().unwrap())).collect();
    let mut packages = serde_json::from_str::<Metadata>(&metadata).unwrap().packages;
    packages.retain(|p| built.contains(&(p.name.as_str(), p.version.as_str())));
    packages
}

fn policy() -> Policy {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deny.toml");
    toml::from_str(&fs::read_to_string(path).unwrap()).unwrap_or_else(|e| panic!("deny.toml: {e}"))
}

#[test]
#[cfg(target_os = "linux")] // the policy is for what we ship, and other systems build other crates
fn the_dependencies_keep_the_policy() {
    let found = violations(&policy(), &packages());
    assert!(found.is_empty(), "deny.toml is not kept:\n{}", found.join("\n"));
}

#[test]
#[cfg(target_os = "linux")]
fn each_rule_is_alive_on_the_real_tree() {
    let packages = packages();
    let names = |found: Vec<String>, name: &str| found.iter().any(|v| v.starts_with(name));

    let mut without_mit = policy();
    without_mit.licenses.allow.retain(|l| l != "MIT");
    assert!(names(violations(&without_mit, &packages), "bytes "));

    let mut without_skips = policy();
    without_skips.bans.skip.clear();
    assert!(names(violations(&without_skips, &packages), "syn "));

    let mut without_registry = policy();
    without_registry.sources.allow_registry.clear();
    assert!(names(violations(&without_registry, &packages), "tokio "));

    let mut against_tokio = policy();
    against_tokio.bans.deny.push(serde_json::from_str(r#"{ "crate": "tokio:<99.0.0", "reason": "a test" }"#).unwrap());
    assert!(names(violations(&against_tokio, &packages), "tokio "));
}
