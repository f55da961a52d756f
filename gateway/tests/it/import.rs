//! Conversations of an older deployment: `fengda import` as an operator runs it, and what its users see at their first contact.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use fengda_plugins::{
    api::Clock,
    redis::server::{Guard, Sentinels, Server, pki, wait_until},
};
use serde_json::json;

use super::{
    client::{self, until},
    harness::{Gateway, Site},
    model::Model,
    process::{Process, message},
};

const PATTERN: &str = "chat:{user_id}";
const NO_KEY: &str = "no key there fits the pattern: compare both, and look whether it is the right database";

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port())
}

/// As Python's `json.dumps` writes it.
fn push(server: &Server, key: &str, q: &str, a: &str) {
    let escaped = |text: &str| text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
    server.cli::<()>(&["LPUSH", key, &format!(r#"{{"q": "{}", "a": "{}"}}"#, escaped(q), escaped(a))]).unwrap();
}

/// So many users with two turns each.
fn fill(server: &Server, users: usize) {
    let filling = r#"for n = 0, ARGV[1] - 1 do
        for i = 1, 2 do redis.call('LPUSH', 'chat:用户' .. n, '{"q": "\\u7b2c' .. i .. '\\u95ee", "a": "\\u7b54 ' .. n .. '"}') end
    end"#;
    server.cli::<()>(&["EVAL", filling, "0", &users.to_string()]).unwrap();
}

/// A site whose gateway goes by the machine's clock, as the command does.
fn site() -> Site {
    let mut site = Site::new();
    site.clock = Clock::system();
    site
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fengda"));
    command.arg("import").args(["--tenant", "alpha"]).args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

/// The numbers in the line that a run ends with: sessions, turns, there already, keys and elements left.
fn counted(output: &Output) -> Vec<u64> {
    let line = text(&output.stdout);
    assert!(output.status.success() && line.ends_with("were left\n"), "{line}{}", text(&output.stderr));
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

async fn questions(gateway: &Gateway, user: &str) -> Vec<(u64, String)> {
    let history = gateway.history("GET", "alpha", user, "").await.json();
    let turn = |turn: &serde_json::Value| (turn["seq"].as_u64().unwrap(), turn["q"].as_str().unwrap().to_owned());
    history["turns"].as_array().unwrap().iter().map(turn).collect()
}

#[tokio::test]
async fn a_run_that_is_killed_goes_on_where_it_was_and_users_go_on_too() {
    let (site, source) = (site(), Server::start());
    fill(&source, 3000);
    site.write(&site.config());
    let (folder, from) = (site.path(""), url(&source));
    let arguments = ["--pattern", PATTERN, "--from", &from];
    let mut killed = command(&folder, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let reads = || source.info("commandstats").lines().any(|line| line.starts_with("cmdstat_lindex:calls=") && !line.contains("calls=1,"));
    wait_until("the first lists were read", reads);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let rest = counted(&run(&folder, &arguments));
    assert!(rest[0] > 0 && rest[0] + rest[2] == 3000 && rest[1] == 2 * rest[0], "{rest:?}");
    assert_eq!(counted(&run(&folder, &arguments)), [0, 0, 3000, 0, 0]);

    let gateway = site.start();
    assert_eq!(questions(&gateway, "用户2999").await, [(1, "第1问".into()), (2, "第2问".into())]);
    assert_eq!(gateway.ask("alpha", "用户7", "and now?").await["seq"], 3);
}

#[tokio::test]
async fn a_dry_run_writes_nothing_and_a_store_in_use_is_said() {
    let source = Server::start();
    push(&source, "chat:u", "q", "a");
    source.cli::<()>(&["SET", "chat:\u{1b}[31m", "x"]).unwrap();
    let gateway = Site::new().start();
    let (folder, from) = (gateway.site.path(""), url(&source));
    let dry = run(&folder, &["--pattern", PATTERN, "--from", &from, "--dry-run"]);
    assert_eq!(text(&dry.stdout), "1 sessions with 1 turns would be brought over, 0 were there already; 1 keys and 0 elements were left\n");
    assert_eq!(text(&dry.stderr), "chat:\\u{1b}[31m is not a list\n1 keys are no lists\n");
    assert_eq!(questions(&gateway, "u").await, []);
    let locked = run(&folder, &["--pattern", PATTERN, "--from", &from]);
    assert_eq!((locked.status.code(), locked.stdout.len()), (Some(1), 0));
    let said = text(&locked.stderr);
    assert!(said.contains("is in use by another fengda") && said.contains("stop the gateway first"), "{said}");
}

#[test]
fn what_is_missing_or_wrong_is_said_with_what_to_do() {
    let site = Site::new();
    site.write(&site.config());
    let folder = site.path("");
    let source = Server::start();
    let (from, wrong) = (url(&source), url(&source).replace("//", "//nobody:hunter2@"));
    for (arguments, code, says) in [
        (&["--pattern", PATTERN][..], 1, "give `--from redis://host:6379`, or `store.import`"),
        (&["--from", "redis://127.0.0.1:1"], 1, "give `--pattern`, such as `chat:{user_id}`"),
        (
            &["--pattern", PATTERN, "--from", "nowhere"],
            1,
            "such as `redis://127.0.0.1:6379` or `rediss://user:password@redis.internal:6380/0`\n",
        ),
        (&["--pattern", PATTERN, "--from", "redis://old/2", "--cluster"], 1, "a cluster has no databases but 0"),
        (&["--pattern", PATTERN, "--from", "redis://alice@old"], 1, "it names a user and no password"),
        (&["--pattern", "chat:{user}"], 2, "has a brace that is not part of {user_id}"),
        (&["--pattern", "chat"], 2, "has no {user_id}"),
        (&["--cluster"], 2, "--from"),
        (&["--from", "redis://old", "--cluster", "--sentinel", "m"], 2, "cannot be used with"),
        (&["--from", "rediss://old", "--cert", "a.pem"], 2, "--key"),
        (&["--pattern", PATTERN, "--from", "rediss://old", "--ca", "none.pem"], 1, "none.pem cannot be read"),
        (&["--pattern", PATTERN, "--from", "redis://old", "--ca", "config.yaml"], 1, "certificates are for TLS"),
        (
            &["--pattern", PATTERN, "--from", "redis://127.0.0.1:1", "--dry-run"],
            1,
            "the Redis with the lists cannot be used: 127.0.0.1:1: ",
        ),
        (&["--pattern", "chats:{user_id}", "--from", &from, "--dry-run"], 1, NO_KEY),
        (&["--pattern", PATTERN, "--from", &wrong, "--dry-run"], 1, "Password authentication failed"),
    ] {
        let failed = run(&folder, arguments);
        let said = text(&failed.stderr);
        assert_eq!((failed.status.code(), failed.stdout.is_empty()), (Some(code), says != NO_KEY), "{arguments:?}: {said}");
        assert!(said.contains(says) && !said.contains("hunter2"), "{said}");
    }
    let mut other = Command::new(env!("CARGO_BIN_EXE_fengda"));
    let unknown = other.args(["import", "--tenant", "gamma", "--pattern", PATTERN]).current_dir(&folder).output().unwrap();
    assert!(text(&unknown.stderr).contains("there is no tenant `gamma`; there are: alpha, beta"), "{}", text(&unknown.stderr));
}

#[tokio::test]
async fn conversations_come_over_into_redis_while_the_gateway_runs() {
    let (source, target) = (Server::start(), Server::start());
    fill(&source, 200);
    let gateway = site().redis(&target).start();
    let (folder, from) = (gateway.site.path(""), url(&source));
    assert_eq!(counted(&run(&folder, &["--pattern", PATTERN, "--from", &from, "--limit", "50"])), [50, 100, 0, 0, 0]);
    assert_eq!(counted(&run(&folder, &["--pattern", PATTERN, "--from", &from])), [150, 300, 50, 0, 0]);
    assert_eq!(questions(&gateway, "用户199").await.len(), 2);
}

/// A gateway whose tenant `alpha` has conversations in a source.
fn older(site: Site, source: &Server) -> Site {
    let import = format!("import: {{ url: \"{}\", timeout: 400ms }}", url(source));
    site.tenant_alpha(&format!("import: \"{PATTERN}\"")).store(&import)
}

#[tokio::test]
async fn a_user_s_first_message_has_what_was_said_before_and_only_the_tenant_s_own_users_do() {
    let (source, model) = (Server::start(), Model::start().await);
    push(&source, "chat:u", "我的订单号是 7", "已记下 😀");
    let gateway = older(Site::new().model(&model), &source).start();
    for (n, seq) in [(1, 2), (2, 3)] {
        let reply = gateway.say("alpha", "u", json!({ "query": format!("q{n}"), "message_id": n.to_string() })).await;
        assert_eq!(reply.json()["seq"], seq, "{}", reply.text());
    }
    let asked = model.asked();
    assert_eq!(asked[0]["history"], json!([{ "q": "我的订单号是 7", "a": "已记下 😀" }]));
    assert_eq!(gateway.ask("beta", "u", "hello").await["seq"], 1);
    assert_eq!(gateway.metric("fengda_import_sessions_total{outcome=\"imported\",tenant=\"alpha\"}").await, 1.0);
}

#[tokio::test]
async fn a_source_that_is_gone_or_stands_still_costs_nobody_an_answer_and_no_past_is_lost() {
    let source = Server::with(&["appendonly yes", "appendfsync always"]);
    push(&source, "chat:slow", "q", "a");
    push(&source, "chat:gone", "q", "a");
    let gateway = older(Site::new(), &source).start();
    assert_eq!(gateway.ask("alpha", "quick", "hello").await["seq"], 1);
    source.pause();
    assert_eq!(gateway.ask("alpha", "slow", "hello").await["seq"], 1);
    source.resume();
    source.kill();
    assert_eq!(gateway.ask("alpha", "gone", "hello").await["seq"], 1);
    assert_eq!(gateway.metric("fengda_import_sessions_total{outcome=\"missed\",tenant=\"alpha\"}").await, 2.0);
    source.restart();
    for user in ["slow", "gone"] {
        until("the past is there", async || questions(&gateway, user).await == [(1, "q".into()), (2, "hello".into())]).await;
        assert_eq!(gateway.ask("alpha", user, "and now?").await["seq"], 3);
    }
}

#[tokio::test]
async fn what_a_user_erased_is_never_brought_over_again() {
    let (source, store) = (Server::start(), Server::start());
    for key in ["chat:all", "chat:one", "chat:unseen"] {
        push(&source, key, "q", "a");
    }
    let import = format!("import: {{ url: \"{}\" }}", url(&source));
    let on_redis = site().redis(&store).store(&import);
    for site in [site().store(&import), on_redis] {
        let gateway = site.tenant_alpha(&format!("import: \"{PATTERN}\"")).start();
        assert_eq!(questions(&gateway, "all").await, [(1, "q".into())]);
        assert_eq!(gateway.ask("alpha", "one", "hello").await["seq"], 2);
        for (user, query) in [("all", ""), ("one", "?session_id=default"), ("unseen", "")] {
            assert_eq!(gateway.history("DELETE", "alpha", user, query).await.status, 204);
            assert_eq!(questions(&gateway, user).await, []);
        }
        for (user, seq) in [("all", 2), ("one", 3), ("unseen", 1)] {
            assert_eq!(gateway.ask("alpha", user, "anew").await["seq"], seq);
            assert_eq!(questions(&gateway, user).await, [(seq, "anew".into())]);
        }
        let site = gateway.stop();
        let again = run(&site.path(""), &["--pattern", PATTERN]);
        assert_eq!(counted(&again), [0, 0, 3, 0, 0]);
    }
}

#[tokio::test]
async fn lists_behind_sentinels_or_an_authority_of_one_s_own_come_over_by_either_way() {
    let (sentinels, tls) = (Sentinels::start(), Server::guarded(&Guard { tls: true, user: None }, &["tls-auth-clients no"]));
    let ca = pki("ca.pem").display().to_string();
    push(sentinels.primary(), "chat:u", "q", "a");
    let (ports, master) = (sentinels.ports(), Sentinels::MASTER);
    let by_url = format!("redis://127.0.0.1:{}", ports[0]);
    let servers = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect::<Vec<_>>().join(", ");
    let watched = format!("import: {{ servers: [{servers}], sentinel: {master}, timeout: 2s }}");
    let gateway = Site::new().tenant_alpha(&format!("import: \"{PATTERN}\"")).store(&watched).start();
    assert_eq!(gateway.ask("alpha", "u", "hello").await["seq"], 2);
    let dry = run(&gateway.site.path(""), &["--pattern", PATTERN, "--from", &by_url, "--sentinel", master, "--dry-run"]);
    assert_eq!(counted(&dry)[0], 1);

    push(&tls, "chat:u", "q", "a");
    let from = format!("rediss://:hunter2@localhost:{}", tls.port());
    tls.cli::<()>(&["CONFIG", "SET", "requirepass", "hunter2"]).unwrap();
    let dry = run(&gateway.site.path(""), &["--pattern", PATTERN, "--from", &from, "--ca", &ca, "--dry-run"]);
    assert_eq!(counted(&dry)[0], 1);
    let own = format!("import: {{ url: \"{from}\", tls: {{ ca: {ca} }}, timeout: 2s }}");
    let gateway = Site::new().tenant_alpha(&format!("import: \"{PATTERN}\"")).store(&own).start();
    assert_eq!(gateway.ask("alpha", "u", "hello").await["seq"], 2);
}

#[tokio::test]
async fn a_reload_says_whose_conversations_are_looked_for() {
    let source = Server::start();
    push(&source, "chat:u", "q", "a");
    push(&source, "chat:v", "q", "a");
    let gateway = older(Site::new(), &source).start();
    let with = gateway.site.config();
    gateway.site.write(&with.replace(&format!("import: \"{PATTERN}\""), ""));
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    assert_eq!(gateway.ask("alpha", "u", "hello").await["seq"], 1);
    gateway.site.write(&with);
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    assert_eq!(gateway.ask("alpha", "v", "hello").await["seq"], 2);
}

#[tokio::test]
async fn a_source_that_lets_nobody_in_is_named_in_the_log() {
    let (source, model) = (Server::start(), Model::start().await);
    let from = url(&source).replace("//", "//nobody:hunter2@");
    let site = Site::new().model(&model).tenant_alpha(&format!("import: \"{PATTERN}\"")).store(&format!("import: {{ url: \"{from}\" }}"));
    let mut process = Process::start(&site.write(&site.config())).await;
    let reply = client::http1(process.public, message("alpha", &json!({ "query": "hello" }))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["stored"]), (200, &json!(true)));
    let line = process.event("import_missed").await;
    let error = line["error"].as_str().unwrap();
    assert_eq!((line["tenant"].as_str(), line["left_out"].as_u64()), (Some("alpha"), Some(0)));
    assert!(error.contains("Password authentication failed") && !error.contains("hunter2"), "{error}");
}
