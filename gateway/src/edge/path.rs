//! A request's path in its one plain form, so that routes, plugins and upstreams cannot read it differently.

use std::borrow::Cow;

/// A path without escapes that need not be, without `.` and `..` segments and without empty ones: RFC 3986, section 6.2.2, and
/// `//` merged. What servers are known to read in different ways is not made plain but refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath<'a>(Cow<'a, str>);

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It is not absolute.
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    /// A `%` without two hex digits.
    #[error("a `%` in the path is not followed by two hex digits; a plain `%` is written `%25`")]
    Escape,
    /// A control character, plain or escaped.
    #[error("the path holds a control character")]
    Control,
    /// `\`, or dots beside `%2F` or `%5C`: some servers take these for `/`, others do not.
    #[error("the path holds a backslash, or dots beside an escaped slash")]
    Slash,
    /// `..;x`: some servers take it for `..`, others for a name.
    #[error("the path has a segment of dots with a parameter")]
    DotParameter,
    /// More `..` than there is to leave.
    #[error("the path leads above the root")]
    AboveRoot,
}

impl<'a> RequestPath<'a> {
    /// Makes a path plain. `raw` has no query. Allocates only if there is something to change, an escape, or a segment that begins with a dot.
    ///
    /// # Errors
    /// It can be read in more than one way, or in none.
    pub fn parse(raw: &'a [u8]) -> Result<Self, BadPath> {
        if raw.first() != Some(&b'/') {
            return Err(BadPath::NotAbsolute);
        }
        if is_plain(raw)
            && let Ok(text) = std::str::from_utf8(raw)
        {
            return Ok(Self(Cow::Borrowed(text)));
        }
        let mut plain = Plain::with_capacity(raw.len());
        let mut rest = &raw[1..];
        while let [byte, after @ ..] = rest {
            rest = after;
            match byte {
                b'/' => plain.end_segment(true)?,
                b'%' => {
                    let [high, low, after @ ..] = after else { return Err(BadPath::Escape) };
                    plain.push_escaped(digit(*high)? << 4 | digit(*low)?)?;
                    rest = after;
                }
                _ => plain.push(*byte)?,
            }
        }
        plain.end_segment(false)?;
        Ok(Self(Cow::Owned(plain.text)))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path, if it is not as it was sent.
    pub fn changed(&self) -> Option<&str> {
        match &self.0 {
            Cow::Owned(text) => Some(text),
            Cow::Borrowed(_) => None,
        }
    }
}

/// A plain path in the other ways that servers are known to read it: with `%2F` and `%5C` for `/`, without the parameters of its segments
/// (`;x`), and both. Slashes that come to meet are merged. None for most paths.
pub fn other_readings(plain: &str) -> Vec<String> {
    let mut others = Vec::new();
    if plain.contains("%2F") || plain.contains("%5C") {
        others.push(merged(plain.replace("%2F", "/").replace("%5C", "/")));
    }
    if plain.contains(';') {
        let bare: Vec<_> = others.iter().map(String::as_str).chain([plain]).map(without_parameters).collect();
        others.extend(bare);
    }
    others
}

fn without_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    merged(segments.collect::<Vec<_>>().join("/"))
}

fn merged(mut path: String) -> String {
    let mut before = false;
    path.retain(|c| !(std::mem::replace(&mut before, c == '/') && c == '/'));
    path
}

/// A path on its way to its plain form. Always begins with `/`, and everything up to the last `/` is done.
struct Plain {
    text: String,
    /// Where the segment begins that is being written.
    segment: usize,
}

impl Plain {
    fn with_capacity(capacity: usize) -> Self {
        let mut text = String::with_capacity(capacity + 16);
        text.push('/');
        Self { text, segment: 1 }
    }

    /// A byte as it was sent.
    fn push(&mut self, byte: u8) -> Result<(), BadPath> {
        match byte {
            b'\\' => Err(BadPath::Slash),
            _ if byte.is_ascii_control() => Err(BadPath::Control),
            _ if is_pchar(byte) => {
                self.text.push(char::from(byte));
                Ok(())
            }
            _ => {
                self.escape(byte);
                Ok(())
            }
        }
    }

    /// A byte that was sent as an escape.
    fn push_escaped(&mut self, byte: u8) -> Result<(), BadPath> {
        match byte {
            _ if byte.is_ascii_control() => Err(BadPath::Control),
            _ if is_unreserved(byte) => {
                self.text.push(char::from(byte));
                Ok(())
            }
            _ => {
                self.escape(byte);
                Ok(())
            }
        }
    }

    fn escape(&mut self, byte: u8) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        self.text.push('%');
        self.text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        self.text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }

    fn end_segment(&mut self, slash: bool) -> Result<(), BadPath> {
        match &self.text[self.segment..] {
            // Merged with the slash before it.
            "" => {}
            "." => self.text.truncate(self.segment),
            ".." => {
                let parent = self.text[..self.segment - 1].rfind('/').ok_or(BadPath::AboveRoot)?;
                self.text.truncate(parent + 1);
            }
            dots if has_parameter(dots) => return Err(BadPath::DotParameter),
            hidden
                if hidden.split("%2F").flat_map(|part| part.split("%5C")).any(|part| matches!(part, "." | "..") || has_parameter(part)) =>
            {
                return Err(BadPath::Slash);
            }
            _ if slash => self.text.push('/'),
            _ => {}
        }
        self.segment = self.text.len();
        Ok(())
    }
}

