//! The configuration's schema, documents, shipped file and defaults say the same.

use std::{path::Path, process::Command};

use fengda_plugins::units;
use serde_json::{Value, json};

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
    assert!(current, "docs/config.schema.json is out of date: `make reference` renews it");
}

#[test]
fn the_shipped_file_and_the_documents_examples_fit_the_schema() {
    let schema = the_schema();
    let shipped = file("config.yaml");
    assert!(shipped.starts_with("# yaml-language-server: $schema=docs/config.schema.json\n"), "editors look for the schema there");
    assert_eq!(schema::problems(&schema, &yaml(&shipped)), [""; 0], "config.yaml");
    let mut blocks = 0;
    for document in ["README.md", "docs/api.md", "docs/ARCHITECTURE.md", "docs/config.md", "docs/performance.md"] {
        for block in file(document).split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            assert_eq!(schema::problems(&schema, &yaml(block)), [""; 0], "{document}:\n{block}");
            assert_eq!(problems_of_example(block), "", "{document}:\n{block}");
            blocks += 1;
        }
    }
    assert!(blocks > 0);
}

/// What `fengda check` says of an example that names the shop's flow and key.
fn problems_of_example(block: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let flow = "tenant-flows/acme-shop/main.lua";
    std::fs::create_dir_all(dir.path().join(flow).parent().unwrap()).unwrap();
    std::fs::write(dir.path().join(flow), "return function(turn) return nlp.answer(turn) end").unwrap();
    std::fs::write(dir.path().join("config.yaml"), block).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_fengda"));
    let output = check.arg("check").env("ACME_KEY", "0123456789abcdef0123456789abcdef").current_dir(&dir).output().unwrap();
    if output.status.success() { String::new() } else { String::from_utf8(output.stderr).unwrap() }
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

#[test]
fn the_reference_is_the_one_the_code_makes() {
    let current = printed(&["schema", "--markdown"]) == file("docs/config.md");
    assert!(current, "docs/config.md is out of date: `make reference` renews it");
}

/// A key of the reference.
struct Key {
    path: String,
    takes: String,
    default: String,
    said: String,
}

fn keys() -> Vec<Key> {
    let page = printed(&["schema", "--markdown"]);
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let [path, takes, default, said] = cells.as_slice() else { return None };
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        Some(Key { path: plain(path), takes: (*takes).to_owned(), default: plain(default), said: (*said).to_owned() })
    });
    rows.collect()
}

#[test]
fn every_key_of_the_schema_is_in_the_reference_and_in_the_shipped_file() {
    let shipped = file("config.yaml");
    let (all, schema) = (keys(), the_schema());
    for definition in schema["definitions"].as_object().unwrap().values().chain([&schema]) {
        for name in definition["properties"].as_object().into_iter().flatten().map(|(name, _)| name) {
            let in_page = all.iter().any(|key| key.path.split(['.', '[']).any(|part| part == name));
            assert!(in_page, "`{name}` is not in docs/config.md");
            assert!(shipped.contains(&format!("{name}:")) || shipped.contains(&format!(" {name}]")), "`{name}` is not in config.yaml");
        }
    }
}

#[test]
fn the_shipped_file_shows_the_defaults() {
    let text = file("config.yaml");
    let shipped = yaml(&text);
    let mut shown = 0;
    for key in keys().iter().filter(|key| !key.default.is_empty() && !key.path.contains(['<', '['])) {
        let Some(value) = shipped.pointer(&format!("/{}", key.path.replace('.', "/"))).filter(|v| !v.is_array()) else { continue };
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let same = match key.takes.as_str() {
            "duration" => units::parse_duration(&value).unwrap() == units::parse_duration(&key.default).unwrap(),
            _ => value == key.default,
        };
        let said = || text.lines().any(|line| line.starts_with(&key.path) && line.ends_with(&format!("Default: {}", key.default)));
        assert!(same || said(), "{} is {value} in config.yaml and {} by default", key.path, key.default);
        shown += 1;
    }
    assert!(shown > 30, "{shown}");
}

