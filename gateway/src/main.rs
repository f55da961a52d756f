//! The `fengda` command: what was typed becomes one call into the library.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use fengda::{
    config::Config,
    registry,
    server::{self, Options},
};
use fengda_plugins::api::Clock;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The gateway in front of AI customer service (蜂答).
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  fengda                                            run with ./config.yaml\n  fengda check -c staging.yaml                      all problems, each with file:line:column\n  fengda token --tenant acme-shop --user u1         a token for a first chat"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Start the gateway (the default command)
    Run {
        /// The configuration file
        #[arg(short, long, default_value = "config.yaml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Report all problems in the configuration and the flows; exit 1 if there are any
    Check {
        /// The configuration file
        #[arg(short, long, default_value = "config.yaml", value_name = "FILE")]
        config: PathBuf,
    },
    /// Print a token for a tenant's user
    Token {
        /// The tenant, as named in the configuration
        #[arg(long)]
        tenant: String,
        /// The user's id
        #[arg(long)]
        user: String,
        /// How long it is valid: 30s, 5m, 12h, 7d
        #[arg(long, default_value = "1h", value_parser = parse_ttl)]
        ttl: Duration,
        /// The configuration file
        #[arg(short, long, default_value = "config.yaml", value_name = "FILE")]
        config: PathBuf,
    },
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    fengda_plugins::units::parse_duration(text).map_err(|e| e.to_string())
}

fn main() -> ExitCode {
    let command = Cli::parse().command.unwrap_or(Command::Run { config: "config.yaml".into() });
    let result = match command {
        Command::Run { config } => run(config),
        Command::Check { config } => check(&config),
        Command::Token { tenant, user, ttl, config } => token(&config, &tenant, &user, ttl),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fengda: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: PathBuf) -> Result<()> {
    let running = server::start(Options::new(config))?;
    let gateway = running.gateway.clone();
    let control = running.control().clone();
    control
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut hangup = signal(SignalKind::hangup())?;
            loop {
                tokio::select! {
                    _ = terminate.recv() => return Ok(()),
                    _ = interrupt.recv() => return Ok(()),
                    _ = hangup.recv() => {
                        let gateway = gateway.clone();
                        // Its outcome is logged; the caller of kill(1) gets none.
                        drop(tokio::task::spawn_blocking(move || drop(gateway.reload())));
                    }
                }
            }
        })
        .map_err(|e: std::io::Error| anyhow::anyhow!("signals cannot be received: {e}"))?;
    match running.stop() {
        0 => Ok(()),
        n => bail!("{n} requests or turns did not finish within `shutdown.grace` and were abandoned"),
    }
}

fn check(path: &std::path::Path) -> Result<()> {
    let problems = fengda::check::problems(path, &|name| std::env::var(name).ok());
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => {
            eprintln!("{}: no problems", path.display());
            Ok(())
        }
        1 => bail!("1 problem"),
        n => bail!("{n} problems"),
    }
}

#[expect(clippy::print_stdout, reason = "the token is the command's output, and nothing else is")]
fn token(path: &std::path::Path, tenant: &str, user: &str, ttl: Duration) -> Result<()> {
    let registry = registry::builtin(&fengda_plugins::context::Slot::default(), |_| {});
    let config = Config::load(path, &|name| std::env::var(name).ok(), &registry)?;
    let entry = config.routes.iter().flat_map(|r| &r.chain).find(|e| e.plugin == "auth");
    let entry = entry.context("no route's chain has `auth`, so no token is asked for")?;
    let known = || entry.tenants.iter().map(|t| t.tenant.name()).collect::<Vec<_>>().join(", ");
    let found = entry.tenants.iter().find(|t| t.tenant.name() == tenant);
    let found = found.with_context(|| format!("no tenant `{tenant}` in {}; there are: {}", path.display(), known()))?;
    let token = fengda_plugins::auth::sign(&found.keys, &found.config, &found.tenant, user, ttl, &Clock::system())?;
    println!("{token}");
    Ok(())
}
