//! Remote write and read.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_model::relabel::{NameScheme, Rule};
use promesh_model::{Labels, Secret};

use super::relabel::check_rules;
use crate::http::{HttpClientConfig, HttpUrl, RESERVED_HEADERS};
use crate::section;
use crate::yaml::{Node, Reader, Show, Yaml};

section! {
    /// Somewhere that samples are sent.
    pub struct RemoteWriteConfig "remote write config" => check_remote_write {
        /// Where.
        pub url: Option<HttpUrl>,
        /// How long a request may take. Default 30s.
        pub remote_timeout: Duration = Duration::from_secs(30),
        /// Headers of every request.
        pub headers: BTreeMap<String, String>,
        /// Rules over samples sent.
        pub write_relabel_configs: Vec<Rule>,
        /// Its name in metrics and logs.
        pub name: String,
        /// Whether exemplars are sent.
        pub send_exemplars: bool,
        /// Whether native histograms are sent.
        pub send_native_histograms: bool,
        /// Whether new connections are spread over all addresses of the host, not made to the first that answers.
        pub round_robin_dns: bool,
        /// Which message. Default remote write 1.
        pub protobuf_message: WriteMessage = WriteMessage::V1,
        /// Whether requests of 2.0 that were not taken are logged at debug, with the series in them.
        pub failed_request_logging: bool,
        /// The queue.
        pub queue_config: QueueConfig = QueueConfig::default(),
        /// Metadata.
        pub metadata_config: MetadataConfig = MetadataConfig::default(),
        /// Signed requests to AWS.
        pub sigv4: Option<SigV4Config>,
        /// Azure AD.
        pub azuread: Option<Opaque>,
        /// Google IAM.
        pub google_iam: Option<Opaque>,
        ; inline {
            /// How requests are made; HTTP/2 is off unless asked for.
            pub http: WriteHttp,
        }
    }
}

section! {
    /// Signature version 4 of AWS.
    pub struct SigV4Config "sigv4" => check_sigv4 {
        /// The region.
        pub region: String,
        /// The key's id.
        pub access_key: String,
        /// The key.
        pub secret_key: Secret,
        /// A profile of the shared credentials file.
        pub profile: String,
        /// A role to take.
        pub role_arn: String,
        /// An id that the role asks for.
        pub external_id: String,
        /// Whether FIPS endpoints are used.
        pub use_fips_sts_endpoint: bool,
        /// The service that is signed for.
        pub service_name: String,
    }
}

fn check_sigv4(sigv4: &mut SigV4Config, node: &Node, reader: &mut Reader<'_>) {
    for (name, given) in [
        ("role_arn", !sigv4.role_arn.is_empty()),
        ("external_id", !sigv4.external_id.is_empty()),
        ("profile", !sigv4.profile.is_empty()),
    ] {
        if given {
            let message = format!("{name} of sigv4 is not built yet: give access_key and secret_key");
            reader.unbuilt(node.at_key(name), message);
        }
    }
    if sigv4.use_fips_sts_endpoint {
        let message = "use_fips_sts_endpoint of sigv4 has no effect: no role is asked for at an STS endpoint";
        reader.remark(node.at_key("use_fips_sts_endpoint"), message);
    }
    if sigv4.access_key.is_empty() != sigv4.secret_key.is_empty() {
        reader.problem(
            node.at,
            "must provide a AWS SigV4 Access key and Secret Key if credentials are specified in the SigV4 config",
        );
    }
}

/// A section that is read as it is, for parts that are not built yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Opaque(Node);

impl Yaml for Opaque {
    fn read(node: &Node, _: &mut Reader<'_>) -> Self {
        Opaque(node.clone())
    }
    fn show(&self, show: Show) -> Node {
        match show {
            // It may hold secrets, and nobody here knows which fields they are.
            Show::Masked => Node::text(promesh_model::secret::MASK),
            Show::Content => self.0.clone(),
        }
    }
}

/// [`HttpClientConfig`] with the defaults of remote write.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteHttp(pub HttpClientConfig);

impl Default for WriteHttp {
    fn default() -> Self {
        WriteHttp(HttpClientConfig { enable_http2: false, ..HttpClientConfig::default() })
    }
}

impl crate::yaml::Section for WriteHttp {
    const NAME: &'static str = "http_config";
    fn set_field(&mut self, key: &crate::yaml::Key, value: &Node, reader: &mut Reader<'_>) -> bool {
        self.0.set_field(key, value, reader)
    }
    fn check(&mut self, node: &Node, reader: &mut Reader<'_>) {
        self.0.check(node, reader);
    }
    fn show_fields(&self, show: Show, fields: &mut Vec<(crate::yaml::Key, Node)>) {
        self.0.show_fields(show, fields);
    }
}

/// The message of remote write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMessage {
    /// `prometheus.WriteRequest`.
    V1,
    /// `io.prometheus.write.v2.Request`.
    V2,
}

impl Yaml for WriteMessage {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        match reader.scalar(node, "string").unwrap_or_default() {
            "prometheus.WriteRequest" => WriteMessage::V1,
            "io.prometheus.write.v2.Request" => WriteMessage::V2,
            other => {
                reader.problem(node.at, format!("invalid protobuf_message value: unknown type for remote write protobuf message {other}, supported: prometheus.WriteRequest, io.prometheus.write.v2.Request"));
                WriteMessage::V1
            }
        }
    }
    fn show(&self, _: Show) -> Node {
        Node::text(match self {
            WriteMessage::V1 => "prometheus.WriteRequest",
            WriteMessage::V2 => "io.prometheus.write.v2.Request",
        })
    }
}

