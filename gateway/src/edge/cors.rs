//! What browsers are told, so that pages of other origins may use a route (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts};

use crate::config::{self, Origins};

/// The fields of our answers that a page may read besides those that any page may.
const EXPOSED: HeaderValue = HeaderValue::from_static("x-request-id, retry-after, ratelimit, ratelimit-policy");
const ANY: HeaderValue = HeaderValue::from_static("*");
const ORIGIN: HeaderValue = HeaderValue::from_static("origin");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// A route's rules, in the words that are sent.
pub struct Cors {
    origins: Origins,
    credentials: bool,
    /// Sent with the answer to a preflight.
    preflight: [(HeaderName, HeaderValue); 3],
}

impl Cors {
    /// From what was configured.
    pub fn new(config: &config::Cors) -> Self {
        let methods = join(config.methods.iter().map(Method::as_str));
        let headers = join(config.headers.iter().map(HeaderName::as_str));
        Self {
            origins: config.origins.clone(),
            credentials: config.credentials,
            preflight: [
                (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
                (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(config.max_age.as_secs())),
            ],
        }
    }

    /// Whether a browser asks for leave here, before it sends the request itself.
    pub fn is_preflight(head: &Parts) -> bool {
        head.method == Method::OPTIONS
            && head.headers.contains_key(header::ORIGIN)
            && head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// What leave the page of a preflight has. To an origin that has none nothing is said.
    pub fn leave(&self, head: &Parts) -> &[(HeaderName, HeaderValue)] {
        if self.allowed(head).is_some() { &self.preflight } else { &[] }
    }

    /// Marks an answer as readable for the page that asked, if it is. What an application says of that itself does not count.
    pub fn mark(&self, head: &Parts, answer: &mut HeaderMap) {
        answer.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        answer.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        // Another origin would get another answer.
        if matches!(self.origins, Origins::These(_)) {
            answer.append(header::VARY, ORIGIN);
        }
        let Some(origin) = self.allowed(head) else { return };
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.append(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if self.credentials {
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
    }

    fn allowed(&self, head: &Parts) -> Option<HeaderValue> {
        let origin = head.headers.get(header::ORIGIN)?;
        match &self.origins {
            Origins::Any => Some(ANY),
            Origins::These(these) => these.iter().find(|this| *this == origin).cloned(),
        }
    }
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> HeaderValue {
    HeaderValue::try_from(words.collect::<Vec<_>>().join(", ")).expect("methods and names of fields are plain ASCII")
}
