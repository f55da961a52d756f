//! `fengda check`: what is wrong, without starting anything.

use anyhow::{Result, bail};
use clap::Args;
use fengda::config::Config;

use super::{
    ConfigFile,
    terminal::{self, Style, styled},
};

/// Report all problems in the configuration and the flows; exit 1 if there are any (warnings are none)
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
        match fengda::check::check(&path, &|name| std::env::var(name).ok(), |_| {}) {
            Ok(config) => {
                config.warnings.iter().for_each(|warning| terminal::tell(&shown(&warning.to_string())));
                terminal::tell(&format!("{}: {}; {}", path.display(), styled(Style::Good, "no problems"), summary(&config)));
                Ok(())
            }
            Err(problems) => {
                for problem in &problems {
                    terminal::tell(&shown(problem));
                }
                bail!(counted(problems.len(), "problem"))
            }
        }
    }
}

fn summary(config: &Config) -> String {
    let parts =
        [counted(config.tenants.len(), "tenant"), counted(config.routes.len(), "route"), counted(config.upstreams.len(), "upstream")];
    parts.join(", ")
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// A problem is its place, what is wrong, and maybe a hint on a line of its own.
fn shown(problem: &str) -> String {
    let Some((place, rest)) = problem.split_once(": ") else { return problem.to_owned() };
    let (what, hint) =
        rest.split_once('\n').map_or((rest, String::new()), |(what, hint)| (what, format!("\n{}", styled(Style::Faint, hint))));
    format!("{} {what}{hint}", styled(Style::Bold, &format!("{place}:")))
}
