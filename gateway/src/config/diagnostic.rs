//! What is wrong with a configuration, said so that the reader can act on it.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use super::{
    Source,
    env::Unfilled,
    marks::{Flaw, Mark},
    path::Path,
    wording::{Wording, without_login},
};

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

/// All problems of a configuration, in the order of its files, none twice. `Display` gives each its own line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    all: Vec<Diagnostic>,
    /// See [`Config::files`](super::Config::files): one of them has to change before it makes sense to try again.
    pub(crate) files: Vec<PathBuf>,
}

impl Diagnostics {
    pub(crate) fn new(mut all: Vec<Diagnostic>, files: Vec<PathBuf>) -> Self {
        all.sort();
        all.dedup();
        Self { all, files }
    }

    /// The problems.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.all.iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.all.iter().enumerate() {
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
    found: Vec<(Path, Diagnostic)>,
    warnings: Vec<Diagnostic>,
    /// What the configuration is made of: see [`Config::files`](super::Config::files).
    files: Vec<PathBuf>,
    /// The texts of files that are part of the configuration, by where it names them.
    texts: Vec<(String, String)>,
}

impl Report {
    pub(super) fn new(source: Source, unfilled: Vec<(Path, Unfilled)>) -> Self {
        let files = source.files.clone();
        let mut report =
            Self { source: Arc::new(source), unread: Vec::new(), found: Vec::new(), warnings: Vec::new(), files, texts: Vec::new() };
        for (path, why) in unfilled {
            report.unreadable(path, Wording { message: why.to_string(), hint: Some(why.hint()), about_key: false });
        }
        report
    }

    /// Something that could not be read.
    pub(super) fn unreadable(&mut self, path: Path, wording: Wording) {
        let mark = if wording.about_key { self.source.marks.key_place(&path) } else { self.source.marks.place(&path) };
        self.push(&path, mark, wording.message, wording.hint);
        self.unread.push(path);
    }

    /// Something of a file that is no plain YAML, or not what it should be as a whole.
    pub(super) fn flaw(&mut self, path: Path, flaw: Flaw) {
        self.push(&path, flaw.mark, flaw.message, flaw.hint);
        self.unread.push(path);
    }

    /// Notes that a file is part of the configuration, whether it is there or not: when it changes, the configuration does.
    pub(super) fn depends_on(&mut self, file: PathBuf) {
        self.files.push(file);
    }

    /// Reads a file of at most `max` bytes that the configuration names at `place`. Its text is part of the configuration, as if it stood
    /// there: of the hash, and of what is watched.
    ///
    /// # Errors
    /// What is wrong with the file, for a sentence that names it.
    pub(super) fn read(&mut self, place: &Path, file: &FilePath, max: usize) -> Result<String, String> {
        self.depends_on(file.to_owned());
        let mut text = String::new();
        let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        match File::open(file).and_then(|file| file.take(limit).read_to_string(&mut text)) {
            Ok(_) if text.len() > max => Err(format!("is longer than {}KiB", max >> 10)),
            Ok(_) => {
                self.texts.push((place.to_string(), text.clone()));
                Ok(text)
            }
            Err(e) => Err(format!("cannot be read: {e}")),
        }
    }

    /// The values that could not be read so far.
    pub(super) fn unread(&self) -> &[Path] {
        &self.unread
    }

    /// Something that makes no sense, unless that only follows from something that could not be read.
    pub(super) fn add(&mut self, path: &Path, message: impl Into<String>, hint: impl Into<Option<String>>) {
        if !self.unread.iter().any(|unread| unread.touches(path)) {
            let mark = self.source.marks.place(path);
            self.push(path, mark, message.into(), hint.into());
        }
    }

    /// What a plugin's builder found at a path, unless it follows from what could not be read, or was said of the path, or of what is
    /// below it, before.
    pub(super) fn add_of_plugin(&mut self, path: Path, diagnostic: Diagnostic) {
        let said = self.unread.iter().any(|unread| unread.touches(&path)) || self.found.iter().any(|(found, _)| found.starts_with(&path));
        if !said {
            self.found.push((path, diagnostic));
        }
    }

    /// Something that works, but most likely is not what was meant.
    pub(super) fn warn(&mut self, path: &Path, message: impl fmt::Display, hint: impl Into<Option<String>>) {
        let mark = self.source.marks.place(path);
        self.warnings.push(self.source.diagnostic(mark, format!("warning: {message}"), hint.into()));
    }

    /// A name that is not known.
    pub(super) fn unknown(&mut self, path: &Path, kind: &str, name: &str, known: &[&str]) {
        let wording = super::wording::unknown(kind, name, known.iter().copied());
        let message = if self.source.hides(path) { format!("unknown {kind}, given by the environment") } else { wording.message };
        self.add(path, message, wording.hint);
    }

    /// A value in a message: itself but for the login of a URL, unless it came from the environment.
    pub(super) fn shown(&self, path: &Path, value: impl fmt::Display) -> String {
        if self.source.hides(path) { "‹from the environment›".to_owned() } else { format!("`{}`", without_login(&value.to_string())) }
    }

    /// Whether nothing was found wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// What the configuration is made of so far: its files, and the texts of those that are not the configuration's own.
    pub(super) fn made_of(&self) -> (Vec<PathBuf>, Vec<(String, String)>) {
        (self.files.clone(), self.texts.clone())
    }

    /// What was warned of so far.
    pub(super) fn warnings(&self) -> Vec<Diagnostic> {
        self.warnings.clone()
    }

    /// What was found wrong.
    pub(super) fn finish(self) -> Diagnostics {
        Diagnostics::new(self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect(), self.files)
    }

    fn push(&mut self, path: &Path, mark: Mark, message: String, hint: Option<String>) {
        self.found.push((path.clone(), self.source.diagnostic(mark, message, hint)));
    }
}

impl Source {
    /// A problem at a place of one of its files.
    pub(super) fn diagnostic(&self, mark: Mark, message: String, hint: Option<String>) -> Diagnostic {
        Diagnostic { file: self.files[mark.file].clone(), line: mark.line, column: mark.column, message, hint }
    }

    /// Whether the value at this path must not be shown.
    pub(super) fn hides(&self, path: &Path) -> bool {
        self.hidden.contains(path)
    }
}
