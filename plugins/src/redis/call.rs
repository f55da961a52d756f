//! One call of a script, as it goes over the wire.

use std::time::Duration;

use redis::{ErrorKind, Pipeline, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection};

use super::Script;

/// A script with what it works on.
pub(super) struct Call<'a> {
    pub(super) script: &'a Script,
    pub(super) keys: &'a [&'a [u8]],
    pub(super) args: &'a [&'a [u8]],
    /// How many replicas are to have it, and how long that is waited for.
    pub(super) wait: Option<(u32, Duration)>,
}

/// What came back, and how many replicas have what it wrote, if that was asked.
pub(super) type Answer = (Value, u32);

impl Call<'_> {
    /// Sends it: one round trip, and a second one if the server has forgotten the script. `asking` lets a server answer that is being
    /// given the slot.
    pub(super) async fn send(&self, connection: &mut MultiplexedConnection, asking: bool) -> RedisResult<Answer> {
        match self.try_send(connection, asking, false).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => self.try_send(connection, asking, true).await,
            result => result,
        }
    }

    async fn try_send(&self, connection: &mut MultiplexedConnection, asking: bool, source: bool) -> RedisResult<Answer> {
        let cmd = if source { self.script.by_source(self.keys, self.args) } else { self.script.by_digest(self.keys, self.args) };
        if !asking && self.wait.is_none() {
            return Ok((connection.send_packed_command(&cmd).await?.extract_error()?, 0));
        }
        // One message, so that nothing of others comes between.
        let mut all = Pipeline::new();
        if asking {
            all.cmd("ASKING");
        }
        all.add_command(cmd);
        if let Some((replicas, time)) = self.wait {
            // No time at all would be for ever.
            all.cmd("WAIT").arg(replicas).arg(time.as_millis().max(1).to_string());
        }
        let (skipped, count) = (usize::from(asking), 1 + usize::from(self.wait.is_some()));
        let mut answers = connection.send_packed_commands(&all, skipped, count).await?.into_iter();
        let value = answers.next().unwrap_or_default().extract_error()?;
        let replicas = answers.next().map(|reached| redis::from_redis_value(reached.extract_error()?).map_err(Into::into));
        Ok((value, replicas.unwrap_or(RedisResult::Ok(0))?))
    }
}
