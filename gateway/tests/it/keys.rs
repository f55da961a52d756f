//! Keys that are replaced while the gateway runs.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::{
    client,
    harness::{Gateway, Site, post, secret},
};

const OLD: &str = include_str!("../../../plugins/src/auth/testdata/ed.pem");
const OLD_PUBLIC: &str = include_str!("../../../plugins/src/auth/testdata/ed.pub.pem");
const NEW: &str = include_str!("../../../plugins/src/auth/testdata/ed_next.pem");
const NEW_PUBLIC: &str = include_str!("../../../plugins/src/auth/testdata/ed_next.pub.pem");

fn token(gateway: &Gateway, private: &str) -> String {
    let claims = json!({ "tenant_id": "alpha", "user_id": "u", "exp": gateway.site.clock.now().0 / 1000 + 60 });
    let key = EncodingKey::from_ed_pem(private.as_bytes()).unwrap();
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap()
}

async fn status(gateway: &Gateway, token: &str) -> u16 {
    client::http1(gateway.public(), post("/v1/chat", Some(token), "{\"query\":\"q\"}")).await.status.as_u16()
}

#[tokio::test]
async fn a_key_file_that_was_replaced_counts_from_the_next_reload() {
    let gateway = Site::new().start();
    let file = gateway.site.path("alpha.pem");
    std::fs::write(&file, OLD_PUBLIC).unwrap();
    let written = format!("{{ alg: HS256, secret: {} }}", secret("alpha"));
    gateway.site.write(&gateway.site.config().replace(&written, "{ alg: EdDSA, public_key: alpha.pem }"));
    let before = gateway.admin("POST", "/reload").await;
    assert_eq!(before.status, 200, "{}", before.text());
    let (old, new) = (token(&gateway, OLD), token(&gateway, NEW));
    assert_eq!((status(&gateway, &old).await, status(&gateway, &new).await), (200, 401));

    std::fs::write(&file, NEW_PUBLIC).unwrap();
    let after = gateway.admin("POST", "/reload").await;
    assert_eq!(after.status, 200, "{}", after.text());
    assert_eq!((status(&gateway, &old).await, status(&gateway, &new).await), (401, 200));
    assert_ne!(before.json()["config_hash"], after.json()["config_hash"]);

    std::fs::remove_file(&file).unwrap();
    let refused = gateway.admin("POST", "/reload").await;
    assert!(refused.status == 422 && refused.text().contains("alpha.pem"), "{}", refused.text());
    assert_eq!(status(&gateway, &new).await, 200);
}
