//! Keys and certificates kept in files of their own: read together with the configuration, so that one that was replaced is a
//! change like any other, seen by the hash and by every comparison of old with new.

use std::path::{Path as FilePath, PathBuf};

use fengda_plugins::api::Secret;
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
    let mut files = Files { read: Vec::new(), report };
    for (name, tenant) in &mut raw.tenants {
        let keys = tenant.as_mut().and_then(|tenant| tenant.keys.as_sequence_mut());
        for (i, key) in keys.into_iter().flatten().enumerate() {
            let Some(Value::String(key)) = key.get_mut("public_key") else { continue };
            let place = Path::parse("tenants").at(name.as_str()).at("keys").at(i).at("public_key");
            files.put(&format!("a key file of `{name}`"), place, Some(key), MAX_BYTES);
        }
    }
    if let Some(raw::Tls { cert, key }) = &mut raw.tls {
        let at = |key: &str| Path::parse("tls").at(key);
        files.put("the certificate", at("cert"), cert.as_mut(), MAX_BYTES);
        files.put_secret("the certificate's key", at("key"), key.as_mut());
    }
    let store = raw.store.redis.as_mut().and_then(|redis| redis.tls.as_mut());
    let older = raw.store.import.as_mut().and_then(|import| import.tls.as_mut());
    for (path, tls) in [("store.redis.tls", store), ("store.import.tls", older)] {
        let Some(raw::RedisTls { ca, cert, key }) = tls else { continue };
        let at = |key: &str| Path::parse(path).at(key);
        files.put("the authorities of Redis", at("ca"), ca.as_mut(), MAX_AUTHORITIES);
        files.put("the certificate for Redis", at("cert"), cert.as_mut(), MAX_BYTES);
        files.put_secret("the key of the certificate for Redis", at("key"), key.as_mut());
    }
    for (name, upstream) in raw.upstreams.iter_mut().flatten() {
        let ca = upstream.as_mut().and_then(|upstream| upstream.ca.as_mut());
        let place = Path::parse("upstreams").at(name.as_str()).at("ca");
        files.put(&format!("the authorities of `{name}`"), place, ca, MAX_AUTHORITIES);
    }
    files.read
}

/// The files that were read.
struct Files<'a> {
    read: Vec<KeyFile>,
    report: &'a mut Report,
}

impl Files<'_> {
    fn put(&mut self, what: &str, place: Path, value: Option<&mut String>, max: usize) {
        let Some(value) = value else { return };
        if let Some(text) = self.text(what, place, value, max) {
            *value = text;
        }
    }

    fn put_secret(&mut self, what: &str, place: Path, value: Option<&mut Secret>) {
        let Some(value) = value else { return };
        if let Some(text) = self.text(what, place, value.expose(), MAX_BYTES) {
            *value = text.into();
        }
    }

    /// The text of the file that a value names, unless it is no path. A file that cannot be read is reported.
    fn text(&mut self, what: &str, place: Path, value: &str, max: usize) -> Option<String> {
        if value.contains(PEM) {
            return None;
        }
        let path = self.report.source.resolve(FilePath::new(value));
        match self.report.read(&place, &path, max) {
            Ok(text) => {
                self.read.push(KeyFile { what: what.to_owned(), path });
                Some(text)
            }
            Err(why) => {
                let message = format!("the key file {} {why}", shown(&place, &path, self.report));
                let hint = "PEM, or the path of a file with it, relative to the configuration file".to_owned();
                self.report.unreadable(place, Wording { message, hint: Some(hint), about_key: false });
                None
            }
        }
    }
}

/// The path, unless it may be a private key that was pasted in a form that is not known here.
fn shown(place: &Path, path: &FilePath, report: &Report) -> String {
    let private = ["tls.key", "store.redis.tls.key", "store.import.tls.key"].iter().any(|key| *place == Path::parse(key));
    if private { format!("that `{place}` names") } else { report.shown(place, path.display()) }
}