/// Gives every number an absurd value: what the check says of it must be what the reference says.
#[test]
fn every_number_is_bounded_and_the_reference_says_how() {
    let mut tree = json!({});
    let all = keys();
    let absurd = |takes: &str| match takes {
        "duration" => Some(json!("90000d")),
        "size" => Some(json!("9000000GiB")),
        "whole number" => Some(json!(4_000_000_000_u32)),
        _ => None,
    };
    let numbers: Vec<_> = all.iter().filter(|key| !key.path.starts_with("plugins") && !key.path.contains('[')).collect();
    let numbers: Vec<_> = numbers.into_iter().filter_map(|key| Some((key, absurd(&key.takes)?))).collect();
    for (key, value) in &numbers {
        let slot = key.path.split('.').fold(&mut tree, |tree, part| &mut tree[part.replace(['<', '>'], "")]);
        slot.clone_from(value);
    }
    tree["upstreams"]["name"]["protocol"] = "answer".into();
    // One key is for applications only.
    tree["upstreams"]["application"] = json!({ "protocol": "http", "timeouts": { "first_byte": "90000d" } });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.yaml"), tree.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_fengda")).arg("check").current_dir(&dir).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(numbers.len() > 20, "{}", numbers.len());
    for (key, _) in numbers {
        let path =
            if key.path.ends_with("first_byte") { key.path.replace("<name>", "application") } else { key.path.replace(['<', '>'], "") };
        let said = said
            .lines()
            .find_map(|line| line.split_once(&format!("`{path}` must be ")))
            .unwrap_or_else(|| panic!("{path} has no bounds:\n{said}"));
        assert!(key.said.contains(said.1), "docs/config.md says of {path}: {}\nand the check: {}", key.said, said.1);
    }
}

/// What an operator may get wrong, and whether an editor can see it without running the gateway.
const WRONG: [(&str, bool); 29] = [
    ("lisen: 127.0.0.1:1", true),
    ("listen: localhost:8080", true),
    ("listen: 8080", true),
    ("threads: many", true),
    ("watch: 1", true),
    ("limits: 3", true),
    ("limits: { body: 3 }", true),
    ("limits: { body: 1mib }", true),
    ("limits: { keepalive: 60 }", true),
    ("limits: { keepalive: 0s }", false),
    ("log: { level: loud }", true),
    ("store: { embedded: { durability: ram } }", true),
    ("store: { history: { turns: -1 } }", true),
    ("store: { redis: { urls: \"redis://h\" } }", true),
    ("store: { redis: { url: \"redis://h\", timeout: 3 } }", true),
    ("store: { redis: {} }", false),
    ("upstreams: { model: { endpoints: [\"http://h\"] } }", true),
    ("upstreams: { model: { protocol: answer } }", false),
    ("upstreams: { model: }", true),
    ("plugins: { auht: {} }", true),
    ("plugins: { auth: { leeway: soon } }", true),
    ("plugins: { auth: { claims: { tenent: t } } }", true),
    ("plugins: { context: { turns: 3 } }", true),
    ("plugins: { rate_limit: { limits: [{ name: a, by: user, rate: 50 }] } }", true),
    ("plugins: { rate_limit: { limits: [{ name: a, by: user }] } }", true),
    ("plugins: { circuit_breaker: { backoff: 1s } }", true),
    ("routes: [{ path: /a, chain: [auth, contxt], history: true }]", true),
    ("routes: [{ path: /a, chain: [context, auth], history: true }]", false),
    ("routes: [{ chain: [auth, context], history: true }]", true),
];

#[test]
fn what_is_wrong_in_form_is_refused_by_the_schema_and_everything_by_the_gateway() {
    let schema = the_schema();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("main.lua"), "return function() return 'a' end").unwrap();
    let tenant = "tenants: { a: { flow: main.lua, keys: [{ alg: HS256, secret: a-key-for-tests-only-of-the-tenant-a }] } }\n";
    let check = |text: &str| {
        std::fs::write(dir.path().join("config.yaml"), text).unwrap();
        Command::new(env!("CARGO_BIN_EXE_fengda")).arg("check").current_dir(&dir).output().unwrap().status.code()
    };
    assert_eq!((check(tenant), schema::problems(&schema, &yaml(tenant)).len()), (Some(0), 0));
    for (wrong, in_form) in WRONG {
        let text = format!("{tenant}{wrong}\n");
        assert_eq!(check(&text), Some(1), "{wrong}");
        assert_eq!(!schema::problems(&schema, &yaml(&text)).is_empty(), in_form, "{wrong}");
    }
    for wrong in
        ["flow: 3, keys: []", "keys: []", "flow: main.lua, keys: [{ alg: HS265 }]", "flow: main.lua, keys: [{ alg: HS256, kd: a }]"]
    {
        let text = format!("tenants: {{ a: {{ {wrong} }} }}\n");
        assert!(check(&text) == Some(1) && !schema::problems(&schema, &yaml(&text)).is_empty(), "{wrong}");
    }
}

/// What the environment fills in has any form, so the schema takes it where it would not take other text.
#[test]
fn the_schema_takes_the_environment_everywhere() {
    let text = "threads: ${N}\nlisten: \"${L:-127.0.0.1:80}\"\nwatch: \"${W}\"\nlimits: { body: \"${B}\" }\nlog: { level: \"${V}\" }\nstore: { embedded: { durability: \"${D}\" } }\n";
    assert_eq!(schema::problems(&the_schema(), &yaml(text)), [""; 0]);
}

