//! One replay from start to end: model, gateway, clients, and the kill in the middle.

use std::{
    fmt::Write as _,
    future::poll_fn,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, atomic::AtomicUsize},
    task::Poll,
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
    redis::Redis,
    usage::Usage,
};

/// What to replay, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// JSONL, one conversation a line.
    pub file: PathBuf,
    /// How many conversations of the file make one dialogue, so that histories are as long as they become; at least 1.
    pub join: usize,
    /// How many dialogues to play, going round the file if it has fewer; all of the file once if absent.
    pub dialogues: Option<usize>,
    /// How many dialogues are played at once; at least 1.
    pub concurrency: usize,
    /// Kill the gateway when half of the turns are acknowledged, and start it again.
    pub kill: bool,
    /// The gateway's binary.
    pub gateway: PathBuf,
    /// How many gateways there are, all on one Redis if more than one; users hop between them.
    pub gateways: usize,
    /// What keeps the conversations.
    pub store: Store,
}

/// What keeps the conversations of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// The gateway's own disk.
    Embedded,
    /// A Redis that is started for the replay.
    OwnRedis,
    /// The Redis at this URL. It keeps what is played.
    Redis(String),
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
fn config(plan: &Plan, model: SocketAddr, redis: Option<&str>) -> String {
    let mut yaml = format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ndata: data\nlog: {{ level: info, access: false }}\n\
         upstreams: {{ model: {{ protocol: answer, endpoints: [\"http://{model}\"] }} }}\n\
         plugins: {{ rate_limit: {{ limits: [ {{ name: tenant, by: tenant, rate: 100000/s, burst: 100000 }} ] }} }}\n"
    );
    if let Some(url) = redis {
        let _ = writeln!(yaml, "store: {{ redis: {{ url: \"{url}\" }} }}");
    }
    yaml += "tenants:\n";
    for tenant in &plan.tenants {
        let _ = writeln!(yaml, "  {}: {{ flow: flow.lua, keys: [ {{ alg: HS256, secret: \"{}\" }} ] }}", tenant.name, tenant.secret);
    }
    yaml
}

async fn replay(options: &Options) -> Result<Report, Error> {
    let conversations = conversations::join(&conversations::read(&options.file)?, options.join);
    let plan = Arc::new(Plan::deal(&conversations, options.dialogues.unwrap_or(conversations.len())));
    let faults = Arc::new(Faults::default());
    let model = Arc::new(Model::new(plan.clone(), faults.clone()));
    let server = model.clone().serve().await?;
    let own = if options.store == Store::OwnRedis { Some(Redis::start().await?) } else { None };
    let url = match &options.store {
        Store::Redis(url) => Some(url.clone()),
        _ => own.as_ref().map(Redis::url),
    };
    let config = config(&plan, server.address, url.as_deref());
    let homes = (0..options.gateways).map(|_| Home::new(&config, &[("flow.lua", FLOW)])).collect::<Result<Vec<_>, _>>()?;
    let mut keeper = Keeper::start(&options.gateway, &homes).await?;
    let stage = Arc::new(Stage {
        bearers: bearers(&plan),
        plan: plan.clone(),
        model,
        faults: faults.clone(),
        next: AtomicUsize::new(0),
        acknowledged: watch::Sender::new(0),
        gateways: keeper.addresses.subscribe(),
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
    keeper.kill_all().await.map_err(GatewayError::from)?; // waited for, so that they are gone before their directories

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

/// Keeps the gateways running, and counts what they use.
struct Keeper<'a> {
    binary: &'a Path,
    homes: &'a [Home],
    gateways: Vec<Gateway>,
    /// Tells the clients where to connect: those that are up.
    addresses: watch::Sender<Vec<SocketAddr>>,
    /// What each of these gateways had used when it was ready.
    at_start: Vec<Option<Usage>>,
    /// What the gateway that was killed used.
    before: Duration,
    kill: Option<Kill>,
}

impl<'a> Keeper<'a> {
    async fn start(binary: &'a Path, homes: &'a [Home]) -> Result<Self, GatewayError> {
        let mut gateways = Vec::with_capacity(homes.len());
        for home in homes {
            gateways.push(Gateway::start(binary, home).await?);
        }
        let addresses = watch::Sender::new(gateways.iter().map(|gateway| gateway.public).collect());
        let at_start = gateways.iter().map(Gateway::usage).collect();
        Ok(Self { binary, homes, gateways, addresses, at_start, before: Duration::ZERO, kill: None })
    }

    /// Watches the gateways, and kills the first one once when `kill_at` turns are acknowledged; ends only with trouble.
    async fn keep(&mut self, stage: &Stage, kill_at: Option<usize>) -> GatewayError {
        if let Some(at) = kill_at {
            let mut acknowledged = stage.acknowledged.subscribe();
            tokio::select! {
                _ = acknowledged.wait_for(|n| *n >= at) => {}
                error = any_died(&mut self.gateways) => return error,
            }
            if let Err(error) = self.restart(stage).await {
                return error;
            }
        }
        any_died(&mut self.gateways).await
    }

    async fn restart(&mut self, stage: &Stage) -> Result<(), GatewayError> {
        self.before = spent(self.gateways[0].usage(), self.at_start[0]).unwrap_or_default();
        let started = Instant::now();
        self.addresses.send_modify(|up| {
            up.remove(0);
        });
        let after = *stage.acknowledged.borrow();
        self.gateways[0].kill().await?;
        self.gateways[0] = Gateway::start(self.binary, &self.homes[0]).await?;
        self.at_start[0] = self.gateways[0].usage();
        self.kill = Some(Kill { after, down: started.elapsed(), resent: 0 });
        self.addresses.send_modify(|up| up.insert(0, self.gateways[0].public));
        Ok(())
    }

    /// What serving has cost so far, all gateways together, start-up excluded.
    fn used(&self) -> Option<Used> {
        let mut used = Used { cpu: self.before, resident: 0 };
        for (gateway, start) in self.gateways.iter().zip(&self.at_start) {
            let now = gateway.usage();
            used.cpu += spent(now, *start)?;
            used.resident += now?.resident;
        }
        Some(used)
    }

    async fn kill_all(&mut self) -> io::Result<()> {
        for gateway in &mut self.gateways {
            gateway.kill().await?;
        }
        Ok(())
    }
}

fn spent(now: Option<Usage>, start: Option<Usage>) -> Option<Duration> {
    Some(now?.cpu.saturating_sub(start?.cpu))
}

/// Waits until one of them ends by itself.
async fn any_died(gateways: &mut [Gateway]) -> GatewayError {
    poll_fn(|cx| {
        for gateway in &mut *gateways {
            if let Poll::Ready(error) = pin!(gateway.died()).poll(cx) {
                return Poll::Ready(error);
            }
        }
        Poll::Pending
    })
    .await
}
