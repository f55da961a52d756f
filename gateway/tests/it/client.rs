//! Clients: a plain HTTP/1.1 or HTTP/2 request, a stream of events, and bytes as no library would send them.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// No test waits longer than this for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something is so.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Asserts an error in the one format and returns its message.
    pub fn error(&self, status: u16, code: &str) -> String {
        let body = self.json();
        assert_eq!((self.status.as_u16(), body["error"]["code"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(body["error"]["request_id"].as_str(), self.headers.get("x-request-id").and_then(|v| v.to_str().ok()), "{body}");
        assert_eq!(self.headers["content-type"], "application/json");
        body["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// A kept connection.
pub struct Http1 {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Http1 {
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream).await
    }

    /// A connection, unless nobody listens.
    pub async fn try_connect(addr: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(addr).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(Self { sender })
    }

    pub async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub async fn begin(&mut self, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
        tokio::time::timeout(PATIENCE, async {
            self.sender.ready().await.unwrap();
            self.sender.send_request(request).await.unwrap()
        })
        .await
        .expect("an answer in time")
    }

    /// Sends a request that the server may leave without an answer.
    pub async fn try_begin(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<http::Response<Incoming>> {
        self.sender.send_request(request).await
    }

    /// The same, and reads the whole answer.
    pub async fn try_send(&mut self, request: Request<Full<Bytes>>) -> Option<Reply> {
        let (head, body) = self.try_begin(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Reply { status: head.status, headers: head.headers, body })
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Reply {
        collect(self.begin(request).await).await
    }
}

pub async fn collect(response: http::Response<Incoming>) -> Reply {
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a whole answer in time").unwrap().to_bytes();
    Reply { status: head.status, headers: head.headers, body }
}

pub async fn http1(addr: SocketAddr, request: Request<Full<Bytes>>) -> Reply {
    Http1::connect(addr).await.send(request).await
}

pub async fn http2(addr: SocketAddr, request: Request<Full<Bytes>>) -> Reply {
    http2_over(TcpStream::connect(addr).await.unwrap(), request).await
}

pub async fn http2_over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, mut request: Request<Full<Bytes>>) -> Reply {
    request.headers_mut().remove("host");
    *request.uri_mut() = format!("http://test{}", request.uri().path()).parse().unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("an answer in time").unwrap();
    collect(answer).await
}

/// Sends a request's head over HTTP/2 and never its body; returns the status of the answer.
pub async fn http2_stalled(addr: SocketAddr, request: Request<Full<Bytes>>) -> u16 {
    struct Never;
    impl hyper::body::Body for Never {
        type Data = Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            std::task::Poll::Pending
        }
    }
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (mut head, _) = request.into_parts();
    head.headers.remove("host");
    head.uri = format!("http://{addr}{}", head.uri.path()).parse().unwrap();
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(Request::from_parts(head, Never))).await.expect("an answer in time");
    answer.unwrap().status().as_u16()
}

/// Sends bytes as they are and reads until the server closes or `PATIENCE` is over.
pub async fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    rest(stream).await
}

/// What a server still sends until it closes the connection, well or with a reset.
pub async fn rest(mut stream: impl AsyncRead + Unpin) -> String {
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("a closed connection in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A stream of server-sent events, read one by one.
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    pub fn of(response: http::Response<Incoming>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), buffer: Vec::new() }
    }

    /// The next event's name and data; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let event = String::from_utf8(event).unwrap();
                let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
                if let (Some(name), Some(data)) = (field("event:"), field("data:")) {
                    return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
                }
                continue;
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time")?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    pub async fn rest(mut self) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}
