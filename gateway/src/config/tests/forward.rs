//! Upstreams with several endpoints, and routes that pass requests on to them.

use super::*;

const APP: &str = "upstreams: {model: {protocol: demo}, app: {protocol: http, endpoints: ['http://a:1']}}\n";

fn good(text: &str) -> Config {
    Dir::new().parse(&format!("{TENANT}{text}"), &[]).unwrap_or_else(|e| panic!("{e}"))
}

fn peers(config: &Config, name: &str) -> PeersConfig {
    match &config.upstreams[name] {
        Upstream::Answer(AnswerUpstream { peers, .. }) | Upstream::Http(HttpUpstream { peers, .. }) => peers.clone(),
        Upstream::Demo => panic!("a demo upstream has no endpoints"),
    }
}

#[test]
fn upstreams_must_be_reachable_in_principle() {
    let text = "upstreams:
  model: {protocol: openai}
  b: {protocol: anser}
  c:
  d: {protocol: answer, path: x}
  e: {protocol: answer, endpoints: ['https://a', 'ftp://x', nonsense, 'http://u:p@h', 'http://h/base', 'http://h:0', 'http://h']}
  f: {protocol: demo, endpoints: ['http://h'], max_answer: 1B}
  'bad name': {protocol: demo}
";
    let expected = [
        "3:21: protocol `openai` is not available yet | use `answer`",
        "4:17: unknown protocol `anser`; did you mean `answer`? | known here: `answer`, `demo`, `http`",
        "5:3: an upstream needs a `protocol`",
        "6:3: an `answer` upstream needs at least one endpoint",
        "6:31: `x` is no path of a URL",
        "7:50: an endpoint begins with `http://` or `https://`",
        "7:61: `nonsense` is no URL",
        "7:71: an endpoint holds no user and password",
        "7:87: an endpoint is a scheme, host and port, without a path",
        "7:104: an endpoint's port is 1 to 65535",
        "8:23: a `demo` upstream is built in and has no endpoints",
        "9:3: the name of an upstream is 1 to 63",
    ];
    expect(text, &expected);
}

#[test]
fn both_protocols_have_endpoints_of_the_same_kind() {
    let config = good(
        "upstreams:
  model: {protocol: answer, endpoints: ['https://[::1]:9', 'http://b'], balance: session, eject: {failures: 2, for: 1s}}
  app: {protocol: http, endpoints: ['https://app.internal'], balance: {header: X-Shard}, timeouts: {connect: 1s, idle: 2h}}
  shop: {protocol: http, endpoints: ['http://c'], balance: {cookie: sid}}
",
    );
    let model = peers(&config, "model");
    let told: Vec<_> = model.endpoints.iter().map(|e| (&*e.host, e.port, &*e.authority, e.tls)).collect();
    assert_eq!(told, [("::1", 9, "[::1]:9", true), ("b", 80, "b", false)]);
    assert_eq!((model.balance, model.eject), (Balance::Session, Eject { failures: 2, time: Duration::from_secs(1) }));
    let app = peers(&config, "app");
    assert_eq!((app.endpoints[0].port, app.balance), (443, Balance::Header("x-shard".parse().unwrap())));
    assert_eq!((app.connect_timeout, app.eject), (Duration::from_secs(1), Eject::default()));
    assert_eq!(peers(&config, "shop").balance, Balance::Cookie("sid".into()));
    let Upstream::Http(HttpUpstream { timeouts, .. }) = config.upstreams["app"] else { panic!("it is an http upstream") };
    assert_eq!(timeouts, HttpTimeouts { first_byte: Duration::from_secs(30), idle: Duration::from_secs(7200) });
}

#[test]
fn what_says_nothing_to_a_protocol_is_no_key_of_it() {
    let many: Vec<String> = (1..=65).map(|port| format!("'http://h:{port}'")).collect();
    let text = format!(
        "upstreams:
  model: {{protocol: answer, endpoints: ['http://h'], balance: {{header: x}}, timeouts: {{first_byte: 1s}}}}
  a: {{protocol: http, endpoints: ['http://h'], path: /x, max_answer: 1KiB, timeouts: {{total: 1s, first_token: 1s}}}}
  b: {{protocol: http, endpoints: ['http://h'], balance: randomly, eject: {{failures: 0, for: 1ms}}}}
  c: {{protocol: http, endpoints: ['https://b c', 'https://-'], ca: none.pem, balance: {{header: 'a b'}}}}
  d: {{protocol: http, endpoints: [{}]}}
  e: {{protocol: http, endpoints: ['http://h'], balance: {{cookie: 'sid='}}}}
",
        many.join(", ")
    );
    let expected = [
        "3:54: an `answer` upstream is not asked with a client's header or cookie | `round_robin`, `user` or `session`",
        "3:99: `timeouts.first_byte` says nothing to an `answer` upstream | remove it",
        "4:54: `path` says nothing to an `http` upstream",
        "4:70: `max_answer` says nothing to an `http` upstream",
        "4:94: `timeouts.total` says nothing to an `http` upstream",
        "4:111: `timeouts.first_token` says nothing to an `http` upstream",
        "5:57: unknown value `randomly`",
        "5:85: `upstreams.b.eject.failures` must be 1 to 1000",
        "5:93: `upstreams.b.eject.for` must be 100ms to 1h",
        "6:35: `https://b c` is no URL",
        "6:50: no certificate can be for this host",
        "6:68: the key file",
        "6:96: `a b` is no name of a header field",
        "7:23: 65 endpoints, and at most 64 are taken",
        "8:66: `sid=` is no name of a cookie | such as `sid`",
    ];
    expect(&text, &expected);
}

