//! Groups as their caller sees them.

use std::sync::Arc;
use std::time::Duration;

use promesh_model::codec::{self, RPC_BYTES_MAX};
use promesh_model::{Labels, Monotonic, Now, ShardId, Timestamp};

use crate::*;

fn now(seconds: i64) -> Now {
    Now { monotonic: Monotonic(seconds as u64 * 1_000_000_000), wall: Timestamp(seconds * 1000) }
}

fn slot(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1000)
}

fn alerting(hold: u64, keep: u64) -> GroupSpec {
    GroupSpec {
        file: "rules.yml".to_owned(),
        name: "g".to_owned(),
        interval: Duration::from_secs(10),
        limit: 0,
        query_offset: None,
        rules: vec![RuleSpec::Alerting(AlertingSpec {
            alert: "Down".to_owned(),
            expression: "up == 0".to_owned(),
            hold: Duration::from_secs(hold),
            keep_firing_for: Duration::from_secs(keep),
            labels: Labels::from_pairs([("severity", "page"), ("where", "{{ $labels.instance }}")]),
            annotations: Labels::from_pairs([(
                "summary",
                "{{ $labels.instance }} is {{ $value }} in {{ $externalLabels.dc }}",
            )]),
        })],
    }
}

fn group(spec: GroupSpec) -> Group {
    let settings = Settings { external_labels: Labels::from_pairs([("dc", "ams")]), ..Settings::default() };
    Group::new(spec, Arc::new(settings)).expect("the templates parse")
}

fn up(instance: &str) -> ResultSample {
    let labels = Labels::from_pairs([("__name__", "up"), ("instance", instance), ("job", "node")]);
    ResultSample { labels, value: SampleValue::Float(0.0) }
}

/// Evaluates one slot, answering everything at once; gives what came out, as text.
fn run(group: &mut Group, seconds: i64, vector: &[ResultSample], coverage: Coverage) -> Vec<String> {
    group.begin(slot(seconds), now(seconds));
    let mut seen = Vec::new();
    while let Some(output) = group.poll_output() {
        match output {
            Output::Restore(request) => group.restored(request.token, Some(&[]), now(seconds)),
            Output::Evaluate { token, .. } => {
                let evaluation = Evaluation { vector: vector.to_vec(), coverage: coverage.clone() };
                group.evaluated(token, Ok(evaluation), None, now(seconds));
            }
            Output::Append { token, samples, .. } => {
                let shown = |sample: &Sample| {
                    let value = match sample.value {
                        SampleValue::Float(value) if promesh_model::value::is_stale(value) => "stale".to_owned(),
                        SampleValue::Float(value) => value.to_string(),
                        SampleValue::Histogram(_) => "histogram".to_owned(),
                    };
                    format!("{} {value} @{}", sample.labels.as_metric(), sample.at.ms() / 1000)
                };
                seen.extend(samples.iter().map(shown));
                group.appended(token, &Appended::Stored, now(seconds));
            }
            Output::Alerts(alerts) => seen.extend(alerts.iter().map(|alert| {
                let state = if alert.resolved { "resolved" } else { "firing" };
                format!("{state} {} since {} until {}", alert.labels.value("instance"), alert.starts_at, alert.ends_at)
            })),
            Output::Finished { evaluated, .. } => seen.push(format!("evaluated={evaluated}")),
        }
    }
    seen
}

fn states(group: &Group) -> Vec<(&'static str, String)> {
    group.alerts().iter().map(|alert| (alert.state, alert.labels.value("instance").to_owned())).collect()
}

