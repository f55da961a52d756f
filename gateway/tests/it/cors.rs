//! Pages of other origins, as browsers ask for them.

use http::{HeaderMap, Request};
use http_body_util::Full;
use serde_json::json;

use super::{
    client::{self, Reply},
    harness::{Gateway, Site},
    origin::Origin,
};

const ROUTES: &str = "routes:
  - path: /v1/chat
    chain: [auth, rate_limit, context, circuit_breaker]
    flow: model
    cors: { origins: [\"https://shop.example\", \"http://localhost:3000\"], headers: [authorization, content-type, x-lang], credentials: true, max_age: 5m }
  - path: /v1/history
    chain: [auth, rate_limit, context]
    history: true
    cors: { origins: [\"*\"] }
  - path: /v2/history
    chain: [auth, rate_limit, context]
    history: true";

async fn preflight(gateway: &Gateway, path: &str, origin: &str) -> Reply {
    let request = Request::options(path).header("host", "t").header("origin", origin).header("access-control-request-method", "POST");
    client::http1(gateway.public(), request.body(Full::default()).unwrap()).await
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_preflight_is_answered_without_a_token_for_the_origins_that_are_named() {
    let gateway = Site::new().extra(ROUTES).start();
    for origin in ["https://shop.example", "http://localhost:3000"] {
        let reply = preflight(&gateway, "/v1/chat", origin).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0));
        for (name, value) in [
            ("access-control-allow-origin", origin),
            ("access-control-allow-methods", "POST"),
            ("access-control-allow-headers", "authorization, content-type, x-lang"),
            ("access-control-allow-credentials", "true"),
            ("access-control-max-age", "300"),
            ("vary", "origin"),
        ] {
            assert_eq!(field(&reply.headers, name), Some(value), "{name}");
        }
    }
    let reply = preflight(&gateway, "/v1/history", "https://anybody.example").await;
    assert_eq!(field(&reply.headers, "access-control-allow-origin"), Some("*"));
    assert_eq!(field(&reply.headers, "access-control-allow-methods"), Some("GET, DELETE"));
    assert_eq!(field(&reply.headers, "access-control-allow-headers"), Some("authorization, content-type"));
    assert_eq!(field(&reply.headers, "access-control-max-age"), Some("600"));
    assert_eq!((field(&reply.headers, "vary"), field(&reply.headers, "access-control-allow-credentials")), (None, None));
    for stranger in ["https://shop.example.evil.example", "https://shop.example:8443", "http://shop.example", "null", "*"] {
        let reply = preflight(&gateway, "/v1/chat", stranger).await;
        assert_eq!((reply.status.as_u16(), field(&reply.headers, "vary")), (204, Some("origin")));
        assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{stranger}: {:?}", reply.headers);
    }
}

#[tokio::test]
async fn every_answer_of_the_route_says_who_may_read_it_errors_too() {
    let gateway = Site::new().limits("[{ name: user, by: user, rate: 1/h, burst: 1 }]").extra(ROUTES).start();
    for (status, token) in [(401, None), (200, Some("alpha")), (429, Some("alpha"))] {
        let mut request = gateway.chat("alpha", "u", &json!({ "query": "q" }));
        request.headers_mut().insert("origin", "https://shop.example".parse().unwrap());
        if token.is_none() {
            request.headers_mut().remove("authorization");
        }
        let reply = client::http1(gateway.public(), request).await;
        assert_eq!(reply.status, status);
        for (name, value) in [
            ("access-control-allow-origin", "https://shop.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-request-id, retry-after, ratelimit, ratelimit-policy"),
            ("vary", "origin"),
        ] {
            assert_eq!(field(&reply.headers, name), Some(value), "{status} {name}");
        }
        assert_eq!(field(&reply.headers, "access-control-allow-methods"), None);
    }
    let mut streamed = gateway.chat("beta", "u", &json!({ "query": "q", "stream": true }));
    streamed.headers_mut().insert("origin", "http://localhost:3000".parse().unwrap());
    let reply = client::http1(gateway.public(), streamed).await;
    assert_eq!((reply.status.as_u16(), field(&reply.headers, "access-control-allow-origin")), (200, Some("http://localhost:3000")));
    // No page asked, but a cache must not give this answer to one.
    let reply = gateway.say("beta", "u2", json!({ "query": "q" })).await;
    assert_eq!((field(&reply.headers, "vary"), field(&reply.headers, "access-control-allow-origin")), (Some("origin"), None));
}

#[tokio::test]
async fn a_route_without_cors_treats_a_preflight_as_any_request() {
    let gateway = Site::new().extra(ROUTES).start();
    let reply = preflight(&gateway, "/v2/history", "https://shop.example").await;
    reply.error(401, "unauthorized");
    assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{:?}", reply.headers);
    // Without the fields that make it one, it is no preflight.
    let plain = Request::options("/v1/chat").header("host", "t").header("origin", "https://shop.example");
    client::http1(gateway.public(), plain.body(Full::default()).unwrap()).await.error(401, "unauthorized");
}

#[tokio::test]
async fn who_may_read_an_application_s_answer_is_said_by_its_route_alone() {
    let origin = Origin::start().await;
    let route = "{ path: /open-to-all, public: true, upstream: app, cors: { origins: [\"https://shop.example\"] } }";
    let gateway = Site::new().also("app", &origin.upstream()).route(route).start();
    for (page, allowed) in [("https://shop.example", Some("https://shop.example")), ("https://evil.example", None)] {
        let request = Request::get("/open-to-all").header("host", "t").header("origin", page).body(Full::default()).unwrap();
        let reply = client::http1(gateway.public(), request).await;
        assert_eq!((reply.status.as_u16(), field(&reply.headers, "access-control-allow-origin")), (200, allowed));
        assert_eq!(field(&reply.headers, "access-control-allow-credentials"), None);
        let exposed = reply.headers.get_all("access-control-expose-headers").iter();
        assert!(exposed.into_iter().any(|fields| fields == "x-app"), "what it has to show is its own affair");
    }
}
