//! Alerts as an on-call engineer gets them: from a rule or a post to a webhook, once, whoever dies on the way.

use std::path::Path;
use std::process::{Child, Command};

use serde_json::{Value, json};

use crate::support::hook::{ClogEnd, Hook, Manner};
use crate::support::paging::{
    QUIET_MS, ROUTE, alert, electors, ends_once, firing, instant, learn_sender, other_than, pagers, post_alert,
    resolved, write,
};
use crate::support::{Exporter, Gauge, Peer, get, mesh_with, one_mesh_at_a_time, pause, post, send_json, wall};

#[test]
fn a_lone_peer_tells_within_two_seconds_of_its_start() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let rules = "groups: [{name: g, rules: [{alert: Always, expr: vector(1), labels: {severity: page}, annotations: \
                 {summary: 'is {{ $value }}'}}]}]\n";
    write(root.path().join("rules.yml"), rules);
    let config = "global: {evaluation_interval: 1s, external_labels: {dc: x}}\nrule_files: [rules.yml]\n";
    let file = write(root.path().join("am.yml"), &hook.config("group_by: [alertname], group_wait: 0s"));
    let config = write(root.path().join("prometheus.yml"), config);
    let flag = format!("--alertmanager.config.file={}", file.display());
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[]).with(flag);
    let began = wall();
    peer.start();
    let told = &hook.wait_for(1, 30.0)[0];
    let took = told.at - began;
    println!("first notification {took:.2} s after the start of a lone peer");
    assert!(took <= 2.0, "it took {took:.2} s\n{}", peer.log());
    let body = &told.body;
    assert_eq!((&body["version"], &body["receiver"]), (&json!("4"), &json!("hook")));
    assert_eq!(body["groupKey"], "{}:{alertname=\"Always\"}");
    assert_eq!(body["alerts"][0]["labels"], json!({"alertname": "Always", "dc": "x", "severity": "page"}));
    assert_eq!(body["alerts"][0]["annotations"]["summary"], "is 1");
    let link = format!("http://127.0.0.1:{}/graph?g0.expr=vector%281%29&g0.tab=1", peer.web);
    assert_eq!(body["alerts"][0]["generatorURL"], link);
    assert_eq!(told.key.len(), 32, "{told:?}");
    peer.wait("it counts", 5_000, || {
        (peer.metric("promesh_notifications_sent_total{integration=\"webhook\"}") == 1.0).then_some(())
    });
}

#[test]
fn a_bad_alertmanager_file_is_named_and_the_old_one_stays() {
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let peers = pagers(root.path(), 1, &hook, ROUTE);
    let file = write(root.path().join("alertmanager.yml"), "route:\n  reciever: hook\nreceivers: [{name: hook}]\n");
    let (status, body) = post(peers[0].web, "/-/reload");
    assert_eq!(status, 500);
    assert!(body.contains("alertmanager.yml:2:3") && body.contains("reciever"), "{body}");
    assert_eq!(peers[0].metric("alertmanager_config_last_reload_successful"), 0.0);
    post_alert(&peers[0], "Old", false);
    hook.wait_for(1, 10.0);
    let flag = format!("--alertmanager.config.file={}", file.display());
    let mut second = Peer::new(root.path(), "peer-9", &root.path().join("prometheus.yml"), &[]).with(flag);
    second.start();
    assert_eq!(second.wait_end(), Some(1));
    assert!(second.log().contains("alertmanager.yml:2:3"), "{}", second.log());

    write(file, &hook.config("group_by: [severity], group_wait: 0s"));
    assert_eq!(post(peers[0].web, "/-/reload").0, 200);
    post_alert(&peers[0], "New", false);
    hook.wait_for(2, 10.0);
    assert_eq!(hook.told()[1].body["groupLabels"], json!({"severity": "page"}));
}

#[test]
fn a_sender_killed_before_its_intent_or_after_its_done_tells_nobody_twice() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let mut peers = pagers(root.path(), 3, &hook, &ROUTE.replace("group_wait: 1s", "group_wait: 3s"));
    let sender = learn_sender(&peers, &hook, "A");
    // A second before the flush: nobody wants to send yet.
    let posted = wall();
    post_alert(other_than(&peers, sender), "A", false);
    pause(2_000);
    let left = posted + 3.0 - wall();
    peers[sender].kill();
    let told = hook.wait_for(3, 30.0);
    let late = told[2].at - posted - 3.0;
    println!("sender killed {left:.2} s before the flush: told {late:.2} s late");
    assert!(late <= 5.0, "{late:.1} s late");
    ends_once(&peers, sender, &hook, 2, "A");
    // After it was told and logged.
    peers[sender].start();
    peers[sender].wait_ready();
    peers[sender].wait("it votes again", 30_000, || (electors(&peers[sender]) == 3).then_some(()));
    pause(6_000);
    let before = hook.told().len();
    post_alert(other_than(&peers, sender), "A", false);
    let told = hook.wait_for(before + 1, 15.0);
    pause(1_500);
    let second = peers.iter().position(|peer| peer.holds_port(told[before].from.port())).unwrap_or(sender);
    peers[second].kill();
    ends_once(&peers, second, &hook, before, "A");
}

