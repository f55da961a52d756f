//! The reading as an operator meets it: text in, a [`Config`] or exact messages out.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use fengda_plugins::api::{BuildCtx, Plugin, PluginSpec, Problem, Registry, Scope};
use serde_yaml::Value;

use super::*;

mod edge;
mod store;

struct Nothing;

impl Plugin for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    let specs: [(&str, &[&str]); 4] = [("auth", &[]), ("rate_limit", &[]), ("context", &["auth"]), ("circuit_breaker", &[])];
    for (name, after) in specs {
        let build = Box::new(|_: &BuildCtx<'_>| Ok(Arc::new(Nothing) as Arc<dyn Plugin>));
        registry.register(PluginSpec { name, after, authenticates: name == "auth", schema: |_| true.into(), build }).unwrap();
    }
    registry
}

/// A directory with the flows that the tests' tenants name; gone when dropped.
pub(super) struct Dir(pub(super) PathBuf);

impl Dir {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = std::env::temp_dir().join(format!("fengda-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        for tenant in ["acme-shop", "harbor-bank"] {
            std::fs::create_dir_all(dir.join("tenant-flows").join(tenant)).unwrap();
            std::fs::write(dir.join("tenant-flows").join(tenant).join("main.lua"), "").unwrap();
        }
        Self(dir)
    }

