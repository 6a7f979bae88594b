//! The counters and histograms behind `/metrics`, and its text.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::credential::RegistryHost;

/// What has been counted since the program started.
pub struct Metrics {
    registry: Registry,
    refreshes: Family<RefreshLabels, Counter>,
    fetch_duration: Family<KindLabel, Histogram, fn() -> Histogram>,
    writes: Family<WriteLabels, Counter>,
    overwrites: Family<TargetLabel, Counter>,
    merges: Family<TargetLabel, Counter>,
    in_the_way: Family<ObstacleLabels, Gauge>,
    expiry: Family<HostLabel, Timestamp>,
    next_refresh: Family<HostLabel, Timestamp>,
    skew: Family<HostLabel, Gauge>,
    ready: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("freshcreds");
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program that answers", info);

        let refreshes = Family::default();
        registry.register(
            "refresh",
            "Attempts to fetch a registry's credential, by outcome",
            Family::clone(&refreshes),
        );
        let fetch_duration = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit(
            "fetch_duration",
            "How long an issuer took to answer",
            Unit::Seconds,
            Family::clone(&fetch_duration),
        );
        let writes = Family::default();
        registry.register(
            "write",
            "Replacements of a target's file, by outcome",
            Family::clone(&writes),
        );
        let overwrites = Family::default();
        registry.register(
            "overwritten",
            "How often another program took our entries away, and they were put back",
            Family::clone(&overwrites),
        );
        let merges = Family::default();
        registry.register(
            "conflict",
            "Writes of other programs that came in between one of ours, and were kept",
            Family::clone(&merges),
        );
        let in_the_way = Family::default();
        registry.register(
            "in_the_way",
            "Things that make readers of a target pass by its entries, by kind",
            Family::clone(&in_the_way),
        );
        let expiry = Family::default();
        registry.register_with_unit(
            "credential_expiry_timestamp",
            "When the credential expires that was fetched last",
            Unit::Seconds,
            Family::clone(&expiry),
        );
        let next_refresh = Family::default();
        registry.register_with_unit(
            "next_refresh_timestamp",
            "When the registry's issuer will be asked next",
            Unit::Seconds,
            Family::clone(&next_refresh),
        );
        let skew = Family::default();
        registry.register_with_unit(
            "clock_skew",
            "How far the issuer's clock is ahead of this machine's",
            Unit::Seconds,
            Family::clone(&skew),
        );
        let ready = Gauge::default();
        registry.register("ready", "1 if /readyz answers 200", Gauge::clone(&ready));
        Self {
            registry,
            refreshes,
            fetch_duration,
            writes,
            overwrites,
            merges,
            in_the_way,
            expiry,
            next_refresh,
            skew,
            ready,
        }
    }

    /// Counts an attempt to fetch the credential of `host`.
    pub(crate) fn refreshed(&self, host: &RegistryHost, outcome: &'static str) {
        let labels = RefreshLabels { registry: host.to_string(), outcome };
        self.refreshes.get_or_create(&labels).inc();
    }

    /// Notes how long an issuer took.
    pub(crate) fn fetched(&self, kind: &'static str, took: Duration) {
        self.fetch_duration.get_or_create(&KindLabel { kind }).observe(took.as_secs_f64());
    }

    /// Counts an attempt to replace the file of a target.
    pub(crate) fn wrote(&self, target: &str, outcome: &'static str) {
        let labels = WriteLabels { target: target.to_owned(), outcome };
        self.writes.get_or_create(&labels).inc();
    }

    /// Counts that another program took our entries out of a target.
    pub(crate) fn overwritten(&self, target: &str) {
        self.overwrites.get_or_create(&TargetLabel { target: target.to_owned() }).inc();
    }

    /// Counts writes of others that came in between ours.
    pub(crate) fn merged(&self, target: &str, conflicts: u32) {
        let label = TargetLabel { target: target.to_owned() };
        self.merges.get_or_create(&label).inc_by(conflicts.into());
    }

    /// Sets how many things of each kind are in the way of a target's readers.
    pub(crate) fn set_in_the_way(
        &self,
        target: &str,
        before: impl Iterator<Item = &'static str>,
        now: &[&'static str],
    ) {
        for kind in before.chain(now.iter().copied()) {
            let count = now.iter().filter(|other| **other == kind).count();
            let labels = ObstacleLabels { target: target.to_owned(), kind };
            self.in_the_way.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Sets what the gauges show of `host`.
    pub(crate) fn set_moments(
        &self,
        host: &RegistryHost,
        expiry: Option<SystemTime>,
        next_refresh: Option<SystemTime>,
    ) {
        let label = HostLabel { registry: host.to_string() };
        for (family, time) in [(&self.expiry, expiry), (&self.next_refresh, next_refresh)] {
            if let Some(time) = time {
                let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                family.get_or_create(&label).set(since_epoch.as_secs_f64());
            }
        }
    }

    /// Sets by how many seconds the clock of the issuer of `host` is ahead.
    pub(crate) fn set_skew(&self, host: &RegistryHost, seconds: i64) {
        self.skew.get_or_create(&HostLabel { registry: host.to_string() }).set(seconds);
    }

    /// Sets whether all is ready.
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// Everything, in the text form of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Of the text that [`Metrics`] gives.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Timestamp = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefreshLabels {
    registry: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    target: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabel {
    target: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObstacleLabels {
    target: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostLabel {
    registry: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// From a metadata server on the machine itself to the time limit of a fetch.
const BUCKETS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}
