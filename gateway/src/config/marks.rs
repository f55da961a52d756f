//! The place of every value in a file, from a parse of its own: serde keeps no places of values that parse but make no sense.
//!
//! This parse comes first and takes only plain YAML: one document, no aliases, no tags, no key twice, bounded in bytes, depth and
//! values. So the parse that follows cannot be made to blow up.

use std::collections::{BTreeMap, btree_map::Entry};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::path::{Path, Step};

/// Longest file in bytes.
pub(super) const MAX_BYTES: usize = 1 << 20;
/// Deepest nesting of lists and mappings.
const MAX_DEPTH: usize = 32;
/// Most values; at about 150 bytes each this bounds the memory.
const MAX_VALUES: usize = 50_000;

/// A place in a file: line and column, both from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    /// Index of the file in [`Source::files`](super::Source); 0 is the main one, and any that is parsed.
    pub(super) file: usize,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Mark {
    pub(super) const START: Self = Self { file: 0, line: 1, column: 1 };

    /// The place of a byte of the text; for what is found without a parser.
    pub(super) fn of_byte(text: &[u8], offset: usize) -> Self {
        let before = &text[..offset];
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        Self {
            file: 0,
            line: 1 + before.iter().filter(|b| **b == b'\n').count(),
            column: 1 + String::from_utf8_lossy(&before[line_start..]).chars().count(),
        }
    }
}

impl From<Marker> for Mark {
    fn from(m: Marker) -> Self {
        Self { file: 0, line: m.line(), column: m.col() + 1 }
    }
}

/// Something wrong at a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) mark: Mark,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Flaw {
    pub(super) fn new(mark: impl Into<Mark>, message: impl Into<String>, hint: impl Into<Option<&'static str>>) -> Self {
        Self { mark: mark.into(), message: message.into(), hint: hint.into().map(str::to_owned) }
    }
}

/// The places of all values of a file.
pub(super) struct Marks(Node);

struct Node {
    key: Option<Mark>,
    value: Mark,
    plain: bool,
    children: Children,
}

enum Children {
    None,
    Map(BTreeMap<String, Node>),
    Seq(Vec<Node>),
}

impl Node {
    /// What is below it; of a value that was left out, nothing yet.
    fn map(&mut self) -> &mut BTreeMap<String, Self> {
        if !matches!(self.children, Children::Map(_)) {
            self.children = Children::Map(BTreeMap::new());
        }
        match &mut self.children {
            Children::Map(map) => map,
            Children::Seq(_) | Children::None => unreachable!("made a mapping above"),
        }
    }

    fn move_to(&mut self, file: usize) {
        self.value.file = file;
        if let Some(key) = &mut self.key {
            key.file = file;
        }
        match &mut self.children {
            Children::None => {}
            Children::Map(map) => map.values_mut().for_each(|below| below.move_to(file)),
            Children::Seq(seq) => seq.iter_mut().for_each(|below| below.move_to(file)),
        }
    }

    fn below(&self, step: &Step) -> Option<&Self> {
        match (&self.children, step) {
            (Children::Map(map), Step::Key(key)) => map.get(key),
            (Children::Seq(seq), Step::Index(index)) => seq.get(*index),
            _ => None,
        }
    }
}

/// Nothing is anywhere.
impl Default for Marks {
    fn default() -> Self {
        Self(scalar(Mark::START, true))
    }
}

impl Marks {
    /// Reads the places of a text's values.
    ///
    /// # Errors
    /// What is not plain YAML: all keys that stand twice, or the first thing of any other kind.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<Flaw>> {
        let mut build = Build::default();
        for event in Parser::new_from_str(text) {
            let step = match event {
                Ok((event, span)) => build.take(event, span.start),
                Err(e) => {
                    // The parser may see the end of the text in a line after the last.
                    let mark = Mark::from(*e.marker()).min(Mark::of_byte(text.as_bytes(), text.len()));
                    let message = format!("not valid YAML: {}", e.info());
                    Err(match tab(text, mark) {
                        Some(mark) => Flaw::new(mark, message, "indent with spaces; YAML does not take tabs"),
                        None => Flaw { mark, message, hint: build.way_out(text, mark, e.info()) },
                    })
                }
            };
            step.map_err(|flaw| vec![flaw])?;
        }
        if build.twice.is_empty() { Ok(build.root.map_or_else(Self::default, Self)) } else { Err(build.twice) }
    }

    /// Puts the entries of another file into the mapping `under` of this one. The names of those that are there already are returned,
    /// each with its place in the other file and the place of the first.
    pub(super) fn graft(&mut self, under: &str, mut other: Self, file: usize) -> Vec<(String, Mark, Mark)> {
        other.0.move_to(file);
        let Children::Map(entries) = other.0.children else { return Vec::new() };
        let into = self.0.map().entry(under.to_owned()).or_insert_with(|| scalar(Mark::START, true)).map();
        let mut twice = Vec::new();
        for (name, node) in entries {
            match into.get(&name) {
                Some(first) => twice.push((name, node.key.unwrap_or(node.value), first.key.unwrap_or(first.value))),
                None => _ = into.insert(name, node),
            }
        }
        twice
    }

    /// Whether the file says anything at this path.
    pub(super) fn has(&self, path: &Path) -> bool {
        path.0.iter().try_fold(&self.0, |node, step| node.below(step)).is_some()
    }

    /// Whether there is an unquoted scalar at this path.
    pub(super) fn plain(&self, path: &Path) -> bool {
        path.0.iter().try_fold(&self.0, |node, step| node.below(step)).is_some_and(|node| node.plain)
    }

    /// The place of the value at this path, or of the nearest value around it. A list or mapping is shown by its key.
    pub(super) fn place(&self, path: &Path) -> Mark {
        let node = self.nearest(path);
        match (&node.children, node.key) {
            (Children::Map(_) | Children::Seq(_), Some(key)) => key,
            _ => node.value,
        }
    }

    /// The place of the key at this path.
    pub(super) fn key_place(&self, path: &Path) -> Mark {
        let node = self.nearest(path);
        node.key.unwrap_or(node.value)
    }

    fn nearest(&self, path: &Path) -> &Node {
        let mut node = &self.0;
        for step in &path.0 {
            match node.below(step) {
                Some(below) => node = below,
                None => break,
            }
        }
        node
    }
}

