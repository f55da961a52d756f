//! TLS: a certificate chain and the key that belongs to it.

use crate::{
    config::{diagnostic::Report, path::Path, raw},
    edge::tls::{Acceptor, TlsError},
};

/// Makes what TLS is spoken with. Text that could not be read has been reported at its place.
pub(super) fn check(raw: &raw::Tls, report: &mut Report) -> Option<Acceptor> {
    let path = Path::parse("tls");
    let (Some(cert), Some(key)) = (&raw.cert, &raw.key) else {
        report.add(&path, "`tls` needs a `cert` and a `key`", "`tls: { cert: tls/chain.pem, key: tls/key.pem }`".to_owned());
        return None;
    };
    Acceptor::new(cert, key).map_err(|error| problem(&error, &path, report)).ok()
}

fn problem(error: &TlsError, path: &Path, report: &mut Report) {
    let (key, hint) = match error {
        TlsError::NoCertificate | TlsError::Certificate(_) => {
            ("cert", "PEM with the server's own certificate first, then the others of its chain")
        }
        TlsError::NoKey | TlsError::Key => ("key", "PEM with one private key, not encrypted: PKCS#8, PKCS#1 or SEC1"),
        TlsError::Mismatch => ("key", "give the key that the first certificate of `cert` was made for"),
    };
    report.add(&path.at(key), error.to_string(), hint.to_owned());
}
