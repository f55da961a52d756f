//! TLS on the public listener: a certificate and its key, and connections that speak TLS under Pingora's sessions.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use fengda_plugins::api::Secret;
use pingora_core::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest, UniqueID,
    UniqueIDType, raw_connect::ProxyDigest, tls::SslDigest,
};
use simple_asn1::ASN1Block;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
    },
    server::TlsStream,
};

/// What is wrong with a certificate or its key. Says nothing of what the key is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The chain's text has no certificate in it.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// The chain cannot be read.
    #[error("this is no certificate that can be read: {0}")]
    Certificate(String),
    /// The key's text has no private key in it.
    #[error("there is no private key in it")]
    NoKey,
    /// The key cannot be read or is of a kind that is not supported.
    #[error("this is no private key that can be used")]
    Key,
    /// The key is not the first certificate's.
    #[error("the key is not the certificate's")]
    Mismatch,
}

/// Takes connections over TLS 1.2 and 1.3 with one certificate, for HTTP/2 and HTTP/1.1.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    expiry: Option<i64>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tls")
    }
}

impl Acceptor {
    /// Reads a certificate chain, the server's own first, and its private key, both in PEM form (RFC 7468).
    ///
    /// # Errors
    /// One of them cannot be read, or they do not belong together.
    pub fn new(cert: &str, key: &Secret) -> Result<Self, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::Certificate("the PEM is damaged".to_owned()))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::NoKey,
            _ => TlsError::Key,
        })?;
        let expiry = chain.iter().filter_map(|cert| not_after(cert)).min();
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
                rustls::Error::InvalidCertificate(why) => TlsError::Certificate(why.to_string()),
                _ => TlsError::Key,
            })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { tls: TlsAcceptor::from(Arc::new(config)), expiry })
    }

    /// When the first certificate of the chain ends, in seconds since 1970; `None` if that cannot be read.
    pub fn expiry(&self) -> Option<i64> {
        self.expiry
    }

    /// Shakes hands. Waits as long as the client does.
    ///
    /// # Errors
    /// The client speaks no TLS, or wants what this listener does not have; it has been told, if it listens.
    pub async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        let tls = self.tls.accept(stream).await?;
        let (_, session) = tls.get_ref();
        let cipher = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default();
        let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or_default();
        let digest = Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()));
        Ok(Box::new(Encrypted { tls, digest, peeked: Bytes::new() }))
    }
}

/// When a certificate ends: its validity is the one field that is a pair of times (RFC 5280, section 4.1).
fn not_after(cert: &[u8]) -> Option<i64> {
    fn fields(block: &ASN1Block) -> Option<&[ASN1Block]> {
        if let ASN1Block::Sequence(_, fields) = block { Some(fields) } else { None }
    }
    fn time(block: &ASN1Block) -> Option<i64> {
        let (ASN1Block::UTCTime(_, time) | ASN1Block::GeneralizedTime(_, time)) = block else { return None };
        Some(time.assume_utc().unix_timestamp())
    }
    let blocks = simple_asn1::from_der(cert).ok()?;
    let signed = fields(blocks.first()?)?.first()?;
    fields(signed)?.iter().find_map(|field| match fields(field)? {
        [begin, end] => time(begin).and_then(|_| time(end)),
        _ => None,
    })
}

/// Whether a session's connection is encrypted.
pub(crate) fn is_secure(digest: Option<&Digest>) -> bool {
    digest.is_some_and(|digest| digest.ssl_digest.is_some())
}

/// A connection over TLS, as Pingora's sessions want it.
#[derive(Debug)]
struct Encrypted {
    tls: TlsStream<Stream>,
    digest: Arc<SslDigest>,
    /// Read already, and to be read again.
    peeked: Bytes,
}

impl Encrypted {
    fn socket(&self) -> &Stream {
        self.tls.get_ref().0
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.peeked.is_empty() {
            return Pin::new(&mut self.tls).poll_read(cx, buf);
        }
        let taken = self.peeked.len().min(buf.remaining());
        buf.put_slice(&self.peeked[..taken]);
        self.peeked.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Encrypted {
    async fn shutdown(&mut self) {
        // The client may be gone; then there is nobody to say goodbye to.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

#[async_trait]
impl Peek for Encrypted {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.read_exact(buf).await?;
        self.peeked = [&*buf, &self.peeked].concat().into();
        Ok(true)
    }
}

impl Ssl for Encrypted {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(self.digest.clone())
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match self.tls.get_ref().1.alpn_protocol() {
            Some(b"h2") => Some(ALPN::H2),
            Some(_) => Some(ALPN::H1),
            None => None,
        }
    }
}

impl UniqueID for Encrypted {
    fn id(&self) -> UniqueIDType {
        self.socket().id()
    }
}

impl GetTimingDigest for Encrypted {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.socket().get_timing_digest()
    }
}

impl GetProxyDigest for Encrypted {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.socket().get_proxy_digest()
    }
}

impl GetSocketDigest for Encrypted {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.socket().get_socket_digest()
    }
}
