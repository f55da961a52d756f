//! An application behind the gateway: says what it was sent, and does what its paths are called after.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::{Notify, mpsc},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use super::client::PATIENCE;

fn pki(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/it/pki", name].iter().collect()
}

type Body = BoxBody<Bytes, Infallible>;

/// What tests look at.
#[derive(Default)]
pub struct Shared {
    /// Connections so far.
    pub connections: AtomicUsize,
    /// Requests so far.
    pub requests: AtomicUsize,
    /// Bytes of bodies read.
    pub read: AtomicU64,
    /// Bodies that ended before they were whole.
    pub cut_off: AtomicUsize,
    /// Bytes of endless bodies made.
    pub made: AtomicU64,
    /// Lets `/hold` answer and `/slow-sink` read.
    pub go: Notify,
    /// A request of `/hold` came.
    pub held: Notify,
    /// A request of `/hold` was given up.
    pub gone: Notify,
    /// Statuses for the next requests of `/planned`.
    pub plan: Mutex<Vec<u16>>,
    events: Mutex<Option<mpsc::Receiver<&'static str>>>,
}

#[derive(Clone)]
pub struct Origin {
    pub addr: SocketAddr,
    pub shared: Arc<Shared>,
}

impl Origin {
    pub async fn start() -> Self {
        Self::serve("127.0.0.1:0", None).await
    }

    /// The same over TLS on all addresses, with a certificate of the authority in `pki/ca.pem`.
    pub async fn start_tls() -> Self {
        let certificates = CertificateDer::pem_file_iter(pki("first.pem")).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(pki("first-key.pem")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth().with_single_cert(certificates, key).unwrap();
        Self::serve("0.0.0.0:0", Some(Arc::new(config).into())).await
    }

    async fn serve(address: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let origin = Self { addr: listener.local_addr().unwrap(), shared: Arc::default() };
        let serve = origin.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                serve.shared.connections.fetch_add(1, Ordering::SeqCst);
                let (origin, tls) = (serve.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => origin.speak(stream).await,
                        // A client that does not trust us goes away.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                origin.speak(stream).await;
                            }
                        }
                    }
                });
            }
        });
        origin
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S) {
        let service = service_fn(|request| self.clone().answer(request));
        let http1 = hyper::server::conn::http1::Builder::new();
        let _ = http1.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    }

    /// An `http` upstream of the configuration with this endpoint.
    pub fn upstream(&self) -> String {
        format!("{{ protocol: http, endpoints: [\"http://{}\"] }}", self.addr)
    }

    /// What `/events` sends next.
    pub fn events(&self) -> mpsc::Sender<&'static str> {
        let (to, from) = mpsc::channel(8);
        *self.shared.events.lock().unwrap() = Some(from);
        to
    }

    pub async fn wait(&self, what: &Notify) {
        tokio::time::timeout(PATIENCE, what.notified()).await.expect("it to happen");
    }

    async fn answer(self, mut request: Request<Incoming>) -> std::io::Result<Response<Body>> {
        let shared = self.shared;
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let path = request.uri().path().to_owned();
        Ok(match path.trim_start_matches("/v2") {
            "/hold" => {
                // With a body left unread, hyper would not see its client go.
                drain(request.into_body(), &shared).await;
                shared.held.notify_one();
                let given_up = GivenUp(shared.clone());
                shared.go.notified().await;
                std::mem::forget(given_up);
                whole(200, "held")
            }
            "/early" => whole(413, "too much"),
            "/sink" => {
                let read = drain(request.into_body(), &shared).await;
                whole(200, &read.to_string())
            }
            "/slow-sink" => {
                shared.go.notified().await;
                let read = drain(request.into_body(), &shared).await;
                whole(200, &read.to_string())
            }
            "/endless" => Response::new(BoxBody::new(Endless(shared))),
            "/events" => {
                let events = shared.events.lock().unwrap().take().unwrap();
                Response::builder().header("content-type", "text/event-stream").body(BoxBody::new(Events(events))).unwrap()
            }
            "/mirror" => Response::new(BoxBody::new(Mirror(request.into_body()))),
            "/socket" => {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move { echo(TokioIo::new(upgrade.await.unwrap())).await });
                let key = request.headers().get("sec-websocket-key").cloned();
                let mut switch = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "websocket");
                if let Some(key) = key {
                    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
                    switch = switch.header("sec-websocket-accept", accept);
                }
                switch.body(BoxBody::default()).unwrap()
            }
            "/open-to-all" => Response::builder()
                .header("access-control-allow-origin", "*")
                .header("access-control-allow-credentials", "true")
                .header("access-control-expose-headers", "x-app")
                .body(BoxBody::default())
                .unwrap(),
            "/planned" => {
                let status = shared.plan.lock().unwrap().pop().unwrap_or(200);
                whole(status, "planned")
            }
            "/empty" => Response::builder().status(204).header("x-app", "1").body(BoxBody::default()).unwrap(),
            "/v1/answer" => whole(200, "{\"text\":\"in private\"}"),
            "/unchanged" => Response::builder().status(304).header("etag", "\"1\"").body(BoxBody::default()).unwrap(),
            _ => told(request, &shared).await,
        })
    }
}

/// Says what came, and adds fields that are not for the client.
async fn told(request: Request<Incoming>, shared: &Shared) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    shared.read.fetch_add(body.len() as u64, Ordering::SeqCst);
    let seen = json!({
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "headers": fields(&head.headers),
        "body": String::from_utf8_lossy(&body),
    });
    let response = Response::builder()
        .header("content-type", "application/json")
        .header("server", "app")
        .header("x-app", "1")
        .header("set-cookie", "a=1")
        .header("set-cookie", "b=2")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("keep-alive", "timeout=5");
    response.body(BoxBody::new(Full::from(seen.to_string()))).unwrap()
}

fn fields(headers: &HeaderMap) -> Value {
    let mut all = serde_json::Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        all.insert(name.to_string(), values.collect::<Vec<_>>().join(" | ").into());
    }
    all.into()
}

fn whole(status: u16, text: &str) -> Response<Body> {
    let body = BoxBody::new(Full::from(text.to_owned()));
    Response::builder().status(StatusCode::from_u16(status).unwrap()).header("content-type", "text/plain").body(body).unwrap()
}

async fn drain(mut body: Incoming, shared: &Shared) -> u64 {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            shared.cut_off.fetch_add(1, Ordering::SeqCst);
            break;
        };
        let bytes = frame.into_data().map_or(0, |data| data.len() as u64);
        shared.read.fetch_add(bytes, Ordering::SeqCst);
        read += bytes;
    }
    read
}

async fn echo<S: AsyncRead + AsyncWrite>(stream: S) {
    let (mut from, mut to) = tokio::io::split(stream);
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer).await {
        if n == 0 || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

struct GivenUp(Arc<Shared>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.gone.notify_one();
    }
}

/// Bytes for ever.
struct Endless(Arc<Shared>);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static CHUNK: [u8; 64 << 10] = [b'x'; 64 << 10];
        self.0.made.fetch_add(CHUNK.len() as u64, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK)))))
    }
}

/// What comes goes back, as it comes.
struct Mirror(Incoming);

impl hyper::body::Body for Mirror {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(cx).map(|frame| frame?.ok().map(Ok))
    }
}

struct Events(mpsc::Receiver<&'static str>);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|event| Some(Ok(Frame::data(Bytes::from_static(event?.as_bytes())))))
    }
}
