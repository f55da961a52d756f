//! Tenants, and the only way to make a storage key: through the tenant that owns it.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;

/// Longest user, session or message id, in bytes.
pub const MAX_ID: usize = 128;

/// One tenant of the gateway, as configured.
///
/// A request belongs to exactly one tenant, and only a `Tenant` can make a [`UserKey`]: no call of the plugin
/// contract or of a store takes a tenant's name, so data of one tenant cannot be asked for with another's.
#[derive(Clone)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// Called by the configuration loader, once for each tenant in the file.
    ///
    /// # Errors
    /// The name is 1 to 63 bytes of `a-z`, `0-9` and `-`, without one at its beginning: it goes into file names and metric labels as it
    /// is, and there `-` is nobody.
    pub fn from_config(name: &str) -> Result<Self, IdError> {
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        match name.len() {
            0 => Err(IdError::Empty),
            1..=63 if plain && !name.starts_with('-') => Ok(Self(name.into())),
            1..=63 => Err(IdError::Characters),
            len => Err(IdError::TooLong { len, max: 63 }),
        }
    }

    /// The configured name: a label, not a key.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The key under which everything of one of this tenant's users is stored.
    ///
    /// # Errors
    /// The id is empty or longer than [`MAX_ID`] bytes.
    pub fn user(&self, id: &str) -> Result<UserKey, IdError> {
        check_id(id)?;
        let mut key = Vec::with_capacity(2 + self.0.len() + id.len());
        push_part(&mut key, &self.0);
        push_part(&mut key, id);
        Ok(UserKey { tenant: self.clone(), bytes: key.into() })
    }
}

impl PartialEq for Tenant {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Tenant {}
impl Hash for Tenant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tenant({})", self.0)
    }
}

/// Why an id is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing in it.
    #[error("must not be empty")]
    Empty,
    /// More bytes than allowed.
    #[error("is {len} bytes long, at most {max} are allowed")]
    TooLong {
        /// What it has.
        len: usize,
        /// What it may have.
        max: usize,
    },
    /// A tenant name with something else than `a-z`, `0-9`, `-`, or with `-` at its beginning.
    #[error("may only hold a-z, 0-9 and -, and begin with a letter or digit")]
    Characters,
}

/// Checks a user, session or message id: any text of 1 to [`MAX_ID`] bytes.
///
/// # Errors
/// It is empty or too long.
pub fn check_id(id: &str) -> Result<(), IdError> {
    match id.len() {
        0 => Err(IdError::Empty),
        1..=MAX_ID => Ok(()),
        len => Err(IdError::TooLong { len, max: MAX_ID }),
    }
}

/// Length-prefixed, so that no choice of ids makes two keys equal or one the prefix of another.
fn push_part(key: &mut Vec<u8>, part: &str) {
    key.push(u8::try_from(part.len()).expect("ids are checked to be at most 128 bytes"));
    key.extend_from_slice(part.as_bytes());
}

/// Names one user of one tenant: all of a user's sessions and slots live under it (and in one hash slot).
#[derive(Clone)]
pub struct UserKey {
    tenant: Tenant,
    bytes: Bytes,
}

impl UserKey {
    /// The tenant it belongs to.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The user's id as the token gave it. Tenant text: not for logs.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.bytes[2 + self.tenant.0.len()..]).expect("built from a str")
    }

    /// The encoded key: unique over all tenants and users, and no key is the prefix of another.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key of one of this user's sessions.
    ///
    /// # Errors
    /// The id is empty or longer than [`MAX_ID`] bytes.
    pub fn session(&self, id: &str) -> Result<SessionKey, IdError> {
        check_id(id)?;
        let mut key = Vec::with_capacity(self.bytes.len() + 1 + id.len());
        key.extend_from_slice(&self.bytes);
        push_part(&mut key, id);
        Ok(SessionKey { user: self.clone(), bytes: key.into() })
    }
}

/// Names one conversation of one user of one tenant.
#[derive(Clone)]
pub struct SessionKey {
    user: UserKey,
    bytes: Bytes,
}

impl SessionKey {
    /// The user it belongs to.
    pub fn user(&self) -> &UserKey {
        &self.user
    }

    /// The tenant it belongs to.
    pub fn tenant(&self) -> &Tenant {
        &self.user.tenant
    }

    /// The session's id as the client gave it. Tenant text: not for logs.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.user.bytes.len() + 1..]).expect("built from a str")
    }

    /// The encoded key; it begins with its user's key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

macro_rules! key_by_bytes {
    ($($key:ident),*) => {$(
        impl PartialEq for $key {
            fn eq(&self, other: &Self) -> bool {
                self.bytes == other.bytes
            }
        }
        impl Eq for $key {}
        impl Hash for $key {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.bytes.hash(state);
            }
        }
        impl fmt::Debug for $key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($key), "({}, ‹{} bytes›)"), self.tenant().name(), self.bytes.len())
            }
        }
    )*};
}
key_by_bytes!(UserKey, SessionKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_cannot_collide_or_be_prefixes_of_each_other() {
        let tenants = ["a", "ab", "a-b"].map(|t| Tenant::from_config(t).unwrap());
        let ids = ["b", "a", "ab", "\u{1}a", "b\u{1}a", "名"];
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for t in &tenants {
            for u in ids {
                for s in ids {
                    keys.push(t.user(u).unwrap().session(s).unwrap().as_bytes().to_vec());
                }
            }
        }
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                assert!(i == j || !b.starts_with(a), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn ids_come_back_as_given_and_bad_ones_are_refused() {
        let t = Tenant::from_config("harbor-bank").unwrap();
        let s = t.user("用户/1").unwrap().session("web:1").unwrap();
        assert_eq!((s.user().id(), s.id(), s.tenant().name()), ("用户/1", "web:1", "harbor-bank"));
        assert_eq!(format!("{s:?}"), "SessionKey(harbor-bank, ‹27 bytes›)");
        assert_eq!(t.user("").unwrap_err(), IdError::Empty);
        assert_eq!(t.user(&"x".repeat(129)).unwrap_err(), IdError::TooLong { len: 129, max: 128 });
        assert_eq!(Tenant::from_config("Bank A").unwrap_err(), IdError::Characters);
        assert_eq!(["-", "-a"].map(|nobody| Tenant::from_config(nobody).unwrap_err()), [IdError::Characters; 2]);
        assert_eq!(Tenant::from_config("").unwrap_err(), IdError::Empty);
    }
}
