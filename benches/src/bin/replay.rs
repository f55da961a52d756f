//! The `replay` command: conversations from a file against a gateway of its own.

use std::{
    env,
    io::{self, Write as _},
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser;
use fengda_benches::replay::{self, Options, Report, Store};

/// Plays recorded conversations against a gateway and checks every answer.
///
/// Starts the gateway with a temporary configuration, serves the model it asks, and plays each dialogue as one user of one
/// of eight tenants. Exits with 1 if anything was wrong.
#[derive(Parser)]
#[command(name = "replay")]
struct Args {
    /// JSON lines, one conversation each: {"id": "…", "turns": [{"user": "…", "bot": "…"}]}
    file: PathBuf,
    /// How many conversations of the file make one dialogue, for histories as long as those of users who stay
    #[arg(long, value_name = "N", default_value = "1")]
    join: NonZeroUsize,
    /// How many dialogues to play, going round the file if it has fewer [default: each of the file once]
    #[arg(long, value_name = "N")]
    dialogues: Option<NonZeroUsize>,
    /// How many dialogues to play at once
    #[arg(long, value_name = "C", default_value = "16")]
    concurrency: NonZeroUsize,
    /// Kill the gateway with SIGKILL when half of the turns are acknowledged, start it again, and check that none is lost
    #[arg(long)]
    kill: bool,
    /// The gateway's binary [default: `fengda` beside this one]
    #[arg(long, value_name = "PATH")]
    gateway: Option<PathBuf>,
    /// Keep conversations in Redis: in the one at this URL, or without a URL in one of the replay's own (`redis-server`)
    #[arg(long, value_name = "URL", num_args = 0..=1)]
    redis: Option<Option<String>>,
    /// How many gateways to start on that Redis; each message of a user goes to the next one
    #[arg(long, value_name = "N", default_value = "1")]
    gateways: NonZeroUsize,
}

fn main() -> ExitCode {
    match play(Args::parse()) {
        Ok(report) if report.passed() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "replay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(args: Args) -> anyhow::Result<Report> {
    let gateway = match args.gateway {
        Some(path) => path,
        None => env::current_exe().context("cannot tell where this program is; use --gateway")?.with_file_name("fengda"),
    };
    let store = match args.redis {
        None if args.gateways.get() > 1 => anyhow::bail!("--gateways needs --redis: what one keeps on its own disk the others do not know"),
        None => Store::Embedded,
        Some(None) => Store::OwnRedis,
        Some(Some(url)) => Store::Redis(url),
    };
    let options = Options {
        file: args.file,
        join: args.join.get(),
        dialogues: args.dialogues.map(NonZeroUsize::get),
        concurrency: args.concurrency.get(),
        kill: args.kill,
        gateway,
        gateways: args.gateways.get(),
        store,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(replay::run(&options))?;
    writeln!(io::stdout(), "{report}")?;
    Ok(report)
}