#[test]
fn a_ca_is_a_file_with_a_certificate_and_its_change_is_a_change() {
    let dir = Dir::new();
    let text = format!("{TENANT}upstreams: {{model: {{protocol: answer, endpoints: ['https://h'], ca: ca.pem}}}}\n");
    std::fs::write(dir.0.join("ca.pem"), "nothing").unwrap();
    let said = dir.parse(&text, &[]).unwrap_err().to_string();
    assert!(said.contains("the file holds no certificate"), "{said}");
    let pem = |bytes: &str| format!("-----BEGIN CERTIFICATE-----\n{bytes}\n-----END CERTIFICATE-----\n");
    let hash = |bytes: &str| {
        std::fs::write(dir.0.join("ca.pem"), pem(bytes)).unwrap();
        let config = dir.parse(&text, &[]).unwrap();
        assert_eq!(peers(&config, "model").ca.as_deref(), Some(&*pem(bytes)));
        config.hash
    };
    assert_ne!(hash("AAAA"), hash("BBBB"));
}

#[test]
fn a_route_passes_requests_on_as_it_says() {
    let text = "routes:
  - {path: /, public: true, upstream: app}
  - {path: /x, chain: [auth], flow: model}
";
    expect(&format!("{APP}{text}"), &["5:12: no request gets here", "5:16: a route with a flow or history needs `context`"]);
    let text = "routes:
  - path: /app/
    public: true
    upstream: app
    rewrite: {strip: /app/, add: /v2/}
    host: upstream
    body: 2GiB
    body_deadline: 6h
    trust_forwarded: true
    request_headers: {set: {X-Key: secret-value}, remove: [Authorization]}
    response_headers: {remove: [server]}
";
    let config = good(&format!("{APP}{text}"));
    let Target::Forward(forward) = &config.routes[0].target else { panic!("it passes requests on") };
    assert_eq!((&*forward.upstream, &*forward.strip, &*forward.add), ("app", "/app", "/v2"));
    assert_eq!((forward.own_host, forward.body, forward.trust_forwarded), (true, 2 << 30, true));
    assert_eq!(forward.body_deadline, Duration::from_hours(6));
    assert_eq!((forward.request.set[0].0.as_str(), forward.request.remove[0].as_str()), ("x-key", "authorization"));
    assert!(!format!("{config:?}").contains("secret-value"));
    assert!(!config.keeps_conversations());
}

#[test]
fn a_route_that_cannot_be_meant_is_refused() {
    let text = "routes:
  - {path: /a, chain: [auth, context], flow: app}
  - {path: /b, chain: [auth, context], flow: model, rewrite: {strip: /b}, body: 1KiB, host: client, body_deadline: 1s}
  - {path: /c, public: true, upstream: other}
  - {path: /d, public: true, upstream: app, history: true}
  - {path: /e, public: true, upstream: app, rewrite: {strip: /ex, add: v2}}
  - {path: /ef, public: true, upstream: app, rewrite: {strip: /e, add: '/a?b'}, host: theirs}
  - {path: /g, public: true, upstream: app, request_headers: {set: {Host: x, Connection: close, 'a b': c, ok: \"a\\nb\"}, remove: [TE]}}
  - {path: /h, upstream: app}
  - {path: /i, public: true, upstream: app, body_deadline: 8d}
  - {path: /j, public: true, upstream: app, body_deadline: soon}
";
    let expected = [
        "4:46: `app` is no model | name a `demo` or `answer` upstream",
        "5:53: `rewrite` is for a route with `upstream` | remove it",
        "5:81: `body` is for a route with `upstream`",
        "5:93: `host` is for a route with `upstream`",
        "5:116: `body_deadline` is for a route with `upstream`",
        "6:40: unknown upstream `other` | known here: `app`, `model`",
        "7:5: a route has one target, this one has `history` and `upstream`",
        "7:5: a route with a flow or history needs `context`",
        "7:24: a route with a flow or history cannot be public",
        "8:62: `/ex` is not the beginning of the route's path | the route takes `/e`",
        "8:72: `v2` is no path of a URL | such as `/v2`",
        "9:63: `/e` is not the beginning of the route's path",
        "9:72: `/a?b` is no path of a URL",
        "9:87: unknown value `theirs` | known here: `client`, `upstream`",
        "10:75: `host` is not set as a field | `host: client`",
        "10:90: `connection` belongs to the connection",
        "10:104: `a b` is no name of a header field",
        "10:111: the value of a header field holds no line breaks",
        "10:129: `te` belongs to the connection",
        "11:5: nothing in this chain authenticates the client",
        "12:60: `routes[8].body_deadline` must be 100ms to 7d",
        "13:60: expected a duration",
    ];
    expect(&format!("{APP}{text}"), &expected);
}

#[test]
fn public_routes_need_neither_tenants_nor_an_admin_listener() {
    let text = format!("admin: none\n{APP}routes: [{{path: /, public: true, upstream: app}}]\n");
    let config = Dir::new().parse(&text, &[]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.admin, config.tenants.len()), (None, 0));
    assert!(problems_with(&format!("{APP}routes: [{{path: /, chain: [auth], upstream: app}}]\n"), &[])[0].contains("at least one tenant"));
}

#[test]
fn a_reload_cannot_bring_the_first_conversation() {
    let dir = Dir::new();
    let parse = |routes: &str| dir.parse(&format!("{TENANT}{APP}routes: [{routes}]\n"), &[]).unwrap();
    let open = parse("{path: /, public: true, upstream: app}");
    let chat = parse("{path: /v1/chat, chain: [auth, context], flow: model}");
    assert!(open.check_reload(&chat).is_ok());
    let said = chat.check_reload(&open).unwrap_err().to_string();
    assert!(said.contains("config.yaml:3:1: a route with `context`"), "{said}");
}
