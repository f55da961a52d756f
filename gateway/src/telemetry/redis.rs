//! Says in the log when Redis goes and comes, however often it does.

use std::time::Duration;

use fengda_plugins::redis::Health;
use tokio::{sync::watch, time::sleep};

use super::Event;

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Reports each change to `say`, at most one a second: of several in between, what they came to. Ends when Redis is dropped.
pub(crate) async fn report(mut health: watch::Receiver<Health>, say: impl Fn(&Event<'_>)) {
    let mut said = Health::Up;
    while health.changed().await.is_ok() {
        let now = health.borrow_and_update().clone();
        if now == said {
            continue;
        }
        match &now {
            Health::Up => {
                let (Health::Partly { since, .. } | Health::Down { since, .. }) = said else { continue };
                say(&Event::RedisUp { ms: since.elapsed() });
            }
            Health::Partly { reason, .. } => say(&Event::RedisDown { reason, partly: true }),
            Health::Down { reason, .. } => say(&Event::RedisDown { reason, partly: false }),
        }
        said = now;
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;

    fn down(reason: &str) -> Health {
        Health::Down { reason: reason.into(), since: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_redis_that_comes_and_goes_is_a_line_a_second() {
        let (health, watched) = watch::channel(down("not connected yet"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = lines.clone();
        let task = tokio::spawn(report(watched, move |event| log.lock().unwrap().push(serde_json::to_value(event).unwrap())));
        for number in 0..1000 {
            health.send_replace(if number % 2 == 0 { down("refused") } else { Health::Up });
            sleep(Duration::from_millis(10)).await;
        }
        health.send_replace(Health::Partly { reason: "one of three".into(), since: Instant::now() });
        sleep(PAUSE * 2).await;
        health.send_replace(Health::Up);
        sleep(PAUSE).await;
        drop(health);
        task.await.unwrap();
        let lines = lines.lock().unwrap();
        assert!((10..=14).contains(&lines.len()), "{lines:?}");
        assert_eq!(lines[0], serde_json::json!({ "event": "redis_down", "reason": "refused", "partly": false }));
        let [.., partly, up] = &lines[..] else { unreachable!("there are ten") };
        assert_eq!(*partly, serde_json::json!({ "event": "redis_down", "reason": "one of three", "partly": true }));
        assert_eq!(*up, serde_json::json!({ "event": "redis_up", "ms": 2000.0 }));
    }
}
