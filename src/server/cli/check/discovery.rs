//! `promesh check service-discovery`: what a job finds, before and after relabelling, with promtool's output.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use promesh_config::prometheus::{self, ScrapeConfig};
use promesh_discovery::{Manager, TargetGroup};
use promesh_model::{Labels, duration, relabel};
use promesh_scrape::targets;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::super::{Done, Failure};
use crate::files::Disk;
use crate::scraping::MachineClock;

/// Found and unchanged for so long: there will hardly be more.
const QUIET: Duration = Duration::from_secs(1);

pub(super) fn command() -> Command {
    Command::new("service-discovery").about("Run the discovery of one job and print what it finds").args([
        Arg::new("timeout").long("timeout").default_value("30s").help("How long to wait at most"),
        Arg::new("config-file").value_name("FILE").required(true).help("Configuration file"),
        Arg::new("job").value_name("JOB").required(true).help("The job"),
    ])
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let text = |name: &str| matches.get_one::<String>(name).expect("required, or with a default");
    let patience = duration::parse(text("timeout")).map_err(|error| Failure::usage(format!("--timeout: {error}")))?;
    let loaded = prometheus::load(Path::new(text("config-file")), &Disk);
    let loaded = loaded.map_err(|errors| Failure::new(errors.to_string()))?;
    let Some(job) = loaded.jobs.iter().find(|job| job.job_name == *text("job")) else {
        let names: String = loaded.jobs.iter().map(|job| format!("\n\t{}", job.job_name)).collect();
        return Err(Failure::new(format!("Job {} not found. Select one of:{names}", text("job"))));
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    let job = Arc::new(job.clone());
    let groups = runtime.block_on(found(&job, patience)).map_err(Failure::new)?;
    runtime.shutdown_background();
    println!("{:#}", report(&job, &groups));
    Ok(())
}

/// What the job's discoveries find until nothing changes any more, or time is over.
async fn found(job: &ScrapeConfig, patience: Duration) -> Result<Vec<Arc<TargetGroup>>, String> {
    // There are no peers here: `peer_sd_configs` finds none.
    let (_peers, peers) = watch::channel(Arc::from(Vec::new()));
    let manager = Manager::new(peers, Arc::new(MachineClock));
    let mut published = manager.subscribe();
    manager.apply([(job.job_name.as_str(), &job.discovery)]).map_err(|error| error.to_string())?;
    let until = Instant::now() + patience;
    loop {
        let groups: Vec<Arc<TargetGroup>> =
            published.borrow_and_update().get(&job.job_name).into_iter().flatten().cloned().collect();
        let quiet = if groups.iter().any(|group| !group.targets.is_empty()) { Instant::now() + QUIET } else { until };
        match timeout_at(quiet.min(until), published.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Ok(groups),
        }
    }
}

fn report(job: &Arc<ScrapeConfig>, groups: &[Arc<TargetGroup>]) -> Value {
    let populated = targets::from_groups(job, groups.iter().map(|group| &**group), "");
    let kept = populated.targets.iter().map(|target| {
        let before = &target.discovered_labels;
        json!({"discoveredLabels": before, "labels": after(job, before)})
    });
    let dropped = populated.dropped.iter().map(|before| json!({"discoveredLabels": before, "labels": {}}));
    let failed = populated
        .failed
        .iter()
        .map(|(before, why)| json!({"discoveredLabels": before, "labels": after(job, before), "error": why}));
    kept.chain(dropped).chain(failed).collect()
}

/// The labels as relabelling leaves them, those for the scrape itself among them.
fn after(job: &ScrapeConfig, before: &Labels) -> Labels {
    let Some(labels) = relabel::apply(&job.relabel_configs, before.to_builder()) else { return Labels::empty() };
    let labels = labels.build().without(|name| name.starts_with("__meta_"));
    let mut labels = labels.to_builder();
    if labels.get("instance").is_none() {
        let address = labels.get("__address__").unwrap_or_default().to_owned();
        labels.set("instance", &address);
    }
    labels.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_finds_is_shown_before_and_after_relabelling() {
        let text = "scrape_configs:\n- job_name: j\n  relabel_configs: [{source_labels: [a], regex: drop, action: drop}, \
                    {target_label: x, replacement: y}]\n  static_configs: [{targets: ['a:1'], labels: {a: keep}}, \
                    {targets: ['b:1'], labels: {a: drop}}]\n";
        let loaded = prometheus::load_text("x.yml", text.as_bytes(), Path::new(""), &Disk).expect("valid");
        let job = Arc::new(loaded.jobs[0].clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let groups = runtime.expect("starts").block_on(found(&job, Duration::from_secs(5))).expect("applies");
        let before = |address: &str, a: &str| {
            let mut labels = json!({"__address__": address, "__metrics_path__": "/metrics", "__scheme__": "http",
                "__scrape_interval__": "1m", "__scrape_timeout__": "10s", "a": a, "job": "j"});
            // Since 3.8.
            for what in
                ["always_scrape_classic_histograms", "convert_classic_histograms_to_nhcb", "scrape_native_histograms"]
            {
                labels[format!("__{what}__")] = "false".into();
            }
            labels
        };
        let mut after = before("a:1", "keep");
        (after["instance"], after["x"]) = ("a:1".into(), "y".into());
        let expected = json!([{"discoveredLabels": before("a:1", "keep"), "labels": after},
            {"discoveredLabels": before("b:1", "drop"), "labels": {}}]);
        assert_eq!(report(&job, &groups), expected);
    }
}
