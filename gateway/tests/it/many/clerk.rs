//! A model that takes its time, and whose answers prove what it was told: how many turns came before, and what the last one asked.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

#[derive(Clone)]
pub struct Clerk {
    pub addr: SocketAddr,
    delay: Duration,
    /// How often each question was asked.
    asked: Arc<Mutex<HashMap<String, usize>>>,
    /// What came that belongs to another conversation.
    foreign: Arc<Mutex<Vec<Value>>>,
}

impl Clerk {
    /// Answers after anything up to `delay`, until the test's runtime ends.
    pub async fn start(delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clerk = Self { addr: listener.local_addr().unwrap(), delay, asked: Arc::default(), foreign: Arc::default() };
        let serve = clerk.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let clerk = serve.clone();
                let service = service_fn(move |request| clerk.clone().answer(request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        clerk
    }

    /// How many calls were made for this question.
    pub fn calls(&self, q: &str) -> usize {
        self.asked.lock().unwrap().get(q).copied().unwrap_or(0)
    }

    /// How many calls were made in all.
    pub fn all_calls(&self) -> usize {
        self.asked.lock().unwrap().values().sum()
    }

    /// Calls whose history had turns of another conversation.
    pub fn foreign(&self) -> Vec<Value> {
        self.foreign.lock().unwrap().clone()
    }

    /// What it says to a question after these.
    pub fn answer_to(before: &[&str]) -> String {
        format!("{} after {}", before.len(), before.last().unwrap_or(&"nothing"))
    }

    async fn answer(self, request: http::Request<hyper::body::Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
        let body: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes()).unwrap();
        let q = body["query"].as_str().unwrap();
        *self.asked.lock().unwrap().entry(q.to_owned()).or_default() += 1;
        let before: Vec<&str> = body["history"].as_array().unwrap().iter().map(|turn| turn["q"].as_str().unwrap()).collect();
        if before.iter().any(|other| conversation(other) != conversation(q)) {
            self.foreign.lock().unwrap().push(body.clone());
        }
        tokio::time::sleep(self.delay.mul_f64(fastrand::f64())).await;
        let text = json!({ "text": Self::answer_to(&before) }).to_string();
        Ok(Response::builder().header("content-type", "application/json").body(Full::from(text)).unwrap())
    }
}

/// The conversation that a question says it is of: all but its number.
fn conversation(q: &str) -> &str {
    q.rsplit_once(' ').expect("a conversation and a number").0
}
