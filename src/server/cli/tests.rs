use expect_test::expect;
use serde_json::json;

use super::*;

fn code(args: &[&str]) -> u8 {
    match interpret(["promesh"].iter().chain(args)) {
        Invocation::Exit(code) => code,
        Invocation::Serve(_) => panic!("{args:?} runs a peer"),
    }
}

#[test]
fn flags_alone_run_a_peer() {
    assert!(matches!(interpret(["promesh"]), Invocation::Serve(_)));
    assert!(matches!(interpret(["promesh", "--web.enable-lifecycle"]), Invocation::Serve(_)));
}

#[test]
fn exit_codes_are_promtools() {
    assert_eq!(code(&["--help"]), 0);
    assert_eq!(code(&["--version"]), 0);
    assert_eq!(code(&["--nonsense"]), 2);
    assert_eq!(code(&["nonsense"]), 2);
    assert_eq!(code(&["cluster"]), 2);
    assert_eq!(code(&["cluster", "secret"]), 0);
    assert_eq!(code(&["completions", "bash"]), 0);
    assert_eq!(code(&["query", "instant", "http://127.0.0.1:1", "up"]), 1);
    assert_eq!(code(&["query", "range", "127.0.0.1:1", "up", "--step=soon"]), 2);
    assert_eq!(code(&["query", "series", "127.0.0.1:1"]), 2);
    assert_eq!(code(&["query", "labels", "127.0.0.1:1", "job"]), 1);
}

#[test]
fn files_are_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    };
    let good_rules = write("rules.yml", "groups: [{name: g, rules: [{record: a, expr: up}]}]");
    let good = write("good.yml", "rule_files: [rules.yml]\nscrape_configs: [{job_name: a}]");
    let bad = write("bad.yml", "scrape_configs: [{job_name: a, nonsense: 1}]");
    let dangling = write("dangling.yml", "rule_files: [bad_rules.yml]");
    let bad_rules = write("bad_rules.yml", "groups: [{name: g, rules: [{expr: up}]}]");
    assert_eq!(code(&["check", "config", &good]), 0);
    assert_eq!(code(&["check", "config", &good, &bad]), 1);
    assert_eq!(code(&["check", "config", &dangling]), 1);
    assert_eq!(code(&["check", "config", "--syntax-only", &dangling]), 0);
    assert_eq!(code(&["check", "rules", &good_rules]), 0);
    assert_eq!(code(&["check", "rules", &bad_rules]), 1);
    assert_eq!(code(&["check", "rules", "absent.yml"]), 1);
}

#[test]
fn broken_conventions_count_only_if_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    };
    let twice = "groups: [{name: g, rules: [{record: a, expr: up}, {record: a, expr: up}]}]";
    let rules = write("rules.yml", twice);
    let config = write("slow.yml", "rule_files: [rules.yml]\nscrape_configs: [{job_name: a, scrape_interval: 6m}]");
    let slow = write("only_slow.yml", "scrape_configs: [{job_name: a, scrape_interval: 6m}]");
    for (args, expected) in [
        (vec!["rules", &rules], 0),
        (vec!["rules", "--lint-fatal", &rules], 3),
        (vec!["rules", "--lint-fatal", "--lint=none", &rules], 0),
        (vec!["config", &config], 0),
        (vec!["config", "--lint-fatal", &config], 3),
        (vec!["config", "--lint-fatal", &slow], 0),
        (vec!["config", "--lint=all", "--lint-fatal", &slow], 3),
        (vec!["config", "--lint=too-long-scrape-interval", "--lint-fatal", &slow], 3),
        (vec!["config", "--lint=all", "--lint-fatal", "--query.lookback-delta=10m", &slow], 0),
        (vec!["config", "--lint=nonsense", "--lint-fatal", &config], 0),
        (vec!["service-discovery", &slow, "nope"], 1),
    ] {
        assert_eq!(code(&[&["check"], args.as_slice()].concat()), expected, "{args:?}");
    }
}

#[test]
fn expressions_are_checked_where_they_stand() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.yml").to_string_lossy().into_owned();
    std::fs::write(&path, "groups: [{name: g, rules: [{record: a, expr: 'sum(up'}]}]").expect("written");
    assert_eq!(code(&["check", "rules", &path]), 1);
}

#[test]
fn scripts_are_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = |name: &str, expected: &str| {
        let path = folder.path().join(name).to_string_lossy().into_owned();
        let text = format!("load 1m\n  a 1 2 3\n\neval instant at 2m a\n  a {expected}\n");
        std::fs::write(&path, text).expect("written");
        path
    };
    assert_eq!(code(&["test", "promql", &script("good.test", "3")]), 0);
    assert_eq!(code(&["test", "promql", &script("good.test", "3"), &script("bad.test", "4")]), 1);
    assert_eq!(code(&["test", "promql", "absent.test"]), 1);
}

#[test]
fn queries_are_formatted() {
    assert_eq!(code(&["promql", "format", "sum(up)by(job)"]), 0);
    assert_eq!(code(&["promql", "format", "sum("]), 1);
}

