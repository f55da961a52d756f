//! What is wrong with a configuration, said so that the reader can act on it.

use std::{fmt, path::PathBuf, sync::Arc};

use super::{Source, env::Unfilled, marks::Mark, path::Path, wording::Wording};

/// One problem, with its place and a way out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The file, as it was named when it was read.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong. Holds no secret.
    pub message: String,
    /// What to do, or what would be right.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\n    hint: {hint}"))
    }
}

/// All problems of a configuration, in the order of the file, none twice. `Display` gives each its own line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// The problems.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<Vec<Diagnostic>> for Diagnostics {
    fn from(mut all: Vec<Diagnostic>) -> Self {
        all.sort();
        all.dedup();
        Self(all)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            write!(f, "{}{diagnostic}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Collects what the steps of a reading find.
pub(super) struct Report {
    pub(super) source: Arc<Source>,
    /// Values that could not be read: nothing said about them or what is around them would be worth reading.
    unread: Vec<Path>,
    found: Vec<Diagnostic>,
}

impl Report {
    pub(super) fn new(source: Source, unfilled: Vec<(Path, Unfilled)>) -> Self {
        let mut report = Self { source: Arc::new(source), unread: Vec::new(), found: Vec::new() };
        for (path, why) in unfilled {
            report.unreadable(path, Wording { message: why.to_string(), hint: Some(why.hint()), about_key: false });
        }
        report
    }

    /// Something that could not be read.
    pub(super) fn unreadable(&mut self, path: Path, wording: Wording) {
        let mark = if wording.about_key { self.source.marks.key_place(&path) } else { self.source.marks.place(&path) };
        self.push(mark, wording.message, wording.hint);
        self.unread.push(path);
    }

    /// The values that could not be read so far.
    pub(super) fn unread(&self) -> &[Path] {
        &self.unread
    }

    /// Something that makes no sense, unless that only follows from something that could not be read.
    pub(super) fn add(&mut self, path: &Path, message: impl Into<String>, hint: impl Into<Option<String>>) {
        if !self.unread.iter().any(|unread| unread.touches(path)) {
            let mark = self.source.marks.place(path);
            self.push(mark, message.into(), hint.into());
        }
    }

    /// A name that is not known.
    pub(super) fn unknown(&mut self, path: &Path, kind: &str, name: &str, known: &[&str]) {
        let wording = super::wording::unknown(kind, name, known.iter().copied());
        let message = if self.source.hides(path) { format!("unknown {kind}, given by the environment") } else { wording.message };
        self.add(path, message, wording.hint);
    }

    /// A value in a message: itself, unless it came from the environment.
    pub(super) fn shown(&self, path: &Path, value: impl fmt::Display) -> String {
        if self.source.hides(path) { "‹from the environment›".to_owned() } else { format!("`{value}`") }
    }

    /// What was found, if anything was.
    pub(super) fn finish(self) -> Result<(), Diagnostics> {
        if self.found.is_empty() { Ok(()) } else { Err(self.found.into()) }
    }

    fn push(&mut self, mark: Mark, message: String, hint: Option<String>) {
        self.found.push(self.source.diagnostic(mark, message, hint));
    }
}

impl Source {
    /// A problem at a place of this file.
    pub(super) fn diagnostic(&self, mark: Mark, message: String, hint: Option<String>) -> Diagnostic {
        Diagnostic { file: self.file.clone(), line: mark.line, column: mark.column, message, hint }
    }

    /// Whether the value at this path must not be shown.
    pub(super) fn hides(&self, path: &Path) -> bool {
        self.hidden.contains(path)
    }
}
