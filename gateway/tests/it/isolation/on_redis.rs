//! What Redis hears and holds: every key, and every command, is one tenant's or nobody's.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread::{self, JoinHandle},
};

use fengda_plugins::redis::server::Server;

use crate::words::{TENANTS, found_in, only};

/// The tenant of a key, none if it is nobody's.
fn owner(key: &str) -> Option<&'static str> {
    TENANTS.into_iter().find(|tenant| key.starts_with(&format!("fengda:{{{tenant}/")))
}

/// The tenants whose keys stand there.
fn owners(text: &str) -> BTreeSet<&'static str> {
    text.match_indices("fengda:").filter_map(|(at, _)| owner(&text[at..])).collect()
}

/// Asserts that a text has words of no tenant but the one whose keys are in it. Whose words it has.
fn look_at(text: &str, what: &str) -> BTreeSet<&'static str> {
    let (owners, found) = (owners(text), found_in(text.as_bytes()));
    assert!(owners.len() <= 1, "keys of {owners:?} in {what}: {text}");
    assert!(found.is_subset(&owners), "words of {found:?} in {what}: {text}");
    found
}

/// What a server tells of all that it does and passes on, for as long as it lives.
pub struct Overheard {
    commands: JoinHandle<String>,
    messages: JoinHandle<String>,
}

impl Overheard {
    pub fn begin(redis: &Server) -> Self {
        Self { commands: listen(redis, "MONITOR"), messages: listen(redis, "PSUBSCRIBE *") }
    }

    /// Looks at what was heard, when the server has been killed.
    pub fn look(self) {
        let (commands, messages) = (self.commands.join().unwrap(), self.messages.join().unwrap());
        let mut said = BTreeSet::new();
        for line in commands.lines() {
            said.extend(look_at(line, "a command"));
        }
        assert_eq!(said, TENANTS.into(), "those whose words were sent");
        let messages: Vec<_> = messages.split("pmessage").skip(1).collect();
        let told: BTreeSet<_> = messages.iter().flat_map(|message| look_at(message, "a message")).collect();
        assert_eq!(told, TENANTS.into(), "those whose sessions were waited for");
    }
}

/// What comes after a command, once the server has taken it, up to the end of the connection.
fn listen(redis: &Server, command: &str) -> JoinHandle<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    connection.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    assert_ne!(connection.read(&mut [0; 256]).unwrap(), 0);
    thread::spawn(move || {
        let mut heard = Vec::new();
        let _ = connection.read_to_end(&mut heard); // it ends when the server is killed
        String::from_utf8_lossy(&heard).into_owned()
    })
}

/// The commands that an operator is shown afterwards, cut short.
pub fn look_at_slow_log(redis: &Server) {
    type Slow = (u64, u64, u64, Vec<Vec<u8>>, String, String);
    let slow: Vec<Slow> = redis.cli(&["SLOWLOG", "GET", "-1"]).unwrap();
    assert!(!slow.is_empty());
    for (.., words, _, _) in slow {
        look_at(&String::from_utf8_lossy(&words.join(&b' ')), "the slow log");
    }
}

/// A key begins with its tenant, and what stands under it has words of no other.
pub fn look_at_keys(redis: &Server) {
    let keys: Vec<String> = redis.cli(&["KEYS", "*"]).unwrap();
    let mut holders = BTreeSet::new();
    for key in &keys {
        let kind: String = redis.cli(&["TYPE", key]).unwrap();
        let read: &[&str] = match kind.as_str() {
            "string" => &["GET", key],
            "hash" => &["HGETALL", key],
            "list" => &["LRANGE", key, "0", "-1"],
            "zset" => &["ZRANGE", key, "0", "-1"],
            "none" => continue, // it has expired meanwhile
            other => panic!("{key} is a {other}"),
        };
        let values: Vec<Vec<u8>> = redis.cli(read).unwrap();
        only(owner(key), key.as_bytes(), "a key");
        only(owner(key), &values.join(&b' '), key);
        holders.extend(found_in(&values.join(&b' ')));
    }
    assert_eq!(holders, TENANTS.into(), "those whose words are stored");
}
