//! auth: proves from a Bearer JWT (RFC 6750, RFC 7519) which tenant and user a request is from.
//!
//! ```yaml
//! auth: { claims: { tenant: tenant_id, user: user_id, seq: seq_no }, leeway: 0s, cache: 10000, iss: …, aud: … }
//! tenants: { acme-shop: { keys: [ { alg: HS256, secret: …, kid: … }, { alg: ES256, public_key: <PEM> } ] } }
//! ```
//!
//! The gateway puts the text of a key file into the place of its path, so that here `public_key` is always PEM text.
//!
//! A token that names an audience is refused unless `aud` is configured. Several keys may be there at once, to change them
//! without refusing anybody: a token's `kid` says which one it is signed with, tokens and keys without one are tried.
//!
//! Verified tokens are remembered, so that the signature is checked once; their times are checked at every use. New keys
//! come with a new instance, which remembers nothing.

mod config;
mod sign;
#[cfg(test)]
mod tests;
mod token;

use std::{collections::HashMap, sync::Arc};

use http::{
    HeaderValue,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
    request::Parts,
};
use moka::sync::Cache;

use self::{
    config::TenantAuth,
    token::{MAX_TOKEN, TokenError, Verified},
};
use crate::api::{BuildCtx, Clock, Code, Decision, Plugin, PluginSpec, Problem, Reject, RequestCtx, Step};

pub use self::{
    config::{AuthConfig, ClaimNames, KeyConfig},
    sign::{SignError, sign},
};

const NAME: &str = "auth";
/// Longer tokens are verified each time: this times the number of entries bounds the cache's memory.
const MAX_REMEMBERED: usize = 2 * 1024;

/// The plugin.
pub struct Auth {
    tenant_claim: Box<str>,
    tenants: HashMap<Box<str>, TenantAuth>,
    /// Keyed by the whole token: exact, and hashed with a key of this process, so that nobody can craft collisions.
    verified: Cache<Box<str>, Arc<Verified>>,
    clock: Clock,
}

/// How the gateway makes one.
pub fn spec() -> PluginSpec {
    let build = |ctx: &BuildCtx<'_>| Ok(Arc::new(Auth::build(ctx)?) as Arc<dyn Plugin>);
    PluginSpec { name: NAME, after: &[], authenticates: true, schema: |g| g.subschema_for::<AuthConfig>(), build: Box::new(build) }
}

impl Auth {
    fn build(ctx: &BuildCtx<'_>) -> Result<Self, Vec<Problem>> {
        let (config, tenants) = config::load(ctx)?;
        Ok(Self {
            tenant_claim: config.claims.tenant.into(),
            tenants: tenants.into_iter().map(|t| (t.tenant.name().into(), t)).collect(),
            verified: Cache::new(config.cache),
            clock: ctx.clock.clone(),
        })
    }

    fn authenticate(&self, head: &Parts) -> Result<Arc<Verified>, TokenError> {
        let token = bearer(head)?;
        let now = self.clock.now();
        if let Some(known) = self.verified.get(token) {
            known.check(now)?;
            return Ok(known);
        }
        let verified = Arc::new(token::verify(token, &self.tenant_claim, |name| self.tenants.get(name), now)?);
        if token.len() <= MAX_REMEMBERED {
            self.verified.insert(token.into(), Arc::clone(&verified));
        }
        Ok(verified)
    }
}

/// The one Bearer token of a request (RFC 6750, 2.1). The scheme's name is case-insensitive (RFC 9110, 11.1). A token in the URL
/// (RFC 6750, 2.3) ends up in logs: alone it does not count, and beside another it is one too many.
fn bearer(head: &Parts) -> Result<&str, TokenError> {
    let mut all = head.headers.get_all(AUTHORIZATION).iter();
    let value = all.next().ok_or(TokenError::Missing)?;
    let in_url = |query: &str| query.split('&').any(|pair| pair.split('=').next() == Some("access_token"));
    if all.next().is_some() || head.uri.query().is_some_and(in_url) {
        return Err(TokenError::Several);
    }
    let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len()).ok_or(TokenError::Missing)?;
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err(TokenError::Missing);
    }
    match token.trim_ascii() {
        [] => Err(TokenError::Missing),
        token if token.len() > MAX_TOKEN => Err(TokenError::TooLong),
        token => std::str::from_utf8(token).map_err(|_| TokenError::Malformed),
    }
}

impl Plugin for Auth {
    fn name(&self) -> &'static str {
        NAME
    }

    fn request<'a>(&'a self, head: &'a Parts, ctx: &'a mut RequestCtx) -> Step<'a, Decision> {
        Step::Ready(match self.authenticate(head) {
            Ok(verified) => {
                ctx.identify(verified.identity.clone());
                Decision::Continue
            }
            Err(e) => {
                let challenge = HeaderValue::from_static(e.challenge());
                Decision::Reject(Reject::new(Code::Unauthorized, e.to_string()).with(WWW_AUTHENTICATE, challenge))
            }
        })
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "tenants": self.tenants.len(), "remembered_tokens": self.verified.entry_count() })
    }
}