#[test]
fn an_alert_is_pending_then_fires_then_resolves() {
    let mut group = group(alerting(20, 0));
    let out = run(&mut group, 100, &[up("a")], Coverage::Whole);
    assert_eq!(
        out,
        [
            "ALERTS{alertname=\"Down\", alertstate=\"pending\", instance=\"a\", job=\"node\", severity=\"page\", where=\"a\"} 1 @100",
            "ALERTS_FOR_STATE{alertname=\"Down\", instance=\"a\", job=\"node\", severity=\"page\", where=\"a\"} 100 @100",
            "evaluated=true",
        ]
    );
    assert_eq!(group.alerts()[0].annotations.get("summary"), Some("a is 0 in ams"));
    run(&mut group, 110, &[up("a")], Coverage::Whole);
    assert_eq!(states(&group), [("pending", "a".to_owned())]);
    let out = run(&mut group, 120, &[up("a")], Coverage::Whole);
    assert_eq!(out[0], "firing a since 1970-01-01T00:02:00Z until 1970-01-01T00:06:00Z");
    assert!(out.iter().any(|line| line.contains("alertstate=\"pending\"") && line.contains("stale")), "{out:?}");
    let out = run(&mut group, 130, &[], Coverage::Whole);
    assert_eq!(out[0], "resolved a since 1970-01-01T00:02:00Z until 1970-01-01T00:02:10Z");
    assert_eq!(out.iter().filter(|line| line.contains("stale")).count(), 2, "{out:?}");
    assert_eq!(states(&group), []);
}

