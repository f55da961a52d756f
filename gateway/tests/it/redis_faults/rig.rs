//! A gateway in a process of its own, people who talk to it all through a fault of its Redis, and what they noticed.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::{
    client::{self, Reply},
    harness::{Site, post},
    many::Clerk,
    process::Process,
    speaker::Speaker,
};

/// A turn's deadline, and what else a request may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_millis(2500 + 1000);
/// What a request may take that has nothing to do with Redis.
const PROMPT: Duration = Duration::from_secs(1);

pub struct Rig {
    pub gateway: Process,
    pub clerk: Clerk,
    /// What stands in `store.redis`.
    redis: String,
    log: Arc<Mutex<Vec<Value>>>,
    began: Instant,
    /// Holds the folder that the gateway works in.
    _site: Site,
}

/// A user with one conversation.
pub struct Talker {
    speaker: Speaker,
    name: String,
    said: Vec<String>,
    /// The newest number that it was told.
    seq: u64,
}

/// One answer.
pub struct Heard {
    pub took: Duration,
    pub body: Value,
}

impl Heard {
    pub fn stored(&self) -> bool {
        self.body["stored"] == true
    }
}

impl Rig {
    /// `redis` is what stands in `store.redis`.
    pub async fn start(redis: &str) -> Self {
        Self::with(redis.to_owned(), Clerk::start(Duration::from_millis(5)).await).await
    }

    /// One more gateway on the same Redis and model.
    pub async fn another(&self) -> Self {
        Self::with(self.redis.clone(), self.clerk.clone()).await
    }

    async fn with(redis: String, clerk: Clerk) -> Self {
        let site = Site::new().upstream(&format!("{{ protocol: answer, endpoints: [\"http://{}\"] }}", clerk.addr));
        // The model is not what is to be late here.
        let site = site.breaker("{ retries: 0, timeout: 2400ms }");
        let site = site.store(&format!("redis: {{ {redis} }}")).store("history: { turns: 1000 }");
        let mut gateway = Process::start(&site.write(&site.config())).await;
        let log = gateway.read_log();
        let rig = Self { gateway, clerk, redis, log, began: Instant::now(), _site: site };
        client::until("the gateway is ready", async || rig.admin("/readyz").await.status == 200).await;
        rig
    }

    pub fn talker(&self, name: &str) -> Talker {
        Talker { speaker: Speaker::new(self.gateway.public, "alpha", name), name: name.to_owned(), said: Vec::new(), seq: 0 }
    }

    pub async fn admin(&self, path: &str) -> Reply {
        let request = Request::get(path).header("host", "test").body(Full::default()).unwrap();
        client::http1(self.gateway.admin.unwrap(), request).await
    }

    pub async fn metric(&self, line: &str) -> f64 {
        let text = self.admin("/metrics").await;
        let found = text.text().lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or(0.0)
    }

    /// What has nothing to do with Redis goes on as if nothing were: on the admin's thread, and on every serving thread.
    pub async fn nobody_is_starved(&self) {
        let (began, waited) = (Instant::now(), self.waited_for_processors());
        assert_eq!(self.admin("/livez").await.status, 200);
        for _ in 0..4 {
            let request = Request::get("/nowhere").header("host", "test").body(Full::default()).unwrap();
            assert_eq!(client::http1(self.gateway.public, request).await.status, 404);
        }
        let (took, waited) = (began.elapsed(), self.waited_for_processors().saturating_sub(waited));
        assert!(took.saturating_sub(waited) < PROMPT, "{took:?}, of which {waited:?} for a processor");
    }

