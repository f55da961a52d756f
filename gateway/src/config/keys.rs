//! Keys and certificates kept in files of their own: read together with the configuration, so that one that was replaced is a
//! change like any other, seen by the hash and by every comparison of old with new.

use std::path::{Path as FilePath, PathBuf};

use serde_yaml::Value;

use super::{
    diagnostic::Report,
    path::Path,
    raw::{self, Raw},
    wording::Wording,
};

/// What tells a key or certificate from the path of a file that holds one (RFC 7468).
const PEM: &str = "-----BEGIN";
/// Longest such file in bytes.
const MAX_BYTES: usize = 64 << 10;
/// Longest file of authorities in bytes: a machine's whole list fits.
const MAX_AUTHORITIES: usize = 512 << 10;

/// A file with a key or certificate.
pub(super) struct KeyFile {
    /// What it is, for messages.
    pub(super) what: String,
    pub(super) path: PathBuf,
}

/// Puts the text of the file into the place of each path of one, and returns these files.
pub(super) fn read_in(raw: &mut Raw, report: &mut Report) -> Vec<KeyFile> {
    let mut read = Vec::new();
    for (name, tenant) in &mut raw.tenants {
        let keys = tenant.as_mut().and_then(|tenant| tenant.keys.as_sequence_mut());
        for (i, key) in keys.into_iter().flatten().enumerate() {
            let Some(Value::String(key)) = key.get_mut("public_key") else { continue };
            let place = Path::parse("tenants").at(name.as_str()).at("keys").at(i).at("public_key");
            if let Some(text) = text(format!("a key file of `{name}`"), place, key, MAX_BYTES, &mut read, report) {
                *key = text;
            }
        }
    }
    if let Some(raw::Tls { cert, key }) = &mut raw.tls {
        let at = |key: &str| Path::parse("tls").at(key);
        if let Some(cert) = cert
            && let Some(text) = text("the certificate".to_owned(), at("cert"), cert, MAX_BYTES, &mut read, report)
        {
            *cert = text;
        }
        if let Some(key) = key
            && let Some(text) = text("the certificate's key".to_owned(), at("key"), key.expose(), MAX_BYTES, &mut read, report)
        {
            *key = text.into();
        }
    }
    for (name, upstream) in raw.upstreams.iter_mut().flatten() {
        let Some(ca) = upstream.as_mut().and_then(|upstream| upstream.ca.as_mut()) else { continue };
        let place = Path::parse("upstreams").at(name.as_str()).at("ca");
        if let Some(text) = text(format!("the authorities of `{name}`"), place, ca, MAX_AUTHORITIES, &mut read, report) {
            *ca = text;
        }
    }
    read
}

/// The text of the file that a value names, unless it is no path. A file that cannot be read is reported.
fn text(what: String, place: Path, value: &str, max: usize, read: &mut Vec<KeyFile>, report: &mut Report) -> Option<String> {
    if value.contains(PEM) {
        return None;
    }
    let path = report.source.resolve(FilePath::new(value));
    match report.read(&place, &path, max) {
        Ok(text) => {
            read.push(KeyFile { what, path });
            Some(text)
        }
        Err(why) => {
            let message = format!("the key file {} {why}", shown(&place, &path, report));
            let hint = "PEM, or the path of a file with it, relative to the configuration file".to_owned();
            report.unreadable(place, Wording { message, hint: Some(hint), about_key: false });
            None
        }
    }
}

/// The path, unless it may be a private key that was pasted in a form that is not known here.
fn shown(place: &Path, path: &FilePath, report: &Report) -> String {
    let private = *place == Path::parse("tls.key");
    if private { "that `tls.key` names".to_owned() } else { report.shown(place, path.display()) }
}
