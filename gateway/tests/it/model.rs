//! A model server that does what a test tells it, and remembers what it was asked.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};

/// What the server does with a request.
pub enum Behaviour {
    /// `{"text"}` with the number of history turns and the question: `2:hello`.
    Echo,
    /// This status, with a body that says nothing.
    Status(u16),
    /// This status, with the question in a body that is no answer.
    Quote(u16),
    /// 200 with these bytes.
    Raw(&'static str),
    /// Reads the request and closes the connection.
    HangUp,
    /// Waits to be released, then echoes.
    Hold(Arc<Notify>),
    /// Streams what comes out of the channel; closing the channel cuts the connection.
    Stream(mpsc::Receiver<String>),
}

struct Shared {
    asked: Mutex<Vec<Value>>,
    heads: Mutex<Vec<HeaderMap>>,
    arrived: Notify,
    plan: Mutex<VecDeque<Behaviour>>,
    gone: Notify,
    connections: AtomicUsize,
}

#[derive(Clone)]
pub struct Model {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl Model {
    /// Serves on a free port until the test's runtime ends. Without a plan it echoes.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            asked: Mutex::default(),
            heads: Mutex::default(),
            arrived: Notify::new(),
            plan: Mutex::default(),
            gone: Notify::new(),
            connections: AtomicUsize::new(0),
        });
        let model = Self { addr, shared };
        let serve = model.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let model = serve.clone();
                model.shared.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let service = service_fn(|request| model.clone().answer(request));
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        model
    }

    /// What to do with the next requests, one each.
    pub fn plan(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.shared.plan.lock().unwrap().extend(behaviours);
    }

    /// How many connections were made to it so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// All requests' bodies so far.
    pub fn asked(&self) -> Vec<Value> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// All requests' header fields so far.
    pub fn heads(&self) -> Vec<HeaderMap> {
        self.shared.heads.lock().unwrap().clone()
    }

    /// Waits until so many requests have come.
    pub async fn wait_for(&self, count: usize) {
        tokio::time::timeout(super::client::PATIENCE, async {
            loop {
                let arrived = self.shared.arrived.notified();
                if self.asked().len() >= count {
                    return;
                }
                arrived.await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{} of {count} calls of the model", self.asked().len()));
    }

    /// Waits until a held request was given up by its sender.
    pub async fn wait_for_cancel(&self) {
        tokio::time::timeout(super::client::PATIENCE, self.shared.gone.notified()).await.expect("the call to be given up");
    }

    async fn answer(self, request: http::Request<hyper::body::Incoming>) -> std::io::Result<Response<Body>> {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/answer"));
        self.shared.heads.lock().unwrap().push(request.headers().clone());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        self.shared.asked.lock().unwrap().push(body.clone());
        self.shared.arrived.notify_one();
        let behaviour = self.shared.plan.lock().unwrap().pop_front().unwrap_or(Behaviour::Echo);
        Ok(match behaviour {
            Behaviour::Echo => echo(&body),
            Behaviour::Status(status) => whole(StatusCode::from_u16(status).unwrap(), "no".into()),
            Behaviour::Quote(status) => whole(StatusCode::from_u16(status).unwrap(), format!("cannot answer {body}")),
            Behaviour::Raw(text) => whole(StatusCode::OK, text.into()),
            Behaviour::HangUp => return Err(std::io::Error::other("hang up")),
            Behaviour::Hold(release) => {
                let guard = OnDrop(Some(self.shared.clone()));
                release.notified().await;
                guard.forget();
                echo(&body)
            }
            Behaviour::Stream(events) => stream(events),
        })
    }
}

/// Tells that a request's future was dropped: its client hung up.
struct OnDrop(Option<Arc<Shared>>);

impl OnDrop {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.gone.notify_one();
        }
    }
}

fn echo(body: &Value) -> Response<Body> {
    let text = format!("{}:{}", body["history"].as_array().unwrap().len(), body["query"].as_str().unwrap());
    whole(StatusCode::OK, json!({ "text": text }).to_string())
}

fn whole(status: StatusCode, text: String) -> Response<Body> {
    let body = http_body_util::Full::from(text).map_err(|e| match e {}).boxed();
    Response::builder().status(status).header("content-type", "application/json").body(body).unwrap()
}

fn stream(events: mpsc::Receiver<String>) -> Response<Body> {
    Response::builder().header("content-type", "text/event-stream").body(BoxBody::new(EventBody(events))).unwrap()
}

/// Sends what comes; `end` ends the body well, a closed channel cuts it.
struct EventBody(mpsc::Receiver<String>);

impl hyper::body::Body for EventBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        self.0.poll_recv(cx).map(|event| match event.as_deref() {
            Some("end") => None,
            Some(event) => Some(Ok(Frame::data(Bytes::from(event.to_owned())))),
            None => Some(Err(std::io::Error::other("cut"))),
        })
    }
}

/// One `delta` event as an upstream sends it.
pub fn delta(text: &str) -> String {
    format!("event: delta\ndata: {}\n\n", json!({ "text": text }))
}
