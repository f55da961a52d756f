//! The `overload` command: what a tenant notices of another one that asks for too much.

use std::{
    env,
    io::{self, Write as _},
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, ValueEnum as _};
use fengda_benches::overload::{self, Attack, Options};

/// Measures a tenant's latencies alone and beside another tenant that asks for ten times its share, in turns.
///
/// Starts a gateway with a temporary configuration for each attack, and the model that it asks. Prints medians over the rounds:
/// p50 / p99 alone, beside the attack, and the ratios of the two.
#[derive(Parser)]
#[command(name = "overload")]
struct Args {
    /// Measure these only
    attacks: Vec<Attack>,
    /// How often each is measured, alone and beside
    #[arg(long, value_name = "N", default_value = "7")]
    rounds: NonZeroUsize,
    /// How long each half of a round is
    #[arg(long, value_name = "SECONDS", default_value = "4")]
    time: NonZeroU32,
    /// The victim's messages a second
    #[arg(long, value_name = "N", default_value = "100")]
    rate: NonZeroU32,
    /// How long the model takes
    #[arg(long, value_name = "MILLISECONDS", default_value = "20")]
    model: u32,
    /// The gateway's binary [default: `fengda` beside this one]
    #[arg(long, value_name = "PATH")]
    gateway: Option<PathBuf>,
}

fn main() -> ExitCode {
    match measure(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "overload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: Args) -> anyhow::Result<()> {
    let gateway = match args.gateway {
        Some(path) => path,
        None => env::current_exe().context("cannot tell where this program is; use --gateway")?.with_file_name("fengda"),
    };
    let options = Options {
        attacks: if args.attacks.is_empty() { Attack::value_variants().to_vec() } else { args.attacks },
        rounds: args.rounds.get(),
        time: Duration::from_secs(args.time.get().into()),
        rate: args.rate.get(),
        model: Duration::from_millis(args.model.into()),
        gateway,
    };
    let mut out = io::stdout();
    overload::run(&options, |outcome| {
        let _ = writeln!(out, "{outcome}");
    })?;
    Ok(())
}
