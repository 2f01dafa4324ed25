//! `prometheus.yml`, as meant: globals applied to every job, paths joined, files of scrape configurations read.
//!
//! Source: prometheus `config/config.go`, 3.14.

mod alerting;
mod discovery;
mod global;
mod load;
mod relabel;
mod remote;
mod scrape;
mod storage;
mod unbuilt;

#[cfg(test)]
mod tests;

pub use alerting::{AlertingConfig, AlertmanagerConfig};
pub use discovery::*;
pub use global::{EscapingScheme, GlobalConfig, RuntimeConfig, ScrapeProtocol};
pub use load::{load, load_text};
pub use remote::{MetadataConfig, QueueConfig, RemoteReadConfig, RemoteWriteConfig, SigV4Config, WriteMessage};
pub use scrape::{MeshScope, ScrapeConfig};
pub use storage::{
    ChunkEncodingConfig, ExemplarsConfig, OtlpConfig, RetentionConfig, StorageConfig, TracingConfig, TsdbConfig,
};

use promesh_model::Labels;
use xxhash_rust::xxh3::xxh3_128;

use crate::section;
use crate::yaml::{self, ConfigErrors, FilePath, Problem, Show, Yaml};

section! {
    /// The whole file.
    pub struct Config "config" {
        /// What jobs and rules mean when they do not say.
        pub global: GlobalConfig = GlobalConfig::default(),
        /// Knobs of Go's runtime, of which there is none here.
        pub runtime: RuntimeConfig,
        /// Where alerts go.
        pub alerting: AlertingConfig,
        /// Patterns of rule files.
        pub rule_files: Vec<FilePath>,
        /// Patterns of files with more scrape configurations.
        pub scrape_config_files: Vec<FilePath>,
        /// The jobs of this file; those of `scrape_config_files` are in [`Config::jobs`].
        pub scrape_configs: Vec<ScrapeConfig>,
        /// Storage.
        pub storage: StorageConfig,
        /// Traces of ourselves.
        pub tracing: Option<TracingConfig>,
        /// Where samples are sent.
        pub remote_write: Vec<RemoteWriteConfig>,
        /// Where samples are read from.
        pub remote_read: Vec<RemoteReadConfig>,
        /// How OTLP is translated.
        pub otlp: OtlpConfig,
    }
}

/// A configuration, read whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The main file.
    pub config: Config,
    /// All jobs: those of the main file, then those of `scrape_config_files`, in order.
    pub jobs: Vec<ScrapeConfig>,
    /// What is written correctly and not built yet, with its place. A peer must not start with any of it.
    pub unsupported: Vec<Problem>,
    /// What is written correctly and without the effect that it has in Prometheus, with its place: for a warning.
    pub remarks: Vec<Problem>,
}

impl Loaded {
    /// Refuses what is not built.
    ///
    /// # Errors
    /// Every such thing with its place and what to use instead.
    pub fn require_supported(&self) -> Result<(), ConfigErrors> {
        if self.unsupported.is_empty() { Ok(()) } else { Err(ConfigErrors(self.unsupported.clone())) }
    }

    /// The digest of a job: equal for equal content, whatever the paths and comments. Peers compare it.
    pub fn job_digest(job: &ScrapeConfig) -> u128 {
        content_digest(job)
    }

    /// The digest of the external labels, which are voted apart.
    pub fn external_labels_digest(&self) -> u128 {
        self.config.global.external_labels.stable_hash()
    }
}

impl Config {
    /// The file as meant, secrets masked: what `/api/v1/status/config` shows.
    pub fn to_yaml(&self) -> String {
        yaml::print(&self.show(Show::Masked))
    }

    /// The labels that leave with every sample.
    pub fn external_labels(&self) -> &Labels {
        &self.global.external_labels
    }
}

/// The digest of a section's content as meant.
pub fn content_digest<T: Yaml>(value: &T) -> u128 {
    xxh3_128(yaml::print(&value.show(Show::Content)).as_bytes())
}
