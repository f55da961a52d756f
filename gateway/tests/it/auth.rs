//! Tokens that open what they should, for as long as they should, and nothing else.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{
    client::{self, Http1, Reply},
    harness::{Gateway, Site, post, secret},
};

async fn with_token(gateway: &Gateway, token: &str) -> Reply {
    client::http1(gateway.public(), post("/v1/chat", Some(token), json!({ "query": "q" }).to_string())).await
}

fn sign(header: &Header, claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

#[tokio::test]
async fn tokens_that_do_not_hold_are_refused_and_said_why() {
    let gateway = Site::new().start();
    let now = gateway.site.clock.now().0 / 1000;
    let good = json!({ "tenant_id": "alpha", "user_id": "u", "exp": now + 60 });
    let valid = sign(&Header::default(), &good, &secret("alpha"));
    assert_eq!(with_token(&gateway, &valid).await.status, 200);

    let parts: Vec<&str> = valid.split('.').collect();
    let other_payload = sign(&Header::default(), &json!({ "tenant_id": "alpha", "user_id": "admin", "exp": now + 60 }), &secret("beta"));
    let tampered = format!("{}.{}.{}", parts[0], other_payload.split('.').nth(1).unwrap(), parts[2]);
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]);
    let expired = sign(&Header::default(), &json!({ "tenant_id": "alpha", "user_id": "u", "exp": now - 1 }), &secret("alpha"));
    let foreign = sign(&Header::default(), &good, &secret("beta"));
    let other_algorithm = sign(&Header::new(Algorithm::HS512), &good, &secret("alpha"));
    let no_expiry = sign(&Header::default(), &json!({ "tenant_id": "alpha", "user_id": "u" }), &secret("alpha"));
    let unknown_tenant = sign(&Header::default(), &json!({ "tenant_id": "gamma", "user_id": "u", "exp": now + 60 }), &secret("alpha"));
    let not_yet =
        sign(&Header::default(), &json!({ "tenant_id": "alpha", "user_id": "u", "exp": now + 60, "nbf": now + 30 }), &secret("alpha"));
    for (name, token) in [
        ("tampered", &tampered),
        ("unsigned", &unsigned),
        ("expired", &expired),
        ("foreign", &foreign),
        ("other algorithm", &other_algorithm),
        ("no expiry", &no_expiry),
        ("unknown tenant", &unknown_tenant),
        ("not yet", &not_yet),
        ("garbage", &"a.b.c".to_owned()),
        ("huge", &"x".repeat(8000)),
    ] {
        let reply = with_token(&gateway, token).await;
        let message = reply.error(401, "unauthorized");
        let challenge = reply.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("Bearer") && challenge.contains("error=\"invalid_token\""), "{name}: {challenge}");
        assert!(!message.contains("admin"), "{name}: {message}");
    }
    assert!(with_token(&gateway, &expired).await.error(401, "unauthorized").contains("expired"));
    assert_eq!(
        with_token(&gateway, &foreign).await.error(401, "unauthorized"),
        with_token(&gateway, &unknown_tenant).await.error(401, "unauthorized")
    );
    let reply = client::http1(gateway.public(), post("/v1/chat", None, "{}")).await;
    reply.error(401, "unauthorized");
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
    // None of it reached a flow or a conversation.
    assert_eq!(gateway.metric("fengda_turns_total{outcome=\"answered\",tenant=\"alpha\"}").await, 1.0);
}

#[tokio::test]
async fn a_verified_token_stops_working_when_it_expires() {
    let gateway = Site::new().start();
    let token = gateway.token("alpha", "u");
    let mut connection = Http1::connect(gateway.public()).await;
    for _ in 0..2 {
        assert_eq!(connection.send(post("/v1/chat", Some(&token), "{\"query\":\"q\"}")).await.status, 200);
    }
    gateway.site.clock.advance(Duration::from_secs(3601));
    connection.send(post("/v1/chat", Some(&token), "{\"query\":\"q\"}")).await.error(401, "unauthorized");
}

