//! One replay from start to end: model, gateway, clients, and the kill in the middle.

use std::{
    fmt::Write as _,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use super::{
    conversations::{self, ReadError},
    fault::Faults,
    model::Model,
    plan::Plan,
    play::{Played, Stage, bearers, play, verify},
    report::{Kill, Report, Used},
};
use crate::{
    gateway::{Gateway, GatewayError, Home},
    usage::Usage,
};

/// What to replay, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// JSONL, one conversation a line.
    pub file: PathBuf,
    /// How many dialogues to play, going round the file if it has fewer; all of the file once if absent.
    pub dialogues: Option<usize>,
    /// How many dialogues are played at once; at least 1.
    pub concurrency: usize,
    /// Kill the gateway when half of the turns are acknowledged, and start it again.
    pub kill: bool,
    /// The gateway's binary.
    pub gateway: PathBuf,
}

/// Why a replay did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The conversations cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The gateway does not run.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The system refuses a port, a directory or a signal.
    #[error("cannot prepare the replay")]
    Prepare(#[from] io::Error),
    /// Somebody wants it to end.
    #[error("interrupted")]
    Interrupted,
}

/// The flow of every tenant.
const FLOW: &str = "return function(turn) return nlp.answer(turn) end\n";

/// Plays the conversations. Faults of single turns are in the report.
///
/// Dropping the future, or SIGINT and SIGTERM, end the gateway as well.
///
/// # Errors
/// The replay could not be prepared, or the gateway died by itself.
pub async fn run(options: &Options) -> Result<Report, Error> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        report = replay(options) => report,
        _ = interrupt.recv() => Err(Error::Interrupted),
        _ = terminate.recv() => Err(Error::Interrupted),
    }
}

/// Everything that differs from the defaults: free ports, our model, tenants with keys of their own, and limits out of the way.
fn config(plan: &Plan, model: SocketAddr) -> String {
    let mut yaml = format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ndata: data\nlog: {{ level: info, access: false }}\n\
         upstreams: {{ model: {{ protocol: answer, endpoints: [\"http://{model}\"] }} }}\n\
         plugins: {{ rate_limit: {{ limits: [ {{ name: tenant, by: tenant, rate: 100000/s, burst: 100000 }} ] }} }}\ntenants:\n"
    );
    for tenant in &plan.tenants {
        let _ = writeln!(yaml, "  {}: {{ flow: flow.lua, keys: [ {{ alg: HS256, secret: \"{}\" }} ] }}", tenant.name, tenant.secret);
    }
    yaml
}

async fn replay(options: &Options) -> Result<Report, Error> {
    let conversations = conversations::read(&options.file)?;
    let plan = Arc::new(Plan::deal(&conversations, options.dialogues.unwrap_or(conversations.len())));
    let faults = Arc::new(Faults::default());
    let model = Arc::new(Model::new(plan.clone(), faults.clone()));
    let server = model.clone().serve().await?;
    let home = Home::new(&config(&plan, server.address), &[("flow.lua", FLOW)])?;
    let mut keeper = Keeper::start(&options.gateway, &home).await?;
    let stage = Arc::new(Stage {
        bearers: bearers(&plan),
        plan: plan.clone(),
        model,
        faults: faults.clone(),
        next: AtomicUsize::new(0),
        acknowledged: watch::Sender::new(0),
        gateway: keeper.address.subscribe(),
        patient: options.kill,
        bar: progress(plan.turns()),
    });

    let started = Instant::now();
    let kill_at = options.kill.then_some((plan.turns() / 2).max(1));
    let mut played = unless(play_all(&stage, options.concurrency), keeper.keep(&stage, kill_at)).await?;
    let took = started.elapsed();
    let used = keeper.used();
    unless(verify(stage.clone(), &played.whole), keeper.keep(&stage, None)).await?;
    stage.bar.finish_and_clear();
    keeper.gateway.kill().await.map_err(GatewayError::from)?; // waited for, so that it is gone before its directory

    played.latencies.sort_unstable();
    Ok(Report {
        dialogues: plan.dialogues.len(),
        turns: played.latencies.len(),
        took,
        latencies: played.latencies,
        used,
        kill: keeper.kill.map(|kill| Kill { resent: played.resent, ..kill }),
        verified: played.whole.len(),
        faults: faults.seen(),
    })
}

/// The result of `work`, unless `trouble` comes first.
async fn unless<T>(work: impl Future<Output = T>, trouble: impl Future<Output = GatewayError>) -> Result<T, Error> {
    tokio::select! {
        result = work => Ok(result),
        error = trouble => Err(error.into()),
    }
}

async fn play_all(stage: &Arc<Stage>, concurrency: usize) -> Played {
    let mut clients: JoinSet<_> = (0..concurrency).map(|_| play(stage.clone())).collect();
    let mut all = Played::default();
    while let Some(one) = clients.join_next().await {
        let one = one.expect("clients neither panic nor are cancelled");
        all.latencies.extend(one.latencies);
        all.whole.extend(one.whole);
        all.resent += one.resent;
    }
    all
}

fn progress(turns: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:40} {pos}/{len} turns, {per_sec}, {eta} to go").expect("a constant template that parses");
    ProgressBar::new(turns as u64).with_style(style)
}

/// Keeps a gateway running, and counts what it uses.
struct Keeper<'a> {
    binary: &'a Path,
    home: &'a Home,
    gateway: Gateway,
    /// Tells the clients where to connect; `None` while there is no gateway.
    address: watch::Sender<Option<SocketAddr>>,
    /// What this gateway had used when it was ready.
    at_start: Option<Usage>,
    /// What the gateway before this one used.
    before: Duration,
    kill: Option<Kill>,
}

impl<'a> Keeper<'a> {
    async fn start(binary: &'a Path, home: &'a Home) -> Result<Self, GatewayError> {
        let gateway = Gateway::start(binary, home).await?;
        let address = watch::Sender::new(Some(gateway.public));
        Ok(Self { binary, home, at_start: gateway.usage(), gateway, address, before: Duration::ZERO, kill: None })
    }

    /// Watches the gateway, and kills it once when `kill_at` turns are acknowledged; ends only with trouble.
    async fn keep(&mut self, stage: &Stage, kill_at: Option<usize>) -> GatewayError {
        if let Some(at) = kill_at {
            let mut acknowledged = stage.acknowledged.subscribe();
            tokio::select! {
                _ = acknowledged.wait_for(|n| *n >= at) => {}
                error = self.gateway.died() => return error,
            }
            if let Err(error) = self.restart(stage).await {
                return error;
            }
        }
        self.gateway.died().await
    }

    async fn restart(&mut self, stage: &Stage) -> Result<(), GatewayError> {
        self.before = self.used().map(|u| u.cpu).unwrap_or_default();
        let started = Instant::now();
        self.address.send_replace(None);
        let after = *stage.acknowledged.borrow();
        self.gateway.kill().await?;
        self.gateway = Gateway::start(self.binary, self.home).await?;
        self.at_start = self.gateway.usage();
        self.kill = Some(Kill { after, down: started.elapsed(), resent: 0 });
        self.address.send_replace(Some(self.gateway.public));
        Ok(())
    }

    /// What serving has cost so far, start-up excluded.
    fn used(&self) -> Option<Used> {
        let (start, now) = (self.at_start?, self.gateway.usage()?);
        Some(Used { cpu: self.before + now.cpu.saturating_sub(start.cpu), resident: now.resident })
    }
}
