//! Storage, tracing and OTLP.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bytesize::ByteSize;
use crate::http::{RESERVED_HEADERS, TlsConfig};
use crate::section;
use crate::yaml::{Node, Reader};

section! {
    /// Storage.
    pub struct StorageConfig "storage" {
        /// Blocks and head.
        pub tsdb: TsdbConfig,
        /// Exemplars.
        pub exemplars: Option<ExemplarsConfig>,
    }
}

section! {
    /// Blocks and head.
    pub struct TsdbConfig "tsdb" => check_tsdb {
        /// How far behind the newest sample another may come.
        pub out_of_order_time_window: Duration,
        /// Share of stale series that starts a compaction, 0–1; zero: never.
        pub stale_series_compaction_threshold: f64,
        /// Encodings.
        pub chunk_encoding: ChunkEncodingConfig,
        /// How long and how much is kept.
        pub retention: RetentionConfig,
    }
}

section! {
    /// Encodings.
    pub struct ChunkEncodingConfig "chunk_encoding" => check_encoding {
        /// `xor`, `xor2`, or empty.
        pub floats: String,
    }
}

section! {
    /// How long and how much is kept; zero: not limited here.
    pub struct RetentionConfig "retention" => check_retention {
        /// How long.
        pub time: Duration,
        /// How many bytes.
        pub size: ByteSize,
        /// How much of the disk, 0–100.
        pub percentage: f64,
    }
}

section! {
    /// Exemplars.
    pub struct ExemplarsConfig "exemplars" {
        /// How many are kept; zero or less: none. Default 100,000.
        pub max_exemplars: i64,
    }
}

section! {
    /// Traces of ourselves.
    pub struct TracingConfig "tracing" => check_tracing {
        /// `grpc` or `http`. Default `grpc`.
        pub client_type: String = "grpc".to_owned(),
        /// Where.
        pub endpoint: String,
        /// Share of traces kept, 0–1.
        pub sampling_fraction: f64,
        /// Whether without TLS.
        pub insecure: bool,
        /// TLS.
        pub tls_config: TlsConfig,
        /// Headers of every request.
        pub headers: BTreeMap<String, String>,
        /// `gzip` or empty.
        pub compression: String,
        /// How long a request may take.
        pub timeout: Duration,
    }
}

section! {
    /// How OTLP is translated.
    pub struct OtlpConfig "otlp" => check_otlp {
        /// Whether every resource attribute becomes a label.
        pub promote_all_resource_attributes: bool,
        /// Which become labels.
        pub promote_resource_attributes: Vec<String>,
        /// Which do not, when all others do.
        pub ignore_resource_attributes: Vec<String>,
        /// How names are translated. Default `UnderscoreEscapingWithSuffixes`.
        pub translation_strategy: String = "UnderscoreEscapingWithSuffixes".to_owned(),
        /// Whether service.name and its kin are labels too.
        pub keep_identifying_resource_attributes: bool,
        /// Whether explicit histograms become native ones with custom buckets.
        pub convert_histograms_to_nhcb: bool,
        /// Whether the scope becomes labels.
        pub promote_scope_metadata: bool,
        /// Whether `_x` becomes `key_x`. Default true.
        pub label_name_underscore_sanitization: bool = true,
        /// Whether `a__b` stays. Default true.
        pub label_name_preserve_multiple_underscores: bool = true,
    }
}

fn check_tsdb(tsdb: &mut TsdbConfig, node: &Node, reader: &mut Reader<'_>) {
    if tsdb.stale_series_compaction_threshold > 0.0 {
        let message = "storage.tsdb.stale_series_compaction_threshold has no effect: series that ended go when their \
                       window is cut";
        reader.remark(node.at_key("stale_series_compaction_threshold"), message);
    }
}

