//! Tokens that must not open anything.

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

#[tokio::test]
async fn limits_are_per_tenant_and_user_and_say_when_to_come_back() {
    let gateway = Site::new().limits("[{ name: user, by: user, rate: 1/s, burst: 2 }]").start();
    for seq in 1..=2 {
        assert_eq!(gateway.ask("alpha", "u", "q").await["seq"], seq);
    }
    let reply = gateway.say("alpha", "u", json!({ "query": "q" })).await;
    reply.error(429, "rate_limited");
    assert_eq!(reply.headers["retry-after"], "1");
    assert!(reply.headers.contains_key("ratelimit") && reply.headers.contains_key("ratelimit-policy"), "{:?}", reply.headers);
    assert_eq!(gateway.ask("alpha", "other", "q").await["seq"], 1);
    assert_eq!(gateway.ask("beta", "u", "q").await["seq"], 1);
    gateway.site.clock.advance(Duration::from_secs(1));
    assert_eq!(gateway.ask("alpha", "u", "q").await["seq"], 3);
    assert_eq!(gateway.metric("fengda_plugin_rejections_total{code=\"rate_limited\",plugin=\"rate_limit\"}").await, 1.0);
}
