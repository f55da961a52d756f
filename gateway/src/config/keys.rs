//! Public keys kept in files of their own: read together with the configuration, so that a key that was replaced is a change like
//! any other, seen by the hash and by every comparison of old with new.

use std::{
    collections::BTreeMap,
    path::{Path as FilePath, PathBuf},
};

use serde_yaml::Value;

use super::{diagnostic::Report, path::Path, raw};

/// What tells a key from the path of a file that holds one (RFC 7468).
const PEM: &str = "-----BEGIN";
/// Longest key file in bytes.
const MAX_BYTES: usize = 64 << 10;

/// A file with one of a tenant's public keys.
pub(super) struct KeyFile {
    pub(super) tenant: String,
    pub(super) path: PathBuf,
}

/// Puts the text of the file into the place of each `public_key` that is a path, and returns these files.
pub(super) fn read_in(tenants: &mut BTreeMap<String, Option<raw::Tenant>>, report: &mut Report) -> Vec<KeyFile> {
    let mut read = Vec::new();
    for (name, tenant) in tenants {
        let keys = tenant.as_mut().and_then(|tenant| tenant.keys.as_sequence_mut());
        for (i, key) in keys.into_iter().flatten().enumerate() {
            let Some(Value::String(key)) = key.get_mut("public_key").filter(|v| v.as_str().is_some_and(|text| !text.contains(PEM))) else {
                continue;
            };
            let place = Path::parse("tenants").at(name.as_str()).at("keys").at(i).at("public_key");
            let file = report.source.resolve(FilePath::new(key));
            match report.read(&place, &file, MAX_BYTES) {
                Ok(text) => {
                    *key = text;
                    read.push(KeyFile { tenant: name.clone(), path: file });
                }
                Err(why) => {
                    let message = format!("the key file {} {why}", report.shown(&place, file.display()));
                    report.add(
                        &place,
                        message,
                        "a public key in PEM form, or the path of a file with one, relative to the configuration file".to_owned(),
                    );
                }
            }
        }
    }
    read
}
