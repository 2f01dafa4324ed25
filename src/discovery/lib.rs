//! Where targets come from: each kind of discovery becomes groups of targets, and changes of them.
//!
//! A provider is one configured discovery; equal ones of several jobs run once. It publishes all its groups whenever
//! they changed. The [`Manager`] starts and stops providers as the configuration says and publishes, per job, what is
//! known now. In a mesh a back end is asked by one peer, whoever acts for the shard of its settings, and the others hear
//! of what it found ([`Told`]). Nothing here decides which targets are kept or who scrapes them.

mod api;
mod aws;
mod azure;
mod consul;
mod digitalocean;
mod dns;
mod docker;
mod dockerswarm;
mod ec2;
mod eureka;
mod file;
mod gce;
mod hetzner;
mod http;
mod ionos;
mod kinds;
mod kubernetes;
mod kuma;
mod lightsail;
mod linode;
mod manager;
mod marathon;
mod nomad;
mod openstack;
mod outscale;
mod ovhcloud;
mod peer;
mod puppetdb;
mod refresh;
mod scaleway;
mod share;
mod signing;
mod stackit;
mod stats;
mod triton;
mod uyuni;
mod vultr;
mod xml;
mod zookeeper;

use std::sync::Arc;

use promesh_config::yaml::FilePath;
use promesh_model::labels::METRIC_NAME;
use promesh_model::{Labels, Secret};
use serde::{Deserialize, Serialize};

pub use kinds::written;
pub use manager::{Discovered, Manager};
pub use share::{Asker, Told};
pub use stats::{Counters, ProviderStats, Stats};

/// The label of a target's address until relabelling is done.
pub const ADDRESS: &str = "__address__";
/// The label that says `everywhere` of targets that belong to the peer that found them.
pub const MESH_SCOPE: &str = "__mesh_scope__";

/// Targets that share labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetGroup {
    /// Names the group among those of its provider: a later one with this name replaces it.
    pub source: String,
    /// Each target's own labels, its address among them.
    pub targets: Vec<Labels>,
    /// Labels of all of them; a target's own win.
    pub labels: Labels,
}

impl TargetGroup {
    /// A group of plain addresses.
    pub fn of_addresses<'a>(
        source: &str,
        addresses: impl IntoIterator<Item = &'a str>,
        labels: &Labels,
    ) -> TargetGroup {
        TargetGroup {
            source: source.to_owned(),
            targets: addresses.into_iter().map(|address| Labels::from_pairs([(ADDRESS, address)])).collect(),
            labels: labels.clone(),
        }
    }
}

/// What a provider found: all of its groups.
pub type Groups = Vec<Arc<TargetGroup>>;

/// Why a provider found nothing this time.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The back end was not reached or broke off.
    #[error(transparent)]
    Client(#[from] promesh_client::ClientError),
    /// It answered with something else.
    #[error("{0}")]
    Answer(String),
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
}

/// A group as files and HTTP endpoints write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenGroup {
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, Option<String>>,
}

impl WrittenGroup {
    pub(crate) fn into_group(self, source: String) -> Result<TargetGroup, DiscoveryError> {
        let labels = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_deref().unwrap_or("")));
        if let Some((name, _)) = labels.clone().find(|(name, _)| name.is_empty() || *name == METRIC_NAME) {
            return Err(DiscoveryError::Answer(format!("{name:?} is not a valid label name of a target")));
        }
        let labels = Labels::from_pairs(labels);
        Ok(TargetGroup::of_addresses(&source, self.targets.iter().map(String::as_str), &labels))
    }
}

/// A text as part of a label's name: every foreign sign is `_`.
pub(crate) fn label_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// A secret, given or in a file that is read anew each time.
pub(crate) fn secret_of(given: &Secret, file: &FilePath) -> Result<Secret, DiscoveryError> {
    if file.is_empty() {
        return Ok(given.clone());
    }
    let text = std::fs::read_to_string(file.as_path()).map_err(|error| {
        DiscoveryError::Settings(format!("unable to read file {}: {error}", file.as_path().display()))
    })?;
    Ok(Secret::new(text.trim().to_owned()))
}

#[cfg(test)]
mod api_tests;
#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod share_tests;
#[cfg(test)]
mod tests;