#[test]
fn results_print_as_promtool_prints_them() {
    let vector =
        json!({"resultType": "vector", "result": [{"metric": {"__name__": "up", "job": "a"}, "value": [1.5, "1"]}]});
    assert_eq!(query::promql(&vector), "up{job=\"a\"} => 1 @[1.5]\n");
    let matrix = json!({"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "1"], [2, "+Inf"]]}]});
    assert_eq!(query::promql(&matrix), "{} =>\n1 @[1]\n+Inf @[2]\n");
    let scalar = json!({"resultType": "scalar", "result": [3, "7"]});
    assert_eq!(query::promql(&scalar), "scalar: 7 @[3]\n");
}

#[test]
fn the_mesh_prints_as_a_table() {
    let cluster = json!({"cluster": "default", "self": "b", "replicationFactor": 2, "view": 17, "split": false,
        "members": [
            {"id": "a", "name": "host-a", "address": "10.0.0.1:9094", "zone": "", "version": "0.1.0", "state": "ready",
             "since": "2026-11-22T10:00:00Z", "rttSeconds": 0.0004, "clockOffsetSeconds": 0.0, "shardsOwned": 5461,
             "shardsHeld": 10922, "targetsOwned": 12, "series": 90210, "replicationLagSeconds": 0.01},
            {"id": "b", "name": "host-b", "address": "10.0.0.2:9094", "zone": "z", "state": "down"}],
        "shards": {"total": 16384, "underReplicated": 0, "unowned": 0}, "targets": {"total": 36, "unscraped": 0},
        "splitSlots": 0});
    let printed: String = cluster::status(&cluster).lines().map(|line| format!("{}\n", line.trim_end())).collect();
    expect![[r#"
        mesh default, view 17, 2 copies; shards 16384, under-replicated 0, unowned 0; targets 36, unscraped 0; split slots 0
            NAME    ADDRESS        ZONE  STATE  SINCE                 VERSION  RTT    OFFSET  OWNED  HELD   TARGETS  SERIES  LAG
            host-a  10.0.0.1:9094  -     ready  2026-11-22T10:00:00Z  0.1.0    0.4ms  0.0ms   5461   10922  12       90210   10.0ms
         *  host-b  10.0.0.2:9094  z     down   -                     -        -      -       -      -      -        -       -
    "#]]
    .assert_eq(&printed);
}

#[test]
fn differences_between_configurations_are_told_by_peer() {
    let member = |id: &str, name: &str| json!({"id": id, "name": name, "address": "10.0.0.1:9094"});
    let cluster = json!({"members": [member("a", "host-a"), member("b", "host-b"), member("c", "host-c")],
        "configContests": [
            {"piece": "scrape job node", "present": true, "votes": 1, "absentOn": ["c"], "differentOn": ["b"]},
            {"piece": "alerting", "present": false, "votes": 2, "absentOn": [], "differentOn": ["a"]}]});
    let printed = cluster::differences(&cluster).join("\n");
    expect![[r#"
        scrape job node: the mesh runs the version of 1 ready peers; another version on host-b (10.0.0.1:9094); absent on host-c (10.0.0.1:9094)
        alerting: the mesh runs without it, as do 2 ready peers; another version on host-a (10.0.0.1:9094)"#]]
    .assert_eq(&printed);
    assert!(cluster::differences(&json!({})).is_empty());
}

/// Of promtool's own inputs, those whose verdict it states in its tests.
#[test]
fn promtools_inputs_get_its_verdicts() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/promtool");
    if !folder.exists() {
        eprintln!("conformance data is absent: these cases did not run");
        return;
    }
    for (command, file, sound) in [
        ("config", "prometheus-config.good.yml", true),
        ("config", "prometheus-config.bad.yml", false),
        ("config", "authorization_credentials_file.good.yml", true),
        ("config", "authorization_credentials_file.bad.yml", false),
        ("config", "url_in_scrape_targetgroup_with_relabel_config.good.yml", true),
        ("config", "url_in_alert_targetgroup_with_relabel_config.good.yml", true),
        ("config", "url_in_scrape_targetgroup_with_relabel_config.bad.yml", false),
        ("config", "url_in_alert_targetgroup_with_relabel_config.bad.yml", false),
        ("config", "config_with_rule_files.yml", true),
        ("config", "prometheus-config.lint.yml", true),
        ("rules", "rules.yml", true),
        ("rules", "rules_large.yml", true),
        ("rules", "rules_duplicates.yml", true),
        ("rules", "rules-bad.yml", false),
        ("rules", "rules_extrafields.yml", false),
        ("rules", "bad-rules-syntax.yml", false),
        ("rules", "features.yml", true),
    ] {
        let path = folder.join(file);
        if !path.exists() {
            continue;
        }
        let found = code(&["check", command, &path.to_string_lossy()]);
        assert_eq!(found == 0, sound, "{command} {file}: {found}");
    }
}
