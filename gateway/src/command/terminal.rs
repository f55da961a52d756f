//! What commands write: stdout for what was asked for, stderr for everything else. A reader that has gone away is no failure, so that
//! `fengda … | head` ends quietly.

use std::io::{self, ErrorKind, Write as _};

use anyhow::{Context as _, Result};

/// Writes what was asked for.
pub(super) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("the output cannot be written"),
        _ => Ok(()),
    }
}

/// Tells the person at the terminal something. Nobody is left to hear of it when that fails.
pub(super) fn tell(text: &str) {
    drop(writeln!(io::stderr(), "{text}"));
}
