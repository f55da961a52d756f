//! Lua that runs inside Redis: sent once, then called by its digest.

use std::sync::OnceLock;

use redis::Cmd;

/// One atomic step on the keys of one slot. Its source stands in a file of its own, named as the script is.
pub struct Script {
    /// What it is called in metrics and errors.
    pub name: &'static str,
    source: &'static str,
    digest: OnceLock<String>,
}

impl Script {
    /// A script of this source.
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Self { name, source, digest: OnceLock::new() }
    }

    /// The call by digest: Redis has the script since an earlier one, or says `NOSCRIPT`.
    pub(super) fn by_digest(&self, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        let digest = self.digest.get_or_init(|| redis::Script::new(self.source).get_hash().to_owned());
        call("EVALSHA", digest.as_bytes(), keys, args)
    }

    /// The call with the source, from which Redis has it.
    pub(super) fn by_source(&self, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        call("EVAL", self.source.as_bytes(), keys, args)
    }
}

fn call(name: &str, script: &[u8], keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
    let mut cmd = redis::cmd(name);
    cmd.arg(script).arg(keys.len());
    for part in keys.iter().chain(args) {
        cmd.arg(*part);
    }
    cmd
}
