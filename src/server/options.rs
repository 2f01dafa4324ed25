//! What a peer was told on its command line: Prometheus' flags and the mesh's.
//!
//! Flags are read in two steps, as configuration is: as written ([`Values`], every flag a text) and as meant
//! ([`Options`], units resolved, nothing optional that only means "default").

mod alertmanager;
mod cluster;
mod features;
mod flags;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use promesh_alerting::Limits;
use regex::Regex;
use thiserror::Error;
use url::Url;

pub use alertmanager::command as alertmanager_command;
pub use cluster::{CLUSTER_PORT, ClusterOptions, TrustOptions};
pub use features::Features;
use flags::{FLAGS, Fate, Flag, Kind};
use values::{Values, bad_value, negation, parse_address};

/// Samples are kept for so long when nothing is said.
const RETENTION_DEFAULT: Duration = Duration::from_secs(15 * 86_400);
/// A size limit alone sets no time limit; so this is none.
pub(crate) const RETENTION_UNLIMITED: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A command line that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct OptionsError {
    /// What is wrong, and what would be right.
    pub message: String,
    /// What the process exits with: 2, and 3 for flags of the other mode, as Prometheus does.
    pub exit_code: u8,
}

impl OptionsError {
    fn usage(message: String) -> OptionsError {
        OptionsError { message, exit_code: 2 }
    }
}

/// Which log lines, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The lowest severity that is logged.
    pub level: tracing::Level,
    /// JSON instead of logfmt.
    pub json: bool,
}

/// A file that may be absent when nobody named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOption {
    /// Where.
    pub path: PathBuf,
    /// Whether the command line names it: then it must be there.
    pub is_given: bool,
}

/// `--web.*`.
#[derive(Clone, Debug)]
pub struct WebOptions {
    /// Addresses to listen on; at least one.
    pub listen: Vec<SocketAddr>,
    /// How long a request may take to be read.
    pub read_timeout: Duration,
    /// Connections at once.
    pub connections_max: usize,
    /// Subscribers of live notifications at once.
    pub notifications_subscribers_max: usize,
    /// How this peer is reached from outside, if that was said; else made from the listen address.
    pub external_url: Option<Url>,
    /// Prefix of all routes, `/` or `/x` without a slash at its end.
    pub route_prefix: String,
    /// POST /-/reload and /-/quit.
    pub enable_lifecycle: bool,
    /// `/api/v1/admin`.
    pub enable_admin_api: bool,
    /// `/api/v1/write`.
    pub enable_remote_write_receiver: bool,
    /// `/api/v1/otlp/v1/metrics`.
    pub enable_otlp_receiver: bool,
    /// `/metrics/job/…`.
    pub enable_pushgateway: bool,
    /// The most results of a search.
    pub search_limit_max: usize,
    /// Which messages remote write accepts.
    pub remote_write_messages: Vec<String>,
    /// TLS, users, headers, request rate; nothing: none of it.
    pub config_file: Option<PathBuf>,
    /// GET requests at once; 0 for no limit.
    pub get_concurrency: usize,
    /// How long a request may take; zero for no limit.
    pub timeout: Duration,
    /// Title of the pages.
    pub page_title: String,
    /// Origins that CORS admits.
    pub cors_origin: Regex,
}

/// When the log is synced to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalSync {
    /// At least once a second.
    Group,
    /// Before pushed samples are acknowledged.
    Always,
}

/// `--storage.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageOptions {
    /// Folder of all data.
    pub path: PathBuf,
    /// Longest span of a compacted block.
    pub block_span_max: Duration,
    /// How long samples are kept.
    pub retention_time: Duration,
    /// Most bytes of blocks; `None` for no limit.
    pub retention_bytes: Option<u64>,
    /// Most bytes of log; `None` for a tenth of the disk.
    pub wal_bytes_max: Option<u64>,
    /// When the log is synced.
    pub wal_sync: WalSync,
}

/// `--storage.remote.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteOptions {
    /// How long a stopping peer waits for its queues; `None` for a moment, since another peer goes on.
    pub flush_deadline: Option<Duration>,
    /// Most samples of one read; `None` for no limit.
    pub read_samples_max: Option<u64>,
    /// Reads at once; `None` for no limit.
    pub read_concurrency: Option<usize>,
    /// Most bytes of one frame of a streamed read.
    pub read_frame_bytes_max: usize,
}

