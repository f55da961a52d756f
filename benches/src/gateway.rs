//! The gateway under test: a child process with a configuration and a data directory of its own, killed on drop.

use std::{
    collections::VecDeque,
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStderr, Command},
    sync::oneshot,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    http::Connection,
    usage::{Usage, usage},
};

/// How long the gateway may take to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How many of its last log lines are kept, to be shown should it die.
const TAIL: usize = 20;

/// Why there is no gateway to play against.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// There is no such binary.
    #[error("there is no gateway at {}; build it with `cargo build --bin fengda` (add `--release` if this is a release build) or name one with --gateway", .0.display())]
    Missing(PathBuf),
    /// It cannot be started, or its directory not be made.
    #[error("cannot start the gateway")]
    Start(#[from] io::Error),
    /// It ended by itself.
    #[error("the gateway ended with {status}; its last words:\n{tail}")]
    Died {
        /// How.
        status: ExitStatus,
        /// Its last log lines.
        tail: String,
    },
    /// It runs, but does not serve.
    #[error("the gateway was not ready within {} s; its last words:\n{tail}", START_TIMEOUT.as_secs())]
    NotReady {
        /// Its last log lines.
        tail: String,
    },
}

/// A directory for one run: configuration, flow and data; removed on drop.
pub(crate) struct Home(PathBuf);

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // what is left is a temporary directory's to keep
    }
}

impl Home {
    /// Writes a configuration, and the files beside it that it names.
    ///
    /// # Errors
    /// The temporary directory cannot be written.
    pub(crate) fn new(config: &str, files: &[(&str, &str)]) -> io::Result<Self> {
        let path = env::temp_dir().join(format!("fengda-bench-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir(&path)?;
        let home = Self(path);
        for (name, text) in files {
            fs::write(home.0.join(name), text)?;
        }
        fs::write(home.config(), config)?;
        Ok(home)
    }

    fn config(&self) -> PathBuf {
        self.0.join("config.yaml")
    }
}

/// A running gateway.
pub(crate) struct Gateway {
    child: Child,
    /// Where clients connect.
    pub public: SocketAddr,
    tail: Tail,
}

type Tail = Arc<Mutex<VecDeque<String>>>;

/// The log event that says where the gateway listens; port 0 in the configuration means any free one.
#[derive(Deserialize)]
struct Listening {
    event: String,
    public: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    /// Starts the gateway and waits until it is ready.
    ///
    /// # Errors
    /// It is missing, does not start, dies, or is not ready within 30 s.
    pub(crate) async fn start(binary: &Path, home: &Home) -> Result<Self, GatewayError> {
        if !binary.is_file() {
            return Err(GatewayError::Missing(binary.to_owned()));
        }
        let deadline = Instant::now() + START_TIMEOUT;
        let mut child = Command::new(binary)
            .arg("run")
            .arg("-c")
            .arg(home.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = child.stderr.take().expect("asked for above");
        let tail = Tail::default();
        let (found, listening) = oneshot::channel();
        let reader = tokio::spawn(follow(stderr, tail.clone(), found)); // ends with the child's stderr
        let ready = async {
            let Listening { public, admin, .. } = listening.await.ok()?;
            while !is_ready(admin).await {
                sleep(Duration::from_millis(10)).await;
            }
            Some(public)
        };
        tokio::select! {
            ready = timeout_at(deadline, ready) => match ready {
                Ok(Some(public)) => return Ok(Self { child, public, tail }),
                Ok(None) => {}, // it closed its stderr: it is about to die
                Err(_) => return Err(GatewayError::NotReady { tail: words(&tail) }),
            },
            _ = child.wait() => {}
        }
        let status = timeout_at(deadline, child.wait()).await.map_err(|_| GatewayError::NotReady { tail: words(&tail) })??;
        let _ = timeout_at(deadline, reader).await; // so that its last words are complete
        Err(GatewayError::Died { status, tail: words(&tail) })
    }

    /// What it has used so far; `None` once it ended, or where the system does not say.
    pub(crate) fn usage(&self) -> Option<Usage> {
        usage(self.child.id()?)
    }

    /// Waits until it ends by itself.
    pub(crate) async fn died(&mut self) -> GatewayError {
        match self.child.wait().await {
            Ok(status) => GatewayError::Died { status, tail: words(&self.tail) },
            Err(e) => GatewayError::Start(e),
        }
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

/// Reads the log to its end, keeps its last lines, and tells where the gateway listens.
async fn follow(stderr: ChildStderr, tail: Tail, found: oneshot::Sender<Listening>) {
    let mut found = Some(found);
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if found.is_some()
            && let Ok(event) = serde_json::from_str::<Listening>(&line)
            && event.event == "listening"
        {
            let _ = found.take().map(|f| f.send(event));
        }
        let mut tail = tail.lock().expect("no thread panics while it pushes");
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
}

fn words(tail: &Tail) -> String {
    let tail = tail.lock().expect("no thread panics while it pushes");
    if tail.is_empty() { "(none)".to_owned() } else { tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n") }
}

async fn is_ready(admin: SocketAddr) -> bool {
    let request = Request::get("/readyz").header(header::HOST, "replay").body(Full::<Bytes>::default()).expect("constants make a request");
    let call = async { Connection::open(admin).await?.call(request).await };
    matches!(call.await, Ok((StatusCode::OK, _)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> Home {
        Home::new("listen: 127.0.0.1:0\n", &[("flow.lua", "return nil")]).unwrap()
    }

    #[tokio::test]
    async fn a_missing_binary_says_how_to_get_one() {
        let error = Gateway::start(Path::new("no/such/fengda"), &home()).await.err().unwrap().to_string();
        assert!(error.starts_with("there is no gateway at no/such/fengda; build it with `cargo build"), "{error}");
    }

    #[tokio::test]
    async fn a_gateway_that_dies_at_once_is_an_error_with_its_status() {
        let error = Gateway::start(Path::new("/bin/false"), &home()).await.err().unwrap().to_string();
        assert_eq!(error, "the gateway ended with exit status: 1; its last words:\n(none)");
    }

    #[tokio::test]
    async fn the_last_words_of_a_dead_gateway_are_complete() {
        let error = Gateway::start(Path::new("/bin/cat"), &home()).await.err().unwrap().to_string();
        assert!(error.contains("cat: "), "{error}");
    }

    #[test]
    fn the_home_holds_a_configuration_and_goes_away_with_the_run() {
        let home = home();
        let dir = home.0.clone();
        assert_eq!(fs::read_to_string(home.config()).unwrap(), "listen: 127.0.0.1:0\n");
        assert_eq!(fs::read_to_string(dir.join("flow.lua")).unwrap(), "return nil");
        drop(home);
        assert!(!dir.exists());
    }
}
