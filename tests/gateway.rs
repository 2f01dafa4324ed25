//! Batch jobs push, and what they pushed is scraped once and outlives the peer that took it.

use serde_json::Value;

use crate::support::{Peer, beside_other_meshes, crash_all, exchange, get, mesh_with, pause, wait_for_one_owner, wall};

const CONFIG: &str = "global: {scrape_interval: 1s, scrape_timeout: 1s}\n";
const FLAGS: [&str; 2] = ["--web.enable-pushgateway", "--web.enable-admin-api"];

fn push(peer: &Peer, method: &str, path: &str, body: &str) -> (u16, String) {
    exchange(peer.web, method, path, "", body.as_bytes())
}

/// The labels and values of a query's result, one a line.
fn shown(peer: &Peer, query: &str) -> Vec<String> {
    let line = |sample: &Value| format!("{} {}", sample["metric"], sample["value"][1].as_str().unwrap_or(""));
    let mut lines: Vec<String> = peer.query(query).iter().map(line).collect();
    lines.sort();
    lines
}

fn wait_for(peer: &Peer, query: &str, expected: &[&str]) {
    let until = wall() + 20.0;
    loop {
        let found = shown(peer, query);
        if found == expected {
            return;
        }
        assert!(wall() < until, "{query} gives {found:?}, not {expected:?}\n{}", peer.log());
        pause(100);
    }
}

