//! Redis Cluster: three primaries, each with a replica.

use std::sync::LazyLock;

use super::{Guard, Server, free_port, wait_until};

const PRIMARIES: usize = 3;
const SLOTS: u16 = 16_384;

/// Six nodes; the first three were the primaries in the beginning, each `i` with the replica `i + 3`.
pub struct Cluster {
    /// All nodes.
    pub nodes: Vec<Server>,
}

impl Cluster {
    /// One for all tests of this process that do it no harm: each keeps to tenants of its own.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Cluster> = LazyLock::new(Cluster::start);
        &SHARED
    }

    /// Starts one, in which a dead primary is replaced after about a second.
    pub fn start() -> Self {
        Self::guarded(&Guard::default(), &[])
    }

    /// The same for those whom `guard` lets in, with more lines of `redis.conf`.
    pub fn guarded(guard: &Guard, lines: &[&str]) -> Self {
        let cluster = Self { nodes: (0..2 * PRIMARIES).map(|_| node(guard, lines)).collect() };
        cluster.join();
        cluster
    }

    /// Where the nodes listen.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(Server::port).collect()
    }

    /// The primary that has this key's slot, as the nodes that are left know it.
    pub fn primary_of(&self, key: &str) -> &Server {
        self.primary_of_slot(self.slot(key))
    }

    /// A replica of that primary.
    pub fn replica_of(&self, key: &str) -> &Server {
        let primary = self.primary_of(key);
        let id: String = primary.cli(&["CLUSTER", "MYID"]).unwrap();
        let listed: Vec<String> = primary.cli(&["CLUSTER", "REPLICAS", &id]).unwrap();
        let ports: Vec<u16> = listed.iter().map(|line| port(line)).collect();
        self.nodes.iter().find(|node| ports.contains(&node.port())).unwrap()
    }

    /// Moves a slot with all of its keys to another primary, one key at a time, calling `between` after each: clients are told ASK
    /// meanwhile, and MOVED after it.
    pub fn migrate(&self, slot: u16, to: &Server, mut between: impl FnMut()) {
        let (from, slot) = (self.primary_of_slot(slot), slot.to_string());
        let [from_id, to_id] = [from, to].map(|node| node.cli::<String>(&["CLUSTER", "MYID"]).unwrap());
        to.cli::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).unwrap();
        from.cli::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).unwrap();
        loop {
            let keys: Vec<String> = from.cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]).unwrap();
            let Some(key) = keys.first() else { break };
            let (port, login) = (to.port().to_string(), from.guard.words_of_migrate());
            from.cli::<()>(&[&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"], login].concat()).unwrap();
            between();
        }
        for node in [to, from] {
            node.cli::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).unwrap();
        }
    }

    /// The slot of a key.
    pub fn slot(&self, key: &str) -> u16 {
        self.alive().cli(&["CLUSTER", "KEYSLOT", key]).unwrap()
    }

    /// The primary that has a slot, as a node that is left knows it.
    pub fn primary_of_slot(&self, slot: u16) -> &Server {
        let nodes: String = self.alive().cli(&["CLUSTER", "NODES"]).unwrap();
        // A slot that is being moved stands there in another form.
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            Some(first.parse::<u16>().ok()?..=last.parse().ok()?)
        };
        let has = |line: &&str| line.split(' ').skip(8).filter_map(range).any(|range| range.contains(&slot));
        let port = port(nodes.lines().find(has).unwrap());
        self.nodes.iter().find(|node| node.port() == port).unwrap()
    }

    fn alive(&self) -> &Server {
        self.nodes.iter().find(|node| !node.process.has_ended()).unwrap()
    }

    fn join(&self) {
        let (primaries, replicas) = self.nodes.split_at(PRIMARIES);
        let bounds: Vec<u16> = (0..=PRIMARIES).map(|i| u16::try_from(usize::from(SLOTS) * i / PRIMARIES).unwrap()).collect();
        for (i, primary) in primaries.iter().enumerate() {
            primary.cli::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()]).unwrap();
            primary.cli::<()>(&["CLUSTER", "ADDSLOTSRANGE", &bounds[i].to_string(), &(bounds[i + 1] - 1).to_string()]).unwrap();
        }
        for (one, other) in self.nodes.iter().enumerate().flat_map(|(i, one)| self.nodes[..i].iter().map(move |other| (one, other))) {
            let (port, bus) = (other.port().to_string(), other.setting("cluster-port"));
            one.cli::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).unwrap();
        }
        wait_until("all nodes know each other", || self.nodes.iter().all(|node| known(node, "connected") == self.nodes.len()));
        for (primary, replica) in primaries.iter().zip(replicas) {
            let id: String = primary.cli(&["CLUSTER", "MYID"]).unwrap();
            replica.cli::<()>(&["CLUSTER", "REPLICATE", &id]).unwrap();
        }
        replicas.iter().for_each(Server::wait_for_link);
        let ready = |node: &Server| {
            let state: String = node.cli(&["CLUSTER", "INFO"]).unwrap();
            state.contains("cluster_state:ok") && known(node, "slave ") == replicas.len()
        };
        wait_until("the cluster is whole", || self.nodes.iter().all(ready));
    }
}

/// The port in a line of `CLUSTER NODES`: id, address `127.0.0.1:port@bus`, ….
fn port(line: &str) -> u16 {
    line.split([':', '@']).nth(1).unwrap().parse().unwrap()
}

fn known(node: &Server, what: &str) -> usize {
    let nodes: String = node.cli(&["CLUSTER", "NODES"]).unwrap();
    nodes.lines().filter(|line| line.contains(what)).count()
}

fn node(guard: &Guard, lines: &[&str]) -> Server {
    Server::of(guard, || {
        let cluster = [
            "cluster-enabled yes".into(),
            "cluster-node-timeout 1000".into(),
            "cluster-replica-validity-factor 0".into(),
            "cluster-require-full-coverage no".into(),
            format!("cluster-port {}", free_port()),
        ];
        cluster.into_iter().chain(lines.iter().copied().map(String::from)).collect()
    })
}