/// `--query.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// How far back a query looks for a sample.
    pub lookback: Duration,
    /// Longest run.
    pub timeout: Duration,
    /// Queries at once, at least one.
    pub concurrency: usize,
    /// Most samples in memory, for one query.
    pub samples_max: u64,
}

/// `--rules.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleOptions {
    /// Longest outage after which `for` state is restored.
    pub outage_tolerance: Duration,
    /// Least time between a restored `for` state and the alert.
    pub grace_period: Duration,
    /// Least time before an alert is sent again.
    pub resend_delay: Duration,
    /// Independent rules at once, at least one.
    pub concurrency: usize,
    /// How long rules wait for shards that no peer answers for.
    pub incomplete_hold: Duration,
}

/// `--alertmanager.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertmanagerOptions {
    /// The configuration of delivery from inside.
    pub config_file: FileOption,
    /// Alerts waiting for outside Alertmanagers.
    pub queue_capacity: usize,
    /// Alerts in one request to an outside Alertmanager.
    pub batch_size: usize,
    /// Send what waits before stopping.
    pub drain_on_shutdown: bool,
    /// What is taken at most, and how matchers are read. Only `promesh alertmanager` has flags for it.
    pub limits: Limits,
}

/// Everything a peer was told on its command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether it is the alerting half alone: it scrapes and evaluates nothing.
    pub alerting_only: bool,
    /// The configuration file.
    pub config_file: FileOption,
    /// How often to look for changed configuration; `None` for never.
    pub auto_reload: Option<Duration>,
    /// The HTTP side.
    pub web: WebOptions,
    /// Where and how data is kept.
    pub storage: StorageOptions,
    /// Remote read and write.
    pub remote: RemoteOptions,
    /// Limits of queries.
    pub query: QueryLimits,
    /// How rules are evaluated.
    pub rules: RuleOptions,
    /// How alerts leave.
    pub alertmanager: AlertmanagerOptions,
    /// The mesh; `None` when it is switched off.
    pub cluster: Option<ClusterOptions>,
    /// `--enable-feature`.
    pub features: Features,
    /// The log.
    pub log: LogOptions,
    /// What should be logged as WARN once there is a log.
    pub warnings: Vec<String>,
    /// Every flag with its value, for `/api/v1/status/flags`.
    pub flags: BTreeMap<String, String>,
}

impl Options {
    /// What a peer without any flags is told.
    pub fn defaults() -> Options {
        Options::parse(["promesh"]).expect("the defaults are valid: a test says so")
    }

    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// As [`OptionsError`] says; asking for `--help` is one, too.
    pub fn parse<T: Into<std::ffi::OsString> + Clone>(
        args: impl IntoIterator<Item = T>,
    ) -> Result<Options, OptionsError> {
        let matches = add_flags(Command::new("promesh")).try_get_matches_from(args);
        Options::from_matches(&matches.map_err(|error| OptionsError::usage(error.to_string()))?)
    }

    /// Makes options of flags that clap has read.
    ///
    /// # Errors
    /// For values that cannot be, flags of features that are not built, and an unprotected address.
    pub fn from_matches(matches: &ArgMatches) -> Result<Options, OptionsError> {
        let values = Values::new(matches);
        let mut warnings = settle_fates(&values)?;
        let (features, unknown) = Features::parse(values.texts("enable-feature").iter().map(String::as_str));
        warnings.extend(unknown);
        let auto_reload = values.switch("config.auto-reload") || features.auto_reload_config;
        let interval = values.duration("config.auto-reload-interval")?.max(Duration::from_secs(1));
        Ok(Options {
            alerting_only: false,
            config_file: file(&values, "config.file"),
            auto_reload: auto_reload.then_some(interval),
            web: web(&values, &features)?,
            storage: storage(&values)?,
            remote: remote(&values)?,
            query: query(&values)?,
            rules: rules(&values)?,
            alertmanager: alertmanager(&values)?,
            cluster: ClusterOptions::new(&values)?,
            features,
            log: log(&values),
            warnings,
            flags: values.table(),
        })
    }
}

/// The flags as clap knows them; help, suggestions and completions come from there.
pub fn add_flags(command: Command) -> Command {
    add(FLAGS, command)
}

fn add(flags: &[Flag], command: Command) -> Command {
    flags.iter().fold(command, |command, flag| {
        let command = command.arg(argument(flag));
        match flag.kind {
            Kind::Switch => command.arg(negated(flag)),
            _ => command,
        }
    })
}

