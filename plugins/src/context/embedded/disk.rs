//! The directory and the storage engine in it: consistent reads, atomic writes, and coming back after a failed one.
//!
//! What the engine (fjall 3.1) needs of us: one keyspace, since an idle one would pin journals; tables of recent writes rotated by the thread that
//! writes, and two workers, since a worker that has to rotate can wait for itself; both threads of ours ended before it is closed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use fjall::{AbstractTree, Database, Guard, Keyspace, KeyspaceCreateOptions, LsmError, OwnedWriteBatch, PersistMode, Readable, Snapshot};

use super::records::{self, SessionHead, UserHead, user_of};
use crate::{
    api::{FlowState, SessionKey, SessionState, Slots, Timestamp, Turn, TurnError, Version},
    context::{
        OpenError,
        codec::{self, Kind},
    },
};

/// Blocks of tables kept in memory, in bytes; conversations themselves are kept by the cache above.
const BLOCK_CACHE: u64 = 16 << 20;
/// Size in bytes at which a table of recent writes goes to the disk.
const MEMTABLE: u64 = 8 << 20;
/// Most bytes of journals; the least that the engine takes. Bounds the time to open after a crash.
const JOURNALS: u64 = 64 << 20;
/// The file beside the engine's directory that shows whether the file system can be written to, and its size in bytes.
const PROBE: &str = ".probe";
const PROBE_SIZE: usize = 4096;
/// Most table files held open.
const OPEN_FILES: usize = 128;

/// An open storage engine. After a failed write it accepts none any more and has to be opened anew.
pub(super) struct Engine {
    db: Database,
    records: Keyspace,
    /// Of its directory.
    identity: (u64, u64),
}

/// A session as the disk has it.
pub(super) struct Found {
    pub(super) head: SessionHead,
    pub(super) user: UserHead,
    /// What is not expired of it.
    pub(super) state: Arc<SessionState>,
}

/// Writes that happen together or not at all.
pub(super) struct Batch<'a> {
    batch: OwnedWriteBatch,
    engine: &'a Engine,
}

impl Batch<'_> {
    pub(super) fn put(&mut self, place: Vec<u8>, record: Vec<u8>) {
        self.batch.insert(&self.engine.records, place, record);
    }

    pub(super) fn remove(&mut self, place: Vec<u8>) {
        self.batch.remove(&self.engine.records, place);
    }
}

/// The store's directory. All methods block.
pub(super) struct Disk {
    dir: PathBuf,
    /// Empty while it cannot be opened.
    engine: RwLock<Option<Engine>>,
}

impl Disk {
    /// Opens the directory and counts the opening: the result is greater at each. A new one is for the process's own user only; one
    /// that is there keeps the mode that it was given.
    pub(super) fn open(dir: &Path) -> Result<(Self, u64), OpenError> {
        let storage = |cause: String| OpenError::Storage { dir: dir.to_owned(), cause };
        create(&dir.join("context")).map_err(|e| storage(e.to_string()))?;
        let engine = Engine::open(&dir.join("context")).map_err(|e| match e {
            fjall::Error::Locked => OpenError::InUse(dir.to_owned()),
            fjall::Error::JournalRecovery(e) => storage(format!(
                "a journal is damaged ({e:?}); move context/*.jnl away to start without the newest turns, those not yet in tables"
            )),
            e => storage(e.to_string()),
        })?;
        let count = engine.count_opening().map_err(|e| storage(e.to_string()))?;
        Ok((Self { dir: dir.join("context"), engine: RwLock::new(Some(engine)) }, count))
    }

