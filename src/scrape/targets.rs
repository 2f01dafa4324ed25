//! Groups → targets: defaults, relabelling, checks.
//!
//! Source: prometheus `scrape/target.go`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use promesh_config::prometheus::{MeshScope, ScrapeConfig};
use promesh_discovery::{ADDRESS, MESH_SCOPE, TargetGroup};
use promesh_model::labels::Iter;
use promesh_model::{Labels, LabelsBuilder, duration, relabel};
use url::Url;

use crate::target::Target;

const INTERVAL: &str = "__scrape_interval__";
const TIMEOUT: &str = "__scrape_timeout__";
const METRICS_PATH: &str = "__metrics_path__";
const SCHEME: &str = "__scheme__";
const PARAM_PREFIX: &str = "__param_";
const META_PREFIX: &str = "__meta_";
const TO_CUSTOM_BUCKETS: &str = "__convert_classic_histograms_to_nhcb__";
const CLASSIC_TOO: &str = "__always_scrape_classic_histograms__";
const NATIVE: &str = "__scrape_native_histograms__";

/// With the peer as `instance` only other labels tell a job's targets apart.
const ALIKE: &str = "another target of this job has the same labels: with mesh_scope everywhere the instance is the \
                     peer, so tell targets apart by another label";

/// What became of a job's groups.
#[derive(Clone, Debug, Default)]
pub struct Populated {
    /// To be scraped, each once, in order.
    pub targets: Vec<Target>,
    /// Labels, before relabelling, of targets that a rule dropped; at most `keep_dropped_targets` of them.
    pub dropped: Vec<Labels>,
    /// How many a rule dropped.
    pub dropped_count: usize,
    /// What is wrong with others: their labels before relabelling, and why.
    pub failed: Vec<(Labels, String)>,
    /// Set when there are more targets than `target_limit`: none of them may be scraped then.
    pub limit_exceeded: Option<String>,
}

