//! What lives as long as the process: the configuration in force and how it is replaced, and everything that survives that.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use fengda_plugins::{
    api::{Clock, Readings},
    context::Context,
    redis::Redis,
};
use serde::Serialize;
use std::collections::BTreeMap;
use tokio_util::task::TaskTracker;

use crate::{
    admission::{Admission, Share},
    config::{Diagnostics, Origin},
    edge::tls::Acceptor,
    snapshot::{Snapshot, Workshop},
    telemetry::{Event, Metrics, logger, metrics, series::RouteMetrics},
    turn::{Lanes, Outcome},
    watch::Look,
};

/// Reads an environment variable; a parameter so that tests need not change the process's.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// A running gateway, shared by all its threads.
pub struct Gateway {
    /// The configuration in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// Sessions with a message in this process.
    pub lanes: Arc<Lanes<Outcome>>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// What has to end before the gateway may: requests and turns, answered or not.
    pub work: TaskTracker,
    /// Who may have requests in flight.
    pub admission: Arc<Admission>,
    /// Those of requests that are nobody's, on public routes.
    pub strangers: Arc<Share>,
    /// Open connections of clients.
    pub connections: TaskTracker,
    /// The time of day.
    pub clock: Clock,
    /// What is counted of requests that match no route.
    pub no_route: RouteMetrics,
    /// The conversations, if a route keeps any.
    context: Option<Arc<Context>>,
    /// What keeps them, if it is a Redis.
    redis: Option<Arc<Redis>>,
    origin: Origin,
    environment: Environment,
    workshop: Workshop,
    reloading: Mutex<Attempt>,
}

/// The last configuration that was read, in force or not.
struct Attempt {
    /// Its files, as they were when they were read.
    read: Look,
    /// Why it was refused, if it was.
    refused: Option<Diagnostics>,
}

/// What a reload did, as `POST /reload` answers it.
#[derive(Debug, Serialize)]
pub struct Reloaded {
    /// Counts up with every reload.
    pub generation: u64,
    /// Tells configurations apart; equal on replicas with equal files.
    pub config_hash: String,
    /// For each tenant `ok`, or what is wrong with its script.
    pub flows: BTreeMap<String, String>,
}

impl Reloaded {
    /// What a snapshot's reload reports.
    pub fn of(snapshot: &Snapshot) -> Self {
        let word = |problem: &Option<String>| problem.clone().unwrap_or_else(|| "ok".into());
        Self {
            generation: snapshot.generation,
            config_hash: snapshot.config.hash.clone(),
            flows: snapshot.flows.iter().map(|(tenant, problem)| (tenant.clone(), word(problem))).collect(),
        }
    }
}

impl Gateway {
    /// Puts a first snapshot in force. `origin` and `environment` are where reloads read from, `read` are the files as they were for this one.
    pub fn new(
        snapshot: Snapshot,
        workshop: Workshop,
        context: Option<Arc<Context>>,
        redis: Option<Arc<Redis>>,
        origin: Origin,
        environment: Environment,
        read: Look,
    ) -> Arc<Self> {
        let no_route = RouteMetrics::new(workshop.metrics.clone(), "-".into());
        let gateway = Arc::new(Self {
            lanes: Lanes::new(),
            metrics: workshop.metrics.clone(),
            work: TaskTracker::new(),
            admission: Arc::default(),
            strangers: Arc::default(),
            connections: TaskTracker::new(),
            clock: workshop.clock.clone(),
            no_route,
            snapshot: ArcSwap::from_pointee(snapshot),
            context,
            redis,
            origin,
            environment,
            workshop,
            reloading: Mutex::new(Attempt { read, refused: None }),
        });
        gateway.tell_store(&gateway.snapshot.load());
        gateway.put_on_record(&gateway.snapshot.load());
        let weak = Arc::downgrade(&gateway);
        gateway.metrics.meters().before_gather(move |readings| {
            if let Some(gateway) = weak.upgrade() {
                gateway.set_gauges(readings);
            }
        });
        gateway
    }

    /// Sets the gauges that are looked up when metrics are read, plugins' ones too.
    fn set_gauges(&self, readings: &Readings<'_>) {
        let set = |family, labels: &[&str], count| readings.set(family, labels, i64::try_from(count).unwrap_or(i64::MAX));
        let snapshot = self.snapshot.load();
        set(metrics::IN_FLIGHT, &[], self.admission.taken());
        set(metrics::SESSION_MESSAGES, &[], self.lanes.len());
        for tenant in snapshot.tenants() {
            set(metrics::TENANT_IN_FLIGHT, &[tenant.tenant.name()], tenant.share.taken());
        }
        for upstream in snapshot.upstreams() {
            let Some(peers) = upstream.peers() else { continue };
            let (used, ejected) = peers.counts();
            set(metrics::UPSTREAM_ENDPOINTS, &[upstream.name(), "in"], used);
            set(metrics::UPSTREAM_ENDPOINTS, &[upstream.name(), "ejected"], ejected);
        }
        snapshot.set_gauges(readings);
        // An operator may hold a circuit of an upstream that is gone.
        self.metrics.meters().retain("upstream", |name| snapshot.config.upstreams.contains_key(name));
    }