    /// Runs `read` on the open engine.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Engine) -> Result<T, TurnError>) -> Result<T, TurnError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        read(engine.as_ref().ok_or_else(|| TurnError::Unavailable("the data directory cannot be opened".into()))?)
    }

    /// Writes all or nothing: to the operating system, or if `sync` to the disk. After a failure the outcome is unknown.
    pub(super) fn write(&self, sync: bool, fill: impl FnOnce(&mut Batch<'_>)) -> Result<(), TurnError> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let written = self.with(|engine| {
            let mut batch = Batch { batch: engine.db.batch().durability(Some(mode)), engine };
            fill(&mut batch);
            batch.batch.commit().and_then(|()| engine.rotate()).map_err(fault)
        });
        written.inspect_err(|_| self.reopen())
    }

    /// Syncs everything written to the disk, beside the writer: it does not wait for this.
    pub(super) fn sync(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ext| ext == "jnl") {
                match File::open(&path) {
                    Ok(journal) => journal.sync_data()?,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {} // its turns are in tables by now
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    /// Whether the engine is open and its file system takes a file: a full or read-only one is noticed before a turn is lost to it.
    pub(super) fn probe(&self) -> Result<(), TurnError> {
        self.with(|_| Ok(()))?;
        let probe = self.dir.with_file_name(PROBE);
        let written = fs::write(&probe, [0; PROBE_SIZE]).and_then(|()| fs::remove_file(&probe));
        written.map_err(|e| TurnError::Unavailable(format!("the data directory cannot be written to: {e}")))
    }

    /// Closes the engine and tries to open it again: it takes no writes after a failed one.
    pub(super) fn reopen(&self) {
        let mut engine = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        *engine = None; // closes it, which gives up the lock on the directory
        match create(&self.dir).map_err(fjall::Error::from).and_then(|()| Engine::open(&self.dir)) {
            Ok(opened) => {
                log::warn!("the context store was opened again");
                *engine = Some(opened);
            }
            Err(e) => log::error!("the context store cannot be opened: {e}"),
        }
    }

    /// Whether the directory is still the one that was opened: somebody may have removed or replaced it, and writes to it would go nowhere.
    pub(super) fn is_in_place(&self) -> bool {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        engine.as_ref().is_none_or(|engine| identity(&self.dir).is_ok_and(|now| now == engine.identity))
    }

    /// How many batches were written so far.
    #[cfg(test)]
    pub(super) fn batches(&self) -> u64 {
        self.with(|engine| Ok(engine.db.seqno())).unwrap()
    }

    /// Whether reads and writes are possible.
    pub(super) fn is_open(&self) -> bool {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Engine {
    fn open(dir: &Path) -> fjall::Result<Self> {
        let builder = Database::builder(dir).cache_size(BLOCK_CACHE).max_journaling_size(JOURNALS);
        let db = builder.max_cached_files(Some(OPEN_FILES)).worker_threads(2).open()?;
        let records = db.keyspace("records", || KeyspaceCreateOptions::default().max_memtable_size(1 << 40))?;
        Ok(Self { db, records, identity: identity(dir)? })
    }

    /// Sends the table of recent writes to the disk if it is large enough.
    fn rotate(&self) -> fjall::Result<()> {
        if self.records.tree.active_memtable().size() > MEMTABLE {
            self.records.rotate_memtable()?;
        }
        Ok(())
    }

    fn count_opening(&self) -> Result<u64, TurnError> {
        let place = codec::place(Kind::Generation, &[]);
        let before = self.get(&place)?.map_or(Ok(0), |record| records::decode_number(Kind::Generation, &place, &record))?;
        self.records.insert(&place, records::encode_number(Kind::Generation, &place, before + 1)).map_err(fault)?;
        self.db.persist(PersistMode::SyncAll).map_err(fault)?;
        Ok(before + 1)
    }

    /// A record's bytes.
    pub(super) fn get(&self, place: &[u8]) -> Result<Option<fjall::Slice>, TurnError> {
        self.records.get(place).map_err(fault)
    }

    /// Records from `from` on, in order.
    pub(super) fn scan(&self, from: Vec<u8>) -> impl Iterator<Item = Guard> {
        self.records.range(from..)
    }

    /// Places that begin with `prefix`, in order, from `from` on.
    pub(super) fn places(&self, prefix: &[u8], from: &[u8]) -> impl Iterator<Item = Result<Vec<u8>, TurnError>> {
        let places = self.records.range(from..).map(|item| item.key().map(|key| key.to_vec()).map_err(fault));
        places.take_while(|place| place.as_ref().map_or(true, |place| place.starts_with(prefix)))
    }

    /// A session's head, expired or not.
    pub(super) fn head(&self, session: &[u8]) -> Result<SessionHead, TurnError> {
        let place = codec::place(Kind::Session, session);
        let head = self.get(&place)?.map_or(Ok(SessionHead::ABSENT), |record| Ok(records::decode_session(&place, &record)?.0))?;
        Ok(head.erased(self.erasure(user_of(session))?))
    }

    /// The version before which a user's sessions are erased although they are still there; 0 if there are none.
    pub(super) fn erasure(&self, user: &[u8]) -> Result<u64, TurnError> {
        let place = codec::place(Kind::Erasure, user);
        self.get(&place)?.map_or(Ok(0), |record| records::decode_number(Kind::Erasure, &place, &record))
    }

    /// Whether a session has no record that counts now, nor its user's or its own erasure one.
    pub(super) fn is_new(&self, key: &SessionKey, now: Timestamp) -> Result<bool, TurnError> {
        for erased in [key.user().as_bytes(), key.as_bytes()] {
            let place = codec::place(Kind::Erased, erased);
            let until = self.get(&place)?.map_or(Ok(0), |record| records::decode_number(Kind::Erased, &place, &record))?;
            if Timestamp(until) > now {
                return Ok(false);
            }
        }
        Ok(self.head(key.as_bytes())?.live(now) == SessionHead::ABSENT)
    }

    /// A user's head and slots, expired or not.
    pub(super) fn user(&self, user: &[u8]) -> Result<(UserHead, Slots), TurnError> {
        let place = codec::place(Kind::User, user);
        self.get(&place)?.map_or(Ok((UserHead::ABSENT, Slots::default())), |record| records::decode_user(&place, &record))
    }

    /// A session with its user's slots and newest `limit` turns, all of one moment.
    pub(super) fn session(&self, key: &SessionKey, limit: usize, now: Timestamp) -> Result<Found, TurnError> {
        let snapshot = self.db.snapshot();
        let get = |place: &[u8]| snapshot.get(&self.records, place).map_err(fault);
        let place = codec::place(Kind::User, key.user().as_bytes());
        let (user, user_slots) = get(&place)?.map_or(Ok((UserHead::ABSENT, Slots::default())), |r| records::decode_user(&place, &r))?;
        let place = codec::place(Kind::Session, key.as_bytes());
        let (written, flow) =
            get(&place)?.map_or(Ok((SessionHead::ABSENT, FlowState::default())), |r| records::decode_session(&place, &r))?;
        let place = codec::place(Kind::Erasure, key.user().as_bytes());
        let head = written.erased(get(&place)?.map_or(Ok(0), |r| records::decode_number(Kind::Erasure, &place, &r))?);
        let version = Version { session: head.live(now).version, user: user.live(now).version };
        let mut state = SessionState { version, ..SessionState::default() };
        if head.expires > now {
            state.turns = self.turns(&snapshot, key.as_bytes(), &head, limit)?;
            (state.seq, state.flow) = (head.seq, if head == written { flow } else { FlowState::default() });
        }
        if user.expires > now {
            state.user_slots = user_slots;
        }
        Ok(Found { head, user, state: Arc::new(state) })
    }

    fn turns(&self, snapshot: &Snapshot, session: &[u8], head: &SessionHead, limit: usize) -> Result<Vec<Arc<Turn>>, TurnError> {
        let mut next = head.first.max((head.seq + 1).saturating_sub(limit as u64));
        let mut turns = Vec::with_capacity(limit.min(128));
        let places = codec::turn_place(session, next)..codec::turn_place(session, head.seq + 1);
        for item in snapshot.range(&self.records, places) {
            let (place, record) = item.into_inner().map_err(fault)?;
            let turn = codec::decode_turn(&place, &record)?;
            if turn.seq != next {
                break;
            }
            turns.push(Arc::new(turn));
            next += 1;
        }
        if next == head.seq + 1 { Ok(turns) } else { Err(TurnError::Corrupt("a turn record is missing".into())) }
    }
}

/// What stays the same about a directory as long as it is the same one: its device and inode.
fn identity(dir: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(dir)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Makes a directory that others cannot look into, whatever the mode of the files in it, and those above it if need be.
fn create(dir: &Path) -> std::io::Result<()> {
    if let Some(above) = dir.parent() {
        fs::create_dir_all(above)?;
    }
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

/// What an error of the engine means to a turn. Its text has no keys or values in it.
pub(super) fn fault(error: fjall::Error) -> TurnError {
    match error {
        fjall::Error::Storage(
            e @ (LsmError::ChecksumMismatch { .. }
            | LsmError::InvalidTag(_)
            | LsmError::InvalidTrailer
            | LsmError::InvalidHeader(_)
            | LsmError::Utf8(_)),
        ) => TurnError::Corrupt(e.to_string()),
        e => TurnError::Unavailable(e.to_string()),
    }
}
