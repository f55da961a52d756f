//! Log lines leave the runtime threads through a bounded queue, so that a slow disk or terminal never stalls a request.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

/// Lines that may wait for the writer, over all sinks; more are dropped and counted.
const QUEUE: usize = 8192;
/// A log file is renamed to `<name>.1`, replacing an older one, when it has grown to this many bytes.
const ROTATE_AT: u64 = 64 << 20;

/// Where lines go: standard error, or a file of its own. Clones share the destination.
#[derive(Clone, Debug)]
pub struct Sink(Arc<Destination>);

#[derive(Debug)]
enum Destination {
    Stderr,
    File { path: PathBuf, open: Mutex<(File, u64)> },
}

enum Message {
    Line(Sink, Vec<u8>),
    Flush(SyncSender<()>),
}

static WRITER: OnceLock<SyncSender<Message>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

impl Sink {
    /// The process's standard error.
    pub fn stderr() -> Self {
        Self(Arc::new(Destination::Stderr))
    }

    /// Appends to a file; its folder is made if it is missing.
    ///
    /// # Errors
    /// The folder or file cannot be made or opened.
    pub fn file(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self(Arc::new(Destination::File { path: path.to_owned(), open: Mutex::new((file, len)) })))
    }

    /// Queues a line, which must end in a newline. Never waits: with a full queue the line is dropped and counted.
    pub fn write(&self, line: Vec<u8>) {
        if writer().try_send(Message::Line(self.clone(), line)).is_err() {
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

    fn write_now(&self, line: &[u8]) -> io::Result<()> {
        match &*self.0 {
            Destination::Stderr => io::stderr().lock().write_all(line),
            Destination::File { path, open } => {
                let mut open = open.lock().expect("only the writer thread takes it, and it does not panic");
                if open.1 >= ROTATE_AT {
                    std::fs::rename(path, path.with_added_extension("1"))?;
                    *open = (OpenOptions::new().create(true).append(true).open(path)?, 0);
                }
                open.1 += line.len() as u64;
                open.0.write_all(line)
            }
        }
    }
}

fn writer() -> &'static SyncSender<Message> {
    WRITER.get_or_init(|| {
        let (sender, receiver) = sync_channel(QUEUE);
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
        let dir = std::env::temp_dir().join(format!("fengda-sink-{}", std::process::id()));
        let path = dir.join("deep/er.log");
        let sink = Sink::file(&path).unwrap();
        for i in 0..1000 {
            sink.write(format!("{i}\n").into_bytes());
        }
        Sink::flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().collect::<Vec<_>>(), (0..1000).map(|i| i.to_string()).collect::<Vec<_>>());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
