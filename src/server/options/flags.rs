//! Every flag: its name, what kind of value it takes, what it is when it is not given, and what becomes of it.
//!
//! The list is Prometheus' (3.5, and what later releases added where it means something here) with the mesh's own
//! below it. A flag of Prometheus whose feature does not exist here is accepted with a WARN where leaving it out is
//! harmless, and refused by name where it is not.

/// What a flag's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--x`, `--no-x`.
    Switch,
    Text,
    /// Text that may be given many times.
    Texts,
    /// Prometheus' durations: `1h30m`.
    Duration,
    Integer,
    Float,
    /// A number of bytes with a unit, powers of two: `512MB`.
    Size,
    /// One of a few words.
    Choice(&'static [&'static str]),
}

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is obeyed.
    Obeyed,
    /// It changes nothing here, and that is harmless: a WARN says why.
    Moot(&'static str),
    /// Going on without it would not be what was asked for: exit 2 with the reason.
    Refused(&'static str),
    /// Prometheus' agent mode only: exit 3, as Prometheus does.
    AgentOnly,
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    /// The value when it is not given; empty for none.
    pub default: &'static str,
    pub fate: Fate,
    pub hidden: bool,
    pub help: &'static str,
}

use Fate::{AgentOnly, Moot, Obeyed, Refused};
use Kind::{Choice, Duration, Float, Integer, Size, Switch, Text, Texts};

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, fate: Obeyed, hidden: false, help }
}

const fn moot(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag { name, kind, default, fate: Moot(why), hidden: true, help: why }
}

const fn refused(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag { name, kind, default, fate: Refused(why), hidden: true, help: why }
}

const fn agent(name: &'static str, kind: Kind) -> Flag {
    Flag { name, kind, default: "", fate: AgentOnly, hidden: true, help: "Agent mode only." }
}

const GO_RUNTIME: &str = "it tunes the Go runtime, and there is none here";
const NO_CONSOLES: &str = "console templates are not served";
const OWN_LOG: &str = "the log has its own format; see --storage.tsdb.wal-size-max and --storage.tsdb.wal-sync";

