//! `fengda token`: a token for trying things out.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use fengda::{config::Config, registry, tokens};
use fengda_plugins::{api::Clock, units};

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
        let registry = registry::builtin(&registry::Slots::default(), |_| {});
        let config = Config::load(&self.file.config, &|name| std::env::var(name).ok(), &registry)?;
        let token = tokens::issue(&config, &self.tenant, &self.user, self.ttl, &Clock::system())?;
        terminal::print(&format!("{token}\n"))
    }
}
