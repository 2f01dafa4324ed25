//! Where in its interval a rule group is evaluated: just after the scrapes that it reads, where the configuration says
//! which these are.
//!
//! A sample waits for the evaluation that reads it, half an interval on average when both lie anywhere. Where every job
//! that the group's selectors can match has only static targets of one interval, all peers know the phases of their
//! scrapes alike, and the group takes the beginning of the widest gap between them: one target, or a few, are read as soon
//! as they are there, and many are read as they would be from anywhere else. Otherwise the phase is a hash, as a target's.
//! Timestamps lie evenly either way; a change of targets may move them once.

use std::collections::BTreeSet;
use std::sync::Arc;

use promesh_config::prometheus::{Discovery, MeshScope, ScrapeConfig};
use promesh_discovery::TargetGroup;
use promesh_model::Matcher;
use promesh_replication::SourceId;
use promesh_scrape::targets;

/// Jobs with more targets leave no gap worth looking for.
const TARGETS_MAX: usize = 64;
/// What a scrape takes until it can be read: a tenth of its interval, within these.
const SCRAPE_MS: [i64; 2] = [100, 1000];

/// When a job's targets are scraped, as far as the configuration says it.
pub(super) struct Scrapes<'a> {
    job: &'a str,
    /// The identities of its targets, and how often each is scraped.
    targets: Option<Vec<(u128, i64)>>,
}

/// Of all jobs: looked at once for all groups.
pub(super) fn scrapes_of(jobs: &[Arc<ScrapeConfig>]) -> Vec<Scrapes<'_>> {
    jobs.iter().map(|job| Scrapes { job: &job.job_name, targets: static_targets(job) }).collect()
}

/// The phase of a group in ms, if one follows from what it reads.
pub(super) fn after_scrapes(
    group: SourceId,
    interval_ms: i64,
    selectors: &[Vec<Matcher>],
    scrapes: &[Scrapes<'_>],
) -> Option<i64> {
    let reads = |scrapes: &&Scrapes<'_>| {
        selectors.iter().any(|matchers| {
            let mut of_job = matchers.iter().filter(|matcher| matcher.name == "job");
            of_job.all(|matcher| matcher.matches(scrapes.job))
        })
    };
    let (mut phases, mut step) = (BTreeSet::new(), None);
    for scrapes in scrapes.iter().filter(reads) {
        for (source, every) in scrapes.targets.as_ref()? {
            if *step.get_or_insert(*every) != *every || phases.len() >= TARGETS_MAX {
                return None;
            }
            phases.insert((source % *every as u128) as i64);
        }
    }
    let step = step.filter(|step| interval_ms % step == 0)?;
    let at = after_widest_gap_begins(&phases, step)?;
    // A longer interval than the scrapes': any of those it spans.
    let spans = (interval_ms / step) as u128;
    Some(at + step * (group.0 % spans) as i64)
}

/// None unless all targets are written in the configuration and each is scraped by one peer.
fn static_targets(job: &Arc<ScrapeConfig>) -> Option<Vec<(u128, i64)>> {
    if job.mesh_scope == MeshScope::Everywhere {
        return None;
    }
    let mut groups: Vec<TargetGroup> = Vec::new();
    for discovery in &job.discovery.0 {
        let Discovery::Static(written) = discovery else { return None };
        groups.extend(promesh_discovery::written(written));
    }
    if groups.iter().map(|group| group.targets.len()).sum::<usize>() > TARGETS_MAX {
        return None;
    }
    let targets = targets::from_groups(job, &groups, "").targets;
    let of = |target: &promesh_scrape::Target| (target.id.0, promesh_model::time::ms_of(target.interval).max(1));
    Some(targets.iter().map(of).collect())
}

/// Just after the scrape that the widest gap follows, on a circle of `step` ms.
fn after_widest_gap_begins(phases: &BTreeSet<i64>, step: i64) -> Option<i64> {
    let first = *phases.first()?;
    let next = phases.iter().skip(1).copied().chain([first + step]);
    let (gap, begins) =
        phases.iter().zip(next).map(|(at, next)| (next - at, *at)).max_by_key(|(gap, at)| (*gap, -at))?;
    let scrape = (step / 10).clamp(SCRAPE_MS[0], SCRAPE_MS[1]).min(gap / 2);
    Some((begins + scrape) % step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_follows_the_scrape_before_the_widest_gap() {
        let check = |phases: &[i64], step: i64, expected: i64| {
            assert_eq!(after_widest_gap_begins(&phases.iter().copied().collect(), step), Some(expected), "{phases:?}");
        };
        check(&[300], 1000, 400);
        check(&[950], 1000, 50);
        check(&[100, 200, 800], 1000, 300);
        check(&[0, 500], 1000, 100);
        check(&[7000], 15_000, 8000);
        check(&[59_500], 60_000, 500);
        // Where scrapes lie close, halfway to the next.
        check(&(0..50).map(|n| n * 20).collect::<Vec<_>>(), 1000, 10);
        assert_eq!(after_widest_gap_begins(&BTreeSet::new(), 1000), None);
    }
}
