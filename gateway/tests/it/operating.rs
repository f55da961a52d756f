//! What docs/operating.md promises to whoever operates a gateway, where no other test holds it.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use serde_json::json;

use super::harness::Site;

fn read(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", name].iter().collect();
    std::fs::read_to_string(path).unwrap()
}

/// The names in the first column of the table under a heading.
fn first_column(document: &str, heading: &str) -> BTreeSet<String> {
    let section = document.split_once(heading).unwrap().1.split("\n## ").next().unwrap();
    let cells = section.lines().filter_map(|l| l.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split(", ").map(|name| name.trim_matches('`').to_owned())).collect()
}

#[test]
fn every_event_of_the_log_is_explained_and_no_other() {
    let explained = first_column(&read("docs/operating.md"), "\n## Log\n");
    let (events, incidents) = (read("gateway/src/telemetry/events.rs"), read("plugins/src/api/incident.rs"));
    let variants = |source: &str, name: &str| -> String {
        source.split_once(&format!("pub enum {name}<'a> {{\n")).unwrap().1.split_once("\n}\n").unwrap().0.to_owned()
    };
    let variants = [variants(&events, "Event"), variants(&incidents, "Incident")].join("\n");
    let snake = |name: &str| {
        name.chars().fold(String::new(), |mut out, c| {
            if c.is_uppercase() && !out.is_empty() {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
            out
        })
    };
    let logged = variants.lines().filter_map(|l| l.strip_prefix("    ")?.strip_suffix([',', '{'])).map(str::trim_end);
    let logged = logged.filter(|name| name.starts_with(|c: char| c.is_uppercase()) && *name != "Plugin(Incident<'a>)");
    let logged: BTreeSet<_> = logged.map(snake).collect();
    assert!(logged.len() > 10);
    let heading = BTreeSet::from(["event".to_owned()]);
    assert_eq!(&explained - &heading, logged, "the events in docs/operating.md, and those that there are");
}

#[tokio::test]
async fn a_copy_of_a_stopped_gateway_s_data_brings_its_conversations_back() {
    let gateway = Site::new().start();
    gateway.ask("alpha", "u", "before the copy").await;
    let site = gateway.stop();
    let copied = Command::new("cp").arg("-a").args([site.path("data"), site.path("backup")]).status().unwrap();
    assert!(copied.success());
    let gateway = site.start();
    gateway.ask("alpha", "u", "after the copy").await;
    let site = gateway.stop();
    std::fs::remove_dir_all(site.path("data")).unwrap();
    std::fs::rename(site.path("backup"), site.path("data")).unwrap();
    let gateway = site.start();
    let history = gateway.history("GET", "alpha", "u", "").await.json();
    assert_eq!((&history["seq"], &history["turns"][0]["q"]), (&json!(1), &json!("before the copy")));
    // A client that saw what the copy does not have is answered, and noticed.
    let reply = gateway.say("alpha", "u", json!({ "query": "q", "last_seq": 2 })).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["seq"]), (200, &json!(2)));
    assert_eq!(gateway.metric("fengda_context_gaps_total{tenant=\"alpha\"}").await, 1.0);
}
