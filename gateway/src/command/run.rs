//! `fengda run`: the gateway until a signal ends it.

use anyhow::{Context as _, Result, bail};
use clap::Args;
use fengda::{
    config::Target,
    server::{self, Options, Running},
    telemetry::logger,
};
use tokio::signal::unix::{self, SignalKind};

use super::{
    ConfigFile,
    terminal::{self, Style, styled},
};

/// Start the gateway (the default command)
#[derive(Args)]
#[command(after_help = "Examples:
  fengda run                    with ./config.yaml
  fengda run -c /etc/fengda.yaml

Signals: HUP reloads, TERM and INT finish what is in flight and stop; a second one does not wait")]
pub(super) struct Run {
    #[command(flatten)]
    file: ConfigFile,
}

impl Run {
    pub(super) fn run(self) -> Result<()> {
        serve(Options::new(self.file.config))
    }
}

/// Runs a gateway until a signal ends it.
pub(super) fn serve(options: Options) -> Result<()> {
    logger::log_panics();
    // Before anything else, so that a signal during the start is not lost.
    let signals = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime can be made")?;
    let entered = signals.enter();
    let mut received = Signals::listen().context("signals cannot be received")?;
    drop(entered);
    let running = server::start(options)?;
    if terminal::is_watched() {
        terminal::tell(&welcome(&running));
    }
    signals.block_on(async {
        while received.next().await == Signal::Reload {
            let gateway = running.gateway.clone();
            // Its outcome is logged; the caller of kill(1) gets none.
            drop(tokio::task::spawn_blocking(move || drop(gateway.reload())));
        }
    });
    std::thread::spawn(move || {
        signals.block_on(async { while received.next().await == Signal::Reload {} });
        terminal::tell("fengda: asked a second time to stop, leaving turns in flight");
        std::process::exit(1);
    });
    match running.stop() {
        0 => Ok(()),
        n => bail!("{n} requests or turns did not finish within `shutdown.grace` and were abandoned"),
    }
}

/// Where to go from here, for somebody who started it by hand; the log beside it stays what it is.
fn welcome(running: &Running) -> String {
    let config = &running.gateway.snapshot.load().config;
    let demo: Vec<_> = config.tenants.iter().filter(|t| t.demo).map(|t| t.tenant.name()).collect();
    let page = config.routes.iter().any(|r| r.target == Target::TryPage);
    let (clients, said) = if page { ("chat", "to chat in a browser") } else { ("clients", "are served here") };
    let line = |name: &str, value: &str, said: &str| format!("\n  {name:<8}{}  {}", styled(Style::Bold, value), styled(Style::Faint, said));
    let mut text = format!("{} {}", styled(Style::Bold, "蜂答 Fengda"), env!("CARGO_PKG_VERSION"));
    text += &line(clients, &format!("http://{}/", running.public), said);
    if !demo.is_empty() {
        text += &line("demo", &demo.join(", "), "tenants whose keys everybody knows");
    }
    if let Some(admin) = running.admin {
        text += &line("admin", &format!("http://{admin}/status"), "also /metrics, /livez, /readyz");
    }
    text += &line("stop", "Ctrl-C", "turns in flight finish first");
    text
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signal {
    Reload,
    Stop,
}

/// SIGHUP reloads, SIGTERM and SIGINT stop.
struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let [terminate, interrupt, hangup] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(unix::signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt?, hangup: hangup? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }
}
