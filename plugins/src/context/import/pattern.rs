//! Which key of the older deployment holds whose list.

use std::str::FromStr;

use crate::api::{IdError, SessionKey, Tenant};

/// The session that a list is if its key names none; also that of clients that name none.
pub const DEFAULT_SESSION: &str = "default";

const USER: &str = "{user_id}";
const SESSION: &str = "{session_id}";

/// A key with the ids left out, such as `chat:{user_id}` or `chat:{user_id}:{session_id}`. `{{` and `}}` stand for braces, as around
/// the hash tag in `chat:{{{user_id}}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// What stands before the first id.
    before: String,
    /// Whose id comes first.
    first: Id,
    /// What stands between the ids, and the second; none if the key names no session.
    second: Option<(String, Id)>,
    /// What stands after the last id.
    after: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    User,
    Session,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing says whose list it is.
    #[error("has no {{user_id}}")]
    NoUser,
    /// An id is named again.
    #[error("names the same id twice")]
    Twice,
    /// Nobody could tell where one id ends and the other begins.
    #[error("has no text between {{user_id}} and {{session_id}}")]
    Adjacent,
    /// A brace that neither begins nor ends the name of an id.
    #[error("has a brace that is not part of {{user_id}} or {{session_id}}; `{{{{` and `}}}}` stand for braces")]
    Brace,
}

/// Why a key's list cannot be anybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The pattern does not fit.
    #[error("does not fit the pattern")]
    Foreign,
    /// The text between the ids is also part of one of them: it might be somebody else's.
    #[error("can be read as more than one user and session")]
    Ambiguous,
    /// No id here.
    #[error("the user or session in it {0}")]
    Id(IdError),
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (mut literals, mut ids, mut rest) = (vec![String::new()], Vec::new(), text);
        while let Some(next) = rest.chars().next() {
            let literal = literals.last_mut().expect("begun with one");
            let taken = if rest.starts_with("{{") || rest.starts_with("}}") {
                literal.push(next);
                2
            } else if let Some((name, id)) = [(USER, Id::User), (SESSION, Id::Session)].into_iter().find(|(name, _)| rest.starts_with(name))
            {
                literals.push(String::new());
                ids.push(id);
                name.len()
            } else if next == '{' || next == '}' {
                return Err(PatternError::Brace);
            } else {
                literal.push(next);
                next.len_utf8()
            };
            rest = &rest[taken..];
        }
        let after = literals.pop().expect("begun with one");
        let mut literals = literals.into_iter();
        let before = literals.next().ok_or(PatternError::NoUser)?;
        match *ids.as_slice() {
            [Id::User] => Ok(Self { before, first: Id::User, second: None, after }),
            [first, second] if first != second => {
                let between = literals.next().filter(|text| !text.is_empty()).ok_or(PatternError::Adjacent)?;
                Ok(Self { before, first, second: Some((between, second)), after })
            }
            [Id::Session] => Err(PatternError::NoUser),
            _ => Err(PatternError::Twice),
        }
    }
}

impl Pattern {
    /// The key of a session's list; `None` if it can have none: its key would name no session, or would also be another session's.
    pub fn key_of(&self, session: &SessionKey) -> Option<Vec<u8>> {
        let id = |id| if id == Id::User { session.user().id() } else { session.id() };
        let mut key = [&self.before, id(self.first)].concat();
        match &self.second {
            Some((between, second)) => key.extend([between, id(*second)]),
            None if session.id() != DEFAULT_SESSION => return None,
            None => {}
        }
        key.push_str(&self.after);
        let owner = self.session_of(key.as_bytes(), session.tenant());
        (owner.as_ref() == Ok(session)).then(|| key.into_bytes())
    }

    /// Whose list stands under a key.
    ///
    /// # Errors
    /// It is nobody's, or that cannot be told for sure.
    pub fn session_of(&self, key: &[u8], tenant: &Tenant) -> Result<SessionKey, KeyError> {
        let key = std::str::from_utf8(key).map_err(|_| KeyError::Foreign)?;
        let ids = key.strip_prefix(&*self.before).and_then(|rest| rest.strip_suffix(&*self.after)).ok_or(KeyError::Foreign)?;
        let (user, session) = match &self.second {
            None => (ids, DEFAULT_SESSION),
            Some((between, second)) => {
                // Also where one occurrence overlaps another.
                let splits = (1..ids.len()).filter(|at| ids.as_bytes()[*at..].starts_with(between.as_bytes()));
                let mut splits = splits.map(|at| (&ids[..at], &ids[at + between.len()..])).filter(|(_, after)| !after.is_empty());
                let (first, last) = splits.next().ok_or(KeyError::Foreign)?;
                if splits.next().is_some() {
                    return Err(KeyError::Ambiguous);
                }
                if *second == Id::Session { (first, last) } else { (last, first) }
            }
        };
        tenant.user(user).and_then(|user| user.session(session)).map_err(KeyError::Id)
    }

