//! A process that ends with this one.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, mpsc},
    thread,
};

use crate::context::conformance::TempDir;

/// `redis-server` with a directory of its own, which holds its configuration, data and log.
pub(super) struct Process {
    child: Mutex<Child>,
    dir: TempDir,
    args: &'static [&'static str],
}

impl Process {
    /// Starts one with these lines of configuration, and these arguments after its file.
    pub(super) fn new(lines: &[String], args: &'static [&'static str]) -> Self {
        let dir = TempDir::new();
        std::fs::write(dir.path().join("redis.conf"), format!("logfile log\n{}\n", lines.join("\n"))).unwrap();
        Self { child: Mutex::new(spawn(dir.path(), args)), dir, args }
    }

    /// Starts it anew, in the same directory.
    pub(super) fn start(&self) {
        self.kill();
        *self.child() = spawn(self.dir.path(), self.args);
    }

    /// Ends it and waits until it is gone.
    pub(super) fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill(); // it may have ended by itself
        let _ = child.wait();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.child().try_wait().unwrap().is_some()
    }

    pub(super) fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child().id())]).status().unwrap();
        assert!(sent.success());
    }

    /// What it wrote to its log.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a server that the kernel kills when the thread that started it ends, which is why a thread of its own starts them all.
fn spawn(dir: &Path, args: &[&str]) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Order>>> = LazyLock::new(|| {
        let (orders, received) = mpsc::channel::<Order>();
        let serve = move || received.into_iter().for_each(|(mut command, answer)| answer.send(command.spawn()).unwrap());
        thread::Builder::new().name("spawner".into()).spawn(serve).unwrap();
        Mutex::new(orders)
    });
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program("redis-server")).arg("redis.conf").args(args);
    command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (answer, child) = mpsc::channel();
    SPAWNER.lock().unwrap().send((command, answer)).unwrap();
    child.recv().unwrap().unwrap()
}

/// Where a program is: in `PATH`, or where `make tools` unpacks it.
fn program(name: &str) -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/usr/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|folder| folder.join(name));
    places.chain([unpacked]).find(|at| at.is_file()).unwrap_or_else(|| panic!("`{name}` is not installed: run `make tools`"))
}
