//! `POST /circuits?tenant=…&upstream=…&state=open|closed|auto` of the admin listener: an operator overrules a circuit breaker.

use fengda_plugins::api::{Switch, Tenant};
use http::StatusCode;
use serde::Serialize;

use crate::{
    snapshot::Snapshot,
    telemetry::{Event, logger},
};

/// How the tenant of calls on public routes is called, here as in metrics.
const NOBODY: &str = "-";

/// What was done, as the answer says it.
#[derive(Debug, Serialize)]
pub struct Switched {
    tenant: String,
    upstream: String,
    state: &'static str,
}

/// Why nothing was done; `Display` is the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The query is not what is needed.
    #[error(
        "send `?tenant=…&upstream=…&state=…`, each once, with a state of `open`, `closed` or `auto`; the tenant `{NOBODY}` is that of public routes"
    )]
    Query,
    /// There is no such tenant or upstream.
    #[error("there is no {what} of this name; there are: {}", known.join(", "))]
    Unknown {
        /// Of what kind.
        what: &'static str,
        /// The names there are.
        known: Vec<String>,
    },
    /// There is nothing to switch.
    #[error("no chain has a `circuit_breaker`")]
    NoBreaker,
}

impl Refused {
    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Query => StatusCode::BAD_REQUEST,
            Self::Unknown { .. } | Self::NoBreaker => StatusCode::NOT_FOUND,
        }
    }
}

/// Switches a circuit as the query says, in the configuration in force and those that follow.
///
/// # Errors
/// See [`Refused`].
pub fn switch(snapshot: &Snapshot, query: &str) -> Result<Switched, Refused> {
    let [tenant, upstream, state] = parameters(query).ok_or(Refused::Query)?;
    let (state, to) = match &*state {
        "open" => ("open", Switch::Open),
        "closed" => ("closed", Switch::Closed),
        "auto" => ("auto", Switch::Auto),
        _ => return Err(Refused::Query),
    };
    let tenants = || snapshot.config.tenants.iter().map(|t| &t.tenant);
    let whose = tenants().find(|t| t.name() == tenant);
    if whose.is_none() && tenant != NOBODY {
        return Err(Refused::Unknown { what: "tenant", known: tenants().map(Tenant::name).chain([NOBODY]).map(str::to_owned).collect() });
    }
    let upstreams = &snapshot.config.upstreams;
    if !upstreams.contains_key(&*upstream) {
        return Err(Refused::Unknown { what: "upstream", known: upstreams.keys().map(ToString::to_string).collect() });
    }
    if !snapshot.switch(whose, &upstream, to) {
        return Err(Refused::NoBreaker);
    }
    logger::emit(&Event::CircuitSwitched { tenant: &tenant, upstream: &upstream, to: state });
    Ok(Switched { tenant, upstream, state })
}

/// The three parameters, each once and no other.
fn parameters(query: &str) -> Option<[String; 3]> {
    let mut found = [const { None }; 3];
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let at = ["tenant", "upstream", "state"].iter().position(|known| *known == name)?;
        if found[at].replace(value.into_owned()).is_some() {
            return None;
        }
    }
    let [tenant, upstream, state] = found;
    Some([tenant?, upstream?, state?])
}