    /// How long the gateway's threads, and this one, have stood in line for a processor so far: on a busy machine that is no fault of
    /// theirs (`/proc/…/schedstat`, in nanoseconds: on a processor, waiting for one, how often).
    fn waited_for_processors(&self) -> Duration {
        let waited = |path: PathBuf| -> Option<u64> { fs::read_to_string(path).ok()?.split(' ').nth(1)?.parse().ok() };
        let threads = fs::read_dir(format!("/proc/{}/task", self.gateway.id())).unwrap();
        let theirs = threads.filter_map(|thread| waited(thread.unwrap().path().join("schedstat")));
        Duration::from_nanos(theirs.chain(waited("/proc/thread-self/schedstat".into())).sum())
    }

    /// At most a line a second of each kind.
    pub fn the_log_is_calm(&self) {
        let (log, seconds) = (self.log.lock().unwrap(), self.began.elapsed().as_secs() + 1);
        let kind = |line: &Value| format!("{}{}{}", line["event"], line["step"], line["target"]);
        for line in &*log {
            let count = u64::try_from(log.iter().filter(|other| kind(other) == kind(line)).count()).unwrap();
            assert!(count <= seconds + 1, "{count} lines in {seconds} s: {line}");
        }
    }

    /// The lines of an event.
    pub fn logged(&self, event: &str) -> Vec<Value> {
        self.log.lock().unwrap().iter().filter(|line| line["event"] == event).cloned().collect()
    }
}

impl Talker {
    /// Talks to this gateway from now on.
    pub fn goes_to(&mut self, public: SocketAddr) {
        self.speaker.public = public;
    }

    /// How often it said something.
    pub fn turns(&self) -> usize {
        self.said.len()
    }

    /// Says the next thing, and takes the answer as it comes: within the deadline, and 200.
    pub async fn says(&mut self) -> Heard {
        let q = format!("{} {}", self.name, self.said.len() + 1);
        let body = json!({ "query": q, "message_id": format!("m{q}"), "last_seq": self.seq });
        let began = Instant::now();
        let reply = client::http1(self.speaker.public, self.request(&body)).await;
        let took = began.elapsed();
        assert!(took < DEADLINE, "{took:?}: {}", reply.text());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let body = reply.json();
        self.seq = body["seq"].as_u64().unwrap();
        self.said.push(q);
        Heard { took, body }
    }

    /// The same, of a conversation that the gateway knows: it is answered out of what was said before, stored or not.
    pub async fn goes_on(&mut self) -> Heard {
        self.tries().await.unwrap_or_else(|busy| panic!("{}", busy.body))
    }

    /// The same where Redis may be away for longer than a gateway waits.
    ///
    /// # Errors
    /// The tenant's busy text: the same will be said again.
    pub async fn tries(&mut self) -> Result<Heard, Heard> {
        let before: Vec<&str> = self.said.iter().map(String::as_str).collect();
        let expected = Clerk::answer_to(&before);
        let heard = self.says().await;
        if heard.body["fallback"] == true {
            assert_eq!((&heard.body["answer"], &heard.body["stored"]), (&json!("alpha is busy"), &json!(false)), "{}", heard.body);
            self.said.pop();
            return Err(heard);
        }
        assert_eq!(heard.body["answer"], expected, "{}", heard.body);
        Ok(heard)
    }

    /// Everything that was said is in the history, once and in order.
    pub async fn finds_everything(&self) {
        let questions = self.finds().await;
        let missing: Vec<_> = self.said.iter().filter(|said| !questions.contains(said)).collect();
        assert_eq!(questions, self.said, "{}: missing {missing:?}", self.name);
    }

    /// What is in the history.
    pub async fn finds(&self) -> Vec<String> {
        let mut request = self.request(&json!({}));
        *request.method_mut() = http::Method::GET;
        *request.uri_mut() = "/v1/history".parse().unwrap();
        let history = client::http1(self.speaker.public, request).await.json();
        let turns = history["turns"].as_array().unwrap_or_else(|| panic!("{history}"));
        turns.iter().map(|turn| turn["q"].as_str().unwrap().to_owned()).collect()
    }

    fn request(&self, body: &Value) -> Request<Full<Bytes>> {
        post("/v1/chat", Some(&self.speaker.token), body.to_string())
    }
}
