//! An error that carries its cause does not print it too: who prints an error prints its causes after it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The variants in a source file that print the cause they carry.
fn doubled(source: &str) -> Vec<&str> {
    let variants = source.split("#[error(").skip(1).map(|variant| variant.split("\n}").next().unwrap_or_default());
    let prints = |message: &str| ["{0", "{source", "{cause", "{error", ".0"].iter().any(|cause| message.contains(cause));
    let carries = |fields: &str| ["#[from]", "#[source]", " source:"].iter().any(|cause| fields.contains(cause));
    variants.filter(|variant| variant.split_once(")]\n").is_some_and(|(message, fields)| prints(message) && carries(fields))).collect()
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_error_prints_its_cause_twice() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut all = Vec::new();
    ["plugins/src", "gateway/src", "benches/src"].iter().for_each(|dir| files(&root.join(dir), &mut all));
    for path in all {
        let source = fs::read_to_string(&path).unwrap();
        assert_eq!(doubled(&source), [""; 0], "{}", path.display());
    }
}

#[test]
fn one_that_does_is_found() {
    for (variant, found) in [
        ("#[error(\"it failed: {0}\")]\n    Io(#[from] io::Error),\n", true),
        ("#[error(\"it failed: {source}\")]\n    Io { source: io::Error },\n", true),
        ("#[error(\"it failed\")]\n    Io(#[from] io::Error),\n", false),
        ("#[error(\"it failed: {0}\")]\n    Io(String),\n", false),
        ("#[error(transparent)]\n    Io(#[from] io::Error),\n", false),
    ] {
        assert_eq!(!doubled(&format!("enum Error {{\n    {variant}}}\n")).is_empty(), found, "{variant}");
    }
}
