//! Many gateways on one Redis, and users who hop between them: whatever happens, each conversation is what one patient clerk with one
//! notebook would have written down.

#![allow(clippy::print_stdout, reason = "what was measured is for whoever runs the test")]

mod clerk;
mod user;

use std::{
    net::SocketAddr,
    sync::{Arc, RwLock},
    time::Duration,
};

use fengda_plugins::{api::Clock, redis::server::Server};
use http::Request;
use http_body_util::Full;
use tokio::{task::JoinSet, time::Instant};

pub use self::clerk::Clerk;
use self::user::User;
use super::{
    client::{self, until},
    harness::{Gateway, Site},
    process::Process,
};

/// Turns kept of a session.
const TURNS: usize = 20;
/// Counts the user's turns in a slot that all of the user's sessions share.
const COUNTING: &str = "return function(turn)
  if turn.text == 'count' then return tostring(user.turns) end
  user:incr('turns')
  return nlp.answer(turn)
end";

/// Where everything is.
#[derive(Clone)]
pub struct Town {
    places: Arc<RwLock<Vec<SocketAddr>>>,
    clerk: Clerk,
    /// Whether gateways may die.
    mortal: bool,
}

impl Town {
    fn places(&self) -> Vec<SocketAddr> {
        self.places.read().unwrap().clone()
    }

    /// So many users of both tenants at once, each of so many turns; returns the turns of all.
    async fn live(&self, users: usize, turns: usize) -> usize {
        let mut all = JoinSet::new();
        for number in 0..users {
            let tenant = if number.is_multiple_of(2) { "alpha" } else { "beta" };
            let number = number / 2; // so that there is one of that name in both tenants
            all.spawn(User::new(self.clone(), tenant, number).live(turns));
        }
        let lived = all.join_all().await.iter().sum();
        assert_eq!(self.clerk.foreign(), [""; 0]);
        lived
    }
}

/// However busy the machine is, nothing here is given up for being late.
fn site(redis: &Server, clerk: &Clerk, deadline: &str) -> Site {
    let mut site = Site::new().upstream(&format!("{{ protocol: answer, endpoints: [\"http://{}\"] }}", clerk.addr));
    site = site.breaker("{ retries: 0, timeout: 10s }").extra(&format!("turn: {{ deadline: {deadline} }}"));
    site = site.store(&format!("redis: {{ url: \"redis://127.0.0.1:{}\", timeout: 3s }}", redis.port()));
    site = site.store(&format!("history: {{ turns: {TURNS} }}"));
    site.clock = Clock::system();
    site.script("alpha", COUNTING);
    site.script("beta", COUNTING);
    site
}

/// Users who hop between so many gateways for at least so many turns in all. They are no more than a busy machine answers within the half
/// second that a commit may take: what takes longer is put aside.
async fn hop(gateways: usize, users: usize, turns: usize) {
    let (redis, clerk) = (Server::start(), Clerk::start(Duration::from_millis(4)).await);
    let gateways: Vec<Gateway> = (0..gateways).map(|_| site(&redis, &clerk, "10s").start()).collect();
    for gateway in &gateways {
        until("it is ready", async || gateway.admin("GET", "/readyz").await.status == 200).await;
    }
    let places = gateways.iter().map(Gateway::public).collect();
    let town = Town { places: Arc::new(RwLock::new(places)), clerk, mortal: false };
    let began = Instant::now();
    let lived = town.live(users, turns / users).await;
    println!("{lived} turns over {} gateways in {:?}", gateways.len(), began.elapsed());
    assert!(lived >= turns);
    for gateway in gateways {
        assert_eq!(gateway.metric("fengda_context_gaps_total{tenant=\"alpha\"}").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_are_one_to_users_who_hop() {
    hop(2, 20, 5_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_are_one_to_users_who_hop() {
    hop(3, 20, 5_000).await;
}

/// Dead gateways leave claims behind, which lapse, and turns that nobody was told of, which run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_are_killed_lose_nothing_and_double_nothing() {
    const KILLS: usize = 5;
    let (redis, clerk) = (Server::start(), Clerk::start(Duration::from_millis(40)).await);
    let sites: Vec<Site> = (0..3).map(|_| site(&redis, &clerk, "4s")).collect();
    let mut processes = Vec::new();
    for site in &sites {
        let process = Process::start(&site.write(&site.config())).await;
        until("it is ready", async || is_ready(&process).await).await;
        processes.push(process);
    }
    let places = Arc::new(RwLock::new(processes.iter().map(|process| process.public).collect()));
    let town = Town { places, clerk: clerk.clone(), mortal: true };
    let kill = async {
        for round in 1..=KILLS {
            until("the next kill", async || clerk.all_calls() >= round * 150).await;
            let victim = round % processes.len();
            processes[victim].child.kill().await.unwrap();
            processes[victim] = Process::start(&sites[victim].path("config.yaml")).await;
            until("it is ready", async || is_ready(&processes[victim]).await).await;
            town.places.write().unwrap()[victim] = processes[victim].public;
        }
    };
    let (lived, ()) = tokio::join!(town.live(24, 45), kill);
    assert!(clerk.all_calls() > lived, "no kill met a turn");
    println!("{lived} turns, {KILLS} gateways killed, {} calls of the model", clerk.all_calls());
}

async fn is_ready(process: &Process) -> bool {
    let request = Request::get("/readyz").header("host", "test").body(Full::default()).unwrap();
    client::http1(process.admin.unwrap(), request).await.status == 200
}