fn argument(flag: &Flag) -> Arg {
    let arg = Arg::new(flag.name).long(flag.name).help(flag.help).hide(flag.hidden);
    let arg = if flag.default.is_empty() { arg } else { arg.default_value(flag.default) };
    match flag.kind {
        Kind::Switch => arg
            .value_name("BOOL")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(["true", "false"])
            .hide_default_value(true)
            .hide_possible_values(true)
            .overrides_with(negation(flag.name)),
        Kind::Texts => arg.action(ArgAction::Append).value_name("TEXT"),
        Kind::Choice(words) => arg.value_name("WORD").value_parser(clap::builder::PossibleValuesParser::new(words)),
        Kind::Duration => arg.value_name("DURATION"),
        Kind::Size => arg.value_name("BYTES"),
        Kind::Integer | Kind::Float => arg.value_name("NUMBER").allow_negative_numbers(true),
        Kind::Text => arg.value_name("TEXT"),
    }
}

fn negated(flag: &Flag) -> Arg {
    Arg::new(negation(flag.name)).long(negation(flag.name)).action(ArgAction::SetTrue).hide(true)
}

/// Refuses what must be refused; gives the warnings for what is moot.
fn settle_fates(values: &Values) -> Result<Vec<String>, OptionsError> {
    let given = || FLAGS.iter().filter(|flag| values.is_given(flag.name) && values.text(flag.name) != flag.default);
    let agent_only: Vec<_> = given().filter(|flag| flag.fate == Fate::AgentOnly).map(|flag| flag.name).collect();
    if !agent_only.is_empty() {
        let message = format!("The following flag(s) can only be used in agent mode: {agent_only:?}");
        return Err(OptionsError { message, exit_code: 3 });
    }
    let mut warnings = Vec::new();
    for flag in given() {
        match flag.fate {
            Fate::Refused(why) => return Err(bad_value(flag.name, why)),
            Fate::Moot(why) => warnings.push(format!("--{} has no effect: {why}", flag.name)),
            Fate::Obeyed | Fate::AgentOnly => {}
        }
    }
    Ok(warnings)
}

fn file(values: &Values, name: &'static str) -> FileOption {
    FileOption { path: values.text(name).into(), is_given: values.is_given(name) }
}

fn log(values: &Values) -> LogOptions {
    let level = match values.text("log.level") {
        "debug" => tracing::Level::DEBUG,
        "warn" => tracing::Level::WARN,
        "error" => tracing::Level::ERROR,
        _ => tracing::Level::INFO,
    };
    LogOptions { level, json: values.text("log.format") == "json" }
}

fn web(values: &Values, features: &Features) -> Result<WebOptions, OptionsError> {
    let listen = values.texts("web.listen-address").iter();
    let listen: Result<Vec<_>, _> = listen.map(|text| parse_address(text)).collect();
    let external_url = external_url(values.text("web.external-url"))?;
    let prefix = match values.text("web.route-prefix") {
        "" => external_url.as_ref().map_or("", |url| url.path()),
        prefix => prefix,
    };
    let route_prefix = format!("/{}", prefix.trim_matches('/'));
    let cors = values.text("web.cors.origin");
    let cors_error =
        |error| bad_value("web.cors.origin", format!("could not compile CORS regex string {cors:?}: {error}"));
    Ok(WebOptions {
        listen: listen.map_err(|error| bad_value("web.listen-address", error))?,
        read_timeout: values.duration("web.read-timeout")?,
        connections_max: values.number("web.max-connections")?,
        notifications_subscribers_max: values.number("web.max-notifications-subscribers")?,
        external_url,
        route_prefix,
        enable_lifecycle: values.switch("web.enable-lifecycle"),
        enable_admin_api: values.switch("web.enable-admin-api"),
        enable_otlp_receiver: values.switch("web.enable-otlp-receiver") || features.otlp_receiver,
        search_limit_max: values.number("web.search.max-limit")?,
        enable_pushgateway: values.switch("web.enable-pushgateway"),
        enable_remote_write_receiver: values.switch("web.enable-remote-write-receiver")
            || features.remote_write_receiver,
        remote_write_messages: remote_write_messages(values)?,
        config_file: Some(values.text("web.config.file")).filter(|path| !path.is_empty()).map(PathBuf::from),
        page_title: values.text("web.page-title").to_owned(),
        get_concurrency: 0,
        timeout: Duration::ZERO,
        cors_origin: Regex::new(&format!("^(?s:{cors})$")).map_err(cors_error)?,
    })
}

