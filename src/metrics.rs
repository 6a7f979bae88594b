//! The counters and histograms behind `/metrics`, and its text.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
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
    hooks: Family<HookLabels, Counter>,
    #[cfg_attr(not(feature = "kubernetes"), expect(dead_code, reason = "nobody calls a cluster"))]
    cluster: Family<CallLabels, Counter>,
    gauges: Gauges,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// With nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
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
        let hooks = Family::default();
        registry.register("hook", "Runs of a hook, by outcome", Family::clone(&hooks));
        let cluster = Family::default();
        registry.register(
            "kubernetes_request",
            "Calls of the cluster's API server, by method and by what came of them",
            Family::clone(&cluster),
        );
        let gauges = Gauges::new(&mut registry);
        Self {
            registry,
            refreshes,
            fetch_duration,
            writes,
            overwrites,
            merges,
            hooks,
            cluster,
            gauges,
        }
    }

    /// Tells besides how many lines of the log had to be dropped, which `count` says.
    #[must_use]
    pub fn with_dropped_lines(count: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let mut metrics = Self::new();
        metrics.registry.register_collector(Box::new(DroppedLines(Box::new(count))));
        metrics
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

    /// Counts a run of a hook.
    pub(crate) fn hook_ran(&self, hook: &str, outcome: &'static str) {
        self.hooks.get_or_create(&HookLabels { hook: hook.to_owned(), outcome }).inc();
    }

    /// Counts a call of a cluster's API server: its status, or why there was none.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn called(&self, method: &str, outcome: &str) {
        let labels = CallLabels { method: method.to_owned(), outcome: outcome.to_owned() };
        self.cluster.get_or_create(&labels).inc();
    }

    /// What is to be set when somebody asks. What is no longer kept is gone from it.
    pub(crate) fn gauges(&self) -> &Gauges {
        self.gauges.clear();
        &self.gauges
    }

    /// Everything, in the text form of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// What is set at each answer, rather than counted.
pub(crate) struct Gauges {
    ready: Gauge,
    started: Timestamp,
    registry_ready: Family<HostLabel, Gauge>,
    lifetime: Family<HostLabel, Seconds>,
    expiry: Family<HostLabel, Timestamp>,
    next_refresh: Family<HostLabel, Timestamp>,
    last_success: Family<HostLabel, Timestamp>,
    failures: Family<HostLabel, Gauge>,
    skew: Family<HostLabel, Gauge>,
    target_ready: Family<TargetLabel, Gauge>,
    in_the_way: Family<ObstacleLabels, Gauge>,
    hook_failing: Family<HookLabel, Gauge>,
    namespaces: Family<NamespacesLabels, Gauge>,
    leading: Family<LeaseLabel, Gauge>,
    settings_rejected: Gauge,
}

/// What the gauges show of a registry.
pub(crate) struct RegistryGauges {
    pub(crate) is_ready: bool,
    pub(crate) lifetime: Option<Duration>,
    pub(crate) expiry: Option<SystemTime>,
    pub(crate) next_refresh: Option<SystemTime>,
    pub(crate) last_success: Option<SystemTime>,
    pub(crate) failures: u32,
    pub(crate) skew: i64,
}