    /// Tells the store whose conversations an older deployment has.
    fn tell_store(&self, snapshot: &Snapshot) {
        let tls = snapshot.config.store.redis().and_then(|link| link.tls.as_ref());
        if let (Some(redis), Some(tls)) = (&self.redis, tls) {
            redis.renew(tls);
        }
        let Some(context) = &self.context else { return };
        context.import(snapshot.config.imports());
    }

    /// Tells the metrics which configuration is in force, and drops the series of what it no longer has. A request that is still under
    /// way may bring one back; the next reload drops it again.
    fn put_on_record(&self, snapshot: &Snapshot) {
        let (Metrics { reloads, flow_refused, .. }, config) = (&*self.metrics, &snapshot.config);
        reloads.generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        reloads.last_successful.set(1);
        reloads.applied_at.set(i64::try_from(self.clock.now().0 / 1000).unwrap_or(i64::MAX));
        reloads.info.reset();
        reloads.info.with_label_values(&[&config.hash]).set(1);
        self.metrics.set_tls_expiry(config.tls.as_ref().and_then(Acceptor::expiry));
        for (tenant, problem) in &snapshot.flows {
            flow_refused.with_label_values(&[tenant]).set(i64::from(problem.is_some()));
        }
        self.drop_other_series(snapshot);
    }

    fn drop_other_series(&self, snapshot: &Snapshot) {
        let (meters, config) = (self.metrics.meters(), &snapshot.config);
        meters.retain("tenant", |name| name == "-" || snapshot.flows.contains_key(name));
        meters.retain("route", |path| path == "-" || config.routes.iter().any(|route| *route.path == *path));
        meters.retain("upstream", |name| config.upstreams.contains_key(name));
    }

    /// Reads the file again and puts it in force: all of it or, if anything in it is wrong, nothing. A tenant whose script is
    /// broken goes on with its last good one. Blocks on files and compilation: not for a thread that serves requests.
    ///
    /// # Errors
    /// Everything that is wrong; the configuration in force stays.
    pub fn reload(&self) -> Result<Reloaded, Diagnostics> {
        let mut attempt = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let built = self.build(&mut attempt);
        match &built {
            Ok(snapshot) => self.put_in_force(snapshot),
            Err(problems) => self.refuse(problems),
        }
        attempt.refused = built.as_ref().err().cloned();
        built.map(|snapshot| Reloaded::of(&snapshot))
    }

    /// The same for files that may have changed: what is in force already is left alone, and what was refused is not refused again.
    pub fn reload_if_changed(&self) {
        let mut attempt = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let built = self.build(&mut attempt);
        match &built {
            Ok(snapshot) if snapshot.is_same_as(&self.snapshot.load()) => self.metrics.reloads.last_successful.set(1),
            Ok(snapshot) => self.put_in_force(snapshot),
            Err(problems) if attempt.refused.as_ref() == Some(problems) => {}
            Err(problems) => self.refuse(problems),
        }
        attempt.refused = built.err();
    }

    /// The files that the configuration is made of, or would be if it were not refused: as they are now, and as they were when they
    /// were read.
    pub fn look(&self) -> (Look, Look) {
        let read = self.reloading.lock().unwrap_or_else(PoisonError::into_inner).read.clone();
        (Look::at(read.files().chain(self.origin.listed())), read)
    }

    fn build(&self, attempt: &mut Attempt) -> Result<Arc<Snapshot>, Diagnostics> {
        let before = self.snapshot.load_full();
        let listed = self.origin.listed();
        let read = Look::at(attempt.read.files().chain(listed.clone()));
        let loaded = self.origin.load(&*self.environment, &self.workshop.registry);
        let files = loaded.as_ref().map_or_else(|problems| &problems.files, |config| &config.files);
        attempt.read = read.then_at(files.iter().cloned().chain(listed));
        loaded
            .and_then(|config| config.check_reload(&before.config).map(|()| config))
            .and_then(|config| Snapshot::build(config, &self.workshop, Some(&before)))
            .map(Arc::new)
    }

    fn put_in_force(&self, snapshot: &Arc<Snapshot>) {
        snapshot.forget_upstreams_of(&self.snapshot.swap(snapshot.clone()));
        logger::init(snapshot.config.log.level);
        snapshot.config.log_warnings();
        self.metrics.reloads.results.with_label_values(&["applied"]).inc();
        self.tell_store(snapshot);
        self.put_on_record(snapshot);
        let broken_flows = snapshot.flows.iter().filter(|(_, p)| p.is_some()).map(|(t, _)| t.as_str()).collect();
        logger::emit(&Event::Reloaded { generation: snapshot.generation, config_hash: &snapshot.config.hash, broken_flows });
    }

    fn refuse(&self, problems: &Diagnostics) {
        self.metrics.reloads.results.with_label_values(&["refused"]).inc();
        self.metrics.reloads.last_successful.set(0);
        // Of what was built before a problem was found.
        self.drop_other_series(&self.snapshot.load());
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        logger::emit(&Event::ReloadRefused { problems: &lines });
    }
}
