//! The page to chat in: that it is one file which may do what it does, and who gets a token from it.

use bytes::Bytes;
use fengda::server;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;

use super::{
    client::{self, Reply},
    harness::{Gateway, Site, post},
};

const DEMO: &str = "  demo: { flow: flows/alpha/main.lua, keys: [{ alg: HS256, secret: demo-key-that-everybody-knows-00001 }] }
  mixed:
    flow: flows/beta/main.lua
    keys:
      - { alg: HS256, kid: old, secret: a-key-for-tests-only-of-the-tenant-mixed }
      - { alg: HS256, kid: new, secret: demo-key-that-everybody-knows-00002 }";

fn site() -> Site {
    Site::new().tenants(DEMO).extra("try_page: true")
}

fn get(path: &str, host: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", host).body(Full::default()).unwrap()
}

async fn wish(gateway: &Gateway, body: impl Into<Bytes>, headers: &[(&'static str, &str)]) -> Reply {
    let mut request = post("/try/token", None, body);
    for (name, value) in [("host", "localhost:8080")].iter().chain(headers) {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    client::http1(gateway.public(), request).await
}

/// The text between the page's only pair of these tags.
fn part<'a>(page: &'a str, tag: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("<{tag}>")).unwrap();
    let (inside, rest) = rest.split_once(&format!("</{tag}>")).unwrap();
    assert!(!rest.contains(&format!("<{tag}")), "one {tag}");
    inside
}

/// `sha256-…` as a Content-Security-Policy has it.
fn source_hash(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest = TLS13_AES_128_GCM_SHA256.tls13().unwrap().common.hash_provider.hash(text.as_bytes());
    let base64 = digest.as_ref().chunks(3).map(|three| {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
        let letter = |i: u32| if i as usize <= three.len() { char::from(ALPHABET[(bits >> (18 - 6 * i) & 63) as usize]) } else { '=' };
        (0..4).map(letter).collect::<String>()
    });
    format!("'sha256-{}'", base64.collect::<String>())
}

#[tokio::test]
async fn the_page_is_one_small_file_that_may_run_its_own_script_and_nothing_else() {
    let gateway = site().start();
    let page = client::http1(gateway.public(), get("/", "anything.example")).await;
    assert_eq!((page.status.as_u16(), &page.headers["content-type"].to_str().unwrap()), (200, &"text/html; charset=utf-8"));
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    for expected in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(expected), "{policy}");
    }
    for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
        let expected = format!("{directive} {};", source_hash(part(page.text(), tag)));
        assert!(policy.contains(&expected), "the page's {tag} was edited: POLICY in gateway/src/try_page/mod.rs needs `{expected}`");
    }
    assert!(page.body.len() < 40 << 10, "{}", page.body.len());
    assert_eq!(page.headers["x-content-type-options"], "nosniff");
    // Nothing from elsewhere, and no way by which a text could become markup. The policy refuses `style` and `on…` attributes.
    let without_namespace = page.text().replace("http://www.w3.org/2000/svg", "");
    for never in ["http://", "https://", "innerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick=\"", " src="] {
        assert!(!without_namespace.contains(never), "{never}");
    }
}

#[tokio::test]
async fn head_is_answered_without_the_page_on_both_protocols() {
    let gateway = site().start();
    let head = || Request::head("/").header("host", "localhost").body(Full::default()).unwrap();
    for reply in [client::http1(gateway.public(), head()).await, client::http2(gateway.public(), head()).await] {
        assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 0));
        assert_ne!(reply.headers["content-length"], "0");
    }
}

#[tokio::test]
async fn without_the_key_there_is_no_page() {
    let gateway = Site::new().tenants(DEMO).start();
    for path in ["/", "/try/tenants", "/try/token"] {
        client::http1(gateway.public(), get(path, "localhost")).await.error(404, "not_found");
    }
    wish(&gateway, json!({ "tenant": "demo", "user": "u" }).to_string(), &[]).await.error(404, "not_found");
}