    pub(super) fn parse(&self, text: &str, env: &[(&str, &str)]) -> Result<Config, Diagnostics> {
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Config::parse(text, &self.0.join("config.yaml"), &env, &registry())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

mod forward;

const TENANT: &str =
    "tenants: {acme-shop: {flow: tenant-flows/acme-shop/main.lua, keys: [{alg: HS256, secret: \"0123456789abcdef0123456789abcdef\"}]}}\n";

/// The problems of some text, after a line with a good tenant; without the directory, hints after ` | `.
fn problems_with(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let dir = Dir::new();
    let Err(all) = dir.parse(text, env) else { return Vec::new() };
    let place = format!("{}/config.yaml:", dir.0.display());
    all.iter().map(|d| d.to_string().replace("\n    hint: ", " | ").replace(&place, "")).collect()
}

fn problems(text: &str) -> Vec<String> {
    problems_with(&format!("{TENANT}{text}"), &[])
}

#[track_caller]
fn expect(text: &str, expected: &[&str]) {
    let found = problems(text);
    assert!(
        found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.starts_with(e)),
        "{text}\nfound:    {found:#?}\nexpected: {expected:#?}"
    );
}

#[test]
fn what_is_mistyped_is_named_with_what_was_meant() {
    expect(
        "lisen: 127.0.0.1:1\n",
        &["2:1: unknown key `lisen`; did you mean `listen`? | known here: `admin`, `data`, `limits`, `listen`, `log`, `plugins`, "],
    );
    expect("store: {embedded: {durability: ram}}\n", &["2:32: unknown value `ram` | known here: `disk`, `os`"]);
    expect("store: {embedded: {durability: {a: 1}}}\n", &["2:20: expected a word, found a mapping"]);
    expect("limits: 3\n", &["2:9: expected a mapping (`key: value`), found `3`"]);
    expect("log: {level: loud, access: ja}\n", &["2:14: expected one of `off`, `error`", "2:28: expected `true` or `false`, found \"ja\""]);
    expect("listen: localhost:80\n", &["2:9: expected an address and port such as `127.0.0.1:8080`, found \"localhost:80\""]);
    expect("1: a\ntrue: b\n", &["2:1: unknown key `1`", "3:1: unknown key `true`"]);
    expect(
        "plugins: {ratelimit: {}, auth: 3}\n",
        &["2:11: unknown plugin `ratelimit`; did you mean `rate_limit`?", "2:32: a plugin's configuration is"],
    );
}

#[test]
fn problems_of_form_and_of_meaning_come_together() {
    let text = "limits: {boddy: 1MiB, headers: many, body: 3, keepalive: 0s}\nthreads: x\nroutes:\n  - {path: /v1/chat, chain: [auth, 5, context], flow: modl}\n";
    let expected = [
        "2:10: unknown key `boddy`; did you mean `body`?",
        "2:32: expected a whole number from 0, found \"many\"",
        "2:44: expected a size such as `64KiB` or `1MiB`, found `3`",
        "2:58: `limits.keepalive` must be 1s to 1h",
        "3:10: expected a whole number from 0, found \"x\"",
        "5:36: expected the name of a plugin, or one name with its overrides",
        "5:55: unknown upstream `modl`; did you mean `model`? | known here: `model`",
    ];
    expect(text, &expected);
    let many: String = (0..5_000).map(|i| format!("key{i}: 1\n")).collect();
    let found = problems(&many);
    assert_eq!(found.len(), 101);
    assert_eq!(found[0], "1:1: more than 100 problems of form; here are the first");
}

#[test]
fn a_problem_that_follows_from_another_is_not_reported() {
    expect("upstreams: {model: 5}\n", &["2:20: expected a mapping"]);
    expect("upstreams: {model: {protocol: [x]}}\n", &["2:21: expected text, found a list"]);
    expect("routes: [{path: /a, chain: [auht, context], history: true}]\n", &["2:29: unknown plugin `auht`; did you mean `auth`?"]);
    expect("routes: [{path: /a, chain: [auth, context], histry: true}]\n", &["2:45: unknown key `histry`; did you mean `history`?"]);
    assert_eq!(problems_with("tenants: {acme-shop: {flow: [], keys: 1, x: 1}}\n", &[]).len(), 3);
}

#[test]
fn routes_must_work() {
    let text = "routes:
  - path: /v1/chat
    chain: [rate_limit, context, auth, auth, {rate_limit: 3}]
    flow: model
  - {path: v1, chain: [], public: true, flow: model}
  - {path: /a, chain: [rate_limit], history: true}
  - {path: /b, chain: [auth], upstream: shop}
  - {path: /c, chain: [auth, context], flow: model, history: true}
  - {path: '/d?x', chain: [auth, context], history: true}
  - {path: /e/, chain: [auth, context], history: true}
  - {path: /e/f, chain: [auth, context], history: true}
  - {path: /e/, chain: [auth, context], history: true}
  - {chain: [auth, context]}
  -
";
    let expected = [
        "4:25: `context` needs `auth` before it in the chain | move `auth` up",
        "4:40: `auth` is twice in this chain | remove one of them",
        "4:46: `rate_limit` is twice in this chain",
        "6:12: `v1` is no path of a URL",
        "6:16: a route with a flow or history needs `context` in its chain, which keeps the conversations | add `context`",
        "6:35: a route with a flow or history cannot be public | remove `public`",
        "7:16: a route with a flow or history needs `context`",
        "7:16: nothing in this chain authenticates the client | begin it with `auth`",
        "8:41: unknown upstream `shop` | known here: `model`",
        "9:5: a route has one target, this one has `flow` and `history`",
        "10:12: `/d?x` is no path of a URL",
        "12:12: no request gets here: `/e/` before it takes everything that `/e/f` would | put this route first",
        "13:12: a second route for `/e/` | remove one of them",
        "14:5: a route needs a `path`",
        "14:5: a route needs a target",
        "15:4: an empty route | remove it",
    ];
    expect(text, &expected);
    expect("routes: []\n", &["2:1: there is no route"]);
    expect("upstreams: {other: {protocol: demo}}\n", &["1:1: unknown upstream `model` | known here: `other`"]);
}

#[test]
fn the_page_to_chat_in_shares_its_paths_with_no_route() {
    let with = |path: &str| format!("try_page: true\nroutes: [{{path: {path}, chain: [auth, context], history: true}}]\n");
    for taken in ["/", "/try/", "/try/token"] {
        expect(
            &with(taken),
            &[&format!("2:11: `try_page` needs `/` and what is below `/try/`, and there is a route for `{taken}` | remove one")],
        );
    }
    for free in ["/try", "/tryst", "/v1/"] {
        expect(&with(free), &[]);
    }
    expect("try_page: demo\n", &["2:11: expected `true` or `false`, found \"demo\""]);
    let routes = |text: &str| Dir::new().parse(&format!("{TENANT}{text}"), &[]).unwrap().routes.len();
    assert_eq!((routes(""), routes("try_page: false\n"), routes("try_page: true\n")), (2, 2, 3));
}

#[test]
fn a_tenant_is_a_demo_only_if_all_its_keys_are() {
    let demo = |keys: &str| {
        let text = format!("tenants: {{a: {{flow: tenant-flows/acme-shop/main.lua, keys: [{keys}]}}}}\n");
        Dir::new().parse(&text, &[]).unwrap().tenants[0].demo
    };
    let (known, own) = ("{alg: HS256, secret: demo-0123456789abcdef0123456789}", "{alg: HS256, secret: 0123456789abcdef0123456789abcdef}");
    assert!(demo(known) && !demo(own) && !demo(&format!("{known}, {own}")));
}

#[test]
fn tenants_share_nothing_and_lack_nothing() {
    let text = "listen: 0.0.0.0:80
tenants:
  Acme: {}
  bank:
  c: {flow: x.lua, keys: {}, plugins: {contxt: {}, auth: 1}}
  d: {flow: tenant-flows, keys: [{secret: demo-1}], flow_limits: {cpu: 1h}}
  e: {flow: tenant-flows/acme-shop/main.lua, keys: [{secret: demo-1}], log: l}
  f: {flow: tenant-flows/acme-shop/main.lua, keys: [{secret: x}, {secret: x}], log: ./l, canned: {busy: [1]}}
";
    let dir = Dir::new();
    let found = problems_with(text, &[]).join("\n");
    let expected = [
        "3:3: the name of a tenant may only hold a-z, 0-9 and -, and begin with a letter or digit | such as `acme-shop`",
        "4:3: tenant `bank` has no `flow` | flow: tenant-flows/bank/main.lua",
        "4:3: tenant `bank` has no `keys`",
        "5:13: there is no file ",
        "5:20: `keys` is a list",
        "5:40: unknown plugin `contxt`; did you mean `context`?",
        "5:58: a plugin's configuration is a mapping",
        "6:13: `",
        "/tenant-flows` is a directory | name the script in it, such as `main.lua`",
        "6:43: tenant `d` has a demo key, and `listen` is open to other machines",
        "6:72: `tenants.d.flow_limits.cpu` must be 1ms to 10s",
        "7:62: tenant `e` has a demo key",
        "7:62: tenants `d` and `e` have the same secret",
        "8:85: tenants `e` and `f` have the same log",
        "8:99: expected text, found a list",
    ];
    let mut at = 0;
    for line in expected {
        at += found[at..].find(line).unwrap_or_else(|| panic!("{line}\n{found}"));
    }
    assert_eq!(found.lines().count(), expected.len() - 1, "{found}");
    assert!(dir.parse("", &[]).unwrap_err().to_string().contains("at least one tenant is needed"));
}

#[test]
fn a_log_is_in_nobody_s_way() {
    let dir = Dir::new();
    std::fs::write(dir.0.join("k.pem"), "-----BEGIN").unwrap();
    let problem = |log: &str| {
        let text = format!(
            "tenants:
  acme-shop: {{flow: tenant-flows/acme-shop/main.lua, keys: [{{secret: x}}], log: {log}}}
  harbor-bank: {{flow: tenant-flows/harbor-bank/main.lua, keys: [{{public_key: k.pem}}], log: l.1}}
"
        );
        dir.parse(&text, &[]).err().map_or_else(String::new, |found| found.to_string())
    };
    for (log, says) in [
        (
            "data/context/0.jnl",
            ":2:80: the log of `acme-shop`, or its `.1` once it is full, would be in the way of the stored conversations",
        ),
        ("./x/../data//context", "the stored conversations"),
        ("data", "the stored conversations"),
        ("data/flows/acme-shop.lua", "the last good flows"),
        ("../*/config.yaml", "the configuration file"),
        ("tenant-flows/harbor-bank/main.lua", "the flow of `harbor-bank`"),
        ("k.pem", "a key file of `harbor-bank`"),
        ("tenant-flows", "tenant-flows` is a directory, and a log is a file"),
        ("''", "is a directory"),
        ("x/../l.1", ": tenants `acme-shop` and `harbor-bank` have the same log"),
        ("l", "have the same log"),
    ] {
        let found = problem(&log.replace('*', &dir.0.file_name().unwrap().to_string_lossy()));
        assert!(found.contains(says) && found.matches("hint: ").count() == 1, "{log}: {found}");
    }
    for log in ["data/logs/acme.log", "data/contexts.log", "config.yaml.log", "new/a.log", "/dev/null"] {
        assert_eq!(problem(log), "", "{log}");
    }
}

#[test]
fn a_key_file_that_was_replaced_makes_another_configuration() {
    let text = "tenants: {acme-shop: {flow: tenant-flows/acme-shop/main.lua, keys: [{alg: EdDSA, public_key: keys/a.pem}]}}\n";
    let dir = Dir::new();
    let file = dir.0.join("keys/a.pem");
    std::fs::create_dir(dir.0.join("keys")).unwrap();
    let problem = |env: &[(&str, &str)], text: &str| dir.parse(text, env).unwrap_err().to_string();
    let missing = problem(&[], text);
    assert!(missing.contains(":1:94: the key file `") && missing.contains("a.pem` cannot be read: No such file"), "{missing}");
    let hidden = problem(&[("K", "s3cret")], &text.replace("keys/a.pem", "\"${K}\""));
    assert!(hidden.contains("the key file ‹from the environment› cannot be read") && !hidden.contains("s3cret"), "{hidden}");

    let load = |pem: &str| {
        std::fs::write(&file, pem).unwrap();
        let config = dir.parse(text, &[]).unwrap_or_else(|e| panic!("{e}"));
        (config.routes[0].chain[0].tenants[0].keys[0]["public_key"].as_str().unwrap().to_owned(), config.hash)
    };
    let (old, new) = (load("old"), load("new"));
    assert_eq!((old.0.as_str(), new.0.as_str()), ("old", "new"));
    assert_ne!(old.1, new.1);
    assert_eq!(load("old"), old);

    assert_eq!(load(&"x".repeat(64 << 10)).0.len(), 64 << 10);
    std::fs::write(&file, "x".repeat((64 << 10) + 1)).unwrap();
    assert!(problem(&[], text).contains("is longer than 64KiB"));
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    expect(
        "limits: {body: 0B, headers: 1000, query: 1B, header_deadline: 0s, body_deadline: 1h}\nthreads: 0\nturn: {deadline: 0s}\nstore: {history: {turns: 0}, cache: {size: 1KB, share: 0%}}\n",
        &[
            "2:16: `limits.body` must be 1KiB to 64MiB",
            "2:29: `limits.headers`",
            "2:42: `limits.query` must be 64B to 1MiB",
            "2:63: `limits.header_deadline` must be 100ms to 10m",
            "2:82: `limits.body_deadline`",
            "3:10: `threads`",
            "4:18: `turn.deadline`",
            "5:26: ",
            "5:44: ",
            "5:56: `store.cache.share` must be 1% to 100%",
        ],
    );
    for (listen, admin) in [("127.0.0.1:8", "127.0.0.1:8"), ("0.0.0.0:8", "127.0.0.1:8"), ("127.0.0.1:8", "'[::]:8'")] {
        expect(&format!("listen: {listen}\nadmin: {admin}\n"), &["3:"]);
    }
    expect("listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n", &[]);
    expect("listen: 0.0.0.0:8080\nadmin: 0.0.0.0:9901\n", &[]);
    expect("limits:\nstore: {cache: }\nplugins:\nroutes:\nupstreams:\nlog:\n", &[]);
}

#[test]
fn bounds_on_what_is_in_flight_and_shares_have_a_range() {
    expect(
        "limits: {in_flight: 0}\nshutdown: {pause: 1h}\n",
        &["2:21: `limits.in_flight` must be 1 to 1000000", "3:19: `shutdown.pause` must be 0s to 10m"],
    );
    let tenant = |more: &str| {
        let tenant = "tenants:\n  t:\n    flow: tenant-flows/acme-shop/main.lua\n    keys: [{alg: HS256, secret: x}]\n";
        problems_with(&format!("{tenant}    {more}\n"), &[])
    };
    assert_eq!(tenant("in_flight: 0"), ["5:16: `tenants.t.in_flight` must be 1 to 1000000"]);
    assert_eq!(tenant("flow_limits: {share: 0%}"), ["5:26: `tenants.t.flow_limits.share` must be 1% to 100%"]);
    assert_eq!(tenant("flow_limits: {share: 50}").len(), 1);
    assert!(tenant("in_flight: 7").is_empty() && tenant("flow_limits: {share: 50%}").is_empty());
}

#[test]
fn the_environment_fills_in_values_and_its_values_are_never_shown() {
    let text = format!("{TENANT}threads: ${{N}}\ndata: \"${{D:-d}}\"\nlog: {{level: \"${{L:-info}}\"}}\n");
    let dir = Dir::new();
    let read = |env: &[(&str, &str)]| dir.parse(&text, env).unwrap();
    let config = read(&[("N", "3")]);
    assert_eq!((config.threads, config.data.clone()), (3, dir.0.join("d")));
    assert_eq!(config.hash, read(&[("N", "3")]).hash);
    assert_ne!(config.hash, read(&[("N", "4")]).hash);

    assert_eq!(problems_with(&text, &[]), ["2:10: the environment variable `N` is not set | set it, or give a default: `${N:-…}`"]);
    let found = problems_with(&text, &[("N", "s3cret"), ("L", "s3cret")]);
    assert_eq!(found[0], "2:10: expected a whole number from 0; what is given is something else");
    assert!(found.len() == 2 && !found.concat().contains("s3cret"), "{found:?}");
    let text = format!("{TENANT}upstreams: {{model: {{protocol: \"${{P}}\"}}, b: {{protocol: answer, endpoints: [\"${{P}}\"]}}}}\n");
    let found = problems_with(&text, &[("P", "s3cret")]);
    assert!(found.len() == 2 && !found.concat().contains("s3cret"), "{found:?}");
    expect("data: ${\n", &["2:7: `${` without its `}`"]);
    assert_eq!(
        problems_with(&format!("{TENANT}a: {{b: ${{X}}}}\n"), &[])[0].split(" | ").nth(1),
        Some("quote `${…}` inside of `{ }` and `[ ]`")
    );
}

#[test]
fn a_file_that_is_no_yaml_is_refused_with_its_place() {
    let dir = Dir::new();
    let file = dir.0.join("config.yaml");
    let load = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Config::load(&file, &|_| None, &registry()).map(|config| config.threads).map_err(|e| e.to_string())
    };
    assert!(load([b"\xef\xbb\xbf", TENANT.as_bytes()].concat().as_slice()).is_ok(), "a byte order mark is fine");
    for (bytes, expected) in [
        (&b"a: \xe4\xb8\xad\xff\n"[..], ":1:5: not UTF-8 from here on"),
        (&[b' '; 1 + MAX_BYTES], ":1:1: the file is longer than 1MiB"),
        (b"a: 1\na: 2\n", ":2:1: key `a` is here twice; first in line 1"),
        (b"- a\n", ":1:1: expected a mapping (`key: value`), found a list"),
        (b"a: [1,\nb: 2\n", "a `[` or `{` begun in line 1 is not closed"),
        (b"a:\n\tb: 1\n", ":2:1: not valid YAML"),
        (b"listen: 127.0.0.1:1 # x\n\n\tdata: d\n", ":3:1: not valid YAML"),
        (b"limits:\n  body: 1MiB\n  \tquery: 1KiB\n", "\n    hint: indent with spaces"),
    ] {
        let found = load(bytes).unwrap_err();
        assert!(found.contains(expected), "{found}");
    }
    let missing = Config::load(&dir.0.join("none.yaml"), &|_| None, &registry()).unwrap_err().to_string();
    assert!(missing.contains("none.yaml:1:1: cannot be read: ") && missing.contains("-c FILE"), "{missing}");
}

