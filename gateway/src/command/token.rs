//! `fengda token`: a token for trying things out.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use fengda::{config::Config, registry};
use fengda_plugins::{api::Clock, auth, context, units};

use super::{ConfigFile, terminal};

/// Print a token for a tenant's user, and nothing else
#[derive(Args)]
#[command(after_help = "Examples:
  fengda token --tenant acme-shop --user u1
  TOKEN=$(fengda token --tenant acme-shop --user u1 --ttl 8h)")]
pub(super) struct Token {
    /// The tenant, as named in the configuration
    #[arg(long)]
    tenant: String,
    /// The user's id
    #[arg(long)]
    user: String,
    /// How long it is valid: 30s, 5m, 12h, 7d
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    #[command(flatten)]
    file: ConfigFile,
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|e| e.to_string())
}

impl Token {
    pub(super) fn run(self) -> Result<()> {
        let path = self.file.config;
        let registry = registry::builtin(&context::Slot::default(), |_| {});
        let config = Config::load(&path, &|name| std::env::var(name).ok(), &registry)?;
        let entry = config.routes.iter().flat_map(|r| &r.chain).find(|e| e.plugin == "auth");
        let entry = entry.context("no route's chain has `auth`, so no token is asked for")?;
        let known = || entry.tenants.iter().map(|t| t.tenant.name()).collect::<Vec<_>>().join(", ");
        let found = entry.tenants.iter().find(|t| t.tenant.name() == self.tenant);
        let found = found.with_context(|| format!("no tenant `{}` in {}; there are: {}", self.tenant, path.display(), known()))?;
        let token = auth::sign(&found.keys, &found.config, &found.tenant, &self.user, self.ttl, &Clock::system())?;
        terminal::print(&format!("{token}\n"))
    }
}