#[tokio::test]
async fn a_token_of_one_tenant_shows_nothing_of_another() {
    let gateway = Site::new().start();
    gateway.ask("alpha", "u", "alpha's secret").await;
    let beta = gateway.history("GET", "beta", "u", "").await.json();
    assert_eq!(beta, json!({ "session_id": "default", "seq": 0, "turns": [] }));
    assert_eq!(gateway.history("DELETE", "beta", "u", "").await.status, 204);
    assert_eq!(gateway.history("GET", "alpha", "u", "").await.json()["turns"].as_array().unwrap().len(), 1);
}

/// The site's configuration with other keys for alpha.
fn with_keys(gateway: &Gateway, keys: &str) -> String {
    let ours = format!("[{{ alg: HS256, secret: {} }}]", secret("alpha"));
    let config = gateway.site.config();
    assert!(config.contains(&ours));
    config.replace(&ours, keys)
}

#[tokio::test]
async fn keys_change_without_a_gap_and_a_removed_one_opens_nothing_from_the_reload_on() {
    let gateway = Site::new().start();
    let [old_secret, new_secret] = [secret("alpha"), secret("alpha-next")];
    let [old, new] = ["2025", "2026"].map(|kid| Header { kid: Some(kid.into()), ..Header::default() });
    let claims = json!({ "tenant_id": "alpha", "user_id": "u", "exp": gateway.site.clock.now().0 / 1000 + 60 });
    let [old, new] = [sign(&old, &claims, &old_secret), sign(&new, &claims, &new_secret)];
    let [old_key, new_key] =
        [("2025", &old_secret), ("2026", &new_secret)].map(|(kid, s)| format!("{{ alg: HS256, kid: \"{kid}\", secret: {s} }}"));
    let mut connection = Http1::connect(gateway.public()).await;
    for (keys, opens) in [
        (format!("[{old_key}]"), [true, false]),
        (format!("[{old_key}, {new_key}]"), [true, true]),
        (format!("[{new_key}]"), [false, true]),
    ] {
        gateway.site.write(&with_keys(&gateway, &keys));
        assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
        // Twice, so that the second is a remembered one.
        for (token, opens) in [(&old, opens[0]), (&new, opens[1]), (&old, opens[0]), (&new, opens[1])] {
            let reply = connection.send(post("/v1/chat", Some(token), "{\"query\":\"q\"}")).await;
            assert_eq!(reply.status, if opens { 200 } else { 401 }, "{keys}: {}", reply.text());
        }
    }
}

#[tokio::test]
async fn several_credentials_are_refused() {
    let gateway = Site::new().start();
    let token = gateway.token("alpha", "u");
    let mut twice = post("/v1/chat", Some(&token), "{\"query\":\"q\"}");
    twice.headers_mut().append("authorization", format!("Bearer {token}").parse().unwrap());
    let in_url = post(&format!("/v1/chat?access_token={token}"), Some(&token), "{\"query\":\"q\"}");
    for request in [twice, in_url] {
        let reply = client::http1(gateway.public(), request).await;
        reply.error(401, "unauthorized");
        assert_eq!(reply.headers["www-authenticate"], "Bearer error=\"invalid_request\"");
    }
    let alone = post(&format!("/v1/chat?access_token={token}"), None, "{\"query\":\"q\"}");
    client::http1(gateway.public(), alone).await.error(401, "unauthorized");
}

#[tokio::test]
async fn a_key_that_is_weak_or_of_an_unknown_algorithm_does_not_start() {
    let site = Site::new();
    let good = format!("alg: HS256, secret: {}", secret("alpha"));
    for (keys, says) in [
        ("alg: HS256, secret: short".to_owned(), "HS256 needs at least 32"),
        (format!("alg: HS512, secret: {}", secret("alpha")), "HS512 needs at least 64"),
        (format!("alg: ES512, secret: {}", secret("alpha")), "unknown value `ES512`"),
        ("alg: none, secret: x".to_owned(), "unknown value `none`"),
    ] {
        site.write(&site.config().replace(&good, &keys));
        let error = fengda::server::start(site.options()).err().expect("refused").to_string();
        assert!(error.contains(says) && error.contains("config.yaml:"), "{error}");
    }
}
