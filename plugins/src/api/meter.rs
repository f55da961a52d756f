//! Metrics: each family is declared once and lives as long as the gateway, however often the plugins that count with it are made anew.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::{
    CounterVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::{Collector, MetricVec},
    proto::MetricFamily,
};

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
    readings: Mutex<Vec<Reading>>,
    /// The gauges that [`Readings`] set.
    read: Mutex<BTreeMap<&'static str, IntGaugeVec>>,
}

type Reading = Box<dyn Fn(&Readings<'_>) + Send + Sync>;

/// One look at what is not kept up to date: see [`Meters::before_gather`].
pub struct Readings<'a>(&'a Meters);

impl Readings<'_> {
    /// Sets a gauge to what it stands at, from 0. Of several values for the same labels the highest counts.
    pub fn set(&self, family: Family, labels: &[&str], value: i64) {
        let made = self.0.gauge(family);
        let gauge = made.with_label_values(labels);
        gauge.set(gauge.get().max(value));
        self.0.read().entry(family.name).or_insert(made);
    }
}

#[derive(Clone)]
enum Made {
    Counter(IntCounterVec),
    /// Counts fractions, too: seconds.
    Sum(CounterVec),
    Gauge(IntGaugeVec),
    Histogram(HistogramVec),
}

impl Made {
    fn kind(&self) -> Kind {
        match self {
            Self::Counter(_) | Self::Sum(_) => Kind::Counter,
            Self::Gauge(_) => Kind::Gauge,
            Self::Histogram(_) => Kind::Histogram,
        }
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match self {
            Self::Counter(made) => made.collect(),
            Self::Sum(made) => made.collect(),
            Self::Gauge(made) => made.collect(),
            Self::Histogram(made) => made.collect(),
        }
    }

    /// Drops the series with these labels; one that is gone meanwhile is no fault.
    fn remove(&self, labels: &HashMap<&str, &str>) {
        let _ = match self {
            Self::Counter(made) => made.remove(labels),
            Self::Sum(made) => made.remove(labels),
            Self::Gauge(made) => made.remove(labels),
            Self::Histogram(made) => made.remove(labels),
        };
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

    /// The counters of a family that sums up fractions, such as seconds.
    pub fn sum(&self, family: Family) -> CounterVec {
        let make = || CounterVec::new(Opts::new(family.name, family.help), family.labels);
        match self.family(family, || self.register(make(), Made::Sum)) {
            Made::Sum(made) => made,
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
        let mut all = self.made();
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
        self.made().values().map(|(family, made)| (*family, made.kind())).collect()
    }

    /// Has `read` run before each [`gather`](Self::gather): for what is cheaper to look up than to keep up to date. What it has set before
    /// and does not set again is gone.
    pub fn before_gather(&self, read: impl Fn(&Readings<'_>) + Send + Sync + 'static) {
        self.readings().push(Box::new(read));
    }

    /// What all metrics stand at.
    pub fn gather(&self) -> Vec<MetricFamily> {
        // Held to the end: what others look up meanwhile waits.
        let all = self.readings();
        self.read().values().for_each(MetricVec::reset);
        all.iter().for_each(|read| read(&Readings(self)));
        self.registry.gather()
    }

    /// Drops every series in which `label` has a value that `keep` does not want: those of what is no longer configured. A handle of
    /// such a series that somebody still holds counts on, unseen.
    pub fn retain(&self, label: &str, keep: impl Fn(&str) -> bool) {
        for (family, made) in self.made().values().filter(|(family, _)| family.labels.contains(&label)) {
            for metric in made.collect().iter().flat_map(MetricFamily::get_metric) {
                let labels: HashMap<_, _> = metric.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
                debug_assert_eq!(labels.len(), family.labels.len());
                if !labels.get(label).is_some_and(|value| keep(value)) {
                    made.remove(&labels);
                }
            }
        }
    }

    fn readings(&self) -> MutexGuard<'_, Vec<Reading>> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> MutexGuard<'_, BTreeMap<&'static str, IntGaugeVec>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> MutexGuard<'_, BTreeMap<&'static str, (Family, Made)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn series_of_what_is_gone_are_dropped_and_the_others_go_on() {
        let meters = Meters::default();
        let (seen, waited) = (meters.counter(SEEN), Family { name: "fengda_waited_seconds", labels: &["route", "tenant"], ..SEEN });
        let waited = meters.histogram(waited, &[1.0]);
        for tenant in ["acme", "gone"] {
            seen.with_label_values(&[tenant]).inc();
            waited.with_label_values(&["/", tenant]).observe(0.5);
        }
        meters.retain("tenant", |tenant| tenant == "acme");
        let tenants =
            |family: &MetricFamily| family.get_metric().iter().map(|m| m.get_label().last().unwrap().value().to_owned()).collect();
        let left: Vec<Vec<String>> = meters.gather().iter().map(tenants).collect();
        assert_eq!(left, [["acme"], ["acme"]]);
        assert_eq!(seen.with_label_values(&["acme"]).get(), 1);
    }

    #[test]
    fn readings_are_taken_before_each_gathering() {
        let meters = Meters::default();
        let asked = meters.sum(Family { name: "fengda_asked_seconds_total", labels: &[], ..SEEN }).with_label_values::<&str>(&[]);
        meters.before_gather(move |_| asked.inc_by(0.5));
        meters.gather();
        assert_eq!(meters.gather()[0].get_metric()[0].get_counter().get_value(), 1.0);
    }

    #[test]
    fn a_reading_forgets_what_is_not_set_again() {
        const KEPT: Family = Family { name: "fengda_kept", help: "Kept.", labels: &["tenant"] };
        let meters = Meters::default();
        let rounds = Mutex::new(vec![vec![], vec![("bank", 1)], vec![("acme", 3), ("acme", 2), ("bank", 0)]]);
        meters.before_gather(move |readings| {
            let now = rounds.lock().unwrap().pop().unwrap();
            now.into_iter().for_each(|(tenant, value)| readings.set(KEPT, &[tenant], value));
        });
        let stand = || meters.gather().first().map(|f| f.get_metric().iter().map(|m| m.get_gauge().get_value()).collect::<Vec<_>>());
        assert_eq!([stand(), stand(), stand()], [Some(vec![3.0, 0.0]), Some(vec![1.0]), None]);
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
