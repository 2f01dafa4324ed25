use super::*;

fn parse(flags: &[&str]) -> Result<Options, OptionsError> {
    Options::parse(["promesh"].iter().chain(flags))
}

fn refusal(flags: &[&str]) -> (u8, String) {
    let error = parse(flags).expect_err("refused");
    (error.exit_code, error.message)
}

#[test]
fn the_defaults_are_prometheus_own() {
    let options = Options::defaults();
    assert_eq!(options.web.listen, ["0.0.0.0:9090".parse().expect("an address")]);
    assert_eq!(options.storage.retention_time, RETENTION_DEFAULT);
    assert_eq!(options.query.timeout, Duration::from_secs(120));
    assert_eq!((options.query.concurrency, options.query.samples_max), (20, 50_000_000));
    assert_eq!(options.web.route_prefix, "/");
    assert!(!options.config_file.is_given && !options.web.enable_lifecycle);
    assert_eq!(options.warnings, Vec::<String>::new());
    let cluster = options.cluster.expect("the mesh is on by default, on loopback");
    assert_eq!((cluster.weight, cluster.replication_factor), (4, 2));
    assert_eq!(cluster.trust, TrustOptions::Development);
}

/// Each of `prometheus --help` of 3.5, as a user would write it.
#[test]
fn every_flag_of_prometheus_is_known() {
    for flags in [
        "--config.file=p.yml --config.auto-reload-interval=10s --web.listen-address=:1 --web.listen-address=:2",
        "--no-auto-gomaxprocs --auto-gomemlimit --auto-gomemlimit.ratio=0.5 --web.config.file= --web.read-timeout 1m",
        "--web.max-connections=1 --web.max-notifications-subscribers=2 --web.external-url=http://x/y --web.route-prefix=/",
        "--web.local-assets=a --web.user-assets=b --web.enable-lifecycle --web.enable-admin-api",
        "--web.enable-remote-write-receiver --web.remote-write-receiver.accepted-protobuf-messages=prometheus.WriteRequest",
        "--web.console.templates=c --web.console.libraries=d --web.page-title=t --web.cors.origin=https?://.*",
        "--storage.tsdb.path=x --storage.tsdb.retention.time=1y --storage.tsdb.retention.size=512MB",
        "--storage.tsdb.no-lockfile --storage.tsdb.head-chunks-write-queue-size=3 --storage.remote.flush-deadline=1s",
        "--storage.remote.read-sample-limit=1e3 --storage.remote.read-concurrent-limit=0",
        "--storage.remote.read-max-bytes-in-frame=9 --rules.alert.for-outage-tolerance=2h",
        "--rules.alert.for-grace-period=1m --rules.alert.resend-delay=1m --rules.max-concurrent-evals=8",
        "--alertmanager.notification-queue-capacity=1 --alertmanager.notification-batch-size=2",
        "--no-alertmanager.drain-notification-queue-on-shutdown --query.lookback-delta=1m --query.timeout=1m",
        "--query.max-concurrency=3 --query.max-samples=5 --enable-feature=exemplar-storage --no-agent",
        "--log.level=debug --log.format=json --storage.tsdb.wal-compression --storage.tsdb.max-block-duration=1d",
    ] {
        let flags: Vec<_> = flags.split(' ').collect();
        if let Err(error) = parse(&flags) {
            panic!("{flags:?}: {error}");
        }
    }
}