#[test]
fn firing_alerts_are_sent_again_after_the_resend_delay_only() {
    let mut group = group(alerting(0, 0));
    let sent = |out: Vec<String>| out.iter().filter(|line| line.starts_with("firing")).count();
    let times: Vec<usize> = (0..14).map(|n| sent(run(&mut group, 100 + n * 10, &[up("a")], Coverage::Whole))).collect();
    assert_eq!(times, [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn keep_firing_for_bridges_a_gap() {
    let mut group = group(alerting(0, 20));
    run(&mut group, 100, &[up("a")], Coverage::Whole);
    run(&mut group, 110, &[], Coverage::Whole);
    run(&mut group, 120, &[], Coverage::Whole);
    assert_eq!(states(&group), [("firing", "a".to_owned())]);
    run(&mut group, 130, &[], Coverage::Whole);
    assert_eq!(states(&group), []);
}

#[test]
fn an_incomplete_read_misses_the_slot_and_keeps_the_state() {
    let mut group = group(alerting(20, 0));
    run(&mut group, 100, &[up("a")], Coverage::Whole);
    let missing = Coverage::Missing((0..16_384).map(ShardId).collect());
    group.begin(slot(110), now(110));
    let Some(Output::Evaluate { token, .. }) = group.poll_output() else { panic!("nothing to evaluate") };
    group.evaluated(token, Ok(Evaluation { vector: vec![], coverage: missing.clone() }), None, now(110));
    assert_eq!(group.poll_output(), None);
    let retry = group.poll_timeout().expect("it tries again while the slot may be stamped");
    group.timeout(Now { monotonic: retry, wall: Timestamp(115_200) });
    let Some(Output::Evaluate { token, .. }) = group.poll_output() else { panic!("no second try") };
    let late = Now { monotonic: retry, wall: Timestamp(115_200) };
    group.evaluated(token, Ok(Evaluation { vector: vec![], coverage: missing.clone() }), None, late);
    assert_eq!(group.poll_output(), Some(Output::Finished { slot: slot(110), evaluated: false }));
    assert_eq!((states(&group), group.missed()), (vec![("pending", "a".to_owned())], 1));
    // Past the hold it runs on what is there; what may be hidden is not resolved, and goes on counting.
    let out = run(&mut group, 180, &[], missing);
    assert!(out[0].starts_with("firing a"), "{out:?}");
    assert!(group.is_degraded(now(180)));
    let out = run(&mut group, 190, &[], Coverage::Whole);
    assert!(out[0].starts_with("resolved a"), "{out:?}");
}

#[test]
fn absence_is_not_believed_while_shards_are_missing() {
    let mut spec = alerting(0, 0);
    let RuleSpec::Alerting(rule) = &mut spec.rules[0] else { unreachable!() };
    rule.expression = "absent(up)".to_owned();
    let mut group = group(spec);
    run(&mut group, 100, &[], Coverage::Missing(vec![ShardId(1)]));
    run(&mut group, 170, &[up("x")], Coverage::Missing(vec![ShardId(1)]));
    assert_eq!(states(&group), []);
    run(&mut group, 180, &[up("x")], Coverage::Whole);
    assert_eq!(states(&group), [("firing", "x".to_owned())]);
}

fn restored(metric: &str, state: Option<&str>, at: i64, value: f64) -> RestoredSeries {
    let mut labels = Labels::from_pairs([
        ("__name__", metric),
        ("alertname", "Down"),
        ("instance", "a"),
        ("job", "node"),
        ("severity", "page"),
        ("where", "a"),
    ])
    .to_builder();
    if let Some(state) = state {
        labels.set("alertstate", state);
    }
    RestoredSeries { labels: labels.build(), at: slot(at), value, ended: false }
}

fn begin_restored(spec: GroupSpec, seconds: i64, series: &[RestoredSeries]) -> Group {
    let mut group = group(spec);
    group.begin(slot(seconds), now(seconds));
    let Some(Output::Restore(request)) = group.poll_output() else { panic!("nothing is read back") };
    assert_eq!(request.selectors[1].len(), 3, "the templated label is left out");
    group.restored(request.token, Some(series), now(seconds));
    let Some(Output::Evaluate { token, .. }) = group.poll_output() else { panic!("nothing to evaluate") };
    group.evaluated(token, Ok(Evaluation { vector: vec![up("a")], ..Evaluation::default() }), None, now(seconds));
    group
}

#[test]
fn a_takeover_continues_the_timers_to_the_second() {
    let series = [restored(ALERTS_FOR_STATE, None, 990, 400.0), restored(ALERTS, Some("pending"), 990, 1.0)];
    let group = begin_restored(alerting(600, 0), 1000, &series);
    assert_eq!((group.alerts()[0].active_at, states(&group)), (Some(slot(400)), vec![("firing", "a".to_owned())]));
}

#[test]
fn an_outage_does_not_count_towards_for() {
    let series = [restored(ALERTS_FOR_STATE, None, 700, 600.0)];
    let group = begin_restored(alerting(3600, 0), 1000, &series);
    assert_eq!(group.alerts()[0].active_at, Some(slot(900)));
    let group = begin_restored(alerting(300, 0), 1000, &[restored(ALERTS_FOR_STATE, None, 700, 600.0)]);
    assert_eq!(group.alerts()[0].active_at, Some(slot(1300)), "a pending alert waits the grace period");
}

#[test]
fn a_restored_alert_that_is_over_is_resolved_where_it_was_sent() {
    let mut group = group(alerting(60, 0));
    group.begin(slot(1000), now(1000));
    let Some(Output::Restore(request)) = group.poll_output() else { panic!("nothing is read back") };
    let series = [restored(ALERTS_FOR_STATE, None, 990, 400.0), restored(ALERTS, Some("firing"), 990, 1.0)];
    group.restored(request.token, Some(&series), now(1000));
    let Some(Output::Evaluate { token, .. }) = group.poll_output() else { panic!("nothing to evaluate") };
    group.evaluated(token, Ok(Evaluation::default()), None, now(1000));
    let Some(Output::Alerts(alerts)) = group.poll_output() else { panic!("nothing is sent") };
    assert!(alerts[0].resolved && alerts[0].ends_at == slot(1000));
}

#[test]
fn a_handover_gives_everything_and_its_bytes_are_golden() {
    let mut old = group(alerting(20, 0));
    run(&mut old, 100, &[up("a")], Coverage::Whole);
    let bytes = codec::encode(&old.state());
    expect_test::expect!["333 bytes, hash 1057986758"].assert_eq(&format!(
        "{} bytes, hash {}",
        bytes.len(),
        hash(&bytes)
    ));
    let mut new = group(alerting(20, 0));
    new.take_over(codec::decode::<GroupState, RPC_BYTES_MAX>(&bytes).expect("own bytes"));
    let out = run(&mut new, 120, &[up("a")], Coverage::Whole);
    assert!(out[0].starts_with("firing a since 1970-01-01T00:02:00Z"), "{out:?}");
}

fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(1u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(*byte)))
}

#[test]
fn recording_rules_name_their_series_and_mark_what_is_gone() {
    let spec = GroupSpec {
        limit: 2,
        query_offset: Some(Duration::from_secs(5)),
        rules: vec![RuleSpec::Recording(RecordingSpec {
            record: "job:up".to_owned(),
            expression: "up".to_owned(),
            labels: Labels::from_pairs([("team", "x"), ("instance", "")]),
        })],
        ..alerting(0, 0)
    };
    let mut group = group(spec);
    let series =
        |job: &str| ResultSample { labels: Labels::from_pairs([("job", job)]), value: SampleValue::Float(2.0) };
    let out = run(&mut group, 100, &[series("a"), series("b")], Coverage::Whole);
    assert_eq!(out[0], "job:up{job=\"a\", team=\"x\"} 2 @95");
    let out = run(&mut group, 110, &[series("a")], Coverage::Whole);
    assert_eq!(out[1], "job:up{job=\"b\", team=\"x\"} stale @105");
    let out = run(&mut group, 120, &[series("a"), series("b"), series("c")], Coverage::Whole);
    assert_eq!(out, ["evaluated=true"]);
    assert_eq!(
        serde_json::to_value(group.view()).unwrap()["rules"][0]["lastError"],
        "exceeded limit of 2 with 3 series"
    );
}

#[test]
fn the_view_has_upstreams_field_names() {
    let mut group = group(alerting(20, 0));
    run(&mut group, 100, &[up("a")], Coverage::Whole);
    let view = serde_json::to_string_pretty(&group.view()).expect("plain data");
    expect_test::expect![[r#"
        {
          "name": "g",
          "file": "rules.yml",
          "rules": [
            {
              "type": "alerting",
              "state": "pending",
              "name": "Down",
              "query": "up == 0",
              "duration": 20.0,
              "keepFiringFor": 0.0,
              "labels": {
                "severity": "page",
                "where": "{{ $labels.instance }}"
              },
              "annotations": {
                "summary": "{{ $labels.instance }} is {{ $value }} in {{ $externalLabels.dc }}"
              },
              "alerts": [
                {
                  "labels": {
                    "alertname": "Down",
                    "instance": "a",
                    "job": "node",
                    "severity": "page",
                    "where": "a"
                  },
                  "annotations": {
                    "summary": "a is 0 in ams"
                  },
                  "state": "pending",
                  "activeAt": "1970-01-01T00:01:40Z",
                  "value": "0e+00"
                }
              ],
              "health": "ok",
              "evaluationTime": 0.0,
              "lastEvaluation": "1970-01-01T00:01:40Z"
            }
          ],
          "interval": 10.0,
          "limit": 0,
          "evaluationTime": 0.0,
          "lastEvaluation": "1970-01-01T00:01:40Z"
        }"#]]
    .assert_eq(&view);
}

#[test]
fn a_reload_keeps_the_state_of_rules_that_stay() {
    let mut old = group(alerting(20, 0));
    run(&mut old, 100, &[up("a")], Coverage::Whole);
    let mut spec = alerting(20, 0);
    spec.interval = Duration::from_secs(20);
    let mut new = group(spec);
    new.adopt(old);
    assert_eq!(states(&new), [("pending", "a".to_owned())]);
    let mut bad = alerting(0, 0);
    let RuleSpec::Alerting(rule) = &mut bad.rules[0] else { unreachable!() };
    rule.annotations = Labels::from_pairs([("a", "{{ nope }}")]);
    let error = Group::new(bad, Arc::new(Settings::default())).unwrap_err();
    assert!(error.to_string().contains("function \"nope\" not defined"), "{error}");
}
