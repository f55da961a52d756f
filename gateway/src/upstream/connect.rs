//! New connections to one endpoint: its name looked up, TCP, TLS where its URL says so, and HTTP/1.1 on top.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use super::{ModelError, Outgoing};
use crate::config::{Endpoint, PeersConfig};

/// How long the addresses of a name are used without asking again.
const REMEMBER: Duration = Duration::from_secs(10);
/// Most bytes buffered in each direction of a connection; also the longest head of a response.
const BUFFER: usize = 64 << 10;

/// Makes connections to one endpoint.
pub(super) struct Connector {
    addresses: Arc<Addresses>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
}

impl Connector {
    /// `tls` is for endpoints whose URL is `https://…`.
    pub(super) fn new(endpoint: &Endpoint, tls: Option<&TlsConnector>, timeout: Duration) -> Self {
        let name = || ServerName::try_from(endpoint.host.clone()).expect("a host of https was checked to be a server's name");
        let tls = tls.filter(|_| endpoint.tls).map(|connector| (connector.clone(), name()));
        Self { addresses: Addresses::of(endpoint), tls, timeout }
    }

    pub(super) async fn connect(&self) -> Result<SendRequest<Outgoing>, ModelError> {
        match tokio::time::timeout(self.timeout, self.establish()).await {
            Ok(made) => made.map_err(|e| ModelError::Connect(e.to_string())),
            Err(_) => Err(ModelError::Connect("no connection within the connect timeout".into())),
        }
    }

    async fn establish(&self) -> io::Result<SendRequest<Outgoing>> {
        let stream = TcpStream::connect(&*self.addresses.get().await?).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => speak(stream).await,
            Some((connector, name)) => speak(connector.connect(name.clone(), stream).await?).await,
        }
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> io::Result<SendRequest<Outgoing>> {
    let (sender, connection) =
        http1::Builder::new().max_buf_size(BUFFER).handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends when the sender is dropped or the server hangs up; what goes wrong on it shows at the request that uses it.
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Ok(sender)
}

/// A TLS client that trusts the file's authority, or else those of the machine; `None` if no endpoint wants TLS.
pub(super) fn tls(config: &PeersConfig) -> Option<TlsConnector> {
    /// Read once: it takes some milliseconds. What cannot be read is left out, and an endpoint it would vouch for is not trusted.
    static MACHINE: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if !config.endpoints.iter().any(|e| e.tls) {
        return None;
    }
    let roots = config.ca.as_ref().map_or_else(
        || MACHINE.clone(),
        |pem| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok));
            Arc::new(roots)
        },
    );
    let mut client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider knows the versions of TLS that rustls does")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(client).into())
}

/// Where an endpoint's name leads.
struct Addresses {
    host: String,
    port: u16,
    found: Mutex<Option<(Arc<[SocketAddr]>, Instant)>>,
    /// One look-up at a time: a name server that hangs holds one blocking thread for each name, however many calls give up waiting.
    looking: Arc<Semaphore>,
}

impl Addresses {
    fn of(endpoint: &Endpoint) -> Arc<Self> {
        let Endpoint { host, port, .. } = endpoint;
        Arc::new(Self { host: host.clone(), port: *port, found: Mutex::default(), looking: Arc::new(Semaphore::new(1)) })
    }

    async fn get(self: &Arc<Self>) -> io::Result<Arc<[SocketAddr]>> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok([SocketAddr::new(ip, self.port)].into());
        }
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let turn = self.looking.clone().acquire_owned().await.expect("the semaphore is never closed");
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let this = self.clone();
        let looked = tokio::spawn(async move {
            let _turn = turn;
            let found: Arc<[SocketAddr]> = tokio::net::lookup_host((this.host.as_str(), this.port)).await?.collect();
            *this.found.lock().unwrap_or_else(PoisonError::into_inner) = Some((found.clone(), Instant::now()));
            Ok(found)
        });
        looked.await.map_err(io::Error::other)?
    }

    fn known(&self) -> Option<Arc<[SocketAddr]>> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.as_ref().filter(|(_, at)| at.elapsed() < REMEMBER).map(|(found, _)| found.clone())
    }
}