#[test]
fn a_sender_killed_between_its_intent_and_its_connection_tells_nobody_twice() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let clog = ClogEnd::start(hook.clone());
    let config = hook.config(ROUTE).replace(&hook.address.to_string(), &clog.address.to_string());
    let file = write(root.path().join("am.yml"), &config);
    let flag = format!("--alertmanager.config.file={}", file.display());
    let mut peers = mesh_with(root.path(), 3, "scrape_configs: []\n", &[flag]);
    for peer in &peers {
        peer.wait("all peers vote", 30_000, || (electors(peer) == 3).then_some(()));
    }
    // Nobody accepts connections: whoever connects has its claim, and not told yet.
    post_alert(&peers[0], "B", false);
    let connecting = |peer: &Peer| peer.connects_to(clog.address.port());
    let sender = peers[0].wait("somebody connects", 15_000, || peers.iter().position(connecting));
    peers[sender].kill();
    clog.open();
    hook.wait_for(1, 30.0);
    ends_once(&peers, sender, &hook, 0, "B");
}

#[test]
fn a_sender_killed_before_its_done_is_repeated_at_most_once_and_recognisably() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let mut peers = pagers(root.path(), 3, &hook, ROUTE);
    hook.answer(Manner::Holding);
    post_alert(&peers[0], "C", false);
    let told = hook.wait_for(1, 15.0);
    let port = told[0].from.port();
    let sender = peers.iter().position(|peer| peer.holds_port(port)).expect("the sender is one of ours");
    // The receiver has it; its 200 will find nobody.
    peers[sender].kill();
    hook.answer(Manner::Kind);
    pause(15_000);
    let told = hook.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0].key, told[1].key);
    post_alert(other_than(&peers, sender), "C", true);
    hook.wait_for(3, 15.0);
    pause(QUIET_MS);
    assert_eq!(hook.taken(), [firing("C"), firing("C"), resolved("C")]);
}

#[test]
fn all_killed_and_restarted_tell_nothing_again_and_every_end() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let mut peers = pagers(root.path(), 3, &hook, ROUTE);
    let names: Vec<String> = (0..20).map(|n| format!("D{n:02}")).collect();
    for (n, name) in names.iter().enumerate() {
        post_alert(&peers[n % 3], name, false);
    }
    hook.wait_for(20, 20.0);
    pause(3_000);
    peers.iter_mut().for_each(Peer::kill);
    peers.iter_mut().for_each(Peer::start);
    peers.iter().for_each(Peer::wait_ready);
    pause(QUIET_MS + 4_000);
    let mut taken = hook.taken();
    taken.sort();
    assert_eq!(taken, names.iter().map(|name| firing(name)).collect::<Vec<_>>());
    for (n, name) in names.iter().enumerate() {
        post_alert(&peers[n % 3], name, true);
    }
    hook.wait_for(40, 30.0);
    pause(QUIET_MS);
    let mut taken = hook.taken().split_off(20);
    taken.sort();
    assert_eq!(taken, names.iter().map(|name| resolved(name)).collect::<Vec<_>>());
}

#[test]
fn an_alert_posted_to_a_peer_that_dies_is_told_and_two_survive_as_one() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let mut peers = pagers(root.path(), 2, &hook, ROUTE);
    post_alert(&peers[0], "E", false);
    // It was acknowledged, so somebody else has it.
    peers[0].kill();
    let began = wall();
    let told = hook.wait_for(1, 40.0);
    // Detection, the hold without a majority, and a look every second.
    println!("of two peers the one with the post died: told {:.1} s after", told[0].at - began);
    assert!(told[0].at - began <= 16.0, "{:.1} s", told[0].at - began);
    pause(QUIET_MS);
    assert_eq!(hook.taken(), [firing("E")]);
    assert!(told[0].degraded, "{told:?}");
    peers[0].start();
    peers[0].wait_ready();
    pause(QUIET_MS);
    post_alert(&peers[0], "E", true);
    hook.wait_for(2, 20.0);
    pause(QUIET_MS);
    assert_eq!(hook.taken(), [firing("E"), resolved("E")]);
}

