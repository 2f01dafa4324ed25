//! The `global` section and the words that it shares with jobs.

use std::time::Duration;

use promesh_model::Labels;
use promesh_model::relabel::NameScheme;

use crate::bytesize::ByteSize;
use crate::section;
use crate::yaml::{FilePath, Node, Reader, Show, Yaml};

section! {
    /// What jobs and rules mean when they do not say.
    pub struct GlobalConfig "global" => check_global {
        /// How often targets are scraped. Default 1m.
        pub scrape_interval: Duration = Duration::from_secs(60),
        /// How long a scrape may take. Default 10s, or the interval if that is shorter.
        pub scrape_timeout: Duration = Duration::from_secs(10),
        /// The protocols offered to targets, best first; empty: by whether native histograms are scraped.
        pub scrape_protocols: Vec<ScrapeProtocol>,
        /// How often rules are evaluated. Default 1m.
        pub evaluation_interval: Duration = Duration::from_secs(60),
        /// How far in the past rules are evaluated.
        pub rule_query_offset: Duration,
        /// Where queries are logged.
        pub query_log_file: FilePath,
        /// Where failed scrapes are logged.
        pub scrape_failure_log_file: FilePath,
        /// Labels that leave with every sample.
        pub external_labels: Labels,
        /// The largest uncompressed body; zero: no limit.
        pub body_size_limit: ByteSize,
        /// The most samples of a scrape; zero: no limit.
        pub sample_limit: usize,
        /// The most targets of a job; zero: no limit.
        pub target_limit: usize,
        /// The most labels of a sample; zero: no limit.
        pub label_limit: usize,
        /// The longest label name in bytes; zero: no limit.
        pub label_name_length_limit: usize,
        /// The longest label value in bytes; zero: no limit.
        pub label_value_length_limit: usize,
        /// How many dropped targets of a job are remembered; zero: no limit.
        pub keep_dropped_targets: usize,
        /// Which names are valid. Default UTF-8.
        pub metric_name_validation_scheme: Option<NameScheme>,
        /// How names are asked to be escaped.
        pub metric_name_escaping_scheme: Option<EscapingScheme>,
        /// Whether native histograms are scraped.
        pub scrape_native_histograms: bool,
        /// Whether classic histograms become native ones with custom buckets.
        pub convert_classic_histograms_to_nhcb: bool,
        /// Whether classic histograms are scraped beside native ones.
        pub always_scrape_classic_histograms: bool,
        /// Whether `scrape_timeout_seconds`, `scrape_sample_limit` and `scrape_body_size_bytes` are written.
        pub extra_scrape_metrics: bool,
    }
}

section! {
    /// Knobs of Go's runtime, of which there is none here.
    pub struct RuntimeConfig "runtime" => check_runtime {
        /// Garbage collection target in percent.
        pub gogc: i64,
    }
}

fn check_runtime(_: &mut RuntimeConfig, node: &Node, reader: &mut Reader<'_>) {
    if node.get("gogc").is_some() {
        reader.remark(node.at_key("gogc"), "runtime.gogc has no effect: there is no garbage collector");
    }
}

fn check_global(global: &mut GlobalConfig, node: &Node, reader: &mut Reader<'_>) {
    let defaults = GlobalConfig::default();
    if global.scrape_interval.is_zero() {
        global.scrape_interval = defaults.scrape_interval;
    }
    let timeout_given = node.get("scrape_timeout").is_some_and(|node| !node.is_null());
    if !timeout_given || global.scrape_timeout.is_zero() {
        global.scrape_timeout = defaults.scrape_timeout.min(global.scrape_interval);
    } else if global.scrape_timeout > global.scrape_interval {
        reader.problem(node.at_key("scrape_timeout"), "global scrape timeout greater than scrape interval");
    }
    if global.evaluation_interval.is_zero() {
        global.evaluation_interval = defaults.evaluation_interval;
    }
    let scheme = global.scheme();
    for (name, _) in global.external_labels.iter() {
        if !scheme.is_label_name(name) {
            let at = node.get("external_labels").map_or(node.at, |labels| labels.at_key(name));
            reader.problem(at, format!("{name:?} is not a valid label name"));
        }
    }
    if let Some(list) = node.get("scrape_protocols").filter(|list| !list.is_null())
        && let Err(message) = check_protocols(&global.scrape_protocols)
    {
        reader.problem(list.at, format!("{message} for global config"));
    }
}

impl GlobalConfig {
    /// Which names are valid.
    pub fn scheme(&self) -> NameScheme {
        self.metric_name_validation_scheme.unwrap_or_default()
    }
}

/// A list of protocols without repeats.
pub(super) fn check_protocols(protocols: &[ScrapeProtocol]) -> Result<(), String> {
    if protocols.is_empty() {
        return Err("scrape_protocols cannot be empty".to_owned());
    }
    if let Some(unknown) = protocols.iter().find(|protocol| matches!(protocol, ScrapeProtocol::Unknown(_))) {
        return Err(format!("scrape_protocols: {}", unknown.unknown_message()));
    }
    for (index, protocol) in protocols.iter().enumerate() {
        if protocols[..index].contains(protocol) {
            let names: Vec<_> = protocols.iter().map(ScrapeProtocol::name).collect();
            return Err(format!("duplicated protocol in scrape_protocols, got [{}]", names.join(" ")));
        }
    }
    Ok(())
}

