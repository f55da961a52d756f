//! `GET` and `DELETE /v1/history`: a user reads or erases what was said.

use std::{borrow::Cow, sync::Arc, time::Duration};

use fengda_plugins::api::{Code, Reject, SessionKey, SessionState, Turn, TurnError};
use http::{HeaderValue, Method, StatusCode, header};
use prometheus::Histogram;
use serde::{Serialize, Serializer, ser::SerializeSeq};

use crate::{
    chat::DEFAULT_SESSION,
    downstream::Downstream,
    snapshot::Snapshot,
    telemetry::{Metrics, StoreStep},
};

/// What the query string asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query<'a> {
    session_id: Option<Cow<'a, str>>,
    limit: Option<usize>,
    before: Option<u64>,
    /// There is a parameter besides `session_id`.
    other: bool,
}

/// Serves one request.
///
/// # Errors
/// A rejection that is still to be written.
pub async fn serve(metrics: &Metrics, snapshot: &Arc<Snapshot>, down: &mut Downstream) -> Result<(), Reject> {
    let route = down.route.clone().expect("a target is only reached through its route");
    let phase = route.chain.turn_phase().expect("a history route without such a plugin is refused by the configuration");
    let identity = down.ctx.identity().ok_or_else(|| Reject::new(Code::Internal, "the route did not authenticate the request"))?;
    let user = identity.user.clone();
    let wait = snapshot.tenant(user.tenant())?.wait;
    let uri = down.head().uri.clone();
    let query = parse_query(uri.query().unwrap_or_default())?;
    let session = |id: &str| user.session(id).map_err(|e| bad(format!("`session_id` {e}")));
    let (patience, store) = (snapshot.config.turn_deadline, &metrics.store_seconds);
    let method = down.head().method.clone();
    // A client that is gone cannot be told what was done.
    let _ = match (method, &query.session_id) {
        (Method::GET, id) => {
            let key = session(id.as_deref().unwrap_or(DEFAULT_SESSION))?;
            let state =
                in_time(patience, &store.read, phase.history(&key)).await.map_err(|e| store_failed(metrics, down, StoreStep::Read, &e))?;
            down.json(StatusCode::OK, &Body::of(&key, &state, &query)).await
        }
        // A mistyped `session_id` must not erase everything.
        (Method::DELETE, _) if query.other => return Err(bad("DELETE takes `session_id` and nothing else".into())),
        (Method::DELETE, Some(id)) => {
            in_time(patience, &store.erase, phase.erase_session(&session(id)?, wait))
                .await
                .map_err(|e| store_failed(metrics, down, StoreStep::Erase, &e))?;
            down.no_content(&[]).await
        }
        (Method::DELETE, None) => {
            in_time(patience, &store.erase, phase.erase_user(&user, wait))
                .await
                .map_err(|e| store_failed(metrics, down, StoreStep::Erase, &e))?;
            down.no_content(&[]).await
        }
        _ => {
            let allow = HeaderValue::from_static("GET, DELETE");
            return Err(Reject::new(Code::MethodNotAllowed, "send a GET or a DELETE").with(header::ALLOW, allow));
        }
    };
    Ok(())
}

/// The history, as clients get it.
#[derive(Serialize)]
struct Body<'a> {
    session_id: &'a str,
    seq: u64,
    #[serde(serialize_with = "serialize_turns")]
    turns: &'a [Arc<Turn>],
}

impl<'a> Body<'a> {
    fn of(key: &'a SessionKey, state: &'a SessionState, query: &Query<'_>) -> Self {
        let older = query.before.map_or(state.turns.len(), |before| state.turns.partition_point(|t| t.seq < before));
        let from = query.limit.map_or(0, |limit| older.saturating_sub(limit));
        Self { session_id: key.id(), seq: state.seq, turns: &state.turns[from..older] }
    }
}

async fn in_time<T>(patience: Duration, seconds: &Histogram, step: impl Future<Output = Result<T, TurnError>>) -> Result<T, TurnError> {
    let _timer = seconds.start_timer();
    tokio::time::timeout(patience, step).await.unwrap_or_else(|_| Err(TurnError::Unavailable("no answer in time".into())))
}

fn store_failed(metrics: &Metrics, down: &Downstream, step: StoreStep, error: &TurnError) -> Reject {
    metrics.store_faults.failed(down.ctx.tenant().map_or("-", |t| t.name()), down.ctx.request_id.as_str(), step, error);
    let message = match error {
        TurnError::Corrupt(_) => "the stored conversation is damaged and was left as it is; DELETE /v1/history removes it",
        _ => "the stored conversation cannot be reached now; try again",
    };
    Reject::new(Code::ContextUnavailable, message)
}

fn bad(message: String) -> Reject {
    Reject::new(Code::BadRequest, message)
}

fn parse_query(query: &str) -> Result<Query<'_>, Reject> {
    let mut parsed = Query::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        parsed.other |= name != "session_id";
        match &*name {
            "session_id" => parsed.session_id = Some(value),
            "limit" => {
                let limit = value.parse().ok().filter(|n| (1..=1000).contains(n));
                parsed.limit = Some(limit.ok_or_else(|| bad("`limit` is a number from 1 to 1000".into()))?);
            }
            "before" => {
                parsed.before = Some(value.parse().map_err(|_| bad("`before` is the seq of a turn: a whole number".into()))?);
            }
            _ => {}
        }
    }
    Ok(parsed)
}

fn serialize_turns<S: Serializer>(turns: &[Arc<Turn>], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Row<'a> {
        seq: u64,
        message_id: &'a str,
        q: &'a str,
        a: &'a str,
        /// Milliseconds since the Unix epoch.
        at: u64,
        fallback: bool,
    }
    let mut list = serializer.serialize_seq(Some(turns.len()))?;
    for t in turns {
        let (message_id, q, a) = (t.message_id.expose(), t.q.expose(), t.a.expose());
        list.serialize_element(&Row { seq: t.seq, message_id, q, a, at: t.at.0, fallback: t.fallback })?;
    }
    list.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_strings_are_decoded_and_bad_numbers_refused() {
        let parsed = parse_query("session_id=web%3A%E4%B8%80&limit=5&before=9&other=1").unwrap();
        assert_eq!(parsed, Query { session_id: Some("web:一".into()), limit: Some(5), before: Some(9), other: true });
        for bad in ["limit=0", "limit=1001", "limit=x", "before=-1"] {
            assert_eq!(parse_query(bad).unwrap_err().code, Code::BadRequest, "{bad}");
        }
    }
}
