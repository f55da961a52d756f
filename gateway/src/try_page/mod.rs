//! A page to chat in, for trying the gateway out: at `/`, with what it asks for below `/try/`.
//!
//! The page is a client like any other. Only its token is special: nobody has to prove who they are to get one, so it is made for
//! demo tenants alone, whose keys everybody knows, and only for somebody who sits at this machine.

mod local;

use std::{sync::Arc, time::Duration};

use fengda_plugins::{
    api::{Code, Reject, Text},
    auth::SignError,
};
use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::{
    chat,
    downstream::Downstream,
    gateway::Gateway,
    respond::Unwritable,
    snapshot::Snapshot,
    tokens::{self, TokenError},
};

const PAGE: &str = include_str!("page.html");
/// What the page may do: run its own script and style, known by their hashes, and talk to the gateway it came from.
const POLICY: &str = "default-src 'none'; script-src 'sha256-LX3AklxhzAJZHLnuEOubdEWsLNGtmPddxqXO24jBYCA='; \
    style-src 'sha256-CibAUhpNCMOqvSOYKrcmUmzrWD1Kh9l7Qg+SzfjR2Mg='; img-src data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// How long a token is good for; the page asks for another one when it is over.
const TTL: Duration = Duration::from_hours(1);

/// The tenants that can be tried.
#[derive(Serialize)]
struct Tenants<'a> {
    tenants: Vec<&'a str>,
}

/// Who wants to try.
#[derive(Deserialize)]
struct Wish {
    tenant: Text,
    user: Text,
}

/// A token, as the page gets it.
#[derive(Serialize)]
struct Granted {
    token: String,
    /// In seconds.
    expires_in: u64,
}

/// Serves one request.
///
/// # Errors
/// A rejection that is still to be written.
pub(crate) async fn serve(gateway: &Gateway, snapshot: &Arc<Snapshot>, down: &mut Downstream) -> Result<(), Reject> {
    // A client that is gone cannot be told.
    let _ = match down.head().uri.path() {
        "/" => page(down).await?,
        "/try/tenants" => tenants(snapshot, down).await?,
        "/try/token" => token(gateway, snapshot, down).await?,
        _ => return Err(Reject::new(Code::NotFound, "there are `/`, `/try/tenants` and `/try/token`")),
    };
    Ok(())
}

async fn page(down: &mut Downstream) -> Result<Result<(), Unwritable>, Reject> {
    allow(down, &[Method::GET, Method::HEAD], "GET, HEAD")?;
    Ok(down.page(PAGE, POLICY).await)
}

async fn tenants(snapshot: &Snapshot, down: &mut Downstream) -> Result<Result<(), Unwritable>, Reject> {
    allow(down, &[Method::GET, Method::HEAD], "GET, HEAD")?;
    local::check(snapshot.config.listen, down.ctx.peer, down.head())?;
    let tenants = snapshot.config.tenants.iter().filter(|t| t.demo).map(|t| t.tenant.name()).collect();
    Ok(down.json(StatusCode::OK, &Tenants { tenants }).await)
}

async fn token(gateway: &Gateway, snapshot: &Snapshot, down: &mut Downstream) -> Result<Result<(), Unwritable>, Reject> {
    allow(down, &[Method::POST], "POST")?;
    local::check(snapshot.config.listen, down.ctx.peer, down.head())?;
    chat::check_content_type(&down.head().headers)?;
    let body = down.read_body(&snapshot.config.limits).await?;
    let bad = |message: String| Reject::new(Code::BadRequest, message);
    let Wish { tenant, user } = serde_json::from_slice(&body).map_err(|e| bad(format!("the body is not {{\"tenant\",\"user\"}}: {e}")))?;
    if !snapshot.config.tenants.iter().any(|t| t.demo && t.tenant.name() == tenant.expose()) {
        return Err(Reject::new(Code::NotFound, "no tenant of this name has only demo keys; `GET /try/tenants` lists those that have"));
    }
    let token = tokens::issue(&snapshot.config, tenant.expose(), user.expose(), TTL, &gateway.clock).map_err(|e| match e {
        TokenError::Sign(SignError::User(e)) => bad(format!("`user` {e}")),
        e => Reject::new(Code::NotFound, format!("there is no token to be had: {e}")),
    })?;
    Ok(down.json(StatusCode::OK, &Granted { token, expires_in: TTL.as_secs() }).await)
}

fn allow(down: &Downstream, methods: &[Method], named: &'static str) -> Result<(), Reject> {
    if methods.contains(&down.head().method) {
        return Ok(());
    }
    Err(Reject::new(Code::MethodNotAllowed, format!("send {named}")).with(header::ALLOW, HeaderValue::from_static(named)))
}