/// Whether it is dots with a parameter.
fn has_parameter(part: &str) -> bool {
    part.starts_with(".;") || part.starts_with("..;")
}

/// Whether there is nothing to do: the common case, in one pass.
fn is_plain(path: &[u8]) -> bool {
    path.iter().all(|b| *b == b'/' || is_pchar(*b)) && !path.windows(2).any(|w| w == b"//" || w == b"/.")
}

/// What may stand in a path as it is (RFC 3986, section 3.3).
fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn digit(byte: u8) -> Result<u8, BadPath> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(BadPath::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_plain_or_refused() {
        use BadPath::*;
        for (raw, expected) in [
            ("/", Ok("/")),
            ("/v1/chat", Ok("/v1/chat")),
            ("/a:b@c;d=e,(f)*'!$&+~_-", Ok("/a:b@c;d=e,(f)*'!$&+~_-")),
            ("//", Ok("/")),
            ("//v1///chat/", Ok("/v1/chat/")),
            ("/v1/./chat", Ok("/v1/chat")),
            ("/v1/x/../chat", Ok("/v1/chat")),
            ("/v1/x/%2e%2E/chat", Ok("/v1/chat")),
            ("/v1/x/.%2e", Ok("/v1/")),
            ("/v1/.", Ok("/v1/")),
            ("/v1/x//../chat", Ok("/v1/chat")),
            ("/...", Ok("/...")),
            ("/.well-known/x", Ok("/.well-known/x")),
            ("/%76%31/%63hat", Ok("/v1/chat")),
            ("/%e4%BD%a0", Ok("/%E4%BD%A0")),
            ("/你", Ok("/%E4%BD%A0")),
            ("/a b\"<>^`{|}[]", Ok("/a%20b%22%3C%3E%5E%60%7B%7C%7D%5B%5D")),
            ("/%252e%252e/x", Ok("/%252e%252e/x")),
            ("/%3B%3a%40", Ok("/%3B%3A%40")),
            ("", Err(NotAbsolute)),
            ("*", Err(NotAbsolute)),
            ("v1/chat", Err(NotAbsolute)),
            ("/%", Err(Escape)),
            ("/%4", Err(Escape)),
            ("/%zz", Err(Escape)),
            ("/%+1", Err(Escape)),
            ("/%00", Err(Control)),
            ("/a%0d%0ab", Err(Control)),
            ("/a\tb", Err(Control)),
            ("/%7f", Err(Control)),
            ("/a%2fb%5cc", Ok("/a%2Fb%5Cc")),
            ("/..%2fadmin", Err(Slash)),
            ("/a%2F%2e%2e/b", Err(Slash)),
            ("/a%5C.%2Fb", Err(Slash)),
            ("/a\\b", Err(Slash)),
            ("/..;/admin", Err(DotParameter)),
            ("/%2e%2e;x=1/admin", Err(DotParameter)),
            ("/.;/admin", Err(DotParameter)),
            ("/..", Err(AboveRoot)),
            ("/a/../..", Err(AboveRoot)),
            ("/a//../../b", Err(AboveRoot)),
            ("/./..", Err(AboveRoot)),
        ] {
            let parsed = RequestPath::parse(raw.as_bytes());
            assert_eq!(parsed.as_ref().map(RequestPath::as_str).map_err(|e| *e), expected, "{raw}");
        }
        assert_eq!(RequestPath::parse(b"/\xff").unwrap().as_str(), "/%FF");
        assert!(RequestPath::parse(b"/v1/chat").unwrap().changed().is_none());
    }

    #[test]
    fn a_plain_path_stays_as_it_is_and_leads_nowhere_else() {
        let pieces = [
            "/", "/", ".", "..", "%2e", "%2E.", "%2f", "%5C", "\\", ";", "a", "%61", "%41", "%e4", "%25", "%", "2e", "你", " ", "\u{1}",
            "admin",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        let mut plain = 0;
        for _ in 0..200_000 {
            let raw: String = (0..random.usize(0..12)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let Ok(path) = RequestPath::parse(raw.as_bytes()) else { continue };
            plain += 1;
            let path = path.as_str();
            assert_eq!(RequestPath::parse(path.as_bytes()).unwrap().as_str(), path, "{raw}");
            assert!(path.starts_with('/') && !path.contains("//") && !path.contains('\\'), "{raw}: {path}");
            assert!(path.split('/').all(|s| !matches!(s, "." | "..")), "{raw}: {path}");
            assert!(path.parse::<http::uri::PathAndQuery>().is_ok_and(|p| p.path() == path), "{raw}: {path}");
        }
        assert!(plain > 1_000, "{plain}");
    }
}
