//! Where tenants log: a log is appended to and renamed when it is full, so it must be nothing that anybody else needs.

use std::{
    collections::BTreeMap,
    path::{self, Component, Path as FilePath, PathBuf},
};

use super::tenants::own;
use crate::config::{TenantConfig, diagnostic::Report, keys::KeyFile, path::Path};

/// Reports each log that is another tenant's, is a directory, or is in the way of something that the gateway reads or keeps. Paths
/// are compared as they are written: links are not followed.
pub(super) fn check(tenants: &[TenantConfig], data: &FilePath, key_files: &[KeyFile], report: &mut Report) {
    let taken = taken(tenants, data, key_files, report);
    let mut owners = BTreeMap::new();
    for TenantConfig { tenant, log, .. } in tenants {
        let name = tenant.name();
        let at = Path::parse("tenants").at(name).at("log");
        let hint = || format!("leave it out to have it in `logs/{name}.log` of the data directory");
        let files = [normal(log), normal(&rotated(log))];
        if log.is_dir() {
            report.add(&at, format!("{} is a directory, and a log is a file", report.shown(&at, log.display())), hint());
        } else if let Some((_, what)) =
            taken.iter().find(|(path, _)| files.iter().any(|file| file.starts_with(path) || path.starts_with(file)))
        {
            report.add(&at, format!("the log of `{name}`, or its `.1` once it is full, would be in the way of {what}"), hint());
        }
        for file in files {
            own(&mut owners, file, tenant, "log", &at, report);
        }
    }
}

/// What is no place for a log, and what it is.
fn taken(tenants: &[TenantConfig], data: &FilePath, key_files: &[KeyFile], report: &Report) -> Vec<(PathBuf, String)> {
    let mut taken = vec![
        (normal(&data.join("context")), "the stored conversations".to_owned()),
        (normal(&data.join("flows")), "the last good flows".to_owned()),
    ];
    taken.extend(report.source.files.iter().map(|file| (normal(file), "the configuration file".to_owned())));
    let flow = |of: &TenantConfig| (normal(&of.flow), format!("the flow of `{}`", of.tenant.name()));
    taken.extend(tenants.iter().filter(|of| !of.flow.as_os_str().is_empty()).map(flow));
    taken.extend(key_files.iter().map(|key| (normal(&key.path), key.what.clone())));
    taken
}

/// What a full log is renamed to; see [`Sink`](crate::telemetry).
fn rotated(log: &FilePath) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The same path from the root, without `.` and `..`.
fn normal(path: &FilePath) -> PathBuf {
    let whole = path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut normal = PathBuf::new();
    for part in whole.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}