#[test]
fn pushed_groups_are_scraped_once_and_outlive_the_peer_that_took_them() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let mut peers = mesh_with(root.path(), 3, CONFIG, &FLAGS);
    let body = "# TYPE done_total counter\ndone_total{kind=\"a\"} 3\n# TYPE took_seconds gauge\ntook_seconds 1.5\n";
    assert_eq!(push(&peers[0], "POST", "/metrics/job/nightly", body).0, 200);
    assert_eq!(push(&peers[1], "PUT", "/metrics/job/daily/instance/i1", "took_seconds 7\n").0, 400);
    let typed = "# TYPE took_seconds gauge\ntook_seconds 7\n";
    assert_eq!(push(&peers[1], "PUT", "/metrics/job/daily/instance/i1", typed).0, 200);
    // On every peer at once, and scraped with the labels of the groups alone.
    for peer in &peers {
        let exposed = get(peer.web, "/pushgateway/metrics").1;
        assert!(exposed.contains("took_seconds{instance=\"i1\",job=\"daily\"} 7\n"), "{exposed}");
        assert!(exposed.contains("done_total{instance=\"\",job=\"nightly\",kind=\"a\"} 3\n"), "{exposed}");
        let done = r#"{"__name__":"done_total","job":"nightly","kind":"a"} 3"#;
        wait_for(peer, "done_total", &[done]);
        let daily = r#"{"__name__":"took_seconds","instance":"i1","job":"daily"} 7"#;
        wait_for(peer, "took_seconds{job=\"daily\"}", &[daily]);
    }
    wait_for(
        &peers[2],
        "up{job=\"pushgateway\"}",
        &[r#"{"__name__":"up","instance":"pushgateway","job":"pushgateway"} 1"#],
    );
    wait_for(
        &peers[2],
        "time() - push_time_seconds < bool 60",
        &[r#"{"instance":"i1","job":"daily"} 1"#, r#"{"job":"nightly"} 1"#],
    );
    let failed = r#"{"instance":"i1","job":"daily"} 1"#;
    wait_for(&peers[2], "push_failure_time_seconds > bool 0", &[failed, r#"{"job":"nightly"} 0"#]);

    // The peer that took it dies: others have it, and go on scraping.
    peers[0].kill();
    let began = wall();
    wait_for(&peers[1], "count_over_time(done_total[3s]) >= bool 2", &[r#"{"job":"nightly","kind":"a"} 1"#]);
    while wall() < began + 6.0 {
        pause(200);
    }
    for peer in &peers[1..] {
        wait_for(peer, "count_over_time(done_total[3s]) >= bool 2", &[r#"{"job":"nightly","kind":"a"} 1"#]);
    }
    // What changes meanwhile reaches the one that was away; POST leaves other families, PUT does not.
    assert_eq!(push(&peers[2], "POST", "/metrics/job/nightly", "# TYPE took_seconds gauge\ntook_seconds 9\n").0, 200);
    assert_eq!(push(&peers[2], "DELETE", "/metrics/job/daily/instance/i1", "").0, 202);
    // Its end is written by who scrapes: a peer that takes that over in this very slot, and had not the group's series, would not.
    wait_for(&peers[1], "took_seconds", &[r#"{"__name__":"took_seconds","job":"nightly"} 9"#]);
    peers[0].start();
    peers[0].wait_ready();
    peers[0].wait("it has heard all", 10_000, || {
        let exposed = get(peers[0].web, "/pushgateway/metrics").1;
        let heard = exposed.contains("took_seconds{instance=\"\",job=\"nightly\"} 9\n") && !exposed.contains("daily");
        (heard && exposed.contains("done_total")).then_some(())
    });
    wait_for(&peers[0], "took_seconds", &[r#"{"__name__":"took_seconds","job":"nightly"} 9"#]);
    // As above: who scrapes the gateway from now on has written its series once.
    wait_for_one_owner(&peers);
    pause(2_500);
    assert_eq!(push(&peers[0], "PUT", "/metrics/job/nightly", "# TYPE took_seconds gauge\ntook_seconds 10\n").0, 200);
    wait_for(
        &peers[1],
        "{job=\"nightly\",__name__=~\"done.*|took.*\"}",
        &[r#"{"__name__":"took_seconds","job":"nightly"} 10"#],
    );

    // All stop at once, and it is still there.
    crash_all(&mut peers);
    for peer in &peers {
        let exposed = get(peer.web, "/pushgateway/metrics").1;
        assert!(exposed.contains("took_seconds{instance=\"\",job=\"nightly\"} 10\n"), "{exposed}");
    }
}

#[test]
fn the_gateways_own_api_answers_as_upstreams() {
    let root = tempfile::tempdir().expect("a folder");
    let config = crate::support::paging::write(root.path().join("prometheus.yml"), CONFIG);
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[]).with(FLAGS[0]).with(FLAGS[1]);
    peer.start();
    peer.wait_ready();
    let refused = [
        ("POST", "/metrics/job/a/b", "x 1\n", 400, "odd number of components in label string"),
        ("POST", "/metrics/job/", "x 1\n", 400, "odd number"),
        ("POST", "/metrics/job@base64/=", "x 1\n", 400, "job name is required"),
        ("POST", "/metrics/job/a/__x/y", "x 1\n", 400, "improper label name \"__x\""),
        ("POST", "/metrics/job/a/path@base64/%21", "x 1\n", 400, "invalid value for label \"path\""),
        ("POST", "/metrics/job/a", "x{ 1\n", 400, "line 1"),
        ("POST", "/metrics/job/a", "x 1 1000\n", 400, "pushed metrics must not have timestamps"),
        ("POST", "/metrics/job/a", "x 1\nx 2\n", 400, "was pushed twice"),
        ("GET", "/metrics/job/a", "", 405, "Method Not Allowed"),
    ];
    for (method, path, body, status, text) in refused {
        let (found, answer) = push(&peer, method, path, body);
        assert!(found == status && answer.contains(text), "{method} {path}: {found} {answer}");
    }
    let body =
        "# HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n";
    assert_eq!(push(&peer, "PUT", "/metrics/job@base64/c29tZS9qb2I/path@base64/L3RtcA==", body).0, 200);
    // Deleting what is not there is as good as deleting.
    assert_eq!(push(&peer, "DELETE", "/metrics/job/none", "").0, 202);
    let listed = |peer: &Peer| -> Value { serde_json::from_str(&get(peer.web, "/api/v1/metrics").1).expect("JSON") };
    let groups = listed(&peer);
    let group = &groups["data"]
        .as_array()
        .expect("groups")
        .iter()
        .find(|one| one["labels"]["path"] == "/tmp")
        .expect("it")
        .clone();
    assert_eq!(group["labels"]["job"], "some/job");
    assert_eq!(group["last_push_successful"], true);
    assert_eq!((&group["h"]["type"], &group["h"]["help"]), (&"HISTOGRAM".into(), &"Help.".into()));
    let metric = &group["h"]["metrics"][0];
    assert_eq!(metric["buckets"], serde_json::json!({"1.0": "1", "+Inf": "2"}));
    assert_eq!(
        (&metric["sum"], &metric["count"], &metric["labels"]["instance"]),
        (&"3".into(), &"2".into(), &"".into())
    );
    assert_eq!(group["push_failure_time_seconds"]["metrics"][0]["value"], "0");
    // A group of which only a failure is known.
    let failed = groups["data"].as_array().expect("groups").iter().find(|one| one["labels"]["job"] == "a").expect("it");
    assert_eq!(
        (&failed["last_push_successful"], &failed["push_time_seconds"]["metrics"][0]["value"]),
        (&false.into(), &"0".into())
    );
    let status: Value = serde_json::from_str(&get(peer.web, "/api/v1/status").1).expect("JSON");
    assert_eq!(status["data"]["flags"]["web.enable-pushgateway"], "true");
    assert_eq!(push(&peer, "PUT", "/api/v1/admin/wipe", "").0, 202);
    assert_eq!(listed(&peer)["data"], serde_json::json!([]));
}
