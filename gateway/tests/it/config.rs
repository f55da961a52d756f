//! The configuration's schema, documents, shipped file and defaults say the same.

use std::{path::Path, process::Command};

use serde_json::Value;

use super::schema;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn file(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_fengda")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn the_schema() -> Value {
    serde_json::from_str(&printed(&["schema"])).unwrap()
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|e| panic!("{e} in:\n{text}"))
}

#[test]
fn the_committed_schema_is_the_one_the_code_makes() {
    let current = printed(&["schema"]) == file("docs/config.schema.json");
    assert!(current, "docs/config.schema.json is out of date: cargo run -- schema > docs/config.schema.json");
}

#[test]
fn the_shipped_file_and_the_documents_examples_fit_the_schema() {
    let schema = the_schema();
    let shipped = file("config.yaml");
    assert!(shipped.starts_with("# yaml-language-server: $schema=docs/config.schema.json\n"), "editors look for the schema there");
    assert_eq!(schema::problems(&schema, &yaml(&shipped)), [""; 0], "config.yaml");
    let mut blocks = 0;
    for document in ["README.md", "docs/api.md", "docs/ARCHITECTURE.md", "docs/performance.md"] {
        for block in file(document).split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            assert_eq!(schema::problems(&schema, &yaml(block)), [""; 0], "{document}:\n{block}");
            blocks += 1;
        }
    }
    assert!(blocks > 0);
}

/// Each key that stands in a comment, as `# key: …`.
#[test]
fn keys_that_are_commented_out_in_the_shipped_file_exist() {
    let schema = the_schema().to_string();
    let shipped = file("config.yaml");
    let commented = shipped.lines().filter_map(|line| line.trim_start().strip_prefix("# ")?.trim_start().split_once(": "));
    let keys: Vec<&str> = commented.map(|(key, _)| key).filter(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).collect();
    assert!(keys.contains(&"threads") && keys.contains(&"endpoints"), "{keys:?}");
    for key in keys.iter().filter(|key| **key != "model" && **key != "seq") {
        assert!(schema.contains(&format!("\"{key}\":{{")), "`{key}` in a comment of config.yaml is no key");
    }
}