#[test]
fn overrides_are_laid_over_each_other_and_problems_in_them_are_found() {
    let text = "plugins:
  rate_limit: {limits: [{rate: 1/s}], a: 1}
routes:
  - {path: /a, chain: [auth, {rate_limit: {a: 2}}, context], history: true}
tenants:
  acme-shop:
    flow: tenant-flows/acme-shop/main.lua
    keys: [{secret: hunter2}]
    plugins: {rate_limit: {limits: [{rate: 9/s}]}}
  harbor-bank: {flow: tenant-flows/harbor-bank/main.lua, keys: [{public_key: ./k.pem}, {public_key: -----BEGIN}]}
";
    let dir = Dir::new();
    std::fs::write(dir.0.join("k.pem"), "-----BEGIN in a file").unwrap();
    let config = dir.parse(text, &[]).unwrap();
    let entry = &config.routes[0].chain[1];
    let yaml = |text: &str| serde_yaml::from_str::<Value>(text).unwrap();
    assert_eq!(entry.config, yaml("{limits: [{rate: 1/s}], a: 2}"));
    assert_eq!(entry.tenants[0].config, yaml("{limits: [{rate: 9/s}], a: 2}"));
    assert_eq!(entry.tenants[1].config, entry.config);
    assert_eq!(entry.tenants[0].keys, yaml("[{secret: hunter2}]"));
    assert_eq!(entry.tenants[1].keys[0]["public_key"], Value::from("-----BEGIN in a file"));
    assert_eq!(entry.tenants[1].keys[1]["public_key"], Value::from("-----BEGIN"));
    assert!(!format!("{config:?}").contains("hunter2"));

    let acme = || config.tenants[0].tenant.clone();
    let at = |scope: Scope, path: &str, message: &str| {
        let found = config.locate_all(entry, &[Problem { scope, path: path.to_owned(), message: message.to_owned() }]).next().unwrap();
        format!("{}:{}: {}", found.line, found.column, found.message)
    };
    assert_eq!(at(Scope::Plugin, "limits[0].rate", "`rate` is zero"), "2:32: `rate_limit`: `rate` is zero");
    assert_eq!(at(Scope::Plugin, "limits[0].burst", "missing"), "2:25: `rate_limit`: missing");
    assert_eq!(at(Scope::Plugin, "a", "bad"), "4:47: `rate_limit`: bad");
    assert_eq!(at(Scope::Tenant(acme()), "limits[0].rate", "bad"), "9:44: `rate_limit` for `acme-shop`: bad");
    assert_eq!(at(Scope::Tenant(acme()), "a", "bad"), "4:47: `rate_limit` for `acme-shop`: bad");
    assert_eq!(at(Scope::Plugin, "", "bad"), "4:31: `rate_limit`: bad");
    let said = "unknown field `secrt`, expected `secret` or `alg`";
    assert_eq!(at(Scope::Keys(acme()), "[0].secrt", said), "8:12: keys of `acme-shop`: unknown key `secrt`; did you mean `secret`?");
    let said = "unknown variant `HS265`, expected one of `HS256`, `RS256`";
    assert_eq!(at(Scope::Keys(acme()), "[0].alg", said), "8:12: keys of `acme-shop`: unknown value `HS265`; did you mean `HS256`?");
    assert_eq!(at(Scope::Keys(acme()), "[0].secret", said), "8:21: keys of `acme-shop`: what is given here is not known");
    let said = "invalid type: string \"hunter2\", expected u64";
    assert_eq!(
        at(Scope::Keys(acme()), "[0].secret", said),
        "8:21: keys of `acme-shop`: expected a whole number from 0; what is given is something else"
    );
}