/// Who takes a post and who sends need not be the same.
#[test]
fn an_alert_posted_to_one_of_three_is_told_in_time_and_survives_that_peer() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let mut peers = pagers(root.path(), 3, &hook, ROUTE);
    let names: Vec<String> = (0..30).map(|n| format!("L{n:02}")).collect();
    let mut posted: Vec<f64> = Vec::new();
    for (n, name) in names.iter().enumerate() {
        posted.push(wall());
        post_alert(&peers[n % 3], name, false);
        pause(50);
    }
    let told = hook.wait_for(30, 15.0);
    let told_at = |name: &String| told.iter().find(|told| told.what() == firing(name)).expect("it was told").at;
    let mut late: Vec<f64> = names.iter().zip(&posted).map(|(name, posted)| told_at(name) - posted - 1.0).collect();
    late.sort_by(f64::total_cmp);
    println!("posted to one of three: told {:.2} s after its time at the median, {:.2} s at most", late[15], late[29]);
    assert!(late[29] <= 1.0, "{late:?}");
    // It was acknowledged, so another one has it: the peer that took it is gone before the group is told.
    let posted = wall();
    post_alert(&peers[1], "Survives", false);
    peers[1].kill();
    let after = hook.wait_for(31, 15.0)[30].at - posted - 1.0;
    println!("posted to one of three, which died: told {after:.2} s late");
    assert!(after <= 5.0, "{after:.1} s late");
    pause(QUIET_MS);
    let mut taken = hook.taken();
    taken.sort();
    let names = names.into_iter().chain(["Survives".to_owned()]);
    assert_eq!(taken, names.map(|name| firing(&name)).collect::<Vec<_>>());
}

#[test]
fn five_thousand_groups_at_once_are_five_thousand_notifications() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let peers = pagers(root.path(), 3, &hook, ROUTE);
    let began = wall();
    for part in 0..10 {
        let alerts: Vec<Value> = (0..500).map(|n| alert(&format!("F{:04}", part * 500 + n), false)).collect();
        let (status, body) = send_json(peers[part % 3].web, "/api/v2/alerts", &json!(alerts));
        assert_eq!(status, 200, "{body}");
    }
    let told = hook.wait_for(5_000, 120.0);
    let took = told.iter().map(|told| told.at).fold(0.0, f64::max) - began;
    println!("5,000 groups: {took:.1} s");
    pause(2 * QUIET_MS);
    let mut taken = hook.taken();
    taken.sort();
    assert_eq!(taken, (0..5_000).map(|n| firing(&format!("F{n:04}"))).collect::<Vec<_>>());
}

#[test]
fn a_rules_alert_is_told_on_time_though_its_evaluator_is_killed() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let (hook, exporter) = (Hook::start(), Exporter::start());
    let file = write(root.path().join("am.yml"), &hook.config("group_by: [alertname], group_wait: 0s"));
    write(root.path().join("rules.yml"), "groups: []\n");
    let config = exporter.config(1, "1s", "900ms");
    let config = config.replace("global: {", "rule_files: [rules.yml]\nglobal: {evaluation_interval: 1s, ");
    let flag = format!("--alertmanager.config.file={}", file.display());
    let mut peers = mesh_with(root.path(), 3, &config, &[flag]);
    for peer in &peers {
        peer.wait("all peers vote", 30_000, || (electors(peer) == 3).then_some(()));
    }
    let rules = "groups: [{name: g, rules: [{alert: High, expr: 'level{kind=\"a\"} > 1', for: 15s}]}]\n";
    write(root.path().join("rules.yml"), rules);
    for peer in &peers {
        assert_eq!(post(peer.web, "/-/reload").0, 200);
    }
    let since = peers[0].wait("the alert is pending", 15_000, || {
        let series = peers[0].query("ALERTS_FOR_STATE{alertname=\"High\"}");
        series.first()?["value"][1].as_str()?.parse::<f64>().ok()
    });
    let iterations = |peer: &Peer| peer.metric("prometheus_rule_group_iterations_total");
    let evaluator = peers.iter().position(|peer| iterations(peer) >= 2.0);
    let evaluator = evaluator.unwrap_or_else(|| {
        pause(2_000);
        peers.iter().position(|peer| iterations(peer) >= 2.0).expect("somebody evaluates")
    });
    peers[evaluator].kill();
    let told = hook.wait_for(1, 40.0);
    let late = told[0].at - since - 15.0;
    println!("evaluator killed during `for`: told {late:.2} s after its time");
    assert!((-1.0..=2.0).contains(&late), "{late:.2} s late");
    pause(QUIET_MS);
    assert_eq!(hook.taken(), [firing("High")]);
}

