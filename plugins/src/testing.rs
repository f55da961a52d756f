//! What the plugins' tests share: building a plugin from YAML as the gateway does, and sending it a request.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::request::Parts;
use prometheus::proto::MetricType;
use serde_yaml::Value;

use crate::{
    api::{BuildCtx, Clock, Decision, Meters, Plugin, PluginSpec, Problem, RequestCtx, RequestId, Step, Tenant, TenantBuild},
    redis::{Mode, RedisConfig},
};

/// 2026-01-01, a whole second.
pub(crate) const NOW: crate::api::Timestamp = crate::api::Timestamp(1_767_225_600_000);

pub(crate) fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

/// A tenant: its name, its configuration of the plugin in full, its keys.
pub(crate) fn tenant(name: &str, config: &str, keys: &str) -> TenantBuild {
    TenantBuild { tenant: Tenant::from_config(name).unwrap(), config: yaml(config), keys: yaml(keys) }
}

pub(crate) struct Place<'a> {
    pub(crate) config: &'a str,
    pub(crate) tenants: &'a [TenantBuild],
    pub(crate) clock: &'a Clock,
    pub(crate) previous: Option<Arc<dyn Plugin>>,
}

impl Place<'_> {
    pub(crate) fn try_build(&self, spec: &PluginSpec) -> Result<Arc<dyn Plugin>, Vec<Problem>> {
        self.try_build_with(spec, &Meters::default())
    }

    pub(crate) fn try_build_with(&self, spec: &PluginSpec, meters: &Meters) -> Result<Arc<dyn Plugin>, Vec<Problem>> {
        let config = yaml(self.config);
        let previous = self.previous.clone();
        (spec.build)(&BuildCtx { config: &config, tenants: self.tenants, clock: self.clock, meters, previous })
    }

    pub(crate) fn build(&self, spec: &PluginSpec) -> Arc<dyn Plugin> {
        self.try_build(spec).unwrap_or_else(|problems| panic!("{problems:?}"))
    }
}

pub(crate) fn head(headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::post("/v1/chat");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

pub(crate) fn ctx(peer: &str) -> RequestCtx {
    RequestCtx::new(RequestId::random(), None, "/v1/chat".into(), peer.parse::<IpAddr>().unwrap())
}

/// What a metric stands at, by its name and the values of its labels in the order of their names.
pub(crate) fn metric(meters: &Meters, name: &str, labels: &[&str]) -> Option<f64> {
    let all = meters.gather();
    let family = all.iter().find(|f| f.name() == name)?;
    let one = family.get_metric().iter().find(|m| m.get_label().iter().map(|l| l.value()).eq(labels.iter().copied()))?;
    Some(if family.get_field_type() == MetricType::COUNTER { one.get_counter().get_value() } else { one.get_gauge().get_value() })
}

/// The decision of a plugin that need not wait.
pub(crate) fn ask(plugin: &dyn Plugin, head: &Parts, ctx: &mut RequestCtx) -> Decision {
    match plugin.request(head, ctx) {
        Step::Ready(decision) => decision,
        Step::Pending(_) => panic!("decides at once"),
    }
}

/// The way to a server of this machine.
pub(crate) fn redis_config(port: u16) -> RedisConfig {
    RedisConfig {
        servers: vec![("127.0.0.1".into(), port)],
        mode: Mode::Standalone,
        database: 0,
        login: None,
        tls: None,
        timeout: Duration::from_millis(500),
    }
}
