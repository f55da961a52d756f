//! `fengda schema`: what editors need to complete and check the configuration file.

use anyhow::Result;
use clap::Args;
use fengda::{config, registry};

use super::terminal;

/// Print the JSON Schema of the configuration file, or its reference
#[derive(Args)]
#[command(after_help = "Examples:
  fengda schema > config.schema.json
  and on the file's first line: # yaml-language-server: $schema=config.schema.json")]
pub(super) struct Schema {
    /// Print the page that docs/config.md is
    #[arg(long)]
    markdown: bool,
}

impl Schema {
    pub(super) fn run(self) -> Result<()> {
        let registry = registry::builtin(&registry::Slots::default(), |_| {});
        if self.markdown {
            return terminal::print(&config::reference(&registry));
        }
        terminal::print(&format!("{}\n", serde_json::to_string_pretty(&config::schema(&registry))?))
    }
}
