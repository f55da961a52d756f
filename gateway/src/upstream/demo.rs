//! A built-in model, so that a first look needs no network and no key. Its answers show that the history went along.

use fengda_plugins::api::Text;

use super::{Pieces, Question, Reply};

/// Characters in a piece of a streamed answer.
const PIECE: usize = 4;
/// Characters of a quoted message.
const QUOTE: usize = 40;

/// The same question with the same history always gets the same answer.
pub(super) fn answer(question: &Question<'_>) -> Reply {
    let past: Vec<_> = question.history.iter().filter(|t| !t.fallback).collect();
    let mut text = format!("（演示模型）您说：“{}”。", quote(question.query.expose()));
    if let Some(last) = past.last() {
        text.push_str(&format!("这是我们的第 {} 轮对话，上一轮您说的是“{}”。", past.len() + 1, quote(last.q.expose())));
    }
    if !question.stream {
        return Reply::Whole(text.into());
    }
    let characters: Vec<char> = text.chars().collect();
    let mut pieces = characters.chunks(PIECE).map(|c| Text::from(c.iter().collect::<String>())).collect::<Vec<_>>().into_iter();
    let first = pieces.next().expect("the answer is never empty");
    Reply::Stream(first, Pieces::Demo(pieces))
}

fn quote(words: &str) -> String {
    match words.char_indices().nth(QUOTE) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words.to_owned(),
    }
}