section! {
    /// The queue of a remote write.
    pub struct QueueConfig "queue_config" => check_queue {
        /// Samples waiting per shard. Default 10000.
        pub capacity: i64 = 10_000,
        /// Most shards. Default 50.
        pub max_shards: i64 = 50,
        /// Fewest shards. Default 1.
        pub min_shards: i64 = 1,
        /// Most samples of a request. Default 2000.
        pub max_samples_per_send: i64 = 2000,
        /// How long a sample waits for others. Default 5s.
        pub batch_send_deadline: Duration = Duration::from_secs(5),
        /// First wait after a failure. Default 30ms.
        pub min_backoff: Duration = Duration::from_millis(30),
        /// Longest wait after failures. Default 5s.
        pub max_backoff: Duration = Duration::from_secs(5),
        /// Whether 429 is tried again.
        pub retry_on_http_429: bool,
        /// Samples older than this are dropped; zero: none.
        pub sample_age_limit: Duration,
    }
}

section! {
    /// Metadata of a remote write.
    pub struct MetadataConfig "metadata_config" {
        /// Whether it is sent. Default true.
        pub send: bool = true,
        /// How often. Default 1m.
        pub send_interval: Duration = Duration::from_secs(60),
        /// Most entries of a request. Default 2000.
        pub max_samples_per_send: i64 = 2000,
    }
}

section! {
    /// Somewhere that samples are read from.
    pub struct RemoteReadConfig "remote read config" => check_remote_read {
        /// Where.
        pub url: Option<HttpUrl>,
        /// How long a request may take. Default 1m.
        pub remote_timeout: Duration = Duration::from_secs(60),
        /// Largest frame of an answer in bytes. Default 50,000,000.
        pub chunked_read_limit: u64 = 50_000_000,
        /// Headers of every request.
        pub headers: BTreeMap<String, String>,
        /// Whether it is asked for what the local storage has too.
        pub read_recent: bool,
        /// Its name in metrics and logs.
        pub name: String,
        /// Matchers that a selector must have.
        pub required_matchers: Labels,
        /// Whether external labels are put into selectors. Default true.
        pub filter_external_labels: bool = true,
        ; inline {
            /// How requests are made.
            pub http: HttpClientConfig,
        }
    }
}

fn check_remote_write(write: &mut RemoteWriteConfig, node: &Node, reader: &mut Reader<'_>) {
    if write.url.is_none() {
        reader.problem(node.at, "url for remote_write is empty");
    }
    check_headers(&write.headers, node, reader);
    for (name, given) in [("azuread", write.azuread.is_some()), ("google_iam", write.google_iam.is_some())] {
        if given {
            let message =
                format!("{name} of remote_write is not built yet: use basic_auth, authorization, oauth2 or sigv4");
            reader.unbuilt(node.at_key(name), message);
        }
    }
    let http = &write.http.0;
    let ways = [
        ("basic_auth", http.basic_auth.is_some()),
        ("authorization", http.authorization.is_some()),
        ("oauth2", http.oauth2.is_some()),
        ("sigv4", write.sigv4.is_some()),
        ("azuread", write.azuread.is_some()),
        ("google_iam", write.google_iam.is_some()),
    ];
    let given: Vec<_> = ways.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    if given.len() > 1 {
        reader.problem(node.at_key(given[1]), format!("at most one of basic_auth, authorization, oauth2, sigv4, azuread or google_iam must be configured. Currently configured: [{}]", given.join(" ")));
    }
}

fn check_remote_read(read: &mut RemoteReadConfig, node: &Node, reader: &mut Reader<'_>) {
    if read.url.is_none() {
        reader.problem(node.at, "url for remote_read is empty");
    }
    check_headers(&read.headers, node, reader);
}

fn check_headers(headers: &BTreeMap<String, String>, node: &Node, reader: &mut Reader<'_>) {
    for name in headers.keys() {
        let at = node.get("headers").map_or(node.at, |headers| headers.at_key(name));
        let lower = name.to_ascii_lowercase();
        if lower == "authorization" {
            reader.problem(at, "authorization header must be changed via the basic_auth, authorization, oauth2, sigv4, azuread or google_iam parameter");
        } else if RESERVED_HEADERS.contains(&lower.as_str()) {
            reader.problem(at, format!("{name} is a reserved header. It must not be changed"));
        }
    }
}

fn check_queue(queue: &mut QueueConfig, node: &Node, reader: &mut Reader<'_>) {
    for (name, value) in [
        ("max_shards", queue.max_shards),
        ("min_shards", queue.min_shards),
        ("max_samples_per_send", queue.max_samples_per_send),
        ("capacity", queue.capacity),
    ] {
        if value <= 0 {
            reader.problem(node.at_key(name), format!("remote write queue {name} must be positive"));
        }
    }
    if queue.min_shards > queue.max_shards {
        reader.problem(node.at_key("min_shards"), "remote write queue min_shards must not be greater than max_shards");
    }
    if queue.max_backoff < queue.min_backoff {
        reader.problem(node.at_key("max_backoff"), "remote write queue max_backoff must not be less than min_backoff");
    }
}

impl RemoteWriteConfig {
    pub(super) fn apply_globals(&mut self, names: NameScheme, node: &Node, reader: &mut Reader<'_>) {
        let what = "relabeling rule in remote write config";
        check_rules(&mut self.write_relabel_configs, node.get("write_relabel_configs"), what, names, reader);
    }
}