impl Gauges {
    fn new(registry: &mut Registry) -> Self {
        let gauges = Self {
            ready: Gauge::default(),
            started: Timestamp::default(),
            registry_ready: Family::default(),
            lifetime: Family::default(),
            expiry: Family::default(),
            next_refresh: Family::default(),
            last_success: Family::default(),
            failures: Family::default(),
            skew: Family::default(),
            target_ready: Family::default(),
            in_the_way: Family::default(),
            hook_failing: Family::default(),
            namespaces: Family::default(),
            leading: Family::default(),
            settings_rejected: Gauge::default(),
        };
        registry.register("ready", "1 if /readyz answers 200", Gauge::clone(&gauges.ready));
        registry.register_with_unit(
            "start_timestamp",
            "When the program started",
            Unit::Seconds,
            gauges.started.clone(),
        );
        registry.register(
            "registry_ready",
            "1 if each target has a good credential of the registry where its reader finds it",
            Family::clone(&gauges.registry_ready),
        );
        registry.register_with_unit(
            "credential_lifetime",
            "How long the credential that was fetched last lives in all",
            Unit::Seconds,
            Family::clone(&gauges.lifetime),
        );
        registry.register_with_unit(
            "credential_expiry_timestamp",
            "When the credential expires that clients find, the oldest one of all targets; \
             absent while a target has none",
            Unit::Seconds,
            Family::clone(&gauges.expiry),
        );
        registry.register_with_unit(
            "next_refresh_timestamp",
            "When the registry's issuer will be asked next",
            Unit::Seconds,
            Family::clone(&gauges.next_refresh),
        );
        registry.register_with_unit(
            "last_success_timestamp",
            "When the registry's issuer last gave a credential; absent if it never did",
            Unit::Seconds,
            Family::clone(&gauges.last_success),
        );
        registry.register(
            "consecutive_failures",
            "How many fetches have failed since the last success",
            Family::clone(&gauges.failures),
        );
        registry.register_with_unit(
            "clock_skew",
            "How far the issuer's clock is ahead of this machine's",
            Unit::Seconds,
            Family::clone(&gauges.skew),
        );
        registry.register(
            "target_ready",
            "1 if the target has each credential where its reader finds it",
            Family::clone(&gauges.target_ready),
        );
        registry.register(
            "in_the_way",
            "Things that make readers of a target pass by its entries, by kind",
            Family::clone(&gauges.in_the_way),
        );
        registry.register(
            "hook_failing",
            "1 if the last run of the hook failed",
            Family::clone(&gauges.hook_failing),
        );
        registry.register(
            "namespaces",
            "In how many namespaces an image pull secret is fresh, older, missing or foreign, and in \
             how many of them it failed when it was tried last",
            Family::clone(&gauges.namespaces),
        );
        registry.register(
            "leading",
            "1 if it is this one of several replicas that fetches and writes",
            Family::clone(&gauges.leading),
        );
        registry.register(
            "settings_rejected",
            "1 if the newest settings mean nothing, so that those before are gone by",
            Gauge::clone(&gauges.settings_rejected),
        );
        gauges
    }

    fn clear(&self) {
        for family in [&self.registry_ready, &self.failures, &self.skew] {
            family.clear();
        }
        for family in [&self.expiry, &self.next_refresh, &self.last_success] {
            family.clear();
        }
        self.lifetime.clear();
        self.target_ready.clear();
        self.in_the_way.clear();
        self.hook_failing.clear();
        self.namespaces.clear();
        self.leading.clear();
    }

    pub(crate) fn set_process(&self, is_ready: bool, is_rejected: bool, started: SystemTime) {
        self.ready.set(is_ready.into());
        self.settings_rejected.set(is_rejected.into());
        self.started.set(since_epoch(started));
    }

    pub(crate) fn set_registry(&self, host: &RegistryHost, values: &RegistryGauges) {
        let label = HostLabel { registry: host.to_string() };
        self.registry_ready.get_or_create(&label).set(values.is_ready.into());
        self.failures.get_or_create(&label).set(values.failures.into());
        self.skew.get_or_create(&label).set(values.skew);
        if let Some(lifetime) = values.lifetime {
            self.lifetime.get_or_create(&label).set(lifetime.as_secs_f64());
        }
        for (family, time) in [
            (&self.expiry, values.expiry),
            (&self.next_refresh, values.next_refresh),
            (&self.last_success, values.last_success),
        ] {
            if let Some(time) = time {
                family.get_or_create(&label).set(since_epoch(time));
            }
        }
    }

    pub(crate) fn set_target(
        &self,
        target: &str,
        is_ready: bool,
        in_the_way: impl Iterator<Item = &'static str>,
    ) {
        let label = TargetLabel { target: target.to_owned() };
        self.target_ready.get_or_create(&label).set(is_ready.into());
        for kind in in_the_way {
            let labels = ObstacleLabels { target: target.to_owned(), kind };
            self.in_the_way.get_or_create(&labels).inc();
        }
    }