fn check_encoding(encoding: &mut ChunkEncodingConfig, node: &Node, reader: &mut Reader<'_>) {
    if !matches!(encoding.floats.as_str(), "" | "xor" | "xor2") {
        reader.problem(node.at_key("floats"), format!("'storage.tsdb.chunk_encoding.floats' must be 'xor' or 'xor2', or the field must be omitted entirely, got {:?}", encoding.floats));
    }
    if encoding.floats == "xor2" {
        let message = "storage.tsdb.chunk_encoding.floats: xor2 has no effect: blocks stay readable by older versions";
        reader.remark(node.at_key("floats"), message);
    }
}

fn check_retention(retention: &mut RetentionConfig, node: &Node, reader: &mut Reader<'_>) {
    if retention.size.0 < 0 {
        let message =
            format!("'storage.tsdb.retention.size' must be greater than or equal to 0, got {}", retention.size);
        reader.problem(node.at_key("size"), message);
    }
    if !(0.0..=100.0).contains(&retention.percentage) {
        let message =
            format!("'storage.tsdb.retention.percentage' must be in the range [0, 100], got {}", retention.percentage);
        reader.problem(node.at_key("percentage"), message);
    }
}

fn check_tracing(tracing: &mut TracingConfig, node: &Node, reader: &mut Reader<'_>) {
    if !matches!(tracing.client_type.as_str(), "grpc" | "http") {
        let message = format!("expected tracing client type to be to be http or grpc, but got {}", tracing.client_type);
        reader.problem(node.at_key("client_type"), message);
    }
    for name in tracing.headers.keys() {
        let at = node.get("headers").map_or(node.at, |headers| headers.at_key(name));
        let lower = name.to_ascii_lowercase();
        if lower == "authorization" {
            reader.problem(at, "custom authorization header configuration is not yet supported");
        } else if RESERVED_HEADERS.contains(&lower.as_str()) {
            reader.problem(at, format!("{name} is a reserved header. It must not be changed"));
        }
    }
    if tracing.endpoint.is_empty() {
        reader.problem(node.at, "tracing endpoint must be set");
    }
    if !matches!(tracing.compression.as_str(), "" | "gzip") {
        let message = format!("invalid compression type {} provided, valid options: gzip", tracing.compression);
        reader.problem(node.at_key("compression"), message);
    }
}

fn check_otlp(otlp: &mut OtlpConfig, node: &Node, reader: &mut Reader<'_>) {
    let strategies = [
        "UnderscoreEscapingWithSuffixes",
        "UnderscoreEscapingWithoutSuffixes",
        "NoUTF8EscapingWithSuffixes",
        "NoTranslation",
        "",
    ];
    if !strategies.contains(&otlp.translation_strategy.as_str()) {
        let message = format!("unsupported OTLP translation strategy {:?}", otlp.translation_strategy);
        reader.problem(node.at_key("translation_strategy"), message);
    }
    if otlp.promote_all_resource_attributes {
        if !otlp.promote_resource_attributes.is_empty() {
            reader.problem(node.at_key("promote_resource_attributes"), "'promote_all_resource_attributes' and 'promote_resource_attributes' cannot be configured simultaneously");
        }
        check_attributes(&mut otlp.ignore_resource_attributes, "ignore", "ignored", node, reader);
    } else {
        if !otlp.ignore_resource_attributes.is_empty() {
            reader.problem(
                node.at_key("ignore_resource_attributes"),
                "'ignore_resource_attributes' cannot be configured unless 'promote_all_resource_attributes' is true",
            );
        }
        check_attributes(&mut otlp.promote_resource_attributes, "promote", "promoted", node, reader);
    }
}

fn check_attributes(list: &mut [String], verb: &str, adjective: &str, node: &Node, reader: &mut Reader<'_>) {
    let at = node.at_key(&format!("{verb}_resource_attributes"));
    let mut seen: Vec<String> = Vec::new();
    for attribute in list {
        *attribute = attribute.trim().to_owned();
        let complaint = match attribute.as_str() {
            "" => format!("empty {adjective} OTel resource attribute"),
            _ if seen.contains(attribute) => format!("duplicated {adjective} OTel resource attribute {attribute:?}"),
            _ => {
                seen.push(attribute.clone());
                continue;
            }
        };
        reader.problem(at, format!("invalid '{verb}_resource_attributes': {complaint}"));
    }
}
