//! Tokens as the tenants' own systems would sign them.

use std::time::Duration;

use fengda_plugins::api::Clock;
use jsonwebtoken::{Algorithm, EncodingKey, Header};

/// How long tokens hold: longer than any run.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// A user's `Authorization`, signed with the tenant's HS256 secret.
pub(crate) fn bearer(tenant: &str, secret: &str, user: &str) -> String {
    let exp = Clock::system().now().after(TTL).0 / 1000;
    let claims = serde_json::json!({ "tenant_id": tenant, "user_id": user, "exp": exp });
    let key = EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("HS256 signs any claims");
    format!("Bearer {token}")
}
