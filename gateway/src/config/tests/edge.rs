//! TLS, caps, paths and CORS as an operator gets them wrong.

use super::{Dir, TENANT, expect};

fn pki(name: &str) -> String {
    format!("{}/tests/it/pki/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_certificate_and_its_key_are_read_from_files_or_from_the_environment() {
    let dir = Dir::new();
    let [cert, key, other] = ["first.pem", "first-key.pem", "second-key.pem"].map(|name| std::fs::read_to_string(pki(name)).unwrap());
    std::fs::write(dir.0.join("c.pem"), &cert).unwrap();
    std::fs::write(dir.0.join("k.pem"), &key).unwrap();
    let config = dir.parse(&format!("{TENANT}tls: {{cert: c.pem, key: k.pem}}\n"), &[]).unwrap_or_else(|e| panic!("{e}"));
    assert!(config.tls.is_some() && !format!("{config:?}").contains("BEGIN"));
    let text = format!("{TENANT}tls: {{cert: \"${{C}}\", key: \"${{K}}\"}}\n");
    assert!(dir.parse(&text, &[("C", &cert), ("K", &key)]).unwrap().tls.is_some());
    let says = |cert: &str, key: &str| dir.parse(&text, &[("C", cert), ("K", key)]).unwrap_err().to_string();
    assert!(says(&cert, &other).contains(":2:26: the key is not the certificate's"), "{}", says(&cert, &other));
    let damaged = cert.replace("MII", "MIX");
    assert!(says(&damaged, &key).contains(":2:13: this is no certificate"), "{}", says(&damaged, &key));

    // A key that was pasted without its markers is not taken for anything that may be shown.
    let bare: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let pasted = dir.parse(&format!("{TENANT}tls: {{cert: c.pem, key: \"{bare}\"}}\n"), &[]).unwrap_err().to_string();
    assert!(pasted.contains(":2:25: the key file that `tls.key` names cannot be read") && !pasted.contains(&bare[..8]), "{pasted}");
    // A certificate that was replaced makes another configuration.
    std::fs::write(dir.0.join("c.pem"), cert + "\n").unwrap();
    assert_ne!(dir.parse(&format!("{TENANT}tls: {{cert: c.pem, key: k.pem}}\n"), &[]).unwrap().hash, config.hash);
}

#[test]
fn half_a_certificate_and_logs_over_it_are_refused() {
    expect("tls: {key: \"-----BEGIN\"}\n", &["2:1: `tls` needs a `cert` and a `key`"]);
    expect("tls: {cert: a.pem, kye: b.pem}\n", &["2:13: the key file `", "2:20: unknown key `kye`; did you mean `key`?"]);
    expect("tls: {cert: a.pem, key: [b]}\n", &["2:13: the key file `", "2:20: expected a secret as text"]);
    expect("tls:\n", &["2:1: `tls` needs a `cert` and a `key`"]);
    let text =
        format!("tls: {{cert: {}, key: {}}}\n{}", pki("first.pem"), pki("first-key.pem"), TENANT.replace("keys:", "log: LOG, keys:"));
    for (name, what) in [("first.pem", "the certificate"), ("first-key.pem", "the certificate's key")] {
        let found = Dir::new().parse(&text.replace("LOG", &pki(name)), &[]).unwrap_err().to_string();
        assert!(found.contains(&format!("in the way of {what}")), "{found}");
    }
}

#[test]
fn caps_have_their_bounds() {
    expect(
        "limits: {connections: 0, streams: 0, h2_idle: 10ms}\n",
        &[
            "2:23: `limits.connections` must be 1 to 1000000",
            "2:35: `limits.streams` must be 1 to 10000",
            "2:47: `limits.h2_idle` must be 100ms to 1h",
        ],
    );
}

#[test]
fn a_route_s_path_is_plain_as_requests_are() {
    for (path, says) in [
        ("/a/../b", "2:17: no request has this path: requests' paths are made plain before they are compared\n    hint: write `/b`"),
        ("//a", "write `/a`"),
        ("/%61", "write `/a`"),
        ("/你", "write `/%E4%BD%A0`"),
        ("/a%2Fb", "2:17: a route's path has no escaped slash and no `;`"),
        ("/a;b", "2:17: a route's path has no escaped slash and no `;`"),
    ] {
        let text = format!("{TENANT}routes: [{{path: \"{path}\", chain: [auth, context], history: true}}]\n");
        let found = Dir::new().parse(&text, &[]).unwrap_err().to_string();
        assert!(found.contains(says), "{path}: {found}");
    }
}

#[test]
fn cors_names_origins_as_browsers_write_them() {
    let route = |cors: &str| format!("routes:\n- {{path: /a, chain: [auth, context], history: true, cors: {{{cors}}}}}\n");
    expect(&route("origins: [\"https://shop.example\", \"http://localhost:3000\", \"http://[::1]:1\"], methods: [GET], headers: []"), &[]);
    expect(&route("origins: [\"*\"]"), &[]);
    expect(&route(""), &["3:53: `cors` needs `origins`"]);
    expect(&route("origins: [\"*\"], credentials: true"), &["3:89: `credentials` and `*` do not go together"]);
    expect(&route("origins: [\"*\", \"https://a.example\"]"), &["3:60: `*` stands for all origins"]);
    expect(&route("origins: [\"*\"], max_age: 2d"), &["3:85: `routes[0].cors.max_age` must be 0s to 1d"]);
    expect(&route("origins: [\"*\"], methods: [get, \"P T\"]"), &["3:86: `get` is not what goes here", "3:91: `P T` is not"]);
    expect(&route("origins: [\"*\"], methods: []"), &["3:76: no page could send anything"]);
    expect(&route("origins: [\"*\"], headers: [\"x y\"]"), &["3:86: `x y` is not what goes here"]);
    for (origin, written) in [
        ("https://shop.example/", "https://shop.example"),
        ("https://shop.example/chat", "https://shop.example"),
        ("https://Shop.example", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("http://shop.example:80", "http://shop.example"),
        ("HTTPS://shop.example:8443", "https://shop.example:8443"),
    ] {
        let found = Dir::new().parse(&format!("{TENANT}{}", route(&format!("origins: [\"{origin}\"]"))), &[]).unwrap_err().to_string();
        assert!(found.contains(":3:70: `") && found.contains(&format!("write `{written}`")), "{origin}: {found}");
    }
    for origin in ["shop.example", "null", "", "https://*.example", "ftp://shop.example", "https://me@shop.example"] {
        expect(&route(&format!("origins: [\"{origin}\"]")), &[&format!("3:70: `{origin}` is no origin as browsers write it | such as")]);
    }
}