    /// What `SCAN` is to match (<https://redis.io/docs/latest/commands/keys/>).
    pub fn glob(&self) -> String {
        let mut glob = escaped(&self.before) + "*";
        if let Some((between, _)) = &self.second {
            glob += &escaped(between);
            glob.push('*');
        }
        glob + &escaped(&self.after)
    }

    /// Whether a key could fit both patterns. Says yes also where only a close look could tell that none does.
    pub fn meets(&self, other: &Self) -> bool {
        let (a, b) = (&self.before, &other.before);
        let (y, z) = (&self.after, &other.after);
        (a.starts_with(&**b) || b.starts_with(&**a)) && (y.ends_with(&**z) || z.ends_with(&**y))
    }
}

fn escaped(literal: &str) -> String {
    let mut glob = String::with_capacity(literal.len());
    for c in literal.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            glob.push('\\');
        }
        glob.push(c);
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::conformance::user;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    fn tenant() -> Tenant {
        Tenant::from_config("bank").unwrap()
    }

    fn session(user_id: &str, id: &str) -> SessionKey {
        user("bank", user_id).session(id).unwrap()
    }

    #[test]
    fn a_key_is_made_of_the_ids_and_read_back() {
        for (text, of, key) in [
            ("chat:{user_id}", session("用户:1", "default"), "chat:用户:1"),
            ("chat:{user_id}:{session_id}", session("u", "web"), "chat:u:web"),
            ("{session_id}/of/{user_id}.list", session("u", "s"), "s/of/u.list"),
            ("chat:{{{user_id}}}", session("u", "default"), "chat:{u}"),
            ("{user_id}", session("*", "default"), "*"),
        ] {
            assert_eq!(pattern(text).key_of(&of).as_deref(), Some(key.as_bytes()), "{text}");
            assert_eq!(pattern(text).session_of(key.as_bytes(), &tenant()), Ok(of), "{text}");
        }
    }

    #[test]
    fn a_key_that_may_be_somebody_else_s_is_nobody_s() {
        let two = pattern("chat:{user_id}:{session_id}");
        assert_eq!(two.session_of(b"chat:a:b:c", &tenant()), Err(KeyError::Ambiguous));
        // A client chooses its session's id: it must not reach the list of the user `a:b`.
        assert_eq!(two.key_of(&session("a", "b:c")), None);
        assert_eq!(two.key_of(&session("a:b", "c")), None);
        assert_eq!(pattern("{user_id}::{session_id}").session_of(b"a:::b", &tenant()), Err(KeyError::Ambiguous));
        assert_eq!(pattern("chat:{user_id}").key_of(&session("a", "web")), None);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let (one, two) = (pattern("chat:{user_id}:list"), pattern("chat:{user_id}:{session_id}"));
        for key in [&b"talk:u:list"[..], b"chat:u:set", b"chat:\xff:list", b"chat:list"] {
            assert_eq!(one.session_of(key, &tenant()), Err(KeyError::Foreign), "{key:?}");
        }
        for key in [&b"chat::s"[..], b"chat:u:", b"chat:u", b"chat:"] {
            assert_eq!(two.session_of(key, &tenant()), Err(KeyError::Foreign), "{key:?}");
        }
        assert_eq!(one.session_of(b"chat::list", &tenant()), Err(KeyError::Id(IdError::Empty)));
        let long = format!("chat:{}:list", "x".repeat(129));
        assert_eq!(
            one.session_of(long.as_bytes(), &tenant()).unwrap_err().to_string(),
            "the user or session in it is 129 bytes long, at most 128 are allowed"
        );
    }

    #[test]
    fn bad_patterns_say_why() {
        for (text, error) in [
            ("", PatternError::NoUser),
            ("chat", PatternError::NoUser),
            ("chat:{session_id}", PatternError::NoUser),
            ("{user_id}{session_id}", PatternError::Adjacent),
            ("{user_id}:{user_id}", PatternError::Twice),
            ("{user_id}:{session_id}:{user_id}", PatternError::Twice),
            ("chat:{user}", PatternError::Brace),
            ("chat:{user_id", PatternError::Brace),
            ("chat:user_id}", PatternError::Brace),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(error), "{text}");
        }
        assert!(PatternError::Brace.to_string().contains("{user_id}") && PatternError::Brace.to_string().contains("`{{`"));
    }

    #[test]
    fn what_is_literal_matches_itself_only() {
        assert_eq!(pattern("a*?[x]\\-{user_id}^b").glob(), "a\\*\\?\\[x\\]\\\\\\-*\\^b");
        assert_eq!(pattern("chat:{user_id}:{session_id}").glob(), "chat:*:*");
    }

    #[test]
    fn patterns_that_a_key_could_fit_both_of_are_found() {
        let meet = |a: &str, b: &str| pattern(a).meets(&pattern(b));
        assert!(meet("chat:{user_id}", "chat:bank:{user_id}") && meet("{user_id}", "chat:{user_id}:x"));
        assert!(!meet("bank:{user_id}", "shop:{user_id}") && !meet("{user_id}:bank", "{user_id}:shop"));
    }
}
