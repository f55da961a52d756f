//! What commands write: stdout for what was asked for, stderr for everything else. A reader that has gone away is no failure, so that
//! `fengda … | head` ends quietly.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

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

/// Takes the last line told at a terminal back.
pub(super) fn take_back() {
    // One line up, and it is empty: ECMA-48 sections 8.3.22 and 8.3.41.
    drop(write!(io::stderr(), "\x1b[A\x1b[2K"));
}

/// Whether somebody reads stderr at a terminal.
pub(super) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// How a piece of text on stderr stands out.
#[derive(Clone, Copy)]
pub(super) enum Style {
    Bold,
    Faint,
    Good,
}

/// The text in a style, if somebody is there to see it and has not asked for no colours (<https://no-color.org>).
pub(super) fn styled(style: Style, text: &str) -> String {
    let unwanted = |name, when: fn(&str) -> bool| std::env::var(name).is_ok_and(|value| when(&value));
    if !is_watched() || unwanted("NO_COLOR", |v| !v.is_empty()) || unwanted("TERM", |v| v == "dumb") {
        return text.to_owned();
    }
    // Select Graphic Rendition, ECMA-48 section 8.3.117.
    let rendition = match style {
        Style::Bold => 1,
        Style::Faint => 2,
        Style::Good => 32,
    };
    format!("\x1b[{rendition}m{text}\x1b[0m")
}