#[test]
fn values_mean_what_they_say() {
    let options = parse(&[
        "--web.listen-address=127.0.0.1:0",
        "--web.listen-address=[::1]:0",
        "--web.external-url=https://example.org/prom/",
        "--storage.tsdb.retention.size=1KB",
        "--storage.remote.read-sample-limit=0",
        "--web.enable-lifecycle",
        "--no-web.enable-admin-api",
        "--config.auto-reload",
        "--enable-feature=exemplar-storage,nonsense",
        "--cluster.peer=one",
        "--cluster.peer=two:1",
        "--log.format=json",
    ])
    .expect("valid");
    assert_eq!(options.web.listen.len(), 2);
    assert_eq!(options.web.route_prefix, "/prom");
    assert_eq!(options.web.external_url.expect("given").as_str(), "https://example.org/prom");
    assert_eq!((options.storage.retention_time, options.storage.retention_bytes), (RETENTION_UNLIMITED, Some(1024)));
    assert_eq!(options.remote.read_samples_max, None);
    assert!(options.web.enable_lifecycle && !options.web.enable_admin_api && options.log.json);
    assert_eq!(options.auto_reload, Some(Duration::from_secs(30)));
    assert!(options.features.exemplar_storage);
    assert_eq!(options.warnings, ["--enable-feature=nonsense: unknown feature"]);
    assert_eq!(options.cluster.expect("on").seeds, ["one:9094", "two:1"]);
    assert_eq!(options.flags["web.listen-address"], "127.0.0.1:0,[::1]:0");
}

#[test]
fn an_unknown_flag_exits_2_and_names_the_nearest() {
    let (code, message) = refusal(&["--web.listen-adress=:1"]);
    assert_eq!(code, 2);
    assert!(message.contains("'--web.listen-adress'") && message.contains("'--web.listen-address'"), "{message}");
}

#[test]
fn bad_values_name_their_flag() {
    for (flag, part) in [
        ("--query.timeout=soon", "--query.timeout: not a valid duration string: \"soon\""),
        ("--query.max-samples=many", "--query.max-samples"),
        ("--storage.tsdb.retention.size=512", "--storage.tsdb.retention.size: \"512\" is not a size"),
        ("--web.listen-address=nowhere", "--web.listen-address: \"nowhere\" is not ADDRESS:PORT"),
        ("--web.cors.origin=(", "could not compile CORS regex string \"(\""),
        ("--web.external-url='http://x'", "URL must not begin or end with quotes"),
        ("--log.level=loud", "loud"),
        ("--cluster.weight=65", "--cluster.weight: 65 is not in 1 to 64"),
        ("--cluster.replication-factor=0", "--cluster.replication-factor: 0 is not in 1 to 16"),
        ("--web.remote-write-receiver.accepted-protobuf-messages=x", "unknown remote write protobuf message \"x\""),
        ("--agent", "--agent: agent mode is not built"),
    ] {
        let (code, message) = refusal(&[flag]);
        assert_eq!(code, 2, "{flag}");
        assert!(message.contains(part), "{flag}: {message}");
    }
}

#[test]
fn flags_of_agent_mode_exit_3_as_upstream() {
    let (code, message) = refusal(&["--storage.agent.path=x"]);
    assert_eq!(code, 3);
    assert_eq!(message, "The following flag(s) can only be used in agent mode: [\"storage.agent.path\"]");
}

#[test]
fn moot_flags_are_taken_with_a_warning() {
    let options = parse(&["--cluster.settle-timeout=1m", "--auto-gomemlimit"]).expect("taken");
    assert_eq!(
        options.warnings,
        ["--cluster.settle-timeout has no effect: a peer is ready when it has caught up, not after a time"]
    );
}

#[test]
fn an_address_that_others_reach_needs_a_secret() {
    for flags in [
        &["--cluster.listen-address=0.0.0.0:9094"][..],
        &["--cluster.listen-address=127.0.0.1:1", "--cluster.advertise-address=10.0.0.1:9094"],
    ] {
        let (code, message) = refusal(flags);
        assert_eq!(code, 2);
        assert!(message.contains("promesh cluster secret > cluster.secret"), "{message}");
        assert!(message.contains("--cluster.secret-file=cluster.secret"), "{message}");
    }
    parse(&["--cluster.listen-address=0.0.0.0:9094", "--cluster.secret-file=s"]).expect("a secret will do");
    parse(&["--cluster.listen-address=0.0.0.0:9094", "--cluster.tls-config=s"]).expect("an own PKI will do");
    refusal(&["--cluster.secret-file=a", "--cluster.tls-config=b"]);
    assert!(parse(&["--cluster.listen-address="]).expect("off").cluster.is_none());
}
