//! From the bytes of a token to who it is from: what is checked, in which order, and what the client is told.
//!
//! Invariant: nothing in a token chooses how it is verified. Its tenant claim finds a set of keys, its `kid` narrows it,
//! its `alg` must be the key's own. The claims are read once, from the bytes that are then verified with that tenant's
//! keys only, so a token that names a foreign tenant fails at the signature. What is said of a token before its
//! signature holds does not depend on whether the tenant exists.

use std::{fmt, time::Duration};

use jsonwebtoken::{Algorithm, crypto, dangerous::insecure_decode_claims};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::config::{AuthConfig, MAX_KID, TenantAuth};
use crate::api::{Identity, Timestamp};

/// Longest token in bytes.
pub(super) const MAX_TOKEN: usize = 8 * 1024;

/// What is wrong with a credential; `Display` is what the client reads. No variant holds a part of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("send a token: `Authorization: Bearer <token>`")]
    Missing,
    #[error("more than one credential: send one Authorization header, and no `access_token` in the URL")]
    Several,
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    #[error("the token is malformed: a signed JWT is needed")]
    Malformed,
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    #[error("the token has a `crit` header, none is understood")]
    Critical,
    #[error("the token's `kid` is not a string of 1 to {MAX_KID} bytes")]
    Kid,
    #[error("the token's signature does not verify with its tenant's keys")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token has no claim `{0}`")]
    NoClaim(String),
    #[error("the token's claim `{0}` is not {1}")]
    ClaimType(String, &'static str),
    #[error("the token's claim `{0}` is not the one required")]
    ClaimValue(&'static str),
    #[error("the token is for an audience (`aud`), and this gateway is not configured to be one")]
    Audience,
}

/// A token whose signature and claims hold from `from` until just before `until`.
pub(super) struct Verified {
    pub(super) identity: Identity,
    from: Timestamp,
    until: Timestamp,
}

impl Verified {
    /// Whether it holds now: a remembered token is asked again at every use.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), TokenError> {
        match now {
            _ if now >= self.until => Err(TokenError::Expired),
            _ if now < self.from => Err(TokenError::NotYet),
            _ => Ok(()),
        }
    }
}

/// A JSON object in which no name occurs twice: parsers differ in which one counts (RFC 7515, 4; RFC 7519, 4).
struct Members(Map<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Members, A::Error> {
                let mut all = Map::new();
                while let Some((name, value)) = members.next_entry()? {
                    if all.insert(name, value).is_some() {
                        return Err(de::Error::custom("a name twice"));
                    }
                }
                Ok(Members(all))
            }
        }
        d.deserialize_map(Object)
    }
}

impl Members {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// One base64url part of a token, which holds no dot. jsonwebtoken decodes only the middle part of a token into a type of
    /// ours, so the part is put in the middle.
    fn decode(part: &str) -> Result<Self, TokenError> {
        insecure_decode_claims([".", part, "."].concat()).map_err(|_| TokenError::Malformed)
    }
}

/// Verifies a token as of `now`. `find` gives the tenant of a name.
pub(super) fn verify<'a>(
    token: &str,
    tenant_claim: &str,
    find: impl FnOnce(&str) -> Option<&'a TenantAuth>,
    now: Timestamp,
) -> Result<Verified, TokenError> {
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (header, payload) = message.split_once('.').filter(|(_, payload)| !payload.contains('.')).ok_or(TokenError::Malformed)?;
    let header = Members::decode(header)?;
    // Everything else in a header (RFC 7515, 4.1), such as `jwk` and `jku`, is ignored.
    if header.get("crit").is_some() {
        return Err(TokenError::Critical);
    }
    // An unencoded payload (RFC 7797), which may only stand beside `crit`.
    if header.get("b64").is_some_and(|encoded| *encoded != Value::Bool(true)) {
        return Err(TokenError::Malformed);
    }
    let alg: Algorithm = header.get("alg").and_then(Value::as_str).and_then(|a| a.parse().ok()).ok_or(TokenError::Algorithm)?;
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) if (1..=MAX_KID).contains(&kid.len()) => Some(kid.as_str()),
        Some(_) => return Err(TokenError::Kid),
    };

    let claims = Claims(Members::decode(payload)?);
    let tenant = find(claims.string(tenant_claim)?).ok_or(TokenError::Signature)?;
    let other_kid = |key: Option<&str>| matches!((key, kid), (Some(a), Some(b)) if a != b);
    let signed = tenant
        .keys
        .iter()
        .filter(|k| k.alg == alg && !other_kid(k.kid.as_deref()))
        .any(|k| crypto::verify(signature, message.as_bytes(), &k.verify, k.alg).unwrap_or(false));
    if !signed {
        return Err(TokenError::Signature);
    }
    claims.check(tenant, now)
}

