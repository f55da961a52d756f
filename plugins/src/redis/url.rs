//! A URL that says where Redis is, in the form that every client of it takes.

use redis::{ConnectionAddr, IntoConnectionInfo as _};

use crate::api::Secret;

/// What is wrong with a URL. Says nothing of what is in it: that may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It cannot be read at all.
    #[error("this is no URL of Redis")]
    Malformed,
    /// It says how, not where.
    #[error("a URL of Redis has nothing after the number of the database")]
    Trailing,
    /// The number of the database is none.
    #[error("the number of the database is a whole number from 0")]
    Database,
}

/// What a URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// Host and port; 6379 if the URL has none.
    pub server: (String, u16),
    /// The number of the database; 0 if the URL has none.
    pub database: u32,
    /// The ACL user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Whether TLS is spoken.
    pub tls: bool,
}

impl RedisUrl {
    /// Reads `redis://[[user]:password@]host[:port][/database]`, or the same with `rediss:` for TLS. User and password are
    /// percent-encoded.
    ///
    /// # Errors
    /// See [`UrlError`].
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        if !url.starts_with("redis://") && !url.starts_with("rediss://") {
            return Err(UrlError::Malformed);
        }
        if url.contains(['?', '#']) {
            return Err(UrlError::Trailing);
        }
        let info = url.into_connection_info().map_err(|_| UrlError::Malformed)?;
        let (server, tls) = match info.addr().clone() {
            ConnectionAddr::Tcp(host, port) => ((host, port), false),
            ConnectionAddr::TcpTls { host, port, .. } => ((host, port), true),
            _ => return Err(UrlError::Malformed),
        };
        if server.1 == 0 {
            return Err(UrlError::Malformed);
        }
        let settings = info.redis_settings();
        Ok(Self {
            server,
            database: settings.db().try_into().map_err(|_| UrlError::Database)?,
            username: settings.username().map(str::to_owned),
            password: settings.password().map(|password| password.to_owned().into()),
            tls,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_as_whom() {
        let plain = RedisUrl { server: ("h".into(), 6379), database: 0, username: None, password: None, tls: false };
        assert_eq!(RedisUrl::parse("redis://h"), Ok(plain.clone()));
        assert_eq!(RedisUrl::parse("redis://[::1]:7/3"), Ok(RedisUrl { server: ("::1".into(), 7), database: 3, ..plain.clone() }));
        let password = Some(Secret::from("p@/ß".to_owned()));
        assert_eq!(RedisUrl::parse("rediss://:p%40%2F%C3%9F@h/"), Ok(RedisUrl { password, tls: true, ..plain.clone() }));
        let both = RedisUrl { username: Some("u".into()), password: Some("p".to_owned().into()), ..plain };
        assert_eq!(RedisUrl::parse("redis://u:p@h:6379"), Ok(both));
    }

    #[test]
    fn what_is_no_such_url_is_refused() {
        for bad in [
            "",
            "h",
            "h:6379",
            "http://h",
            "redis:h",
            "redis://",
            "redis://h:0x",
            "redis://h:0",
            "redis://h:99999",
            "redis://0.0.0.0",
            "unix:///a",
        ] {
            assert_eq!(RedisUrl::parse(bad), Err(UrlError::Malformed), "{bad}");
        }
        assert_eq!(RedisUrl::parse("redis://h/-1"), Err(UrlError::Database));
        for bad in ["rediss://h/0#insecure", "redis://h?protocol=resp3"] {
            assert_eq!(RedisUrl::parse(bad), Err(UrlError::Trailing), "{bad}");
        }
    }
}
