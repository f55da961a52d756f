//! Tenants in files of their own, `tenants.d/*.yaml` beside the main file, so that each can be kept and rolled out by those whose it is.
//!
//! Their entries are put into the main file's `tenants`, tree and places alike: all that follows sees one configuration.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path as FilePath, PathBuf},
};

use serde_yaml::{Mapping, Value};

use super::{
    marks::{Flaw, MAX_BYTES, Mark, Marks},
    path::Path,
    read,
};

/// The folder's name.
pub(super) const FOLDER: &str = "tenants.d";
/// Most files in it.
const MAX_FILES: usize = 1000;
/// Most bytes of all of them.
const MAX_TOTAL: usize = 16 << 20;
const TENANTS: &str = "tenants";

/// What the files hold.
pub(super) struct Parts {
    /// The main file, and these in the order of their names: a [`Mark`] has the index.
    pub(super) files: Vec<PathBuf>,
    /// Name and text of each but the main one: part of the configuration's hash.
    pub(super) texts: Vec<(String, String)>,
    /// What is wrong with them as a whole. The path stands for what of `tenants` could not be read.
    pub(super) flaws: Vec<(Path, Flaw)>,
}

/// The files of `tenants.d` beside this main file, sorted; none if there is no such folder. Hidden files, those of editors and
/// mounted secrets, are not meant.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn list(main: &FilePath) -> io::Result<Vec<PathBuf>> {
    let folder = main.with_file_name(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = path.extension().is_some_and(|kind| kind == "yaml" || kind == "yml");
        if yaml && !hidden && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the files and puts their tenants into the tree and the marks of the main one.
pub(super) fn read_in(main: &FilePath, tree: &mut Value, marks: &mut Marks) -> Parts {
    let mut parts = Parts { files: vec![main.to_owned()], texts: Vec::new(), flaws: Vec::new() };
    match list(main) {
        Ok(files) if files.len() > MAX_FILES => {
            let flaw = Flaw::new(Mark::START, format!("{FOLDER} has more than {MAX_FILES} files"), "a file may hold many tenants");
            parts.flaws.push((unread(FOLDER), flaw));
        }
        Ok(files) => parts.files.extend(files),
        Err(e) => parts.flaws.push((unread(FOLDER), Flaw::new(Mark::START, format!("{FOLDER} cannot be read: {e}"), None))),
    }
    let mut left = MAX_TOTAL;
    for file in 1..parts.files.len() {
        let name = parts.files[file].file_name().unwrap_or_default().to_string_lossy().into_owned();
        match tenants_of(&parts.files[file], &mut left) {
            Ok((text, entries, part)) => {
                for (tenant, mark, first) in put(entries, part, file, tree, marks) {
                    let place = format!("{}:{}:{}", parts.files[first.file].display(), first.line, first.column);
                    let flaw = Flaw::new(mark, format!("tenant `{tenant}` is here again; first at {place}"), "remove one of them");
                    parts.flaws.push((unread(&tenant), flaw));
                }
                parts.texts.push((name, text));
            }
            Err(flaws) => {
                let placed = |flaw: Flaw| Flaw { mark: Mark { file, ..flaw.mark }, ..flaw };
                parts.flaws.extend(flaws.into_iter().map(|flaw| (unread(&name), placed(flaw))));
            }
        }
    }
    parts
}

/// Stands for tenants that could not be read: nothing is said of them, nor that there is none.
fn unread(name: &str) -> Path {
    Path::parse(TENANTS).at(name)
}

/// Reads one file: its text, its entries, their places.
fn tenants_of(file: &FilePath, left: &mut usize) -> Result<(String, Mapping, Marks), Vec<Flaw>> {
    let flaw = |message: String, hint: Option<&'static str>| vec![Flaw::new(Mark::START, message, hint)];
    let bytes = bytes(file, *left).map_err(|e| flaw(e, None))?;
    *left -= bytes.len();
    let (marks, tree) = read::parse(&bytes)?;
    let entries = match tree {
        Value::Mapping(entries) => entries,
        Value::Null => Mapping::new(),
        _ => return Err(flaw("expected tenants by name".to_owned(), Some("such as `acme-shop: { flow: …, keys: […] }`"))),
    };
    Ok((String::from_utf8_lossy(&bytes).into_owned(), entries, marks))
}

fn bytes(file: &FilePath, left: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let read = fs::metadata(file).and_then(|found| match found.is_file() {
        true => File::open(file)?.take(limit).read_to_end(&mut bytes),
        false => Err(io::Error::other("not a file")),
    });
    match read {
        Ok(read) if read > left => Err(format!("the files of {FOLDER} have more than {}MiB", MAX_TOTAL >> 20)),
        Ok(_) => Ok(bytes),
        Err(e) => Err(format!("cannot be read: {e}")),
    }
}

/// Puts the entries of a file into `tenants`, if that can hold any. See [`Marks::graft`].
fn put(entries: Mapping, part: Marks, file: usize, tree: &mut Value, marks: &mut Marks) -> Vec<(String, Mark, Mark)> {
    if let Some(into) = mapping(tree).and_then(|root| mapping(root.entry(TENANTS.into()).or_insert(Value::Null))) {
        for (name, tenant) in entries {
            into.entry(name).or_insert(tenant);
        }
        marks.graft(TENANTS, part, file)
    } else {
        Vec::new()
    }
}

/// The mapping that a value is, or, if it was left out, becomes.
fn mapping(value: &mut Value) -> Option<&mut Mapping> {
    if value.is_null() {
        *value = Value::Mapping(Mapping::new());
    }
    value.as_mapping_mut()
}

#[cfg(test)]
mod tests {
    use crate::config::tests::Dir;

    const ACME: &str = "acme-shop: {flow: tenant-flows/acme-shop/main.lua, keys: [{secret: a}]}\n";
    const BANK: &str = "harbor-bank: {flow: tenant-flows/harbor-bank/main.lua, keys: [{secret: \"${K:-b}\"}]}\n";

    fn dir(files: &[(&str, &str)]) -> Dir {
        let dir = Dir::new();
        std::fs::create_dir(dir.0.join("tenants.d")).unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.0.join("tenants.d").join(name), text).unwrap());
        dir
    }

    fn problems(dir: &Dir, text: &str) -> String {
        let found = dir.parse(text, &[]).expect_err("it is wrong").to_string();
        found.replace(&format!("{}/", dir.0.display()), "").replace("\n    hint: ", " | ")
    }

    #[test]
    fn tenants_of_other_files_are_like_those_of_the_main_one() {
        let dir = dir(&[("b.yaml", BANK), ("a.yml", ACME), (".hidden.yaml", "["), ("notes.txt", "["), ("empty.yaml", "# nobody yet\n")]);
        std::fs::create_dir(dir.0.join("tenants.d/old.yaml")).unwrap();
        let names = |text: &str, env: &[(&str, &str)]| {
            let config = dir.parse(text, env).unwrap_or_else(|e| panic!("{e}"));
            (config.tenants.iter().map(|t| t.tenant.name().to_owned()).collect::<Vec<_>>(), config.hash)
        };
        let (both, hash) = names("", &[]);
        assert_eq!(both, ["acme-shop", "harbor-bank"]);
        for text in ["tenants:\n", "tenants: {third: {flow: tenant-flows/acme-shop/main.lua, keys: [{secret: c}]}}\n"] {
            assert!(names(text, &[]).0.starts_with(&both), "{text}");
        }
        assert_ne!(names("", &[("K", "other")]).1, hash);
        std::fs::write(dir.0.join("tenants.d/a.yml"), format!("{ACME}# a word\n")).unwrap();
        assert_ne!(names("", &[]).1, hash);
    }

    #[test]
    fn problems_have_the_file_they_stand_in() {
        let twice = "harbor-bank: {}\nthird: {flow: 3, keys: [{secret: a}], lgo: x}\n";
        let dir = dir(&[("a.yaml", ACME), ("b.yaml", BANK), ("c.yaml", twice), ("d.yaml", "- x\n"), ("e.yaml", "a: 1\na: 2\n")]);
        let found = problems(&dir, "threads: many\ntenants: {acme-shop: {}}\n");
        let expected = [
            "config.yaml:1:10: expected a whole number from 0, found \"many\"",
            "tenants.d/a.yaml:1:1: tenant `acme-shop` is here again; first at config.yaml:2:11 | remove one of them",
            "tenants.d/c.yaml:1:1: tenant `harbor-bank` is here again; first at tenants.d/b.yaml:1:1 | remove one of them",
            "tenants.d/c.yaml:2:15: expected a path, found `3`",
            "tenants.d/c.yaml:2:39: unknown key `lgo`; did you mean `log`?",
            "tenants.d/d.yaml:1:1: expected tenants by name | such as",
            "tenants.d/e.yaml:2:1: key `a` is here twice; first in line 1",
        ];
        let lines: Vec<_> = found.lines().collect();
        assert!(lines.len() == expected.len() && lines.iter().zip(expected).all(|(line, e)| line.starts_with(e)), "{found}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_the_only_thing_said_of_its_tenants() {
        let dir = dir(&[("a.yaml", "acme-shop: [\n")]);
        assert!(problems(&dir, "").starts_with("tenants.d/a.yaml:2:1: not valid YAML") && problems(&dir, "").lines().count() == 1);
        std::fs::write(dir.0.join("tenants.d/a.yaml"), vec![b'#'; (1 << 20) + 1]).unwrap();
        assert_eq!(problems(&dir, ""), "tenants.d/a.yaml:1:1: the file is longer than 1MiB");
        for i in 0..20 {
            std::fs::write(dir.0.join(format!("tenants.d/a{i}.yaml")), vec![b'\n'; 1 << 20]).unwrap();
        }
        assert!(problems(&dir, "").contains("a9.yaml:1:1: the files of tenants.d have more than 16MiB"), "{}", problems(&dir, ""));
        for i in 0..=super::MAX_FILES {
            std::fs::write(dir.0.join(format!("tenants.d/b{i}.yaml")), "").unwrap();
        }
        assert_eq!(problems(&dir, ""), "config.yaml:1:1: tenants.d has more than 1000 files | a file may hold many tenants");
    }
}