#[test]
fn the_shipped_file_passes_and_says_the_defaults() {
    let dir = Dir::new();
    let shipped = dir.parse(include_str!("../../../config.yaml"), &[]).unwrap_or_else(|e| panic!("{e}"));
    // The page is for whoever tries the shipped file.
    let default = dir.parse(&format!("{TENANT}try_page: true\n"), &[]).unwrap();
    assert_eq!(shipped.tenants.iter().map(|t| t.tenant.name()).collect::<Vec<_>>(), ["acme-shop", "harbor-bank"]);
    assert!(shipped.tenants.iter().all(|t| t.canned.contains_key("busy") && t.log.starts_with(dir.0.join("data/logs"))));
    assert_eq!(
        (shipped.listen, shipped.admin, &shipped.data, shipped.threads),
        (default.listen, default.admin, &default.data, default.threads)
    );
    assert_eq!((&shipped.limits, &shipped.store, &shipped.log), (&default.limits, &default.store, &default.log));
    assert_eq!((shipped.shutdown_grace, shipped.shutdown_pause), (default.shutdown_grace, default.shutdown_pause));
    assert_eq!(shipped.turn_deadline, default.turn_deadline);
    assert_eq!((&shipped.upstreams, &shipped.tenants[0].flow_limits), (&default.upstreams, &default.tenants[0].flow_limits));
    let chains = |config: &Config| format!("{:?}", config.routes);
    assert_eq!(chains(&shipped), chains(&default));
    let demo = shipped.routes[0].chain[0].tenants.iter().filter_map(|t| t.keys[0]["secret"].as_str());
    assert!(demo.clone().count() == 2 && demo.clone().all(|secret| secret.starts_with("demo-") && secret.len() >= 32));
}