    pub(crate) fn set_namespaces(&self, target: &str, states: [(&'static str, usize); 5]) {
        for (state, count) in states {
            let labels = NamespacesLabels { target: target.to_owned(), state };
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.namespaces.get_or_create(&labels).set(count);
        }
    }

    pub(crate) fn set_leading(&self, lease: &str, is_leading: bool) {
        let label = LeaseLabel { lease: lease.to_owned() };
        self.leading.get_or_create(&label).set(is_leading.into());
    }

    pub(crate) fn set_hook(&self, hook: &str, is_failing: bool) {
        let label = HookLabel { hook: hook.to_owned() };
        self.hook_failing.get_or_create(&label).set(is_failing.into());
    }
}

fn since_epoch(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Counted by whoever drops them.
struct DroppedLines(Box<dyn Fn() -> u64 + Send + Sync>);

impl std::fmt::Debug for DroppedLines {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("DroppedLines")
    }
}

impl Collector for DroppedLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counter = ConstCounter::new((self.0)());
        let metric = encoder.encode_descriptor(
            "log_dropped_lines",
            "Lines of the log that nobody took, so that they were dropped",
            None,
            counter.metric_type(),
        )?;
        counter.encode(metric)
    }
}

/// The same as Prometheus's older text form, which knows neither units nor an end, and names
/// counters with their suffix
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub(crate) fn classic(open: &str) -> String {
    let mut help = None;
    let mut text = String::with_capacity(open.len());
    for line in open.lines() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "EOF"] | ["#", "UNIT", ..] => {}
            // Help comes before the type, and both are to have the name of the samples.
            ["#", "HELP", name, words_of_help] => help = Some((*name, *words_of_help)),
            ["#", "TYPE", name, kind] => {
                let suffix = match *kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                let kind = if *kind == "info" { "gauge" } else { kind };
                if let Some((_, words)) = help.take().filter(|(of, _)| of == name) {
                    let _ = writeln!(text, "# HELP {name}{suffix} {words}");
                }
                let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// Of the text that [`Metrics::text`] gives.
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Of the text that [`classic`] gives.
pub(crate) const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

type Timestamp = Seconds;
type Seconds = Gauge<f64, AtomicU64>;

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
struct HookLabel {
    hook: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabels {
    hook: String,
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
struct NamespacesLabels {
    target: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeaseLabel {
    lease: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: String,
    outcome: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_form_says_the_same() {
        let metrics = Metrics::with_dropped_lines(|| 7);
        let host = "gcr.io".parse().unwrap();
        metrics.refreshed(&host, "success");
        metrics.fetched("google", Duration::from_millis(20));
        metrics.gauges().set_process(true, false, SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        let open = metrics.text();
        let samples = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
        };
        let classic = classic(&open);
        assert_eq!(samples(&open), samples(&classic));
        for line in [
            "# HELP freshcreds_refresh_total Attempts to fetch a registry's credential, by outcome.",
            "# TYPE freshcreds_refresh_total counter",
            "# TYPE freshcreds_build_info gauge",
            "# TYPE freshcreds_log_dropped_lines_total counter",
            "freshcreds_log_dropped_lines_total 7",
            "# TYPE freshcreds_fetch_duration_seconds histogram",
        ] {
            assert!(classic.lines().any(|other| other == line), "{line}\n{classic}");
        }
        assert!(!classic.contains("# UNIT") && !classic.contains("# EOF"), "{classic}");
        // Every type is told of a name that samples have.
        for line in classic.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap();
            assert!(classic.lines().any(|sample| sample.starts_with(name)), "{name}");
        }
    }

    #[test]
    fn what_is_no_longer_kept_is_gone_from_the_gauges() {
        let metrics = Metrics::new();
        metrics.gauges().set_target("/config.json", true, ["twin"].into_iter());
        assert!(metrics.text().contains("/config.json"));
        metrics.gauges();
        assert!(!metrics.text().contains("/config.json"));
    }
}
