//! A walk over keys: in a cluster each primary has its own.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Fault, Redis, fault::Failure, link::Route, node::Node};

/// About so many keys are looked at in one step on one server.
const STEP: u32 = 1000;

/// A walk over all keys that match a pattern. A key that is there from the beginning of the walk to its end comes up, maybe more than
/// once; one that comes or goes meanwhile, or moves to another server, may or may not.
pub struct Scan {
    redis: Arc<Redis>,
    glob: String,
    /// Where to go on, on each server that is not done; `None` before the first step.
    left: Option<Vec<Place>>,
    steps: u64,
}

/// A server of a cluster, if it is one, and its cursor.
type Place = (Option<Arc<Node>>, Vec<u8>);

impl Scan {
    /// Over the keys that match `glob` (<https://redis.io/docs/latest/commands/keys/>).
    pub fn new(redis: Arc<Redis>, glob: String) -> Self {
        Self { redis, glob, left: None, steps: 0 }
    }

    /// About how many keys it has come by, whether they match or not.
    pub fn walked(&self) -> u64 {
        self.steps * u64::from(STEP)
    }

    /// The next keys, maybe none of them; `None` when the walk is over.
    ///
    /// # Errors
    /// See [`Fault`]; the same step can be tried again.
    pub async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, Fault> {
        let (route, around) = self.redis.parts();
        let left = self.left.get_or_insert_with(|| match route {
            Route::One(_) => vec![(None, b"0".to_vec())],
            Route::Cluster(cluster) => cluster.nodes().into_iter().map(|node| (Some(node), b"0".to_vec())).collect(),
        });
        let Some((server, cursor)) = left.last_mut() else { return Ok(None) };
        let mut scan = redis::cmd("SCAN");
        scan.arg(&*cursor).arg("MATCH").arg(&self.glob).arg("COUNT").arg(STEP);
        let node = match (server, route) {
            (Some(node), _) => &**node,
            (None, Route::One(node)) => node,
            (None, Route::Cluster(_)) => unreachable!("a cluster's servers are nodes"),
        };
        let reply = node.ask(&scan, Instant::now() + around.dial.timeout).await?;
        let (next, keys): (Vec<u8>, Vec<Vec<u8>>) = redis::from_redis_value(reply).map_err(|error| Failure::Redis(error.into()))?;
        self.steps += 1;
        if next == b"0" {
            left.pop();
        } else {
            *cursor = next;
        }
        Ok(Some(keys))
    }
}
