//! Conversations read from a JSONL file, so that anyone's recorded dialogues can be played.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use fengda_plugins::api::Text;
use serde::Deserialize;

/// A recorded dialogue: one line of the file. Its `id` there is for people; the plan gives dialogues their own names.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Conversation {
    /// Its exchanges in order; at least one.
    pub turns: Vec<Exchange>,
}

/// One question and the answer it got.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Exchange {
    /// What the customer said; not empty.
    pub user: Text,
    /// What the service answered; not empty.
    pub bot: Text,
}

/// Why a file of conversations cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// A line is not a conversation.
    #[error("{path}:{line}: {reason}; expected {{\"turns\": [{{\"user\": \"…\", \"bot\": \"…\"}}]}}")]
    Line {
        /// The file.
        path: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no conversation in it.
    #[error("{path} holds no conversation")]
    Empty {
        /// The file.
        path: String,
    },
}

/// Reads a file with one conversation a line; blank lines are skipped.
///
/// # Errors
/// The file cannot be read, a line is not a conversation, or there is none.
pub(super) fn read(path: &Path) -> Result<Vec<Conversation>, ReadError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| ReadError::Io { path: name.clone(), source })?;
    read_lines(BufReader::new(file), &name)
}

/// The same words in fewer and longer conversations: each is `count` of them, one after the other.
pub(super) fn join(conversations: &[Conversation], count: usize) -> Vec<Conversation> {
    let joined = |some: &[Conversation]| Conversation { turns: some.iter().flat_map(|one| one.turns.iter().cloned()).collect() };
    conversations.chunks(count).map(joined).collect()
}

fn read_lines(lines: impl BufRead, name: &str) -> Result<Vec<Conversation>, ReadError> {
    let mut all = Vec::new();
    for (i, line) in lines.lines().enumerate() {
        let line = line.map_err(|source| ReadError::Io { path: name.to_owned(), source })?;
        if !line.trim().is_empty() {
            all.push(parse(&line).map_err(|reason| ReadError::Line { path: name.to_owned(), line: i + 1, reason })?);
        }
    }
    if all.is_empty() { Err(ReadError::Empty { path: name.to_owned() }) } else { Ok(all) }
}

fn parse(line: &str) -> Result<Conversation, String> {
    let conversation: Conversation = serde_json::from_str(line).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => format!("not a conversation (column {})", e.column()),
        _ => format!("not JSON (column {})", e.column()),
    })?;
    if conversation.turns.is_empty() {
        return Err("a conversation without turns".to_owned());
    }
    match conversation.turns.iter().position(|t| t.user.expose().trim().is_empty() || t.bot.expose().trim().is_empty()) {
        Some(i) => Err(format!("turn {} has an empty `user` or `bot`", i + 1)),
        None => Ok(conversation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Conversation>, String> {
        read_lines(text.as_bytes(), "f.jsonl").map_err(|e| e.to_string())
    }

    #[test]
    fn conversations_are_read_and_blank_lines_skipped() {
        let all = read_text(
            "{\"id\":\"a\",\"turns\":[{\"user\":\"你好\",\"bot\":\"您好\"}]}\n\n{\"id\":\"b\",\"turns\":[{\"user\":\"q\",\"bot\":\"a\"}]}\n",
        );
        let all = all.unwrap();
        assert_eq!(all.iter().map(|c| c.turns[0].bot.expose()).collect::<Vec<_>>(), ["您好", "a"]);
    }

    #[test]
    fn conversations_are_joined_with_every_word_in_its_order() {
        let line = |word: &str| format!("{{\"turns\":[{{\"user\":\"{word}\",\"bot\":\"a\"}}]}}\n");
        let joined = join(&read_text(&["1", "2", "3"].map(line).concat()).unwrap(), 2);
        let words: Vec<Vec<_>> = joined.iter().map(|c| c.turns.iter().map(|t| t.user.expose()).collect()).collect();
        assert_eq!(words, [vec!["1", "2"], vec!["3"]]);
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_and_not_quoted() {
        let good = "{\"id\":\"a\",\"turns\":[{\"user\":\"q\",\"bot\":\"a\"}]}\n";
        for (bad, expected) in [
            ("{\"id\":", "f.jsonl:2: not JSON (column 6)"),
            ("{\"id\":\"secret words\",\"turns\":\"secret words\"}", "f.jsonl:2: not a conversation (column"),
            ("{\"id\":\"b\",\"turns\":[]}", "f.jsonl:2: a conversation without turns"),
            ("{\"id\":\"b\",\"turns\":[{\"user\":\" \",\"bot\":\"a\"}]}", "f.jsonl:2: turn 1 has an empty `user` or `bot`"),
        ] {
            let error = read_text(&format!("{good}{bad}\n")).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("secret words"), "{error}");
        }
    }

    #[test]
    fn a_missing_or_empty_file_is_an_error() {
        assert_eq!(read_text("\n").unwrap_err(), "f.jsonl holds no conversation");
        assert_eq!(read(Path::new("no/such/file.jsonl")).unwrap_err().to_string(), "cannot read no/such/file.jsonl");
    }

    #[test]
    fn the_shipped_conversations_can_be_played() {
        let all = read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/conversations.jsonl"))).unwrap();
        assert!(all.len() >= 12);
        assert!(all.iter().all(|c| (4..=8).contains(&c.turns.len())));
    }
}