/// What `fengda check` says of a file beside a good and a broken script, line by line, and its exit code.
fn said_of(text: &str) -> (Vec<String>, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("main.lua"), "return function() return 'a' end").unwrap();
    std::fs::write(dir.path().join("broken.lua"), "return function(").unwrap();
    std::fs::write(dir.path().join("config.yaml"), text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_fengda")).arg("check").current_dir(&dir).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (said.lines().filter(|line| !line.starts_with("    hint: ")).map(str::to_owned).collect(), output.status.code())
}

#[test]
fn problems_of_form_of_meaning_of_plugins_and_of_scripts_come_together() {
    let text = "lisen: 127.0.0.1:1
admin: 127.0.0.1:8080
plugins:
  rate_limit: { limits: [{ name: a, by: user, rate: 1/s }, { name: a, by: user, rate: 1/s }] }
routes:
  - { path: /a/, chain: [auth, { rate_limit: { limits: [{ name: b, by: user, rate: fast }] } }, context], history: true }
  - { path: /d, chain: [auth, rate_limit, context], history: true }
  - { path: /a/b, chain: [auth, context], history: true }
  - { path: /c, chain: [context, auth], flow: modl }
tenants:
  a: { flow: broken.lua, keys: [{ alg: HS256, secret: short, kid: k }] }
  b: { flow: none.lua }
";
    let expected = [
        "config.yaml:1:1: unknown key `lisen`; did you mean `listen`?",
        "config.yaml:2:8: `admin` (127.0.0.1:8080) takes the port of `listen`",
        "config.yaml:4:68: `rate_limit`: another limit has this name",
        "config.yaml:6:84: `rate_limit`: expected a whole number from 1 to 100000000 and `/s`",
        "config.yaml:8:13: no request gets here",
        "config.yaml:9:25: `context` needs `auth` before it in the chain",
        "config.yaml:9:47: unknown upstream `modl`; did you mean `model`?",
        "config.yaml:11:55: keys of `a`: has 5 bytes, HS256 needs at least 32",
        "config.yaml:12:3: tenant `b` has no `keys`",
        "config.yaml:12:14: there is no file `none.lua`",
        "broken.lua:",
        "fengda: 11 problems",
    ];
    let (said, code) = said_of(text);
    assert!(said.len() == expected.len() && said.iter().zip(expected).all(|(line, e)| line.starts_with(e)), "{said:#?}");
    assert_eq!(code, Some(1));
}

const TENANT: &str = "tenants: { a: { flow: main.lua, keys: [{ alg: HS256, secret: a-key-for-tests-only-of-the-tenant-a }] } }\n";

#[test]
fn doubts_are_said_and_refuse_nothing() {
    let text = format!(
        "{TENANT}admin: 0.0.0.0:9901
limits: {{ body: 1KiB, query: 2KiB }}
turn: {{ deadline: 1s }}
shutdown: {{ grace: 0s }}
plugins: {{ rate_limit: }}
routes: [{{ path: /v1/chat, chain: [auth, context, circuit_breaker], flow: model }}]
"
    );
    let expected = [
        "config.yaml:2:8: warning: `admin` is open to other machines",
        "config.yaml:3:30: warning: `limits.query` is more than `limits.body`",
        "config.yaml:5:20: warning: `shutdown.grace` is shorter than `turn.deadline`",
        "config.yaml:4:19: warning: `turn.deadline` is shorter than the `timeout` of `circuit_breaker`",
        "config.yaml:6:12: warning: `rate_limit` is in no route's chain",
        "config.yaml: no problems; 1 tenant, 1 route, 1 upstream",
    ];
    assert_eq!(said_of(&text), (expected.map(str::to_owned).to_vec(), Some(0)));
    assert_eq!(said_of(TENANT).0, ["config.yaml: no problems; 1 tenant, 2 routes, 1 upstream"]);
    let app =
        "upstreams: { model: { protocol: demo }, app: { protocol: http, endpoints: [\"http://a:1\"], timeouts: { first_byte: 2s } } }";
    for (timeout, doubted) in [("1500ms", true), ("2s", false)] {
        let routes = format!("routes: [{{ path: /, public: true, chain: [circuit_breaker: {{ timeout: {timeout} }}], upstream: app }}]");
        let doubt = "config.yaml:2:115: warning: `first_byte` is longer than the `timeout` of `circuit_breaker` on route `/`";
        assert_eq!(said_of(&format!("{TENANT}{app}\n{routes}\n")).0.iter().any(|line| line == doubt), doubted, "{timeout}");
    }
    let slow = said_of(&format!("{TENANT}store: {{ redis: {{ url: \"redis://a\", timeout: 3s }} }}\n")).0;
    assert!(slow[0].starts_with("config.yaml:2:46: warning: `store.redis.timeout` is not shorter than `turn.deadline`"), "{slow:?}");
    let (said, code) = said_of(&format!("{TENANT}data: broken.lua/data\n"));
    assert!(said[0] == "config.yaml:2:7: `broken.lua` is a file" && code == Some(1), "{said:?}");
}

