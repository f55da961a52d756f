//! The spool's folder: the file of waiting turns, the file of those that were refused, and the lock that makes them one process's.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::record::put_frame;
use crate::context::{
    OpenError,
    codec::{self, Kind},
};

/// Waiting turns, and marks of those that wait no longer.
const WAITING: &str = "waiting";
/// Turns that the store will never take, and bytes that cannot be read.
const REFUSED: &str = "refused";
/// Held by the process that uses the folder.
const LOCK: &str = "lock";

/// The folder, open.
pub(super) struct Folder {
    dir: PathBuf,
    waiting: File,
    /// Bytes in it that count; what a failed write may have left behind them does not.
    len: u64,
    lock: File,
}

/// What a file holds.
#[derive(Default)]
pub(super) struct Scan<'a> {
    /// Sound records, in order.
    pub(super) records: Vec<&'a [u8]>,
    /// What is between them and cannot be read.
    pub(super) damaged: Vec<&'a [u8]>,
    /// Bytes at the end of a write that was cut short.
    pub(super) torn: usize,
}

impl Folder {
    /// Opens or makes the folder. Returns what the file of waiting turns holds.
    pub(super) fn open(data: &Path) -> Result<(Self, Vec<u8>), OpenError> {
        let dir = data.join("spool");
        let storage = |e: io::Error| OpenError::Storage { dir: dir.clone(), cause: e.to_string() };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(storage)?;
        let lock = private(&dir.join(LOCK)).map_err(storage)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(data.to_owned())),
            Err(TryLockError::Error(e)) => return Err(storage(e)),
        }
        let path = dir.join(WAITING);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(storage)?,
        };
        let waiting = private(&path).map_err(storage)?;
        let len = bytes.len() as u64;
        Ok((Self { dir, waiting, len, lock }, bytes))
    }

    /// Whether the file is still the one that was opened: somebody may have removed or replaced the folder, and what is written would be
    /// found by nobody.
    pub(super) fn is_in_place(&self) -> bool {
        self.has(&self.waiting, WAITING)
    }

    /// Whether the file that stands there under this name is this one.
    fn has(&self, file: &File, name: &str) -> bool {
        let identity = |file: io::Result<Metadata>| file.map(|file| (file.dev(), file.ino())).ok();
        identity(file.metadata()).is_some_and(|ours| Some(ours) == identity(fs::metadata(self.dir.join(name))))
    }

    /// Opens or makes what is in its place now: the file, or all of the folder.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if self.has(&self.lock, LOCK) {
            // The folder is ours still, so its lock is not to be had a second time.
            self.waiting = private(&self.dir.join(WAITING))?;
            self.len = self.waiting.metadata()?.len();
            return Ok(());
        }
        let data = self.dir.parent().expect("it is in the data directory").to_owned();
        (*self, _) = Self::open(&data).map_err(io::Error::other)?;
        Ok(())
    }

    /// Bytes in the file of waiting turns.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Appends to the file of waiting turns. `sync`: to the disk, not only to the operating system. A failed write does not count.
    pub(super) fn append(&mut self, bytes: &[u8], sync: bool) -> io::Result<()> {
        self.waiting.write_all_at(bytes, self.len)?;
        if sync {
            self.waiting.sync_data()?;
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Puts these bytes in place of all that waits.
    pub(super) fn rewrite(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (file, synced) = replace(&self.dir, WAITING, bytes)?;
        self.waiting = file; // also if that is not sure: nobody will find the old one
        self.len = bytes.len() as u64;
        synced
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.waiting.set_len(0)?;
        self.len = 0;
        Ok(())
    }

    /// Keeps bytes for a person to look at. What would make the file larger than `most` is dropped.
    pub(super) fn refuse(&self, bytes: &[u8], most: u64) -> io::Result<()> {
        let file = private(&self.dir.join(REFUSED))?;
        let len = file.metadata()?.len();
        if len + bytes.len() as u64 > most {
            return Ok(());
        }
        file.write_all_at(bytes, len)?;
        file.sync_data()
    }

    /// Removes refused turns of sessions, or of all of users', which erasures name. What cannot be read may be theirs and goes too.
    pub(super) fn forget_refused(&self, owners: &[Box<[u8]>]) -> io::Result<()> {
        let path = self.dir.join(REFUSED);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        let found = scan(&bytes);
        let erased = |theirs: &[u8]| owners.iter().any(|owner| theirs.starts_with(owner));
        let others = |record: &&&[u8]| !codec::kind_and_owner(record).is_some_and(|(_, theirs)| erased(theirs));
        let kept: Vec<&[u8]> = found.records.iter().filter(others).copied().collect();
        if kept.len() < found.records.len() || !found.damaged.is_empty() || found.torn > 0 {
            let mut bytes = Vec::new();
            kept.into_iter().for_each(|record| put_frame(&mut bytes, record));
            replace(&self.dir, REFUSED, &bytes)?.1?;
        }
        Ok(())
    }
}

/// Finds the records of a file. After bytes that are none it goes on at the next one that is sound.
pub(super) fn scan(bytes: &[u8]) -> Scan<'_> {
    let mut found = Scan::default();
    let (mut at, mut sound_to) = (0, 0);
    while at < bytes.len() {
        let Some(record) = frame(&bytes[at..]).and_then(|len| bytes.get(at + 4..at + 4 + len)).filter(|r| is_sound(r)) else {
            at += 1;
            continue;
        };
        if sound_to < at {
            found.damaged.push(&bytes[sound_to..at]);
        }
        found.records.push(record);
        at += 4 + record.len();
        sound_to = at;
    }
    let rest = &bytes[sound_to..];
    // A write that was cut short ends amid its last record; anything else was whole once.
    match frame(rest) {
        Some(len) if 4 + len <= rest.len() => found.damaged.push(rest),
        _ => found.torn = rest.len(),
    }
    found
}

/// The length that bytes begin with.
fn frame(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|len| u32::from_le_bytes(*len) as usize)
}

fn is_sound(record: &[u8]) -> bool {
    let ours = [Kind::Aside as u8, Kind::Done as u8];
    record.get(1).is_some_and(|kind| ours.contains(kind)) && codec::kind_and_owner(record).is_some()
}

/// Replaces a file at one moment. Returns the new one, and whether it is there also if the power goes.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<(File, io::Result<()>)> {
    let (new, old) = (dir.join(format!("{name}.new")), dir.join(name));
    let (file, dir) = (private(&new)?, File::open(dir)?);
    file.set_len(0)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    fs::rename(&new, &old)?;
    Ok((file, dir.sync_all()))
}

/// A file that only the gateway's user may read.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