/// All flags, in the order of `--help`.
pub(crate) const FLAGS: &[Flag] = &[
    flag(
        "config.file",
        Text,
        "prometheus.yml",
        "Configuration file. The default one may be absent: the peer then scrapes itself.",
    ),
    flag("config.auto-reload", Switch, "false", "Reload the configuration when its files change."),
    flag("config.auto-reload-interval", Duration, "30s", "How often to look for changes, with --config.auto-reload."),
    flag("web.listen-address", Texts, "0.0.0.0:9090", "Address of the HTTP API and the pages. Can be repeated."),
    flag("web.config.file", Text, "", "File with TLS, users, headers and request rate of the web interface."),
    flag("web.read-timeout", Duration, "5m", "How long a request may take to be read, and a connection may be idle."),
    flag("web.max-connections", Integer, "512", "Connections at once, over all listeners."),
    flag("web.max-notifications-subscribers", Integer, "16", "Subscribers of live notifications at once."),
    flag(
        "web.external-url",
        Text,
        "",
        "URL under which this peer is reached from outside; its path prefixes all pages.",
    ),
    flag("web.route-prefix", Text, "", "Prefix of the routes inside. Defaults to the path of --web.external-url."),
    moot("web.local-assets", Text, "", "the pages are part of the binary"),
    moot("web.user-assets", Text, "", "own assets are not served"),
    flag("web.enable-lifecycle", Switch, "false", "Allow POST /-/reload and /-/quit."),
    flag("web.enable-admin-api", Switch, "false", "Allow deleting series and taking snapshots over HTTP."),
    flag("web.enable-remote-write-receiver", Switch, "false", "Accept remote write at /api/v1/write."),
    flag(
        "web.remote-write-receiver.accepted-protobuf-messages",
        Texts,
        "prometheus.WriteRequest,io.prometheus.write.v2.Request",
        "Which messages remote write accepts.",
    ),
    flag("web.enable-otlp-receiver", Switch, "false", "Enable API endpoint accepting OTLP write requests."),
    flag(
        "web.enable-pushgateway",
        Switch,
        "false",
        "Accept pushes of batch jobs at /metrics/job/…, as the Pushgateway does. On most peers of a mesh alike.",
    ),
    moot("web.console.templates", Text, "consoles", NO_CONSOLES),
    moot("web.console.libraries", Text, "console_libraries", NO_CONSOLES),
    flag("web.page-title", Text, "Prometheus Time Series Collection and Processing Server", "Title of the pages."),
    flag("web.cors.origin", Text, ".*", "Regular expression, fully anchored, of the origins that CORS admits."),
    flag("web.search.max-limit", Integer, "10000", "Results of one search at most, with --enable-feature=search-api."),
    flag("storage.tsdb.path", Text, "data/", "Folder of all data of this peer."),
    moot("storage.tsdb.min-block-duration", Duration, "2h", "blocks leave the head two hours long"),
    flag(
        "storage.tsdb.max-block-duration",
        Duration,
        "",
        "Longest span of a compacted block; a tenth of the retention if not given.",
    ),
    moot("storage.tsdb.max-block-chunk-segment-size", Size, "", "chunk files are cut at 512 MiB"),
    moot("storage.tsdb.wal-segment-size", Size, "", OWN_LOG),
    flag(
        "storage.tsdb.retention.time",
        Duration,
        "",
        "How long samples are kept; 15d when neither this nor the size is given.",
    ),
    flag(
        "storage.tsdb.retention.size",
        Size,
        "",
        "Most bytes of blocks; units B, KB, MB, GB, TB, PB, EB, powers of two.",
    ),
    moot("storage.tsdb.no-lockfile", Switch, "false", "two processes on one data folder would destroy it"),
    moot("storage.tsdb.allow-overlapping-compaction", Switch, "true", "overlapping blocks are always merged"),
    moot("storage.tsdb.allow-overlapping-blocks", Switch, "true", "overlapping blocks are always read"),
    moot("storage.tsdb.wal-compression", Switch, "true", OWN_LOG),
    moot("storage.tsdb.wal-compression-type", Text, "snappy", OWN_LOG),
    moot("storage.tsdb.head-chunks-write-queue-size", Integer, "0", "head chunks are not written apart"),
    moot("storage.tsdb.samples-per-chunk", Integer, "120", "chunks are cut at 120 samples"),
    moot("storage.tsdb.delayed-compaction.max-percent", Integer, "10", "compaction is not delayed"),
    refused(
        "storage.tsdb.delay-compact-file.path",
        Text,
        "",
        "waiting for another program's uploads before compacting is not built",
    ),
    moot("storage.tsdb.block-reload-interval", Duration, "1m", "blocks are looked for when they change"),
    agent("storage.agent.path", Text),
    agent("storage.agent.wal-segment-size", Size),
    agent("storage.agent.wal-compression", Switch),
    agent("storage.agent.wal-compression-type", Text),
    agent("storage.agent.wal-truncate-frequency", Duration),
    agent("storage.agent.retention.min-time", Duration),
    agent("storage.agent.retention.max-time", Duration),
    agent("storage.agent.checkpoint-from-in-memory-series", Switch),
    agent("storage.agent.checkpoint-batch-size", Integer),
    agent("storage.agent.no-lockfile", Switch),
    flag(
        "storage.remote.flush-deadline",
        Duration,
        "1m",
        "How long to flush samples to remote storage on shutdown or reload.",
    ),
    flag("storage.remote.read-sample-limit", Float, "5e7", "Most samples of one remote read; 0 for no limit."),
    flag("storage.remote.read-concurrent-limit", Integer, "10", "Remote reads at once; 0 for no limit."),
    flag(
        "storage.remote.read-max-bytes-in-frame",
        Integer,
        "1048576",
        "Most bytes of one frame of a streamed remote read.",
    ),
    flag(
        "rules.alert.for-outage-tolerance",
        Duration,
        "1h",
        "Longest outage after which the `for` state of alerts is restored.",
    ),
    flag("rules.alert.for-grace-period", Duration, "10m", "Least time between a restored `for` state and the alert."),
    flag("rules.alert.resend-delay", Duration, "1m", "Least time before an alert is sent again."),
    flag("rules.max-concurrent-evals", Integer, "4", "Independent rules evaluated at once."),
    moot("scrape.adjust-timestamps", Switch, "true", "samples always bear the instant of their slot"),
    moot("scrape.timestamp-tolerance", Text, "2ms", "samples always bear the instant of their slot"),
    moot("scrape.discovery-reload-interval", Duration, "5s", "changes of targets are taken over at once"),
    flag(
        "alertmanager.config.file",
        Text,
        "alertmanager.yml",
        "Alertmanager configuration. The default one may be absent: nothing is delivered from inside.",
    ),
    flag("alertmanager.notification-queue-capacity", Integer, "10000", "Alerts waiting for outside Alertmanagers."),
    flag("alertmanager.notification-batch-size", Integer, "256", "Alerts in one request to an outside Alertmanager."),
    flag(
        "alertmanager.drain-notification-queue-on-shutdown",
        Switch,
        "true",
        "Send what waits for outside Alertmanagers before stopping.",
    ),
    moot("alertmanager.timeout", Duration, "", "the time-out is set in the alerting section of the configuration"),
    flag("query.lookback-delta", Duration, "5m", "How far back a query looks for a sample."),
    flag("query.timeout", Duration, "2m", "Longest run of a query."),
    flag("query.max-concurrency", Integer, "20", "Queries at once."),
    flag("query.max-samples", Integer, "50000000", "Most samples that one query may hold in memory."),
    moot("auto-gomaxprocs", Switch, "true", GO_RUNTIME),
    moot("auto-gomemlimit", Switch, "true", GO_RUNTIME),
    moot("auto-gomemlimit.ratio", Float, "0.9", GO_RUNTIME),
    moot("auto-gomemlimit.refresh-interval", Duration, "0s", GO_RUNTIME),
    flag("enable-feature", Texts, "", "Comma separated features to enable, as in Prometheus."),
    refused("agent", Switch, "false", "agent mode is not built"),
    flag("log.level", Choice(&["debug", "info", "warn", "error"]), "info", "Log messages of this severity and above."),
    flag("log.format", Choice(&["logfmt", "json"]), "logfmt", "Form of the log."),
    // The mesh.
    flag(
        "cluster.listen-address",
        Text,
        "127.0.0.1:9094",
        "UDP address where other peers reach this one; empty: no mesh.",
    ),
    flag("cluster.peer", Texts, "", "A peer to join through, HOST:PORT; host or DNS name. Can be repeated."),
    flag(
        "cluster.advertise-address",
        Text,
        "",
        "Address told to the others, behind NAT; the listen address if not given.",
    ),
    flag("cluster.label", Text, "default", "Name of the mesh; peers of another label are strangers."),
    flag(
        "cluster.secret-file",
        Text,
        "",
        "File with the secret that all peers share; `promesh cluster secret` makes one.",
    ),
    flag(
        "cluster.tls-config",
        Text,
        "",
        "File naming certificates of an own PKI, in Alertmanager's format, instead of a secret.",
    ),
    flag("cluster.zone", Text, "", "Where this peer is; copies are spread over zones."),
    flag("cluster.replication-factor", Integer, "2", "Copies of every sample; the majority's value counts."),
    flag("cluster.weight", Integer, "4", "Share of the work, 1 to 64, relative to the other peers' weights."),
    flag("cluster.notify-hold", Duration, "10s", "How long notifications wait for a majority of electors."),
    flag("cluster.start-hold", Duration, "10s", "How long a starting peer waits for the peers it knows."),
    flag(
        "cluster.replace-after",
        Duration,
        "30m",
        "How long a peer may be down before its copies are made anew elsewhere.",
    ),
    flag(
        "cluster.segmentation-offload",
        Switch,
        "true",
        "Use UDP segmentation offload; switch off where the network refuses it.",
    ),
    flag("rules.incomplete-hold", Duration, "1m", "How long rules wait for shards that no peer answers for."),
    flag(
        "storage.tsdb.wal-size-max",
        Size,
        "",
        "Most bytes of log kept for peers that are behind; a tenth of the disk if not given.",
    ),
    flag(
        "storage.tsdb.wal-sync",
        Choice(&["group", "always"]),
        "group",
        "Sync pushed samples to disk in groups each second, or before they are acknowledged.",
    ),
    moot("cluster.pushpull-interval", Duration, "", "the mesh has its own protocol"),
    moot("cluster.gossip-interval", Duration, "", "the mesh has its own protocol"),
    moot("cluster.tcp-timeout", Duration, "", "the mesh has its own protocol"),
    moot("cluster.probe-timeout", Duration, "", "the mesh has its own protocol"),
    moot("cluster.probe-interval", Duration, "", "the mesh has its own protocol"),
    moot("cluster.settle-timeout", Duration, "", "a peer is ready when it has caught up, not after a time"),
    moot("cluster.reconnect-interval", Duration, "", "the mesh has its own protocol"),
    moot("cluster.reconnect-timeout", Duration, "", "the mesh has its own protocol"),
    moot("cluster.peer-timeout", Duration, "", "notifications are claimed, not waited for by position"),
    moot("cluster.allow-insecure-public-advertise-address-discovery", Switch, "false", "addresses are not guessed"),
];
