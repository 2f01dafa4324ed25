//! Jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_model::relabel::{NameScheme, Rule};

use super::discovery::Discoveries;
use super::global::{EscapingScheme, GlobalConfig, ScrapeProtocol, check_protocols};
use super::relabel::check_rules;
use crate::bytesize::ByteSize;
use crate::http::HttpClientConfig;
use crate::section;
use crate::yaml::{FilePath, Node, Reader, Show, Yaml};

section! {
    /// A job. Once loaded, everything left out has its global or default value.
    pub struct ScrapeConfig "scrape config" => check_scrape {
        /// The job's name: unique, and the `job` label of its targets.
        pub job_name: String,
        /// Whether labels of the exposition win over the target's.
        pub honor_labels: bool,
        /// Whether timestamps of the exposition count. Default true.
        pub honor_timestamps: bool = true,
        /// Whether series with timestamps of their own become stale too.
        pub track_timestamps_staleness: bool,
        /// Query parameters of the request.
        pub params: BTreeMap<String, Vec<String>>,
        /// How often.
        pub scrape_interval: Duration,
        /// How long at most.
        pub scrape_timeout: Duration,
        /// Offered protocols, best first.
        pub scrape_protocols: Vec<ScrapeProtocol>,
        /// What a target speaks that does not say.
        pub fallback_scrape_protocol: Option<ScrapeProtocol>,
        /// Whether native histograms are scraped.
        pub scrape_native_histograms: Option<bool>,
        /// Whether classic histograms are scraped beside native ones.
        pub always_scrape_classic_histograms: Option<bool>,
        /// Whether classic histograms become native ones with custom buckets.
        pub convert_classic_histograms_to_nhcb: Option<bool>,
        /// Where failed scrapes are logged.
        pub scrape_failure_log_file: FilePath,
        /// The path of the request. Default `/metrics`.
        pub metrics_path: String = "/metrics".to_owned(),
        /// `http` or `https`. Default `http`.
        pub scheme: String = "http".to_owned(),
        /// Whether gzip is asked for. Default true.
        pub enable_compression: bool = true,
        /// The largest uncompressed body; zero: no limit.
        pub body_size_limit: ByteSize,
        /// The most samples; zero: no limit.
        pub sample_limit: usize,
        /// The most targets; zero: no limit.
        pub target_limit: usize,
        /// The most labels of a sample; zero: no limit.
        pub label_limit: usize,
        /// The longest label name; zero: no limit.
        pub label_name_length_limit: usize,
        /// The longest label value; zero: no limit.
        pub label_value_length_limit: usize,
        /// The most buckets of a native histogram; zero: no limit.
        pub native_histogram_bucket_limit: usize,
        /// The smallest growth factor of a native histogram's buckets; zero: any.
        pub native_histogram_min_bucket_factor: f64,
        /// How many dropped targets are remembered; zero: no limit.
        pub keep_dropped_targets: usize,
        /// Which names are valid.
        pub metric_name_validation_scheme: Option<NameScheme>,
        /// How names are asked to be escaped.
        pub metric_name_escaping_scheme: Option<EscapingScheme>,
        /// Whether the extra `scrape_*` series are written.
        pub extra_scrape_metrics: Option<bool>,
        /// Where in the mesh: once, or on every peer.
        pub mesh_scope: MeshScope,
        /// Rules over discovered targets.
        pub relabel_configs: Vec<Rule>,
        /// Rules over samples.
        pub metric_relabel_configs: Vec<Rule>,
        ; inline {
            /// Where targets come from.
            pub discovery: Discoveries,
            /// How targets are asked.
            pub http: HttpClientConfig,
        }
    }
}

/// Where in the mesh a job runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MeshScope {
    /// Each target is scraped by one peer.
    #[default]
    Once,
    /// Every peer scrapes every target, with itself as `instance`.
    Everywhere,
}

impl Yaml for MeshScope {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        match reader.scalar(node, "string").unwrap_or_default() {
            "" | "once" => MeshScope::Once,
            "everywhere" => MeshScope::Everywhere,
            other => {
                reader.problem(node.at, format!("unknown mesh_scope {other:?}, must be 'once' or 'everywhere'"));
                MeshScope::Once
            }
        }
    }
    fn show(&self, _: Show) -> Node {
        Node::text(match self {
            MeshScope::Once => "once",
            MeshScope::Everywhere => "everywhere",
        })
    }
    fn is_zero(&self) -> bool {
        *self == MeshScope::Once
    }
}

fn check_scrape(job: &mut ScrapeConfig, node: &Node, reader: &mut Reader<'_>) {
    if job.job_name.is_empty() {
        reader.problem(node.at, "job_name is empty");
    }
    if job.relabel_configs.is_empty() {
        job.discovery.check_static_addresses(node, reader);
    }
    if !matches!(job.scheme.as_str(), "http" | "https") {
        let at = node.at_key("scheme");
        reader.problem(at, format!("scheme must be 'http' or 'https', got {:?}", job.scheme));
    }
}

impl ScrapeConfig {
    /// Which names are valid.
    pub fn names(&self) -> NameScheme {
        self.metric_name_validation_scheme.unwrap_or_default()
    }

    /// How names are asked to be escaped.
    pub fn escaping(&self) -> EscapingScheme {
        self.metric_name_escaping_scheme.unwrap_or_default()
    }

