//! `fengda check`: what is wrong, without starting anything.

use anyhow::{Result, bail};
use clap::Args;

use super::{ConfigFile, terminal};

/// Report all problems in the configuration and the flows; exit 1 if there are any
#[derive(Args)]
#[command(after_help = "Examples:
  fengda check
  fengda check -c staging.yaml && systemctl reload fengda")]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
}

impl Check {
    pub(super) fn run(self) -> Result<()> {
        let path = self.file.config;
        let problems = fengda::check::problems(&path, &|name| std::env::var(name).ok(), |_| {});
        for problem in &problems {
            terminal::tell(problem);
        }
        match problems.len() {
            0 => {
                terminal::tell(&format!("{}: no problems", path.display()));
                Ok(())
            }
            1 => bail!("1 problem"),
            n => bail!("{n} problems"),
        }
    }
}
