//! One call of a script, as it goes over the wire.

use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection};

use super::{Script, waits::Wait};

/// A script with what it works on.
pub(super) struct Call<'a> {
    pub(super) script: &'a Script,
    pub(super) keys: &'a [&'a [u8]],
    pub(super) args: &'a [&'a [u8]],
    /// Whether replicas are waited for.
    pub(super) wait: Option<Wait>,
}

/// What came back, and how many replicas have what it wrote, if that was asked.
pub(super) type Answer = (Value, u32);

impl Call<'_> {
    /// As it is sent to a server that may have forgotten the script, or else with its source.
    pub(super) fn cmd(&self, source: bool) -> Cmd {
        if source { self.script.by_source(self.keys, self.args) } else { self.script.by_digest(self.keys, self.args) }
    }

    /// Sends it: one round trip, and a second one if the server has forgotten the script. `asking` lets a server answer that is being
    /// given the slot.
    pub(super) async fn send(&self, connection: &mut MultiplexedConnection, asking: bool) -> RedisResult<Value> {
        match send(&self.cmd(false), connection, asking).await {
            Err(error) if is_forgotten(&error) => send(&self.cmd(true), connection, asking).await,
            result => result,
        }
    }
}

/// Whether a server does not have a script.
pub(super) fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

async fn send(cmd: &Cmd, connection: &mut MultiplexedConnection, asking: bool) -> RedisResult<Value> {
    if !asking {
        return connection.send_packed_command(cmd).await?.extract_error();
    }
    // One message, so that nothing of others comes between.
    let mut both = Pipeline::new();
    both.cmd("ASKING").add_command(cmd.clone());
    connection.send_packed_commands(&both, 1, 1).await?.pop().unwrap_or_default().extract_error()
}
