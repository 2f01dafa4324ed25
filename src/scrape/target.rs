//! One thing to scrape.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use promesh_config::prometheus::ScrapeConfig;
use promesh_model::{Labels, ShardId, shard};
use url::Url;
use xxhash_rust::xxh3::Xxh3;

/// Names a target: the same on every peer for the same job, final labels and URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct TargetId(pub u128);

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One thing to scrape, as relabelling left it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name across the mesh.
    pub id: TargetId,
    /// The shard of its final labels: whoever owns that scrapes it.
    pub shard: ShardId,
    /// Its job.
    pub job: Arc<ScrapeConfig>,
    /// Its final labels: those that its series get.
    pub labels: Labels,
    /// Its labels before relabelling, as the API shows them.
    pub discovered_labels: Labels,
    /// Where it is asked.
    pub url: Url,
    /// How often.
    pub interval: Duration,
    /// How long at most.
    pub timeout: Duration,
    /// Whether native histograms are scraped; a label may say otherwise than the job.
    pub native_histograms: bool,
    /// Whether classic histograms are scraped beside native ones.
    pub classic_histograms_too: bool,
    /// Whether classic histograms become native ones with custom buckets.
    pub to_custom_buckets: bool,
    /// Whether this peer scrapes it whoever owns its shard: every peer has such targets of its own.
    pub pinned: bool,
}

impl Target {
    /// The scrape pool: the job's name.
    pub fn pool(&self) -> &str {
        &self.job.job_name
    }

    /// Whether a scrape of the other one would be the same: what discovery said of it may differ.
    pub fn scrapes_alike(&self, other: &Target) -> bool {
        (self.id, self.interval, self.timeout) == (other.id, other.interval, other.timeout)
            && (self.native_histograms, self.classic_histograms_too, self.to_custom_buckets, self.pinned)
                == (other.native_histograms, other.classic_histograms_too, other.to_custom_buckets, other.pinned)
            && (Arc::ptr_eq(&self.job, &other.job) || self.job == other.job)
    }

    pub(crate) fn identify(job: &str, labels: &Labels, url: &Url) -> (TargetId, ShardId) {
        let mut hasher = Xxh3::new();
        for part in [job.as_bytes(), labels.as_packed(), url.as_str().as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        (TargetId(hasher.digest128()), shard::shard_of(labels))
    }
}
