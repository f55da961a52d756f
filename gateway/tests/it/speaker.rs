//! A user who says the tenant's words wherever there is room for words, and looks at what comes back.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{
    client::{self, Reply},
    harness::{post, secret},
    words::{only, word},
};

/// The same in all tenants, so that nothing but the tenant keeps them apart.
pub const SHARED: &str = "shared";

/// One user of a tenant, who says the tenant's words wherever there is room for words.
#[derive(Clone)]
pub struct Speaker {
    pub public: SocketAddr,
    pub tenant: &'static str,
    pub token: String,
}

impl Speaker {
    pub fn new(public: SocketAddr, tenant: &'static str, user: &str) -> Self {
        let key = jsonwebtoken::EncodingKey::from_secret(secret(tenant).as_bytes());
        let claims = json!({ "tenant_id": tenant, "user_id": user, "exp": 4_000_000_000_u64 });
        Self { public, tenant, token: jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap() }
    }

    pub fn word(&self, channel: &str) -> String {
        word(self.tenant, channel)
    }

    fn request(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let mut request = post(path, Some(&self.token), body);
        *request.method_mut() = method.parse().unwrap();
        for name in ["user-agent", "cookie", "referer", "x-forwarded-for", "tracestate", "accept-language"] {
            request.headers_mut().insert(name, self.word("header").parse().unwrap());
        }
        request
    }

    /// Sends it; the answer holds nobody else's words.
    async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        let reply = client::http1(self.public, request).await;
        only(Some(self.tenant), format!("{:?}", reply.headers).as_bytes(), "a head");
        only(Some(self.tenant), &reply.body, "an answer");
        reply
    }

    async fn say(&self, body: Value) -> Reply {
        self.send(self.request("POST", "/v1/chat", body.to_string())).await
    }

    /// A conversation with everything in it that is good, and its history.
    pub async fn talk(&self, session: &str) {
        for (turn, act) in ["one", "say", "leak", "stream", "boom", "trouble", "last"].iter().enumerate() {
            let query = format!("{act} {}", self.word("query"));
            let message = format!("{}{turn}", self.word("message"));
            let body = json!({ "query": query, "session_id": session, "message_id": message, "stream": *act == "stream",
                "channel": self.word("channel"), "lang": self.word("lang"), "attachments": [self.word("attached")] });
            let answer = self.say(body.clone()).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            self.say(body.clone()).await; // answered from the store, or failing again
            let reused = json!({ "query": "another", "session_id": session, "message_id": message });
            if answer.body.windows(13).any(|w| w == b"\"stored\":true") {
                self.say(reused).await.error(409, "message_id_reused");
            }
        }
        let history = self.send(self.request("GET", &format!("/v1/history?session_id={session}"), "")).await;
        assert!(history.text().contains(&self.word("query")), "{}", history.text());
    }

    /// Everything that is refused.
    pub async fn annoy(&self) {
        let word = self.word("bad");
        for body in [
            format!("{{\"query\": \"{word}\""),
            format!("{{\"query\": {{\"{word}\": 1}}}}"),
            format!("{{\"query\": 1, \"{word}\": \"{word}\"}}"),
            format!("{{\"query\": \"q\", \"session_id\": \"{}\"}}", word.repeat(20)),
            format!("{{\"query\": \"q\", \"user_id\": \"{word}\"}}"),
            format!("{{\"query\": \"{}\"}}", word.repeat(2000)),
            format!("[\"{word}\"]"),
            word.repeat(100_000),
        ] {
            let status = self.send(self.request("POST", "/v1/chat", body)).await.status.as_u16();
            assert!((400..500).contains(&status), "{status}");
        }
        for path in [format!("/{word}"), format!("/v1/history?limit={word}"), format!("/v1/history?before={word}&{word}={word}")] {
            self.send(self.request("GET", &path, "")).await;
        }
        self.send(self.request(&word, "/v1/chat", "")).await;
        let mut typed = self.request("POST", "/v1/chat", "{}");
        typed.headers_mut().insert("content-type", word.parse().unwrap());
        self.send(typed).await.error(415, "unsupported_media_type");
        let mut stranger = self.request("POST", "/v1/chat", "{}");
        for credential in [format!("Bearer {word}"), format!("Basic {word}"), format!("Bearer {}.{word}", self.token)] {
            stranger.headers_mut().insert("authorization", credential.parse().unwrap());
            self.send(stranger.clone()).await.error(401, "unauthorized");
        }
        for bytes in
            [format!("{word} {word} {word}\r\n\r\n"), format!("POST /v1/chat HTTP/1.1\r\n{word}\r\n\r\n"), format!("GET / {word}\n\n")]
        {
            only(Some(self.tenant), client::raw(self.public, bytes.as_bytes()).await.as_bytes(), "an answer to bytes");
        }
        let reply = client::http2(self.public, self.request("POST", "/v1/chat", word.clone())).await;
        only(Some(self.tenant), format!("{reply:?}").as_bytes(), "an answer over HTTP/2");
        let mut tripping = self.request("POST", "/v1/chat", "{}");
        tripping.headers_mut().insert("x-trip", HeaderValue::from_str(&word).unwrap());
        let mut connection = client::Http1::connect(self.public).await;
        assert!(connection.try_begin(tripping).await.is_err(), "a panic ends its connection");
    }

    /// Fills the cache, so that others' conversations leave it.
    pub async fn crowd(&self, round: usize) {
        for n in 0..16 {
            let query = format!("{} {}", self.word("crowd"), "x".repeat(12_000));
            let reply = self.say(json!({ "query": query, "session_id": format!("{}{round}-{n}", self.word("session")) })).await;
            assert_eq!(reply.status, 200);
        }
    }

    /// Says one thing more. Whether that was stored.
    pub async fn goes_on(&self) -> bool {
        let reply = self.say(json!({ "query": self.word("query"), "session_id": self.word("more") })).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["stored"] == true
    }

    pub async fn be_forgotten(&self) {
        let one = format!("/v1/history?session_id={}", self.word("session"));
        for path in [&one, "/v1/history"] {
            assert_eq!(self.send(self.request("DELETE", path, "")).await.status, 204);
        }
        let history = self.send(self.request("GET", &format!("/v1/history?session_id={SHARED}"), "")).await;
        only(None, &history.body, "an erased history");
    }
}
