//! `fengda schema`: what editors need to complete and check the configuration file.

use anyhow::Result;
use clap::Args;
use fengda::{config, registry};
use fengda_plugins::context::Slot;

use super::terminal;

/// Print the JSON Schema of the configuration file
#[derive(Args)]
#[command(after_help = "Examples:
  fengda schema > config.schema.json
  and on the file's first line: # yaml-language-server: $schema=config.schema.json")]
pub(super) struct Schema {}

impl Schema {
    pub(super) fn run(self) -> Result<()> {
        let schema = config::schema(&registry::builtin(&Slot::default(), |_| {}));
        terminal::print(&format!("{}\n", serde_json::to_string_pretty(&schema)?))
    }
}