/// How a target may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrapeProtocol {
    /// Delimited protobuf.
    PrometheusProto,
    /// Text 0.0.4.
    PrometheusText0_0_4,
    /// Text 1.0.0.
    PrometheusText1_0_0,
    /// OpenMetrics 0.0.1.
    OpenMetricsText0_0_1,
    /// OpenMetrics 1.0.0.
    OpenMetricsText1_0_0,
    /// None of these: always refused by the checks, which know the job's name.
    Unknown(String),
}

impl ScrapeProtocol {
    const KNOWN: [ScrapeProtocol; 5] = [
        ScrapeProtocol::OpenMetricsText0_0_1,
        ScrapeProtocol::OpenMetricsText1_0_0,
        ScrapeProtocol::PrometheusProto,
        ScrapeProtocol::PrometheusText0_0_4,
        ScrapeProtocol::PrometheusText1_0_0,
    ];

    /// What is offered when nothing is said.
    pub const DEFAULT: [ScrapeProtocol; 4] = [
        ScrapeProtocol::OpenMetricsText1_0_0,
        ScrapeProtocol::OpenMetricsText0_0_1,
        ScrapeProtocol::PrometheusText1_0_0,
        ScrapeProtocol::PrometheusText0_0_4,
    ];

    /// As in a file.
    pub fn name(&self) -> &str {
        match self {
            ScrapeProtocol::PrometheusProto => "PrometheusProto",
            ScrapeProtocol::PrometheusText0_0_4 => "PrometheusText0.0.4",
            ScrapeProtocol::PrometheusText1_0_0 => "PrometheusText1.0.0",
            ScrapeProtocol::OpenMetricsText0_0_1 => "OpenMetricsText0.0.1",
            ScrapeProtocol::OpenMetricsText1_0_0 => "OpenMetricsText1.0.0",
            ScrapeProtocol::Unknown(name) => name,
        }
    }

    /// The media type that is asked for.
    pub fn media_type(&self) -> &'static str {
        match self {
            ScrapeProtocol::PrometheusProto => {
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
            }
            ScrapeProtocol::PrometheusText0_0_4 | ScrapeProtocol::Unknown(_) => "text/plain;version=0.0.4",
            ScrapeProtocol::PrometheusText1_0_0 => "text/plain;version=1.0.0",
            ScrapeProtocol::OpenMetricsText0_0_1 => "application/openmetrics-text;version=0.0.1",
            ScrapeProtocol::OpenMetricsText1_0_0 => "application/openmetrics-text;version=1.0.0",
        }
    }

    pub(super) fn unknown_message(&self) -> String {
        let known: Vec<_> = Self::KNOWN.iter().map(ScrapeProtocol::name).collect();
        format!("unknown scrape protocol {}, supported: [{}]", self.name(), known.join(" "))
    }
}

impl Yaml for ScrapeProtocol {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let name = reader.scalar(node, "string").unwrap_or_default();
        let known = Self::KNOWN.into_iter().find(|protocol| protocol.name() == name);
        known.unwrap_or_else(|| ScrapeProtocol::Unknown(name.to_owned()))
    }
    fn show(&self, _: Show) -> Node {
        Node::text(self.name())
    }
}

impl Yaml for NameScheme {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        match reader.scalar(node, "string").unwrap_or_default() {
            "" | "utf8" => NameScheme::Utf8,
            "legacy" => NameScheme::Legacy,
            other => {
                reader.problem(node.at, format!("unrecognized ValidationScheme: {other:?}"));
                NameScheme::Utf8
            }
        }
    }
    fn show(&self, _: Show) -> Node {
        Node::text(match self {
            NameScheme::Utf8 => "utf8",
            NameScheme::Legacy => "legacy",
        })
    }
}

/// How a target is asked to write names outside the classic charset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapingScheme {
    /// As they are.
    #[default]
    AllowUtf8,
    /// Every foreign sign as `_`.
    Underscores,
    /// Dots as `_dot_`, `_` as `__`, other signs as `__`.
    Dots,
    /// `U__` and the code points.
    Values,
}

impl EscapingScheme {
    /// As in a file and in an `Accept` header.
    pub fn name(self) -> &'static str {
        match self {
            EscapingScheme::AllowUtf8 => "allow-utf-8",
            EscapingScheme::Underscores => "underscores",
            EscapingScheme::Dots => "dots",
            EscapingScheme::Values => "values",
        }
    }

    /// What a validation scheme implies.
    pub fn implied_by(scheme: NameScheme) -> EscapingScheme {
        match scheme {
            NameScheme::Utf8 => EscapingScheme::AllowUtf8,
            NameScheme::Legacy => EscapingScheme::Underscores,
        }
    }
}

impl Yaml for EscapingScheme {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let all =
            [EscapingScheme::AllowUtf8, EscapingScheme::Underscores, EscapingScheme::Dots, EscapingScheme::Values];
        let name = reader.scalar(node, "string").unwrap_or_default();
        all.into_iter().find(|scheme| scheme.name() == name).unwrap_or_else(|| {
            let names: Vec<_> = all.iter().map(|scheme| format!("'{}'", scheme.name())).collect();
            reader.problem(
                node.at,
                format!("unknown name escaping method specified, must be one of {}, got {name:?}", names.join(", ")),
            );
            EscapingScheme::AllowUtf8
        })
    }
    fn show(&self, _: Show) -> Node {
        Node::text(self.name())
    }
}
