//! Where the server is that takes writes: it may be known, or be known to sentinels.

use std::{collections::HashMap, sync::Arc};

use tokio::{task::JoinSet, time::timeout};

use super::{
    dial::{Address, Dial},
    fault::said,
};

/// Where to connect to.
pub(super) enum Place {
    /// A server that stays where it is.
    Fixed(Address),
    /// The server that the sentinels take for the primary of this name.
    Sentinels(Arc<Sentinels>),
}

impl Place {
    /// The address to connect to now.
    ///
    /// # Errors
    /// No sentinel tells.
    pub(super) async fn find(&self) -> Result<Address, String> {
        match self {
            Self::Fixed(address) => Ok(address.clone()),
            Self::Sentinels(sentinels) => sentinels.primary().await,
        }
    }
}

/// Sentinels (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
pub(super) struct Sentinels {
    servers: Vec<Address>,
    master: String,
    dial: Dial,
}

impl Sentinels {
    pub(super) fn new(servers: Vec<Address>, master: String, dial: Dial) -> Self {
        Self { servers, master, dial }
    }

    /// Asks all of them until most have answered. Of different answers the one of the newest failover counts, as among sentinels.
    async fn primary(self: &Arc<Self>) -> Result<Address, String> {
        let mut asked = JoinSet::new();
        for server in self.servers.clone() {
            let sentinels = self.clone();
            asked.spawn(async move { sentinels.ask(&server).await });
        }
        let (mut newest, mut answers, mut failure) = (None, 0, String::new());
        while let Some(answer) = asked.join_next().await {
            match answer.expect("asking neither panics nor is aborted") {
                Ok(found) => {
                    answers += 1;
                    newest = newest.max(Some(found));
                }
                Err(reason) => failure = reason,
            }
            if 2 * answers > self.servers.len() {
                break;
            }
        }
        newest.map(|(_, address)| address).ok_or(failure)
    }

    /// What one of them knows: the number of the failover, and the primary since.
    async fn ask(&self, server: &Address) -> Result<(u64, Address), String> {
        let mut connection = self.dial.connect(server, |_| ()).await.map_err(|why| format!("sentinel {why}"))?;
        let mut cmd = redis::cmd("SENTINEL");
        cmd.arg("MASTER").arg(&self.master);
        let named = |what: &str| format!("sentinel {}:{}: {what}", server.0, server.1);
        let asked = timeout(self.dial.timeout, cmd.query_async::<HashMap<String, String>>(&mut connection)).await;
        let state = asked.map_err(|_| named("no answer in time"))?.map_err(|error| named(&said(&error)))?;
        let field = |name: &str| state.get(name).ok_or_else(|| named(&format!("an answer without {name}")));
        let number = |name: &str| field(name)?.parse().map_err(|_| named(&format!("{name} is no number")));
        let port = u16::try_from(number("port")?).map_err(|_| named("port is none"))?;
        Ok((number("config-epoch")?, (field("ip")?.as_str().into(), port)))
    }
}