#[test]
fn a_rules_alert_that_ends_while_all_are_down_is_told_as_ended_once() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let (hook, gauge) = (Hook::start(), Gauge::start(1));
    let file =
        write(root.path().join("am.yml"), &hook.config("group_by: [alertname], group_wait: 0s, group_interval: 1s"));
    let rules =
        "groups: [{name: g, rules: [{alert: Trigger, expr: trigger > 0.5}, {alert: Other, expr: trigger < 2}]}]\n";
    write(root.path().join("rules.yml"), rules);
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 900ms, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
         scrape_configs: [{{job_name: t, static_configs: [{{targets: ['{}']}}]}}]\n",
        gauge.address
    );
    let mut peers = mesh_with(root.path(), 3, &config, &[format!("--alertmanager.config.file={}", file.display())]);
    for peer in &peers {
        peer.wait("all peers vote", 30_000, || (electors(peer) == 3).then_some(()));
    }
    let mut taken = hook.wait_taken(2, 30.0);
    taken.sort();
    assert_eq!(taken, [firing("Other"), firing("Trigger")]);
    pause(3_000);
    peers.iter_mut().for_each(Peer::kill);
    gauge.set(0);
    pause(2_000);
    peers.iter_mut().for_each(Peer::start);
    // One is told as ended, the other runs on and is told by nobody again.
    // An evaluator that comes to know of no alert leaves the end to what was posted last, which lasts 80 seconds.
    let restarted = wall();
    assert_eq!(hook.wait_taken(3, 100.0)[2], resolved("Trigger"));
    println!("told as ended {:.1} s after the restart", wall() - restarted);
    pause(2 * QUIET_MS);
    assert_eq!(hook.taken()[2..], [resolved("Trigger")], "{}", peers[0].log());
}

#[test]
fn a_receiver_that_fails_for_a_while_is_told_once() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let peers = pagers(root.path(), 3, &hook, ROUTE);
    hook.answer(Manner::Failing);
    post_alert(&peers[0], "G", false);
    hook.wait_for(2, 20.0);
    pause(4_000);
    hook.answer(Manner::Kind);
    hook.wait_taken(1, 30.0);
    pause(QUIET_MS);
    assert_eq!(hook.taken(), [firing("G")]);
    let keys: Vec<String> = hook.told().into_iter().map(|told| told.key).collect();
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
    // One notification, which upstream gives up and makes anew each time it was not taken within `group_interval`.
    let count = |name: &str| -> f64 {
        let pages = peers.iter().map(|peer| get(peer.web, "/metrics").1);
        let of =
            |line: &str| line.starts_with(&format!("{name}{{")).then(|| line.rsplit(' ').next()?.parse::<f64>().ok());
        pages.map(|page| page.lines().filter_map(|line| of(line).flatten()).sum::<f64>()).sum()
    };
    let tries = keys.len() as f64;
    assert_eq!(count("alertmanager_notification_requests_total"), tries);
    assert_eq!(count("alertmanager_notification_requests_failed_total"), tries - 1.0);
    assert_eq!(count("promesh_notifications_sent_total"), 1.0);
    let failed = count("alertmanager_notifications_failed_total");
    assert!((1.0..tries).contains(&failed), "{failed} of {tries}");
    assert_eq!(count("alertmanager_notifications_total"), failed + 1.0);
}

