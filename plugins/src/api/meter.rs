//! Metrics: each family is declared once and lives as long as the gateway, however often the plugins that count with it are made anew.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, core::Collector, proto::MetricFamily};

/// What a family is called and means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Family {
    /// `fengda_…`, with the unit at its end, and then `_total` if it is a counter (<https://prometheus.io/docs/practices/naming/>).
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Names of its labels. Their values come from the configuration or a closed list, never from a client.
    pub labels: &'static [&'static str],
}

/// What kind of numbers a family holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations, counted in buckets.
    Histogram,
}

/// Makes metrics, and knows all that were made. One for each running gateway.
#[derive(Default)]
pub struct Meters {
    registry: Registry,
    made: Mutex<BTreeMap<&'static str, (Family, Made)>>,
}

#[derive(Clone)]
enum Made {
    Counter(IntCounterVec),
    Gauge(IntGaugeVec),
    Histogram(HistogramVec),
}

impl Made {
    fn kind(&self) -> Kind {
        match self {
            Self::Counter(_) => Kind::Counter,
            Self::Gauge(_) => Kind::Gauge,
            Self::Histogram(_) => Kind::Histogram,
        }
    }
}

impl Meters {
    /// The counters of a family.
    ///
    /// # Panics
    /// Another family has this name, or the names are not valid: faults of the code, found by the first test that runs it. The same
    /// goes for the other kinds.
    pub fn counter(&self, family: Family) -> IntCounterVec {
        let make = || IntCounterVec::new(Opts::new(family.name, family.help), family.labels);
        match self.family(family, || self.register(make(), Made::Counter)) {
            Made::Counter(made) => made,
            other => panic!("`{}` is a {:?} already", family.name, other.kind()),
        }
    }

    /// The gauges of a family.
    pub fn gauge(&self, family: Family) -> IntGaugeVec {
        let make = || IntGaugeVec::new(Opts::new(family.name, family.help), family.labels);
        match self.family(family, || self.register(make(), Made::Gauge)) {
            Made::Gauge(made) => made,
            other => panic!("`{}` is a {:?} already", family.name, other.kind()),
        }
    }

    /// The histograms of a family, with these upper bounds.
    pub fn histogram(&self, family: Family, buckets: &[f64]) -> HistogramVec {
        let make = || HistogramVec::new(HistogramOpts::new(family.name, family.help).buckets(buckets.to_vec()), family.labels);
        match self.family(family, || self.register(make(), Made::Histogram)) {
            Made::Histogram(made) => made,
            other => panic!("`{}` is a {:?} already", family.name, other.kind()),
        }
    }

    fn family(&self, family: Family, make: impl FnOnce() -> Made) -> Made {
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, made) = all.entry(family.name).or_insert_with(|| (family, make()));
        assert!(*known == family, "two families are called `{}`", family.name);
        made.clone()
    }

    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>, wrap: impl FnOnce(C) -> Made) -> Made {
        let made = made.expect("names and labels are constants of the code");
        self.registry.register(Box::new(made.clone())).expect("a name is registered once");
        wrap(made)
    }

    /// Every family there is, by name.
    pub fn families(&self) -> Vec<(Family, Kind)> {
        let all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|(family, made)| (*family, made.kind())).collect()
    }

    /// What all metrics stand at.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Family = Family { name: "fengda_seen_total", help: "Seen.", labels: &["tenant"] };

    #[test]
    fn a_family_made_again_goes_on_counting() {
        let meters = Meters::default();
        meters.counter(SEEN).with_label_values(&["acme"]).inc();
        meters.counter(SEEN).with_label_values(&["acme"]).inc();
        assert_eq!(meters.counter(SEEN).with_label_values(&["acme"]).get(), 2);
        assert_eq!(meters.families(), [(SEEN, Kind::Counter)]);
        assert_eq!(meters.gather().len(), 1);
    }

    #[test]
    #[should_panic(expected = "two families")]
    fn a_name_means_one_thing() {
        let meters = Meters::default();
        meters.counter(SEEN);
        meters.counter(Family { labels: &["route"], ..SEEN });
    }

    #[test]
    #[should_panic(expected = "is a Counter already")]
    fn a_family_is_of_one_kind() {
        let meters = Meters::default();
        meters.counter(SEEN);
        meters.gauge(SEEN);
    }
}
