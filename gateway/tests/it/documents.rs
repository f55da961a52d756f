//! What the documents name is there: files, headings, commands, keys. Examples of YAML are in `config`, metrics in `metrics`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::metrics::root;

/// README.md and all of docs/, each with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let paths = docs.filter(|path| path.extension().is_some_and(|kind| kind == "md")).chain([root().join("README.md")]);
    paths.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// A page's blocks of code, each with its language, and the lines between them.
fn blocks(page: &str) -> (Vec<(&str, String)>, Vec<&str>) {
    let (mut blocks, mut prose, mut open) = (Vec::new(), Vec::new(), None::<(&str, String)>);
    for line in page.lines() {
        open = match (open, line.strip_prefix("```")) {
            (None, Some(language)) => Some((language, String::new())),
            (Some(block), Some(_)) => {
                blocks.push(block);
                None
            }
            (Some((language, text)), None) => Some((language, text + line + "\n")),
            (None, None) => {
                prose.push(line);
                None
            }
        };
    }
    (blocks, prose)
}

/// What stands between backticks.
fn spans<'a>(prose: &[&'a str]) -> Vec<&'a str> {
    prose.iter().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = blocks(page).1.into_iter().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_to_files_and_headings_that_are_there() {
    let mut seen = 0;
    for (path, text) in pages() {
        for target in blocks(&text).1.iter().flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(file.exists(), "{target} in {}", path.display());
            let there = anchor.is_none_or(|anchor| anchors(&fs::read_to_string(&file).unwrap()).contains(anchor));
            assert!(there, "{target} in {}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

/// The words that come after `program` where a command is written.
fn commands_of(program: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, text) in pages() {
        let (blocks, prose) = blocks(&text);
        let shell = blocks.iter().filter(|(language, _)| *language == "sh").flat_map(|(_, text)| text.lines());
        for code in spans(&prose).into_iter().chain(shell) {
            let words: Vec<_> = code.split([' ', '(', '/']).filter(|word| !word.is_empty()).collect();
            let after = words.windows(2).filter(|pair| pair[0] == program).map(|pair| pair[1].to_owned());
            found.extend(after.filter(|word| word.bytes().all(|b| b.is_ascii_lowercase())));
        }
    }
    found
}

#[test]
fn commands_and_targets_of_make_exist() {
    let commands = commands_of("fengda");
    assert!(commands.len() > 5 && commands.contains("check"), "{commands:?}");
    for command in commands {
        let help = Command::new(env!("CARGO_BIN_EXE_fengda")).args([&command, "--help"]).output().unwrap();
        assert!(help.status.success(), "there is no `fengda {command}`");
    }
    let (makefile, targets) = (fs::read_to_string(root().join("Makefile")).unwrap(), commands_of("make"));
    assert!(targets.contains("test"), "{targets:?}");
    for target in targets {
        assert!(makefile.contains(&format!("\n{target}:")), "there is no `make {target}`");
    }
}

#[test]
fn a_shell_can_read_the_examples() {
    let mut seen = 0;
    for (path, text) in pages() {
        for (_, example) in blocks(&text).0.iter().filter(|(language, _)| *language == "sh") {
            let read = Command::new("bash").args(["-n", "-c", example]).output().unwrap();
            assert!(read.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&read.stderr));
            seen += 1;
        }
    }
    assert!(seen > 3, "{seen}");
}

/// `limits.body`, and also `auth.leeway` for `plugins.auth.leeway`.
#[test]
fn keys_that_are_named_with_their_section_exist() {
    let reference = fs::read_to_string(root().join("docs/config.md")).unwrap();
    let plain = |key: &str| format!(".{}.", key.replace("<name>.", "").replace("[]", ""));
    let known: Vec<_> = reference.lines().filter_map(|line| Some(plain(line.strip_prefix("| `")?.split('`').next()?))).collect();
    let mut seen = 0;
    for page in ["api.md", "metrics.md", "operating.md", "performance.md"] {
        let text = fs::read_to_string(root().join("docs").join(page)).unwrap();
        let key =
            |span: &&str| span.trim_matches('.').contains('.') && span.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'_'));
        let file =
            |span: &str| Path::new(span).extension().is_some_and(|kind| ["d", "lua", "luau", "rs", "yaml"].iter().any(|k| kind == *k));
        // A text of a tenant's own choice.
        let named = spans(&blocks(&text).1).into_iter().filter(key).filter(|span| !file(span) && *span != "canned.busy");
        for span in named {
            assert!(known.iter().any(|known| known.contains(&format!(".{span}."))), "docs/{page} names `{span}`, which is no key");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn the_map_of_the_code_names_files_that_are_there() {
    fn collect(folder: &Path, all: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let hidden = entry.file_name().is_some_and(|name| name == "target" || name.as_encoded_bytes().starts_with(b"."));
            match entry.is_dir() {
                true if !hidden => collect(&entry, all),
                _ => all.push(format!("/{}", entry.display())),
            }
        }
    }
    let mut all = Vec::new();
    collect(&root(), &mut all);
    let map = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let files: Vec<_> = spans(&blocks(&map).1).into_iter().filter(|span| span.ends_with(".rs") && !span.contains(['{', ' '])).collect();
    assert!(files.len() > 20, "{files:?}");
    for file in files {
        assert!(all.iter().any(|path| path.ends_with(&format!("/{file}"))), "docs/ARCHITECTURE.md names {file}");
    }
}
