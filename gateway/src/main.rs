//! The `fengda` command: what was typed becomes one call into the library.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use fengda::{
    config::Config,
    registry,
    server::{self, Options},
    telemetry::logger,
};
use fengda_plugins::api::Clock;
use tokio::signal::unix::{self, SignalKind};

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
    /// The configuration file
    #[arg(short, long, global = true, default_value = "config.yaml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Start the gateway (the default command)
    Run,
    /// Report all problems in the configuration and the flows; exit 1 if there are any
    Check,
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
    },
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    fengda_plugins::units::parse_duration(text).map_err(|e| e.to_string())
}

fn main() -> ExitCode {
    let Cli { command, config } = Cli::parse();
    let result = match command.unwrap_or(Command::Run) {
        Command::Run => run(config),
        Command::Check => check(&config),
        Command::Token { tenant, user, ttl } => token(&config, &tenant, &user, ttl),
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
    logger::log_panics();
    // Before anything else, so that a signal during the start is not lost.
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime can be made")?;
    let entered = signals.enter();
    let mut received = Signals::listen().context("signals cannot be received")?;
    drop(entered);
    let running = server::start(Options::new(config))?;
    signals.block_on(async {
        while received.next().await == Signal::Reload {
            let gateway = running.gateway.clone();
            // Its outcome is logged; the caller of kill(1) gets none.
            drop(tokio::task::spawn_blocking(move || drop(gateway.reload())));
        }
    });
    std::thread::spawn(move || {
        signals.block_on(async { while received.next().await == Signal::Reload {} });
        eprintln!("fengda: asked a second time to stop, leaving turns in flight");
        std::process::exit(1);
    });
    match running.stop() {
        0 => Ok(()),
        n => bail!("{n} requests or turns did not finish within `shutdown.grace` and were abandoned"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    Reload,
    Stop,
}

/// SIGHUP reloads, SIGTERM and SIGINT stop.
struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let [terminate, interrupt, hangup] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(unix::signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt?, hangup: hangup? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }
}

fn check(path: &std::path::Path) -> Result<()> {
    let problems = fengda::check::problems(path, &|name| std::env::var(name).ok(), |_| {});
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
