//! Puts files that changed in force: looks at them twice a second, on the control thread's blocking pool.
//!
//! Looking costs a few calls of stat(2) and sees everything: files that are replaced, links that are swapped far up in the path (which
//! is how Kubernetes changes a mounted ConfigMap), files that come later, network file systems. Notifications of the kernel see the
//! first of these reliably, and would need the looking beside them.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

use crate::gateway::Gateway;

/// How often is looked. A change is in force after two looks that agree, within two seconds.
const PERIOD: Duration = Duration::from_millis(500);

/// What tells a file from what it was: device, inode, size, and the second and nanosecond of its last change, all of what links lead to.
/// `None` if it is not there.
type Fingerprint = Option<(u64, u64, u64, i64, i64)>;

/// Files as they were at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look(BTreeMap<PathBuf, Fingerprint>);

impl Look {
    /// Looks at files, each once.
    pub fn at(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self::default().then_at(files)
    }

    /// Goes on to other files: what was seen of those of them that were looked at before stays.
    pub fn then_at(mut self, files: impl IntoIterator<Item = PathBuf>) -> Self {
        let fingerprint = |file: &PathBuf| fs::metadata(file).ok().map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
        Self(
            files
                .into_iter()
                .map(|file| (self.0.remove(&file).unwrap_or_else(|| fingerprint(&file)), file))
                .map(|(f, file)| (file, f))
                .collect(),
        )
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.0.keys().cloned()
    }
}

/// Watches the configuration's files for as long as the gateway lives.
pub(crate) async fn watch_files(gateway: Arc<Gateway>) {
    let mut last = Look::default();
    loop {
        tokio::time::sleep(PERIOD).await;
        if !gateway.snapshot.load().config.watch {
            continue;
        }
        let gateway = gateway.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let (now, read) = gateway.look();
            // An editor may be in the middle of writing a file.
            if now == last && now != read {
                gateway.reload_if_changed();
            }
            now
        });
        // A panic in there was logged where it happened.
        last = looked.await.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_sees_through_links_and_knows_that_a_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let print = || Look::at([path("link/file")]);
        let none = print();
        for side in ["a", "b"] {
            fs::create_dir(path(side)).unwrap();
            fs::write(path(side).join("file"), "same").unwrap();
        }
        std::os::unix::fs::symlink("a", path("link")).unwrap();
        let first = print();
        assert!(none.0.values().all(Option::is_none) && first != none && first == print());
        std::os::unix::fs::symlink("b", path("new")).unwrap();
        fs::rename(path("new"), path("link")).unwrap();
        assert_ne!(print(), first);
    }

    #[test]
    fn what_was_seen_first_counts() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        let before = Look::at([a.clone()]);
        fs::write(&a, "new").unwrap();
        let read = before.then_at([a.clone(), b.clone()]);
        assert_eq!(read.files().collect::<Vec<_>>(), [a.clone(), b.clone()]);
        assert_ne!(read, Look::at([a, b]), "a came after the first look");
    }
}