/// The targets of a job's groups. `peer` is what this peer is called: with `mesh_scope: everywhere` each peer has targets
/// of its own, and that is their `instance`.
pub fn from_groups<'a>(
    job: &Arc<ScrapeConfig>,
    groups: impl IntoIterator<Item = &'a TargetGroup>,
    peer: &str,
) -> Populated {
    let mut populated = Populated::default();
    let mut seen = BTreeSet::new();
    let mut own_labels = BTreeSet::new();
    for group in groups {
        for target in &group.targets {
            let builder = discovered(job, target, &group.labels);
            let before = builder.build();
            match populate(job, builder, &before, peer) {
                Ok(Some(target)) if seen.insert(target.id) => {
                    if job.mesh_scope == MeshScope::Everywhere && !own_labels.insert(target.labels.clone()) {
                        populated.failed.push((before, ALIKE.to_owned()));
                    } else {
                        populated.targets.push(target);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    populated.dropped_count += 1;
                    if job.keep_dropped_targets == 0 || populated.dropped.len() < job.keep_dropped_targets {
                        populated.dropped.push(before);
                    }
                }
                Err(why) => populated.failed.push((before, why)),
            }
        }
    }
    if job.target_limit > 0 && populated.targets.len() > job.target_limit {
        populated.limit_exceeded = Some(format!(
            "target_limit exceeded (number of targets: {}, limit: {})",
            populated.targets.len(),
            job.target_limit
        ));
    }
    populated
}

/// The labels that rules of a job meet, of a target with these labels of its own.
pub fn discovered_labels(job: &ScrapeConfig, own: &Labels) -> Labels {
    discovered(job, own, &Labels::empty()).build()
}

/// Labels of a target before relabelling.
fn discovered(job: &ScrapeConfig, own: &Labels, shared: &Labels) -> LabelsBuilder {
    let mut builder = own.to_builder();
    let fill = |builder: &mut LabelsBuilder, name: &str, value: &str| {
        if builder.get(name).is_none() {
            builder.set(name, value);
        }
    };
    for (name, value) in shared {
        fill(&mut builder, name, value);
    }
    fill(&mut builder, "job", &job.job_name);
    fill(&mut builder, INTERVAL, &duration::format(job.scrape_interval));
    fill(&mut builder, TIMEOUT, &duration::format(job.scrape_timeout));
    fill(&mut builder, METRICS_PATH, &job.metrics_path);
    fill(&mut builder, SCHEME, &job.scheme);
    fill(&mut builder, TO_CUSTOM_BUCKETS, if job.to_custom_buckets() { "true" } else { "false" });
    fill(&mut builder, CLASSIC_TOO, if job.classic_histograms_too() { "true" } else { "false" });
    fill(&mut builder, NATIVE, if job.native_histograms() { "true" } else { "false" });
    for (name, values) in &job.params {
        if let Some(first) = values.first() {
            fill(&mut builder, &format!("{PARAM_PREFIX}{name}"), first);
        }
    }
    builder
}

/// The target of labels; `None` when a rule dropped it.
fn populate(
    job: &Arc<ScrapeConfig>,
    labels: LabelsBuilder,
    before: &Labels,
    peer: &str,
) -> Result<Option<Target>, String> {
    let Some(mut labels) = relabel::apply(&job.relabel_configs, labels) else { return Ok(None) };
    let address = labels.get(ADDRESS).ok_or("no address")?.to_owned();
    if address.contains('/') {
        return Err(format!("{address:?} is not a valid hostname"));
    }
    let (interval, timeout) = timing(&labels)?;
    let flag = |name: &str, what: &str| match labels.get(name) {
        None => Ok(false),
        Some(text) => parse_bool(text).ok_or_else(|| format!("error parsing {what}: invalid syntax {text:?}")),
    };
    let to_custom_buckets = flag(TO_CUSTOM_BUCKETS, "convert classic histograms to nhcb")?;
    let classic_histograms_too = flag(CLASSIC_TOO, "always scrape classic histograms")?;
    let native_histograms = flag(NATIVE, "scrape native histograms")?;
    let everywhere = job.mesh_scope == MeshScope::Everywhere;
    if everywhere {
        labels.set("instance", peer);
    } else if labels.get("instance").is_none() {
        labels.set("instance", &address);
    }
    let pinned = everywhere || labels.get(MESH_SCOPE) == Some("everywhere");
    let all = labels.build();
    let url = url_of(job, &all, &address)?;
    let labels = all.without(|name| name.starts_with("__"));
    let (id, shard) = Target::identify(&job.job_name, &labels, &url);
    Ok(Some(Target {
        id,
        shard,
        job: Arc::clone(job),
        labels,
        discovered_labels: before.clone(),
        url,
        interval,
        timeout,
        native_histograms,
        classic_histograms_too,
        to_custom_buckets,
        pinned,
    }))
}

fn timing(labels: &LabelsBuilder) -> Result<(Duration, Duration), String> {
    let parse = |name: &str, what: &str| {
        let text = labels.get(name).unwrap_or("");
        let span = duration::parse(text).map_err(|error| format!("error parsing scrape {what}: {error}"))?;
        if span.is_zero() { Err(format!("scrape {what} cannot be 0")) } else { Ok(span) }
    };
    let interval = parse(INTERVAL, "interval")?;
    let timeout = parse(TIMEOUT, "timeout")?;
    if timeout > interval {
        return Err(format!(
            "scrape timeout cannot be greater than scrape interval ({:?} > {:?})",
            labels.get(TIMEOUT).unwrap_or(""),
            labels.get(INTERVAL).unwrap_or("")
        ));
    }
    Ok((interval, timeout))
}

fn url_of(job: &ScrapeConfig, labels: &Labels, address: &str) -> Result<Url, String> {
    let bad = |error: &dyn std::fmt::Display| format!("cannot make a URL of the target's labels: {error}");
    let scheme = labels.value(SCHEME);
    if !matches!(scheme, "http" | "https") {
        return Err(bad(&format!("unsupported scheme {scheme:?}")));
    }
    let mut url = Url::parse(&format!("{scheme}://{address}/")).map_err(|error| bad(&error))?;
    // A path may bring a query of its own; upstream escapes its question mark, and so does this.
    url.set_path(labels.value(METRICS_PATH));
    let mut params = job.params.clone();
    for (name, value) in prefixed(labels.iter(), PARAM_PREFIX) {
        let values = params.entry(name.to_owned()).or_default();
        match values.first_mut() {
            Some(first) => *first = value.to_owned(),
            None => values.push(value.to_owned()),
        }
    }
    if params.values().any(|values| !values.is_empty()) {
        let pairs = params.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
        url.query_pairs_mut().extend_pairs(pairs);
    }
    Ok(url)
}

fn prefixed<'a>(labels: Iter<'a>, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    labels.filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
}

/// As Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Labels of discovery go when relabelling is done; this says which they are, for those who print discovered labels.
pub fn is_meta(name: &str) -> bool {
    name.starts_with(META_PREFIX)
}
