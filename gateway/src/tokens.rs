//! Tokens that the configuration lets in, for trying things out: `fengda token` and the page at `/`.

use std::time::Duration;

use fengda_plugins::{
    api::Clock,
    auth::{self, SignError},
};

use crate::config::Config;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No route wants one.
    #[error("no route's chain has `auth`, so no token is asked for")]
    NotAsked,
    /// The configuration has no such tenant.
    #[error("there is no tenant `{name}`; there are: {known}")]
    UnknownTenant {
        /// What was asked for.
        name: String,
        /// The tenants there are, separated by commas.
        known: String,
    },
    /// The tenant's keys cannot sign, or the user's id is refused.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Makes a token for a tenant's user, good for `ttl`, by the first `auth` of the configuration's routes.
///
/// # Errors
/// See [`TokenError`].
pub fn issue(config: &Config, tenant: &str, user: &str, ttl: Duration, clock: &Clock) -> Result<String, TokenError> {
    let auth = config.routes.iter().flat_map(|r| &r.chain).find(|e| e.plugin == "auth").ok_or(TokenError::NotAsked)?;
    let found = auth.tenants.iter().find(|t| t.tenant.name() == tenant).ok_or_else(|| TokenError::UnknownTenant {
        name: tenant.to_owned(),
        known: auth.tenants.iter().map(|t| t.tenant.name()).collect::<Vec<_>>().join(", "),
    })?;
    Ok(auth::sign(&found.keys, &found.config, &found.tenant, user, ttl, clock)?)
}
