//! The command line: what was typed becomes one call into the library. One file for each command; the only place for `anyhow`.
//!
//! Exit codes: 0 it was done, 1 it was not (why is on stderr), 2 the command line is wrong.
//! Stdout holds what was asked for and nothing else.

mod check;
mod completions;
mod import;
mod proxy;
mod run;
mod schema;
mod terminal;
mod token;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// The gateway in front of AI customer service (蜂答).
#[derive(Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  fengda                                     run with ./config.yaml
  fengda check -c staging.yaml               all problems, each with file:line:column
  fengda token --tenant acme-shop --user u1  a token for a first chat
  fengda proxy http://127.0.0.1:8000         a reverse proxy before an application

Exit codes: 0 done, 1 failed or problems found, 2 wrong command line"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Without a command: run
    #[command(flatten)]
    run: run::Run,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Proxy(proxy::Proxy),
    Schema(schema::Schema),
    Token(token::Token),
    Import(import::Import),
    Completions(completions::Completions),
}

/// Which configuration a command is about.
#[derive(Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(short, long = "config", default_value = "config.yaml", value_name = "FILE")]
    config: PathBuf,
}

/// Does what the command line says.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(run) => run.run(),
        Command::Check(check) => check.run(),
        Command::Proxy(proxy) => proxy.run(),
        Command::Schema(schema) => schema.run(),
        Command::Token(token) => token.run(),
        Command::Import(import) => import.run(),
        Command::Completions(completions) => completions.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::tell(&format!("fengda: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
