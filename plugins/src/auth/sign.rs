//! Makes tokens that this plugin accepts, for `fengda token` and for tests.

use std::time::Duration;

use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header, encode};
use serde_json::{Map, json};
use serde_yaml::Value;

use super::config::{AuthConfig, check_secret, key_configs};
use crate::api::{Clock, IdError, Problem, Scope, Tenant, parse_config};

/// Why no token could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The configuration of the plugin or of the keys does not hold.
    #[error("configuration: {0}")]
    Config(String),
    /// There is no secret to sign with.
    #[error("{0} has only public keys; sign with your own private key")]
    OnlyPublicKeys(String),
    /// The user's id is refused.
    #[error("the user id {0}")]
    User(IdError),
    /// The cryptography failed.
    #[error("signing failed")]
    Crypto(#[from] jsonwebtoken::errors::Error),
}

/// Makes a token for a tenant's user, good for `ttl` from now, with the tenant's first HMAC key.
///
/// `keys` is the tenant's `keys`; `config` the plugin's configuration with the tenant's overrides.
///
/// # Errors
/// See [`SignError`].
pub fn sign(keys: &Value, config: &Value, tenant: &Tenant, user: &str, ttl: Duration, clock: &Clock) -> Result<String, SignError> {
    let bad =
        |all: Vec<Problem>| SignError::Config(all.iter().map(|p| format!("{}: {}", p.path, p.message)).collect::<Vec<_>>().join("; "));
    let AuthConfig { claims: names, iss, aud, .. } = parse_config(&Scope::Plugin, config).map_err(bad)?;
    let (keys, problems) = key_configs(keys, tenant);
    if !problems.is_empty() {
        return Err(bad(problems));
    }
    let mut hmac = keys.into_iter().flatten().filter(|k| k.alg.family() == AlgorithmFamily::Hmac);
    let (alg, kid, secret) =
        hmac.find_map(|k| Some((k.alg, k.kid, k.secret?))).ok_or_else(|| SignError::OnlyPublicKeys(tenant.name().to_owned()))?;
    check_secret(alg, &secret).map_err(|(field, message)| SignError::Config([field, &message].join(" ")))?;
    tenant.user(user).map_err(SignError::User)?;

    let now = clock.now();
    let mut claims = Map::new();
    claims.insert(names.tenant, json!(tenant.name()));
    claims.insert(names.user, json!(user));
    claims.insert("iat".into(), json!(now.0 / 1000));
    claims.insert("exp".into(), json!(now.after(ttl).0 / 1000));
    claims.extend([("iss", iss), ("aud", aud)].into_iter().filter_map(|(name, value)| Some((name.into(), json!(value?)))));
    let header = Header { kid, ..Header::new(alg) };
    Ok(encode(&header, &claims, &EncodingKey::from_secret(secret.expose().as_bytes()))?)
}