#[test]
fn a_route_that_ends_in_a_slash_takes_what_is_below_it() {
    let route = |path: &str| Route { path: path.into(), chain: Vec::new(), target: Target::History, cors: None };
    assert!(route("/v1/chat").matches("/v1/chat") && !route("/v1/chat").matches("/v1/chat/") && !route("/v1/chat").matches("/v1/chats"));
    assert!(route("/v1/").matches("/v1/chat") && route("/v1/").matches("/v1/") && !route("/v1/").matches("/v1"));
    let page = Route { path: "/".into(), chain: Vec::new(), target: Target::TryPage, cors: None };
    assert!(page.matches("/") && page.matches("/try/token") && !page.matches("/v1/chat") && !page.matches("/try"));
}

#[test]
fn a_mangled_file_is_read_or_refused_but_never_panics() {
    let dir = Dir::new();
    let shipped = include_str!("../../../config.yaml");
    const PIECES: [&str; 18] = ["${", "}", "[", "{", ": ", "- ", "\n", "\t", "'", "\"", "&a ", "*a", "!x ", "|", "#", "0", "~", "中"];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..500 {
        let mut bytes = shipped.as_bytes()[..random.usize(..=shipped.len())].to_vec();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(..=bytes.len());
            let piece = random.choice(PIECES).unwrap();
            let until = bytes.len().min(at + random.usize(..6));
            bytes.splice(at..until, piece.bytes());
        }
        if let Err(problems) = Config::read(&bytes, &dir.0.join("config.yaml"), &|_| None, &registry()) {
            let lines = bytes.split(|b| *b == b'\n').count();
            assert!(problems.iter().all(|p| (1..=lines).contains(&p.line) && p.column > 0), "{problems}\n{}", bytes.escape_ascii());
        }
    }
}