/// The first tab in the indentation of a line, or else of the next that says something: the parser may blame the end of a value that
/// an indented line would go on with.
fn tab(text: &str, at: Mark) -> Option<Mark> {
    let lines = text.lines().enumerate().skip(at.line - 1).filter(|(i, line)| i + 1 == at.line || !line.trim_start().is_empty());
    lines.take(2).find_map(|(i, line)| {
        let indent = line.len() - line.trim_start().len();
        line[..indent].find('\t').map(|before| Mark { file: 0, line: i + 1, column: 1 + line[..before].chars().count() })
    })
}

fn scalar(value: Mark, plain: bool) -> Node {
    Node { key: None, value, plain, children: Children::None }
}

/// The tree while it grows: `open` are the lists and mappings around the next event, each with the key it waits to fill.
#[derive(Default)]
struct Build {
    root: Option<Node>,
    open: Vec<(Node, Option<(String, Mark)>)>,
    documents: usize,
    values: usize,
    twice: Vec<Flaw>,
}

impl Build {
    fn take(&mut self, event: Event<'_>, at: Marker) -> Result<(), Flaw> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Flaw::new(at, "a second document", "the file is one document: remove the `---`"));
                }
                Ok(())
            }
            Event::Alias(_) => Err(Flaw::new(at, "aliases (`*name`) are not taken", "write the value out")),
            Event::Scalar(.., Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                Err(Flaw::new(at, "tags (`!name`) are not taken", "remove the tag, or quote the text if it begins with `!`"))
            }
            Event::Scalar(text, style, ..) => self.scalar(&text, style == ScalarStyle::Plain, at),
            Event::SequenceStart(..) => self.open(Children::Seq(Vec::new()), at),
            Event::MappingStart(..) => self.open(Children::Map(BTreeMap::new()), at),
            Event::SequenceEnd | Event::MappingEnd => {
                let (node, _) = self.open.pop().expect("the parser ends only what it began");
                self.put(node);
                Ok(())
            }
        }
    }

    /// What is most often behind an error of the parser.
    fn way_out(&self, text: &str, at: Mark, said: &str) -> Option<String> {
        let line = text.lines().nth(at.line - 1).unwrap_or_default();
        let begun = self.open.last().map_or(at.line, |(node, _)| node.value.line);
        if line.contains("${") && said.contains("flow") {
            Some("quote `${…}` inside of `{ }` and `[ ]`".to_owned())
        } else if said.contains("flow") {
            Some(format!("a `[` or `{{` begun in line {begun} is not closed, or a `,` is missing"))
        } else {
            None
        }
    }

    fn count(&mut self, at: Marker) -> Result<(), Flaw> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Flaw::new(at, format!("more than {MAX_VALUES} values"), None));
        }
        Ok(())
    }

    /// Whether the next event is the key of a mapping.
    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some((Node { children: Children::Map(_), .. }, None)))
    }

    fn scalar(&mut self, text: &str, plain: bool, at: Marker) -> Result<(), Flaw> {
        self.count(at)?;
        if self.wants_key() {
            let (_, key) = self.open.last_mut().expect("a mapping wants the key");
            *key = Some((text.to_owned(), at.into()));
        } else {
            // A value that was left out is nowhere, so it is shown by its key.
            let key = self.open.last().and_then(|(_, key)| key.as_ref()).filter(|_| plain && text.is_empty());
            let mark = key.map_or(at.into(), |(_, mark)| *mark);
            self.put(scalar(mark, plain));
        }
        Ok(())
    }

    fn open(&mut self, children: Children, at: Marker) -> Result<(), Flaw> {
        self.count(at)?;
        if self.wants_key() {
            return Err(Flaw::new(at, "a list or mapping cannot be a key", "quote the text if it begins with `[` or `{`"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(Flaw::new(at, format!("nested more than {MAX_DEPTH} levels deep"), None));
        }
        self.open.push((Node { children, ..scalar(at.into(), false) }, None));
        Ok(())
    }

    /// Puts a finished value into what is open around it.
    fn put(&mut self, mut node: Node) {
        let Some((parent, key)) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut parent.children {
            Children::Map(map) => {
                let (name, mark) = key.take().expect("a key comes before its value");
                node.key = Some(mark);
                match map.entry(name) {
                    Entry::Vacant(free) => {
                        free.insert(node);
                    }
                    Entry::Occupied(first) => {
                        let line = first.get().key.map_or(0, |m| m.line);
                        let message = format!("key `{}` is here twice; first in line {line}", first.key());
                        self.twice.push(Flaw::new(mark, message, "remove one of them"));
                    }
                }
            }
            Children::Seq(seq) => seq.push(node),
            Children::None => unreachable!("only lists and mappings are opened"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flaws(text: &str) -> Vec<String> {
        let flaws = Marks::parse(text).err().unwrap_or_default();
        flaws.into_iter().map(|f| format!("{}:{}: {}", f.mark.line, f.mark.column, f.message)).collect()
    }

    #[test]
    fn every_value_has_its_place() {
        let marks = Marks::parse("# 注释\na: 1\nb:\n  - x\n  - {k: [u, \"v\"]}\n键: 值 # end\n").unwrap();
        let place = |path: &str| {
            let m = marks.place(&Path::parse(path));
            (m.line, m.column)
        };
        assert_eq!([place("a"), place("b"), place("b[0]"), place("b[1]")], [(2, 4), (3, 1), (4, 5), (5, 5)]);
        assert_eq!([place("b[1].k"), place("b[1].k[1]"), place("键")], [(5, 6), (5, 13), (6, 4)]);
        assert_eq!([place("b[1].none.x"), place("zzz"), place("")], [(5, 5), (2, 1), (2, 1)], "the nearest around it");
        assert_eq!(marks.key_place(&Path::parse("a")), Mark { file: 0, line: 2, column: 1 });
        assert!(marks.plain(&Path::parse("b[1].k[0]")) && !marks.plain(&Path::parse("b[1].k[1]")));
        assert!(marks.has(&Path::parse("b[1].k")) && !marks.has(&Path::parse("b[2]")));
    }

    #[test]
    fn what_is_not_plain_yaml_is_refused_at_its_place() {
        for (text, expected) in [
            (
                "a: 1\nb: {c: 2, c: 3}\na: 4\n",
                &["2:11: key `c` is here twice; first in line 2", "3:1: key `a` is here twice; first in line 1"][..],
            ),
            ("a: &x 1\nb: *x\n", &["2:4: aliases (`*name`) are not taken"]),
            ("a: 1\n---\nb: 2\n", &["2:1: a second document"]),
            ("a: !secret b\n", &["1:4: tags (`!name`) are not taken"]),
            ("[a]: 1\n", &["1:1: a list or mapping cannot be a key"]),
        ] {
            assert_eq!(flaws(text), expected, "{text}");
        }
        for text in ["a: [1, 2\nb: 3\n", "a: b: c\n", "a:\n\t- b\n", "a: \"x\n"] {
            let all = flaws(text);
            assert!(all.len() == 1 && all[0].contains("not valid YAML"), "{text:?}: {all:?}");
        }
        assert!(flaws("").is_empty() && flaws("# nothing\n").is_empty());
    }

    #[test]
    fn bombs_of_every_kind_end_quickly() {
        let long = |unit: &str| unit.repeat(MAX_BYTES / unit.len());
        for unit in [
            "[",
            "{",
            "- ",
            "? ",
            "a: ",
            "[]",
            "- a\n",
            "a: {",
            "&a ",
            "!",
            "'",
            "\"\\n",
            "# ",
            " ",
            "\t",
            "\n",
            ",",
            "*a ",
            "| ",
            "a ",
            "[a,",
            "{a: b, ",
            "---\n",
            "%",
            "：",
            "a\n ",
            "a: &a [*a]\n",
        ] {
            let began = std::time::Instant::now();
            let _ = Marks::parse(&long(unit));
            assert!(began.elapsed().as_secs() < 5, "{unit:?} took {:?}; it takes 0.2 s in a debug build", began.elapsed());
        }
        assert_eq!(flaws(&"- a\n".repeat(MAX_VALUES)), ["50000:3: more than 50000 values"]);
        assert_eq!(flaws(&"- ".repeat(40)), ["1:65: nested more than 32 levels deep"]);
    }
}