#[tokio::test]
async fn a_demo_tenant_s_token_from_the_page_opens_a_conversation() {
    let gateway = site().start();
    let tenants = client::http1(gateway.public(), get("/try/tenants", "127.0.0.1:1")).await;
    assert_eq!(tenants.json(), json!({ "tenants": ["demo"] }));
    let same_origin = [("origin", "http://localhost:8080")];
    let granted = wish(&gateway, json!({ "tenant": "demo", "user": "小蜂" }).to_string(), &same_origin).await;
    assert_eq!((granted.status.as_u16(), &granted.json()["expires_in"]), (200, &json!(3600)), "{}", granted.text());
    assert_eq!(granted.headers["cache-control"], "no-store");
    let token = granted.json()["token"].as_str().unwrap().to_owned();
    let answer = client::http1(gateway.public(), post("/v1/chat", Some(&token), "{\"query\":\"q\"}")).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["seq"]), (200, &json!(1)), "{}", answer.text());
}

#[tokio::test]
async fn tenants_with_keys_of_their_own_get_no_token_from_the_page() {
    let gateway = site().start();
    for tenant in ["alpha", "mixed", "nobody", ""] {
        let refused = wish(&gateway, json!({ "tenant": tenant, "user": "u" }).to_string(), &[]).await;
        assert!(refused.error(404, "not_found").contains("/try/tenants"), "{tenant}");
    }
}

#[tokio::test]
async fn tokens_are_not_for_other_names_pages_and_forms() {
    let gateway = site().start();
    let body = json!({ "tenant": "demo", "user": "u" }).to_string();
    for headers in [
        ("host", "rebound.example"),
        ("origin", "http://evil.example"),
        ("origin", "null"),
        // A proxy on this machine speaks for somebody who may be anywhere.
        ("x-forwarded-for", "203.0.113.7"),
        ("forwarded", "for=203.0.113.7"),
    ] {
        wish(&gateway, body.clone(), &[headers]).await.error(403, "forbidden");
    }
    wish(&gateway, body, &[("content-type", "text/plain")]).await.error(415, "unsupported_media_type");
    client::http1(gateway.public(), get("/try/tenants", "rebound.example")).await.error(403, "forbidden");
}

#[tokio::test]
async fn a_listener_open_to_other_machines_serves_the_page_and_no_tokens() {
    let site = Site::new().extra("try_page: true");
    site.write(&site.config().replace("listen: 127.0.0.1:0", "listen: 0.0.0.0:0"));
    let running = server::start(site.options()).unwrap();
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], running.public.port()));
    assert_eq!(client::http1(addr, get("/", "localhost")).await.status, 200);
    let refused = client::http1(addr, get("/try/tenants", "localhost")).await;
    assert!(refused.error(403, "forbidden").contains("`listen`"));
    std::thread::spawn(|| running.stop()).join().unwrap();
}

#[tokio::test]
async fn bad_wishes_are_told_what_is_wrong() {
    let gateway = site().start();
    for (body, says) in [
        (json!({ "tenant": "demo", "user": "" }), "user"),
        (json!({ "tenant": "demo", "user": "u".repeat(129) }), "user"),
        (json!({ "tenant": "demo" }), "user"),
        (json!([1]), "tenant"),
        (Value::Null, "tenant"),
    ] {
        let message = wish(&gateway, body.to_string(), &[]).await.error(400, "bad_request");
        assert!(message.contains(says), "{body}: {message}");
    }
    for (method, path, allowed) in [("POST", "/", "GET, HEAD"), ("POST", "/try/tenants", "GET, HEAD"), ("GET", "/try/token", "POST")] {
        let request = Request::builder().method(method).uri(path).header("host", "localhost").body(Full::default()).unwrap();
        let reply = client::http1(gateway.public(), request).await;
        reply.error(405, "method_not_allowed");
        assert_eq!(reply.headers["allow"], allowed);
    }
    client::http1(gateway.public(), get("/try/else", "localhost")).await.error(404, "not_found");
    client::http1(gateway.public(), get("/else", "localhost")).await.error(404, "not_found");
}
