//! `fengda completions`: the script by which a shell completes what is typed.

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, terminal};

/// Print the completions for a shell
#[derive(Args)]
#[command(after_help = "Examples:
  source <(fengda completions bash)
  fengda completions zsh > ~/.zfunc/_fengda
  fengda completions fish > ~/.config/fish/completions/fengda.fish")]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "fengda", &mut script);
        terminal::print(&String::from_utf8(script)?)
    }
}
