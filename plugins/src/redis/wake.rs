//! News from other gateways: a channel of this one's own, on a connection of its own.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    Health,
    dial::{Address, is_end, pause},
    link::Route,
    node::{Around, LOOK, Open},
};

/// Hears what other gateways send. It is called on Redis' own thread and must not wait.
pub trait Listener: Send + Sync {
    /// A message for this gateway.
    fn woken(&self, message: &[u8]);
    /// From now on messages are heard; earlier ones may have been missed.
    fn reconnected(&self);
}

/// Those who hear.
#[derive(Default)]
pub(super) struct Listeners(Mutex<Vec<Weak<dyn Listener>>>);

impl Listeners {
    pub(super) fn add(&self, listener: Weak<dyn Listener>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(listener);
    }

    fn tell(&self, tell: impl Fn(&dyn Listener)) {
        let listening: Vec<_> = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|listener| listener.strong_count() > 0);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        listening.iter().for_each(|listener| tell(&**listener));
    }
}

/// Listens on `channel` for as long as anybody reports the health, at a server that calls go to: an old primary that lives on may not
/// hear what is said at the new one.
pub(super) async fn hear(
    channel: String,
    route: Arc<Route>,
    around: Arc<Around>,
    listeners: Arc<Listeners>,
    mut health: watch::Receiver<Health>,
) {
    let mut failures = 0;
    while health.wait_for(Health::is_up).await.is_ok() {
        if let Some(beside) = fastrand::choice(route.open())
            && let Ok((connection, closed)) = subscribe(&channel, &beside.address, &around, &listeners).await
        {
            let begun = Instant::now();
            around.meters.subscribed.set(1);
            listeners.tell(|listener| listener.reconnected());
            until_broken(connection, &closed, &beside, &route, around.dial.timeout).await;
            around.meters.subscribed.set(0);
            failures = if begun.elapsed() < LOOK { failures + 1 } else { 0 };
        } else {
            failures += 1; // the server's health says why
        }
        sleep(pause(failures)).await;
    }
}

/// A connection, and what is told when it ends.
async fn subscribe(
    channel: &str,
    address: &Address,
    around: &Around,
    listeners: &Arc<Listeners>,
) -> Result<(MultiplexedConnection, Arc<Notify>), String> {
    let closed = Arc::new(Notify::new());
    let (listeners, told) = (listeners.clone(), closed.clone());
    let pushed = move |info: PushInfo| match (&info.kind, info.data.last()) {
        (PushKind::Message, Some(Value::BulkString(message))) => listeners.tell(|listener| listener.woken(message)),
        _ if is_end(&info) => told.notify_one(),
        _ => {}
    };
    let mut connection = around.dial.connect(address, pushed).await?;
    let subscribed = timeout(around.dial.timeout, connection.subscribe(channel)).await;
    subscribed.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
    Ok((connection, closed))
}

/// Returns when the connection has ended or gives no answer, or calls go to other servers than the one that it was made `beside`.
async fn until_broken(mut connection: MultiplexedConnection, closed: &Notify, beside: &Arc<Open>, route: &Route, time: Duration) {
    loop {
        tokio::select! {
            () = closed.notified() => return,
            () = sleep(LOOK) => {}
        }
        let answered = timeout(time, redis::cmd("PING").exec_async(&mut connection)).await;
        let now = route.open();
        if !matches!(answered, Ok(Ok(()))) || (!now.is_empty() && !now.iter().any(|open| Arc::ptr_eq(open, beside))) {
            return;
        }
    }
}
