//! Gateways whose tenants say their words wherever there is room for words, and a look at everything that comes out.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fengda_plugins::redis::server::Server;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    sync::Notify,
    task::JoinSet,
};

use super::at_rest::{look_at_files, spooled};
use crate::{
    client::{self, PATIENCE, Reply, until},
    harness::Site,
    model::{Behaviour, Model},
    speaker::{SHARED, Speaker},
    words::{TENANTS, found_in, only, word},
};

pub struct Swept {
    process: Child,
    log: PathBuf,
    public: SocketAddr,
    admin: SocketAddr,
}

impl Swept {
    async fn start(site: &Site) -> Self {
        let log = site.path("stderr");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["isolation::a_gateway_with_a_faulty_plugin", "--exact", "--ignored", "--nocapture"]);
        command.env("SWEEP_CONFIG", site.path("config.yaml")).stdin(Stdio::piped()).kill_on_drop(true);
        command.stdout(File::create(site.path("stdout")).unwrap()).stderr(File::create(&log).unwrap());
        let process = command.spawn().unwrap();
        let listening = tokio::time::timeout(PATIENCE, async {
            loop {
                let lines = fs::read_to_string(&log).unwrap();
                let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                if let Some(event) = events.into_iter().find(|event| event["event"] == "listening") {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let listening = listening.await.unwrap_or_else(|_| panic!("{}", fs::read_to_string(&log).unwrap()));
        let addr = |key: &str| listening[key].as_str().unwrap().parse().unwrap();
        Self { process, log, public: addr("public"), admin: addr("admin") }
    }

    async fn admin(&self, method: &str, path: &str) -> Reply {
        let request = Request::builder().method(method).uri(path).header("host", "test").body(Full::<Bytes>::default()).unwrap();
        client::http1(self.admin, request).await
    }

    /// What operators can see, which is nobody's words.
    async fn look_at_admin(&self) {
        for (method, path) in [("GET", "/metrics"), ("GET", "/status"), ("POST", "/reload")] {
            let reply = self.admin(method, path).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            only(None, &reply.body, path);
        }
    }

    async fn stop(mut self) -> String {
        drop(self.process.stdin.take());
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await.expect("an end in time").unwrap();
        let log = fs::read_to_string(&self.log).unwrap();
        assert!(ended.success(), "{log}");
        log
    }
}

/// A gateway of the sweep, its conversations where `store` puts them.
fn site(model: &Model, store: impl Fn(Site) -> Site) -> Site {
    let routes = "routes:
  - { path: /v1/chat, chain: [auth, faulty, rate_limit, context, circuit_breaker], flow: model }
  - { path: /v1/history, chain: [auth, faulty, rate_limit, context], history: true }";
    let site = Site::new().model(model).breaker("{ failures: 1000, retries: 1 }").store("cache: { size: 1MiB }").extra(routes);
    let site = store(site);
    for tenant in TENANTS {
        // Apart from one word all tenants have the same script.
        let script = "return function(turn)
            log.warn('WORD ' .. turn.text)
            seen = (seen or '') .. turn.text
            if turn.text:find('boom') then error(turn.text) end
            if turn.text:find('trouble') then error({ said = turn.text }) end
            session.word, user.word = turn.text:sub(1, 99), turn.text:sub(1, 99)
            session[turn.text:sub(1, 20)] = { turn.user, turn.session, turn.message_id }
            if turn.text:find('say') then say(session.word); return canned('busy') .. user.word end
            if turn.text:find('leak') then return seen .. #history .. tostring(history[1] and history[1].q) end
            return nlp.answer(turn)
        end";
        site.script(tenant, &script.replace("WORD", &word(tenant, "log")));
    }
    let config = site.config().replace("access: false", "access: true, level: trace");
    let (beta, end) = (config.find("  beta:\n").unwrap(), config.find("store: {").unwrap());
    let gamma = config[beta..end].replace("beta", "gamma");
    let mut config = format!("{}{gamma}{}", &config[..end], &config[end..]);
    for tenant in TENANTS {
        config = config.replace(&format!("{tenant} is busy"), &word(tenant, "canned"));
    }
    site.write(&config);
    site
}

pub struct Sweep {
    model: Model,
    sites: Vec<Site>,
    gateways: Vec<Swept>,
}

impl Sweep {
    /// Starts so many gateways.
    pub async fn begin(count: usize, store: impl Fn(Site) -> Site) -> Self {
        let model = Model::start().await;
        let sites: Vec<Site> = (0..count).map(|_| site(&model, &store)).collect();
        let mut gateways = Vec::new();
        for site in &sites {
            let gateway = Swept::start(site).await;
            until("the gateway is ready", async || gateway.admin("GET", "/readyz").await.status == 200).await;
            gateways.push(gateway);
        }
        Self { model, sites, gateways }
    }

    /// Everything that can be said and done is, for good and bad.
    pub async fn everybody_talks(&self) {
        let (first, last) = (&self.gateways[0], &self.gateways[self.gateways.len() - 1]);
        for round in 0..2 {
            self.model.plan((0..24).map(|n| match n % 4 {
                0 => Behaviour::Quote(500),
                1 => Behaviour::Quote(200),
                2 => Behaviour::HangUp,
                _ => Behaviour::Echo,
            }));
            let mut speaking = JoinSet::new();
            for tenant in TENANTS {
                let speaker = Speaker::new(first.public, tenant, SHARED);
                let named = Speaker::new(last.public, tenant, &word(tenant, "user"));
                for gateway in &self.gateways {
                    let (mut annoying, mut crowd) = (speaker.clone(), named.clone());
                    (annoying.public, crowd.public) = (gateway.public, gateway.public);
                    speaking.spawn(async move { annoying.annoy().await });
                    speaking.spawn(async move { crowd.crowd(round).await });
                }
                speaking.spawn(async move { speaker.talk(&format!("{SHARED}{round}")).await });
                speaking.spawn(async move { named.talk(&format!("{}{round}", named.word("session"))).await });
            }
            self.look_at_admin().await; // a reload in between
            speaking.join_all().await;
            self.look_at_admin().await;
        }
        Speaker::new(first.public, "gamma", SHARED).be_forgotten().await;
        let metrics = first.admin("GET", "/metrics").await;
        for unused in ["fengda_context_cache_evictions_total{cause=\"share\"} 0", "fengda_panics_total 0"] {
            assert!(!metrics.text().contains(unused), "{unused}, so the sweep proves little");
        }
    }

    /// One gateway has a session of each tenant, and another one waits for it and is woken.
    pub async fn one_wakes_another(&self, redis: &Server) {
        let places = [0, self.gateways.len() - 1].map(|n| self.gateways[n].public);
        for tenant in TENANTS {
            let [first, second] = places.map(|public| Speaker::new(public, tenant, SHARED));
            let (asked, release) = (self.model.asked().len(), Arc::new(Notify::new()));
            self.model.plan([Behaviour::Hold(release.clone())]);
            let first = tokio::spawn(async move { first.goes_on().await });
            self.model.wait_for(asked + 1).await;
            let second = tokio::spawn(async move { second.goes_on().await });
            until("the other one waits", async || !redis.cli::<Vec<String>>(&["KEYS", "*:w:*"]).unwrap().is_empty()).await;
            release.notify_one();
            assert!(first.await.unwrap() && second.await.unwrap(), "stored");
        }
    }

    /// Redis goes away under a conversation of each tenant, whose turns wait in the gateway's folder until it is back.
    pub async fn everybody_goes_on_without(&self, redis: &Server) {
        let (gateway, folder) = (&self.gateways[0], self.sites[0].path("data"));
        let speakers = TENANTS.map(|tenant| Speaker::new(gateway.public, tenant, SHARED));
        for speaker in &speakers {
            assert!(speaker.goes_on().await, "stored");
        }
        redis.kill();
        for speaker in &speakers {
            until("a turn is put aside", async || {
                speaker.goes_on().await;
                spooled(&folder).contains(speaker.tenant)
            })
            .await;
        }
        self.look_at_admin().await;
        look_at_files(&folder, &folder);
        redis.restart();
        let waiting = async || gateway.admin("GET", "/status").await.json()["spool"]["turns"].as_u64();
        until("what waited is stored", async || waiting().await == Some(0)).await;
    }

    /// What operators can see.
    async fn look_at_admin(&self) {
        for gateway in &self.gateways {
            gateway.look_at_admin().await;
        }
    }

    /// Stops all gateways, and looks at what they told and left.
    pub async fn end(self) -> Vec<Site> {
        for (asked, head) in self.model.asked().iter().zip(self.model.heads()) {
            let told = format!("{asked} {head:?}");
            assert!(found_in(told.as_bytes()).len() <= 1, "a model is told of two tenants: {told}");
        }
        let mut logs = String::new();
        for (gateway, site) in self.gateways.into_iter().zip(&self.sites) {
            logs += &gateway.stop().await;
            only(None, &fs::read(site.path("stdout")).unwrap(), "standard output");
            look_at_files(&site.path("data"), &site.path("data"));
        }
        only(None, logs.as_bytes(), "the gateways' logs");
        for event in ["request", "flow_failed", "upstream_failed", "panicked", "reloaded", "stopped"] {
            assert!(logs.contains(&format!("\"event\":\"{event}\"")), "the logs have no {event}, so they prove little");
        }
        self.sites
    }
}