fn remote_write_messages(values: &Values) -> Result<Vec<String>, OptionsError> {
    const FLAG: &str = "web.remote-write-receiver.accepted-protobuf-messages";
    const KNOWN: [&str; 2] = ["prometheus.WriteRequest", "io.prometheus.write.v2.Request"];
    let names: Vec<_> = values.texts(FLAG).iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
    match names.iter().find(|name| !KNOWN.contains(&name.as_str())) {
        Some(name) => {
            Err(bad_value(FLAG, format!("unknown remote write protobuf message {name:?}, supported: {KNOWN:?}")))
        }
        None => Ok(names),
    }
}

/// A URL without query, fragment or quotes around it, its path without a slash at its end.
fn external_url(text: &str) -> Result<Option<Url>, OptionsError> {
    let bad = |why: &dyn std::fmt::Display| OptionsError::usage(format!("parse external URL {text:?}: {why}"));
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with(['"', '\'']) || text.ends_with(['"', '\'']) {
        return Err(bad(&"URL must not begin or end with quotes"));
    }
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("http://{text}")) };
    let mut url = url.map_err(|error| bad(&error))?;
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(Some(url))
}

fn storage(values: &Values) -> Result<StorageOptions, OptionsError> {
    let time = values.duration_if_given("storage.tsdb.retention.time")?.filter(|time| !time.is_zero());
    let bytes = values.size_if_given("storage.tsdb.retention.size")?.filter(|bytes| *bytes > 0);
    let retention_time = match (time, bytes) {
        (Some(time), _) => time.min(RETENTION_UNLIMITED),
        (None, Some(_)) => RETENTION_UNLIMITED,
        (None, None) => RETENTION_DEFAULT,
    };
    let block_span_min = values.duration("storage.tsdb.min-block-duration")?;
    // As Prometheus: a tenth of the retention, at most 31 days.
    let tenth = (retention_time / 10).min(Duration::from_secs(31 * 86_400));
    let block_span_max = values.duration_if_given("storage.tsdb.max-block-duration")?.unwrap_or(tenth);
    if block_span_min.is_zero() {
        return Err(bad_value("storage.tsdb.min-block-duration", "must be longer than zero"));
    }
    Ok(StorageOptions {
        path: values.text("storage.tsdb.path").into(),
        block_span_max: block_span_max.max(block_span_min),
        retention_time,
        retention_bytes: bytes,
        wal_bytes_max: values.size_if_given("storage.tsdb.wal-size-max")?,
        wal_sync: if values.text("storage.tsdb.wal-sync") == "always" { WalSync::Always } else { WalSync::Group },
    })
}

fn remote(values: &Values) -> Result<RemoteOptions, OptionsError> {
    let samples: f64 = values.number("storage.remote.read-sample-limit")?;
    let concurrency: usize = values.number("storage.remote.read-concurrent-limit")?;
    Ok(RemoteOptions {
        flush_deadline: match values.is_given("storage.remote.flush-deadline") {
            true => Some(values.duration("storage.remote.flush-deadline")?),
            false => None,
        },
        read_samples_max: (samples > 0.0).then_some(samples as u64),
        read_concurrency: (concurrency > 0).then_some(concurrency),
        read_frame_bytes_max: values.number("storage.remote.read-max-bytes-in-frame")?,
    })
}

fn query(values: &Values) -> Result<QueryLimits, OptionsError> {
    Ok(QueryLimits {
        lookback: values.duration("query.lookback-delta")?,
        timeout: values.duration("query.timeout")?,
        concurrency: values.number::<usize>("query.max-concurrency")?.max(1),
        samples_max: values.number("query.max-samples")?,
    })
}

fn rules(values: &Values) -> Result<RuleOptions, OptionsError> {
    Ok(RuleOptions {
        outage_tolerance: values.duration("rules.alert.for-outage-tolerance")?,
        grace_period: values.duration("rules.alert.for-grace-period")?,
        resend_delay: values.duration("rules.alert.resend-delay")?,
        concurrency: values.number::<usize>("rules.max-concurrent-evals")?.max(1),
        incomplete_hold: values.duration("rules.incomplete-hold")?,
    })
}

fn alertmanager(values: &Values) -> Result<AlertmanagerOptions, OptionsError> {
    Ok(AlertmanagerOptions {
        config_file: file(values, "alertmanager.config.file"),
        queue_capacity: values.number("alertmanager.notification-queue-capacity")?,
        batch_size: values.number::<usize>("alertmanager.notification-batch-size")?.max(1),
        drain_on_shutdown: values.switch("alertmanager.drain-notification-queue-on-shutdown"),
        limits: Limits::default(),
    })
}
