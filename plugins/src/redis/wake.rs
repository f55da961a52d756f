//! News from other gateways: a channel of this one's own, on a connection of its own.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use super::{
    dial::{is_end, pause},
    link::Route,
    node::{Around, LOOK},
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

/// Listens on `channel`, for ever.
pub(super) async fn hear(channel: String, route: Arc<Route>, around: Arc<Around>, listeners: Arc<Listeners>) {
    let mut failures = 0;
    loop {
        let closed = Arc::new(Notify::new());
        match subscribe(&channel, &route, &around, &listeners, &closed).await {
            Ok(connection) => {
                failures = 0;
                around.meters.subscribed.set(1);
                listeners.tell(|listener| listener.reconnected());
                until_broken(connection, &around, &closed).await;
                around.meters.subscribed.set(0);
            }
            Err(_) => failures += 1, // the same server's health says why
        }
        sleep(pause(failures)).await;
    }
}

async fn subscribe(
    channel: &str,
    route: &Route,
    around: &Around,
    listeners: &Arc<Listeners>,
    closed: &Arc<Notify>,
) -> Result<MultiplexedConnection, String> {
    let address = route.any().await?;
    let (listeners, closed) = (listeners.clone(), closed.clone());
    let pushed = move |info: PushInfo| match (&info.kind, info.data.last()) {
        (PushKind::Message, Some(Value::BulkString(message))) => listeners.tell(|listener| listener.woken(message)),
        _ if is_end(&info) => closed.notify_one(),
        _ => {}
    };
    let mut connection = around.dial.connect(&address, pushed).await?;
    let subscribed = timeout(around.dial.timeout, connection.subscribe(channel)).await;
    subscribed.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
    Ok(connection)
}

async fn until_broken(mut connection: MultiplexedConnection, around: &Around, closed: &Notify) {
    loop {
        tokio::select! {
            () = closed.notified() => return,
            () = sleep(LOOK) => {}
        }
        let answered = timeout(around.dial.timeout, redis::cmd("PING").exec_async(&mut connection)).await;
        if !matches!(answered, Ok(Ok(()))) {
            return;
        }
    }
}
