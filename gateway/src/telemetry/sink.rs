//! Log lines leave the runtime threads through a queue, so that a slow disk or terminal never stalls a request. Every sink has a
//! share of places of its own in it, so that no tenant's lines can crowd out another's or the gateway's.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    time::Duration,
};

use super::{Event, logger};
use crate::private;

/// Lines of standard error that may wait for the writer; more are dropped and counted.
const STDERR_SHARE: usize = 8192;
/// Lines of one file that may wait for the writer; more are dropped and counted.
const FILE_SHARE: usize = 1024;
/// A log file is renamed to `<name>.1`, replacing an older one, when it has grown to this many bytes: the two are all there is.
const ROTATE_AT: u64 = 64 << 20;

/// Where lines go: standard error, or a file of its own. Clones share the destination.
#[derive(Clone, Debug)]
pub struct Sink(Arc<Destination>);

#[derive(Debug)]
struct Destination {
    /// Lines that wait for the writer; never more than `share`.
    queued: AtomicUsize,
    share: usize,
    /// What tells its file from others, by whatever path it is reached.
    file: Option<FileId>,
    target: Target,
}

/// Device and inode.
pub type FileId = (u64, u64);

#[derive(Debug)]
enum Target {
    Stderr,
    File(Mutex<LogFile>),
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    /// Bytes in it.
    len: u64,
    rotate_at: u64,
}

enum Message {
    Line(Sink, Vec<u8>),
    Flush(SyncSender<()>),
}

/// The channel itself has no bound: each line in it holds a place of its sink's share, and each flush a waiting thread.
static WRITER: OnceLock<Sender<Message>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

impl Sink {
    /// The process's standard error.
    pub fn stderr() -> Self {
        Self::new(STDERR_SHARE, None, Target::Stderr)
    }

    /// Appends to a file; it and its folder are made if they are missing, for the gateway's user alone.
    ///
    /// # Errors
    /// The folder or file cannot be made or opened.
    pub fn file(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            private::create_folder(folder)?;
        }
        let log = LogFile::open(path, ROTATE_AT)?;
        let metadata = log.file.metadata()?;
        Ok(Self::new(FILE_SHARE, Some((metadata.dev(), metadata.ino())), Target::File(Mutex::new(log))))
    }

    fn new(share: usize, file: Option<FileId>, target: Target) -> Self {
        Self(Arc::new(Destination { queued: AtomicUsize::new(0), share, file, target }))
    }

    /// The file it was opened on; none for standard error.
    pub fn file_id(&self) -> Option<FileId> {
        self.0.file
    }

    /// Queues a line, which must end in a newline. Never waits: with its sink's share used up the line is dropped and counted.
    pub fn write(&self, line: Vec<u8>) {
        if !self.take_place() || writer().send(Message::Line(self.clone(), line)).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines dropped since the process began.
    pub fn dropped() -> u64 {
        DROPPED.load(Ordering::Relaxed)
    }

    /// Waits until everything queued before is written, at most a second. For the end of a process, and tests.
    pub fn flush() {
        let (done, wait) = sync_channel(1);
        if writer().send(Message::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(Duration::from_secs(1));
        }
    }

    /// Takes one of the sink's places in the queue; false if none is left. The counter guards nothing but itself.
    fn take_place(&self) -> bool {
        let Destination { queued, share, .. } = &*self.0;
        let more = |taken| (taken < *share).then_some(taken + 1);
        queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn write_now(&self, line: &[u8]) -> io::Result<()> {
        match &self.0.target {
            Target::Stderr => io::stderr().lock().write_all(line),
            Target::File(file) => file.lock().expect("only the writer thread takes it, and it does not panic").write(line),
        }
    }
}

impl LogFile {
    fn open(path: &Path, rotate_at: u64) -> io::Result<Self> {
        let file = private::create_file().append(true).open(path)?;
        Ok(Self { path: path.to_owned(), len: file.metadata()?.len(), file, rotate_at })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.len >= self.rotate_at {
            self.make_room()?;
        }
        self.len += line.len() as u64;
        self.file.write_all(line)
    }

    /// Begins a new file. If the old one cannot be moved out of the way it is emptied: a log must not fill the disk.
    fn make_room(&mut self) -> io::Result<()> {
        if let Err(error) = self.rotate() {
            self.file.set_len(0)?;
            self.len = 0;
            logger::emit(&Event::LogEmptied { log: self.path.display().to_string(), error: error.to_string() });
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        match fs::rename(&self.path, self.path.with_added_extension("1")) {
            // Somebody else has moved it away; a new one is as good.
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Self::open(&self.path, self.rotate_at).map(|new| *self = new),
        }
    }
}

fn writer() -> &'static Sender<Message> {
    WRITER.get_or_init(|| {
        let (sender, receiver) = channel();
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || drain(&receiver))
            .expect("a thread can be started while the process begins");
        sender
    })
}

fn drain(lines: &Receiver<Message>) {
    while let Ok(message) = lines.recv() {
        match message {
            Message::Line(sink, line) => {
                if sink.write_now(&line).is_err() {
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                }
                sink.0.queued.fetch_sub(1, Ordering::Relaxed);
            }
            Message::Flush(done) => drop(done.send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_in_order_and_flush_waits_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er.log");
        let sink = Sink::file(&path).unwrap();
        for i in 0..1000 {
            sink.write(format!("{i}\n").into_bytes());
        }
        Sink::flush();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), (0..1000).map(|i| i.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn a_sink_that_used_up_its_share_loses_lines_and_its_neighbours_lose_none() {
        let dir = tempfile::tempdir().unwrap();
        let (noisy, quiet) = (dir.path().join("noisy.log"), dir.path().join("quiet.log"));
        let (loud, calm) = (Sink::file(&noisy).unwrap(), Sink::file(&quiet).unwrap());
        let Target::File(file) = &loud.0.target else { panic!("a file") };
        // The writer can get no further than the noisy file: as a disk that does not answer.
        let stuck = file.lock().unwrap();
        let before = Sink::dropped();
        for _ in 0..FILE_SHARE + 10 {
            loud.write(b"x\n".to_vec());
        }
        for _ in 0..FILE_SHARE {
            calm.write(b"y\n".to_vec());
        }
        assert_eq!(Sink::dropped() - before, 10);
        drop(stuck);
        Sink::flush();
        let lines = |path| fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((lines(&noisy), lines(&quiet)), (FILE_SHARE, FILE_SHARE));
        // The places are free again.
        loud.write(b"z\n".to_vec());
        Sink::flush();
        assert!(fs::read_to_string(&noisy).unwrap().ends_with("x\nz\n"));
    }

    #[test]
    fn a_file_is_rotated_and_one_that_cannot_be_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
        let mut file = LogFile::open(&path, 4).unwrap();
        let mut write = |text: &str| file.write(text.as_bytes()).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        write("one\n");
        write("two\n");
        assert_eq!((read(&old).as_str(), read(&path).as_str()), ("one\n", "two\n"));

        fs::remove_file(&old).unwrap();
        fs::create_dir_all(old.join("in the way")).unwrap();
        write("three\n");
        assert_eq!(read(&path), "three\n");
        write("four\n");
        assert_eq!(read(&path), "four\n");

        fs::remove_dir_all(&old).unwrap();
        write("five\n");
        assert_eq!((read(&old).as_str(), read(&path).as_str()), ("four\n", "five\n"));

        fs::remove_file(&path).unwrap();
        write("six\n");
        assert_eq!(read(&path), "six\n");
    }
}