#[test]
fn silences_and_groups_are_the_same_on_every_peer() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let peers = pagers(root.path(), 3, &hook, &ROUTE.replace("group_wait: 1s", "group_wait: 4s"));
    let now = wall();
    let silence = json!({
        "matchers": [{"name": "alertname", "value": "H.*", "isRegex": true, "isEqual": true}],
        "startsAt": instant(now), "endsAt": instant(now + 600.0), "createdBy": "me", "comment": "quiet",
    });
    let (status, body) = send_json(peers[0].web, "/api/v2/silences", &silence);
    assert_eq!(status, 200, "{body}");
    let id = serde_json::from_str::<Value>(&body).expect("JSON")["silenceID"].as_str().expect("a name").to_owned();
    post_alert(&peers[1], "H", false);
    post_alert(&peers[2], "I", false);
    hook.wait_for(1, 15.0);
    pause(3_000);
    assert_eq!(hook.taken(), [firing("I")]);
    let lists: Vec<Vec<Value>> = peers
        .iter()
        .map(|peer| serde_json::from_str(&get(peer.web, "/api/v2/alerts/groups").1).expect("JSON"))
        .collect();
    assert!(lists[0].len() == 2 && lists.iter().all(|list| *list == lists[0]), "{lists:?}");
    assert_eq!(lists[0][0]["alerts"][0]["status"]["silencedBy"], json!([id]));
    let gone = crate::support::delete(peers[2].web, &format!("/api/v2/silence/{id}"));
    assert_eq!(gone.0, 200, "{}", gone.1);
    assert_eq!(hook.wait_taken(2, 15.0), [firing("I"), firing("H")]);
}

/// Starts `promesh alertmanager` with port 0 everywhere; gives the process and the ports of its two listeners.
fn alertmanager(folder: &Path, name: &str, config: &Path, more: &[&str]) -> (Child, u16, u16) {
    let log_path = folder.join(format!("{name}.log"));
    let log = std::fs::File::create(&log_path).expect("a log");
    let child = Command::new(env!("CARGO_BIN_EXE_promesh"))
        .arg("alertmanager")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.path={}", folder.join(name).display()))
        .args(["--web.listen-address=127.0.0.1:0", "--cluster.listen-address=127.0.0.1:0"])
        .args(["--cluster.settle-timeout=1s", "--cluster.label=test", "--web.route-prefix=/am"])
        .args(more)
        .stderr(log)
        .spawn()
        .expect("the binary starts");
    let port = |message: &str| -> u16 {
        let began = wall();
        loop {
            let log = std::fs::read_to_string(&log_path).unwrap_or_default();
            let line = log.lines().find(|line| line.contains(message));
            let address = line.and_then(|line| line.split_once("address=")).map(|(_, rest)| rest);
            if let Some(port) = address.and_then(|address| address.trim().rsplit(':').next()?.parse().ok()) {
                return port;
            }
            assert!(wall() - began < 30.0, "{message}: {log}");
            pause(20);
        }
    };
    let (web, cluster) = (port("msg=\"Listening on\""), port("Listening on UDP"));
    (child, web, cluster)
}

#[test]
fn an_alertmanager_is_dropped_in() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let hook = Hook::start();
    let config = write(root.path().join("am.yml"), &hook.config(ROUTE));
    let (mut first, web, cluster) = alertmanager(root.path(), "one", &config, &[]);
    let peer = format!("--cluster.peer=127.0.0.1:{cluster}");
    let (mut second, other, other_cluster) = alertmanager(root.path(), "two", &config, &[&peer]);
    let ask = |port: u16, path: &str| -> Value {
        serde_json::from_str(&get(port, &format!("/am/api/v2/{path}")).1).unwrap_or(Value::Null)
    };
    let began = wall();
    let peers = loop {
        let peers = ask(other, "status")["cluster"]["peers"].as_array().cloned().unwrap_or_default();
        if peers.len() == 2 && ask(other, "status")["electorate"]["members"].as_array().map(Vec::len) == Some(2) {
            break peers;
        }
        assert!(wall() - began < 60.0, "they never met: {peers:?}");
        pause(100);
    };
    assert_eq!(peers[0]["address"], format!("127.0.0.1:{other_cluster}"));
    assert_eq!(ask(other, "status")["cluster"]["status"], "ready");
    assert_eq!((get(web, "/am/-/healthy"), get(web, "/am/-/ready")), ((200, "OK".into()), (200, "OK".into())));
    assert_eq!(send_json(web, "/am/api/v2/alerts", &json!([alert("J", false)])).0, 200);
    hook.wait_for(1, 20.0);
    assert_eq!(ask(other, "alerts")[0]["labels"]["alertname"], "J");
    // SIGHUP reads the file again.
    write(config, &hook.config("group_by: [severity], group_wait: 0s"));
    for child in [&first, &second] {
        assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().is_ok_and(|s| s.success()));
    }
    let began = wall();
    while ask(other, "alerts/groups")[0]["labels"] != json!({"severity": "page"}) {
        assert!(wall() - began < 20.0, "{}", ask(other, "alerts/groups"));
        pause(50);
    }
    for child in [&mut second, &mut first] {
        assert!(Command::new("kill").arg(child.id().to_string()).status().is_ok_and(|status| status.success()));
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    }
}
