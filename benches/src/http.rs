//! The least HTTP/1.1 that a replay needs, on hyper: calls over one kept connection, and a small server on a free port.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// Most bytes of a body that are read.
const MAX_BODY: usize = 16 << 20;
/// How long one call may take; far over the gateway's own deadline for a turn.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// No connection.
    #[error("cannot connect")]
    Connect(#[from] io::Error),
    /// The connection ended or broke HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The body was cut off or over 16 MiB.
    #[error("the body could not be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The time was over.
    #[error("no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
}

/// A client's kept connection; closed on drop.
pub(crate) struct Connection {
    sender: client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, CallError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver); // ends with the connection; what goes wrong, the caller of `call` is told as well
        Ok(Self { sender })
    }

    /// Whether a request can be sent, once the one before is done with; `false` if the other side closed.
    pub(crate) async fn is_ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request and reads the whole answer. After an error the connection is of no more use.
    ///
    /// # Errors
    /// The connection failed or the answer took longer than 15 s.
    pub(crate) async fn call(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), CallError> {
        timeout(CALL_TIMEOUT, async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(CallError::Body)?;
            Ok((status, body.to_bytes()))
        })
        .await
        .unwrap_or(Err(CallError::Timeout))
    }
}

/// A server on a free loopback port; dropping it ends it with all its connections.
pub(crate) struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts to serve; `answer` gets each request with its whole body and must not block.
    ///
    /// # Errors
    /// No port is free.
    pub(crate) async fn start(answer: impl Fn(&Parts, &[u8]) -> Response<Full<Bytes>> + Send + Sync + 'static) -> io::Result<Self> {
        Self::start_slow(|_| Duration::ZERO, answer).await
    }

    /// The same, but each answer waits for as long as `delay` says of the request's body.
    ///
    /// # Errors
    /// No port is free.
    pub(crate) async fn start_slow(
        delay: impl Fn(&[u8]) -> Duration + Send + Sync + 'static,
        answer: impl Fn(&Parts, &[u8]) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let handle = Arc::new((delay, answer));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(10)).await; // out of file descriptors: let some come back
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let handle = handle.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let handle = handle.clone();
                    async move { respond(request, &handle.0, &handle.1).await }
                });
                connections.spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { address, task })
    }
}

async fn respond(
    request: Request<Incoming>,
    delay: &(impl Fn(&[u8]) -> Duration + Sync),
    answer: &(impl Fn(&Parts, &[u8]) -> Response<Full<Bytes>> + Sync),
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            match delay(&body) {
                Duration::ZERO => {}
                delay => tokio::time::sleep(delay).await,
            }
            Ok(answer(&head, &body))
        }
        Err(_) => Ok(json(StatusCode::BAD_REQUEST, "{}")),
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