/// The claims of a token (RFC 7519, 4).
struct Claims(Members);

impl Claims {
    fn check(&self, tenant: &TenantAuth, now: Timestamp) -> Result<Verified, TokenError> {
        let AuthConfig { claims: names, leeway, iss, aud, .. } = &tenant.config;
        let until = self.date("exp")?.ok_or_else(|| TokenError::NoClaim("exp".into()))?.after(*leeway);
        let from = self.date("nbf")?.unwrap_or_default();
        let from = Timestamp(from.0.saturating_sub(Timestamp::default().after(*leeway).0));
        let seen = match self.0.get(&names.seq) {
            None => None,
            Some(n) => Some(n.as_u64().ok_or_else(|| TokenError::ClaimType(names.seq.clone(), "a whole number"))?),
        };
        let user = tenant.tenant.user(self.string(&names.user)?);
        let user = user.map_err(|_| TokenError::ClaimType(names.user.clone(), "1 to 128 bytes long"))?;
        let verified = Verified { identity: Identity { user, seen }, from, until };
        verified.check(now)?;
        self.check_issuer(iss.as_deref())?;
        self.check_audience(aud.as_deref())?;
        Ok(verified)
    }

    fn string(&self, name: &str) -> Result<&str, TokenError> {
        let value = self.0.get(name).ok_or_else(|| TokenError::NoClaim(name.into()))?;
        value.as_str().ok_or_else(|| TokenError::ClaimType(name.into(), "a string"))
    }

    /// A `NumericDate`: seconds since the epoch, maybe with a fraction.
    fn date(&self, name: &'static str) -> Result<Option<Timestamp>, TokenError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        if let Some(seconds) = value.as_u64() {
            return Ok(Some(Timestamp(seconds.saturating_mul(1000))));
        }
        let seconds = value.as_f64().ok_or_else(|| TokenError::ClaimType(name.into(), "a number"))?;
        Ok(Some(match Duration::try_from_secs_f64(seconds) {
            Ok(since) => Timestamp::default().after(since),
            Err(_) if seconds < 0.0 => Timestamp::default(),
            Err(_) => Timestamp(u64::MAX),
        }))
    }

    /// `iss` is a string (RFC 7519, 4.1.1).
    fn check_issuer(&self, want: Option<&str>) -> Result<(), TokenError> {
        match (self.0.get("iss"), want) {
            (Some(Value::String(iss)), Some(want)) if iss == want => Ok(()),
            (None | Some(Value::String(_)), Some(_)) => Err(TokenError::ClaimValue("iss")),
            (None | Some(Value::String(_)), None) => Ok(()),
            (Some(_), _) => Err(TokenError::ClaimType("iss".into(), "a string")),
        }
    }

    /// `aud` is a string or a list of strings. Who is not one of them must refuse the token (RFC 7519, 4.1.3).
    fn check_audience(&self, want: Option<&str>) -> Result<(), TokenError> {
        let all = match self.0.get("aud") {
            None => return want.map_or(Ok(()), |_| Err(TokenError::ClaimValue("aud"))),
            Some(Value::Array(all)) if all.iter().all(Value::is_string) => &all[..],
            Some(one @ Value::String(_)) => std::slice::from_ref(one),
            Some(_) => return Err(TokenError::ClaimType("aud".into(), "a string or a list of strings")),
        };
        match want {
            Some(want) if all.iter().any(|a| a == want) => Ok(()),
            Some(_) => Err(TokenError::ClaimValue("aud")),
            None => Err(TokenError::Audience),
        }
    }
}

impl TokenError {
    /// The `WWW-Authenticate` challenge (RFC 6750, 3): an error code only if a token was sent.
    pub(super) fn challenge(&self) -> &'static str {
        match self {
            Self::Missing => "Bearer",
            Self::Several => r#"Bearer error="invalid_request""#,
            _ => r#"Bearer error="invalid_token""#,
        }
    }
}