/// As a user who may do anything: what is refused there is refused in bounded memory and time.
#[test]
fn a_file_that_is_out_of_all_bounds_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    let bomb = |n: usize| (1..n).map(|i| format!("a{i}: &a{i} [*a{}, *a{}]\n", i - 1, i - 1)).collect::<String>();
    let keys: String = (0..1_000_000).map(|i| format!("key{i}: 1\n")).collect();
    for (what, text, says) in [
        ("50 MB", "#".repeat(50 << 20), "longer than 1MiB"),
        ("aliases", format!("a0: &a0 x\n{}", bomb(40)), "aliases (`*name`) are not taken"),
        ("aliases in another file", String::new(), "aliases (`*name`) are not taken"),
        ("depth", format!("a: {}", "[".repeat(10_000)), "recursion limit exceeded"),
        ("depth of another kind", "- ".repeat(10_000), "nested more than 32 levels deep"),
        ("a million keys", keys, "longer than 1MiB"),
        ("many short keys", (0..100_000).map(|i| format!("{i}:\n")).collect(), "more than 50000 values"),
    ] {
        std::fs::write(&path, &text).unwrap();
        if text.is_empty() {
            std::fs::create_dir(dir.path().join("tenants.d")).unwrap();
            std::fs::write(dir.path().join("tenants.d/a.yaml"), format!("a0: &a0 x\n{}", bomb(40))).unwrap();
        }
        // 400 MiB of addresses: the program, its threads' stacks and its allocator take most of that.
        let limited = format!("ulimit -v 409600; exec timeout 20 {} check", env!("CARGO_BIN_EXE_fengda"));
        let output = Command::new("sh").args(["-c", &limited]).current_dir(&dir).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(says), "{what}: {:?} {said}", output.status);
    }
}

/// Puts values of every kind into every place of the shipped file: an editor must not complain of what the gateway takes, nor take
/// what is of a wrong kind.
#[test]
fn the_schema_takes_what_the_gateway_takes() {
    let (schema, mut shipped) = (the_schema(), yaml(&file("config.yaml")));
    shipped["tenants"].as_object_mut().unwrap().remove("harbor-bank");
    let registry = fengda::registry::builtin(&fengda::registry::Slots::default(), |_| {});
    let mut paths = Vec::new();
    places(&shipped, String::new(), &mut paths);
    let kinds = [json!(null), json!(true), json!("text"), json!([])];
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(repository().join("tenant-flows"), dir.path().join("tenant-flows")).unwrap();
    let at = dir.path().join("config.yaml");
    let mut differ = Vec::new();
    for (path, kind) in paths.iter().flat_map(|path| kinds.iter().map(move |kind| (path, kind))) {
        let mut tree = shipped.clone();
        *tree.pointer_mut(path).unwrap() = kind.clone();
        std::fs::write(&at, tree.to_string()).unwrap();
        let (_, problems) = fengda::config::Config::examine(&at, &|_| None, &registry);
        let problems: Vec<_> = problems.iter().map(|problem| problem.message.clone()).collect();
        let of_kind = problems.iter().any(|problem| problem.contains("expected ") && problem.contains(", found "));
        let fits = schema::problems(&schema, &tree).is_empty();
        // A plugin that reads a list or mapping takes nothing as an empty one; an editor may say that it is odd.
        let odd = path.contains("plugins") && kind.is_null();
        if (problems.is_empty() && !fits && !odd) || (of_kind && fits) {
            differ.push(format!("{path} {kind}: {problems:?}"));
        }
    }
    assert_eq!(differ, [""; 0], "{differ:#?}");
}

fn places(value: &Value, path: String, all: &mut Vec<String>) {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(key, below)| (key.replace('~', "~0").replace('/', "~1"), below)).collect(),
        Value::Array(seq) => seq.iter().enumerate().map(|(i, below)| (i.to_string(), below)).collect(),
        _ => Vec::new(),
    };
    for (key, below) in below {
        places(below, format!("{path}/{key}"), all);
    }
    all.push(path);
}