    /// Whether native histograms are scraped.
    pub fn native_histograms(&self) -> bool {
        self.scrape_native_histograms.unwrap_or(false)
    }

    /// Whether classic histograms are scraped beside native ones.
    pub fn classic_histograms_too(&self) -> bool {
        self.always_scrape_classic_histograms.unwrap_or(false)
    }

    /// Whether classic histograms become native ones with custom buckets.
    pub fn to_custom_buckets(&self) -> bool {
        self.convert_classic_histograms_to_nhcb.unwrap_or(false)
    }

    /// Whether the extra `scrape_*` series are written.
    pub fn extra_metrics(&self) -> bool {
        self.extra_scrape_metrics.unwrap_or(false)
    }

    /// Fills in what the job leaves to the globals, then checks what depends on them. `node` is the job's own.
    pub(super) fn apply_globals(&mut self, global: &GlobalConfig, node: &Node, reader: &mut Reader<'_>) {
        self.inherit(global);
        self.check_timing(node, reader);
        self.inherit_protocols(global, node, reader);
        self.inherit_names(global, node, reader);
        let names = self.names();
        let what = "target relabeling rule in scrape config";
        check_rules(&mut self.relabel_configs, node.get("relabel_configs"), what, names, reader);
        let what = "metric relabeling rule in scrape config";
        check_rules(&mut self.metric_relabel_configs, node.get("metric_relabel_configs"), what, names, reader);
    }

    fn inherit(&mut self, global: &GlobalConfig) {
        fn fill<T: Default + PartialEq + Clone>(own: &mut T, global: &T) {
            if *own == T::default() {
                *own = global.clone();
            }
        }
        fill(&mut self.scrape_interval, &global.scrape_interval);
        fill(&mut self.body_size_limit, &global.body_size_limit);
        fill(&mut self.sample_limit, &global.sample_limit);
        fill(&mut self.target_limit, &global.target_limit);
        fill(&mut self.label_limit, &global.label_limit);
        fill(&mut self.label_name_length_limit, &global.label_name_length_limit);
        fill(&mut self.label_value_length_limit, &global.label_value_length_limit);
        fill(&mut self.keep_dropped_targets, &global.keep_dropped_targets);
        fill(&mut self.scrape_failure_log_file, &global.scrape_failure_log_file);
        self.scrape_native_histograms.get_or_insert(global.scrape_native_histograms);
        self.extra_scrape_metrics.get_or_insert(global.extra_scrape_metrics);
        self.convert_classic_histograms_to_nhcb.get_or_insert(global.convert_classic_histograms_to_nhcb);
        self.always_scrape_classic_histograms.get_or_insert(global.always_scrape_classic_histograms);
        if self.scrape_timeout.is_zero() {
            self.scrape_timeout = global.scrape_timeout.min(self.scrape_interval);
        }
    }

    fn check_timing(&self, node: &Node, reader: &mut Reader<'_>) {
        if self.scrape_timeout > self.scrape_interval {
            reader.problem(
                node.at_key("scrape_timeout"),
                format!(
                    "scrape timeout greater than scrape interval for scrape config with job name {:?}",
                    self.job_name
                ),
            );
        }
    }

    fn inherit_protocols(&mut self, global: &GlobalConfig, node: &Node, reader: &mut Reader<'_>) {
        if node.get("scrape_protocols").is_none_or(Node::is_null) {
            self.scrape_protocols = match (global.scrape_protocols.is_empty(), self.native_histograms()) {
                (false, _) => global.scrape_protocols.clone(),
                (true, false) => ScrapeProtocol::DEFAULT.to_vec(),
                (true, true) => [&[ScrapeProtocol::PrometheusProto], &ScrapeProtocol::DEFAULT[..]].concat(),
            };
        } else if let Err(message) = check_protocols(&self.scrape_protocols) {
            let at = node.at_key("scrape_protocols");
            reader.problem(at, format!("{message} for scrape config with job name {:?}", self.job_name));
        }
        if let Some(fallback @ ScrapeProtocol::Unknown(name)) = &self.fallback_scrape_protocol {
            if name.is_empty() {
                self.fallback_scrape_protocol = None;
                return;
            }
            let message = format!(
                "invalid fallback_scrape_protocol for scrape config with job name {:?}: {}",
                self.job_name,
                fallback.unknown_message()
            );
            reader.problem(node.at_key("fallback_scrape_protocol"), message);
        }
    }

    fn inherit_names(&mut self, global: &GlobalConfig, node: &Node, reader: &mut Reader<'_>) {
        let own = self.metric_name_validation_scheme;
        let names = own.unwrap_or(global.scheme());
        self.metric_name_validation_scheme = Some(names);
        let global_escaping = global.metric_name_escaping_scheme.unwrap_or(EscapingScheme::implied_by(global.scheme()));
        let implied = if own.is_none() { global_escaping } else { EscapingScheme::implied_by(names) };
        let escaping = *self.metric_name_escaping_scheme.get_or_insert(implied);
        if escaping == EscapingScheme::AllowUtf8 && names != NameScheme::Utf8 {
            let at = node.at_key("metric_name_escaping_scheme");
            reader.problem(at, "utf8 metric names requested but validation scheme is not set to UTF8");
        }
    }
}
