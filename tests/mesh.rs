//! Three peers as an operator sees them: killed, joined, stopped, restarted.

use std::collections::BTreeMap;

use crate::support::{
    Exporter, Peer, beside_other_meshes, crash_all, get, mesh, mesh_with, one_mesh_at_a_time, pause, post, wall,
};

type Samples = BTreeMap<String, Vec<(i64, String)>>;

/// Every series has exactly one sample in each of its slots from its first to the newest.
pub fn assert_no_hole(samples: &Samples, interval_ms: i64, series: usize, since_ms: i64, may_miss: usize) {
    assert_eq!(samples.len(), series, "{:?}", samples.keys());
    let mut missed = 0;
    for (name, values) in samples {
        let values: Vec<&(i64, String)> = values.iter().filter(|(at, _)| *at >= since_ms).collect();
        assert!(values.len() > 2, "{name}: {values:?}");
        for pair in values.windows(2) {
            let gap = pair[1].0 - pair[0].0;
            assert!(gap > 0 && gap % interval_ms == 0, "{name}: samples {gap} ms apart: {values:?}");
            missed += usize::try_from(gap / interval_ms - 1).expect("positive");
        }
    }
    assert!(missed <= may_miss, "{missed} slots missed: {samples:#?}");
}

/// What both have over a span that lies behind both.
fn settled(samples: &Samples, from_ms: i64, to_ms: i64) -> Samples {
    let within =
        |values: &Vec<(i64, String)>| values.iter().filter(|(at, _)| (from_ms..to_ms).contains(at)).cloned().collect();
    samples.iter().map(|(name, values)| (name.clone(), within(values))).collect()
}

pub fn now_ms() -> i64 {
    (wall() * 1000.0) as i64
}

pub fn assert_same_everywhere(peers: &[Peer], selector: &str, seconds: u64, from_ms: i64) {
    let to_ms = now_ms() - 2_000;
    let first = settled(&peers[0].samples(selector, seconds), from_ms, to_ms);
    for peer in &peers[1..] {
        assert_eq!(settled(&peer.samples(selector, seconds), from_ms, to_ms), first);
    }
}

#[test]
fn a_killed_peer_leaves_no_hole_and_comes_back_with_what_it_missed() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let mut peers = mesh(root.path(), 3, &exporter.config(20, "5s", "4s"));
    pause(11_000);
    let began = now_ms();
    for victim in 0..3 {
        peers[victim].kill();
        pause(300);
        for (number, survivor) in peers.iter().enumerate() {
            if number != victim {
                // Within a second of the kill: every series, no warning.
                assert_eq!(survivor.query("scrapes_total").len(), 20);
            }
        }
        pause(9_000);
        peers[victim].start();
        peers[victim].wait_ready();
        pause(6_000);
    }
    let seconds = ((now_ms() - began) / 1000 + 10) as u64;
    for peer in &peers {
        assert_no_hole(&peer.samples("scrapes_total", seconds), 5_000, 20, began - 9_000, 0);
        for (name, values) in peer.samples("up", seconds) {
            assert!(values.iter().all(|(_, value)| value == "1"), "{name}: {values:?}");
        }
    }
    assert_same_everywhere(&peers, "scrapes_total", seconds, began);
}

#[test]
fn at_one_second_a_kill_costs_at_most_one_slot() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let mut peers = mesh(root.path(), 3, &exporter.config(20, "1s", "900ms"));
    pause(4_000);
    let began = now_ms();
    peers[1].kill();
    pause(8_000);
    let seconds = ((now_ms() - began) / 1000 + 2) as u64;
    for peer in [&peers[0], &peers[2]] {
        // At most one slot of each target.
        assert_no_hole(&peer.samples("scrapes_total", seconds), 1_000, 20, began - 1_000, 20);
        for (name, values) in peer.samples("scrapes_total", seconds) {
            let longest = values.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
            assert!(longest <= Some(2_000), "{name}: {values:?}");
        }
    }
}

#[test]
fn a_fourth_peer_takes_its_share_and_gives_it_back() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let config = exporter.config(20, "5s", "4s");
    let peers = mesh(root.path(), 3, &config);
    pause(6_000);
    let began = now_ms();
    let path = root.path().join("prometheus.yml");
    let mut fourth = Peer::new(root.path(), "peer-4", &path, &[&peers[1]]);
    fourth.start();
    fourth.wait("it owns its share", 60_000, || {
        let owned = fourth.cluster()["members"][0]["shardsOwned"].as_u64()?;
        (3_000..5_500).contains(&owned).then_some(())
    });
    pause(11_000);
    assert_eq!(fourth.query("scrapes_total").len(), 20);
    assert_eq!(fourth.terminate(), Some(0), "{}", fourth.log());
    pause(11_000);
    let seconds = ((now_ms() - began) / 1000 + 5) as u64;
    for peer in &peers {
        assert_no_hole(&peer.samples("scrapes_total", seconds), 5_000, 20, began - 4_000, 0);
    }
    assert_same_everywhere(&peers, "scrapes_total", seconds, began);
    let owned: u64 = peers.iter().map(|peer| peer.cluster()["members"][0]["shardsOwned"].as_u64().unwrap_or(0)).sum();
    assert_eq!(owned, 16_384);
    // A planned stop is no alarm: in the log, at the endpoint and in the metrics it has left.
    for peer in &peers {
        let members = peer.cluster();
        let states: Vec<&str> = members["members"]
            .as_array()
            .expect("members")
            .iter()
            .filter_map(|member| member["state"].as_str())
            .collect();
        assert_eq!(states.iter().filter(|state| **state == "left").count(), 1, "{states:?}");
        assert_eq!(peer.metric("promesh_cluster_members{state=\"down\"}"), 0.0);
        let log = peer.log();
        assert!(log.contains("peer has left") && !log.contains("peer is down"), "{log}");
    }
}

#[test]
fn a_rolling_restart_of_all_peers_costs_no_slot_and_no_answer() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let mut peers = mesh(root.path(), 3, &exporter.config(20, "5s", "4s"));
    pause(6_000);
    let began = now_ms();
    for number in 0..3 {
        assert_eq!(peers[number].terminate(), Some(0), "{}", peers[number].log());
        let others = peers.iter().enumerate().filter(|(other, _)| *other != number);
        for (_, other) in others {
            assert_eq!(other.query("scrapes_total").len(), 20);
        }
        peers[number].start();
        peers[number].wait_ready();
        // As whoever does it by hand: the next one when this one has its share again.
        peers[number].wait("it owns its share again", 30_000, || {
            let cluster = peers[number].cluster();
            let owned = cluster["members"][0]["shardsOwned"].as_u64()?;
            (owned > 4_000 && cluster["shards"]["underReplicated"] == 0).then_some(())
        });
    }
    // On a quick machine all of it took less than two slots.
    pause(14_000);
    let seconds = ((now_ms() - began) / 1000 + 5) as u64;
    for peer in &peers {
        assert_no_hole(&peer.samples("scrapes_total", seconds), 5_000, 20, began - 4_000, 0);
        let log = peer.log();
        assert!(!log.contains("peer is down"), "a planned stop is no death: {log}");
    }
    assert_same_everywhere(&peers, "scrapes_total", seconds, began);
}

#[test]
fn all_killed_and_restarted_have_all_but_the_last_second() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let mut peers = mesh(root.path(), 3, &exporter.config(10, "1s", "900ms"));
    pause(6_000);
    let before = peers[0].samples("scrapes_total", 6);
    let crashed = now_ms();
    crash_all(&mut peers);
    for peer in &peers {
        let after = peer.samples("scrapes_total", 120);
        for (name, values) in &before {
            for sample in values.iter().filter(|(at, _)| *at < crashed - 1_000) {
                assert!(
                    after.get(name).is_some_and(|found| found.contains(sample)),
                    "{name} lost {sample:?}: {after:?}"
                );
            }
        }
    }
}

#[test]
fn facts_of_one_peer_are_seen_on_another_within_two_seconds() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let peers = mesh(root.path(), 2, &exporter.config(4, "1s", "900ms"));
    let fact = |name: &str| {
        let cluster = peers[0].cluster();
        let members = cluster["members"].as_array().cloned().unwrap_or_default();
        members.iter().find(|member| member["id"] != cluster["self"]).map(|member| member[name].clone())
    };
    peers[0]
        .wait("the other's facts are here", 2_500, || (fact("version")? == env!("CARGO_PKG_VERSION")).then_some(()));
    peers[0].wait("the other's figures are here", 5_000, || (fact("series")?.as_u64()? > 0).then_some(()));
}

#[test]
fn any_peer_shows_how_every_target_fared_and_a_delete_reaches_whoever_was_away() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let config = exporter.config(6, "1s", "900ms");
    let mut peers = mesh_with(root.path(), 3, &config, &["--web.enable-admin-api"]);
    pause(3_000);
    for peer in &peers {
        let (_, body) = get(peer.web, "/api/v1/targets");
        let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let targets = answer["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
        assert_eq!(targets.len(), 6);
        // Each was scraped by one peer, and all of them know how long it took.
        assert!(targets.iter().all(|target| target["lastScrapeDuration"].as_f64() > Some(0.0)), "{body}");
        let (_, body) = get(peer.web, "/api/v1/targets/metadata?metric=level");
        let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["data"].as_array().map(Vec::len), Some(6), "{body}");
    }
    peers[2].kill();
    pause(2_000);
    let deleted_at = now_ms();
    let path = "/api/v1/admin/tsdb/delete_series?match[]=level%7Binstance%3D%22t1%22%7D";
    assert_eq!(post(peers[0].web, path).0, 204);
    peers[2].start();
    peers[2].wait_ready();
    pause(6_000);
    for peer in &peers {
        // Deleted samples stay away, whoever is asked; later ones survive.
        for (name, values) in peer.samples("level{instance=\"t1\"}", 60) {
            let old: Vec<_> = values.iter().filter(|(at, _)| *at < deleted_at).collect();
            assert!(old.is_empty(), "{name}: {old:?}\n{}", peer.log());
            assert!(!values.is_empty());
        }
        assert_eq!(peer.query("count_over_time(level{instance=\"t2\"}[60s])").len(), 2);
    }
}

#[test]
fn the_mesh_runs_the_majoritys_configuration_and_shows_who_differs() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let common = exporter.config(10, "1s", "900ms");
    let mut peers = mesh(root.path(), 2, &common);
    let own = root.path().join("own.yml");
    std::fs::write(&own, common.replace("- job_name: test\n", "- job_name: test\n  sample_limit: 1000\n"))
        .expect("written");
    let mut third = Peer::new(root.path(), "peer-2", &own, &[&peers[0]]);
    third.start();
    third.wait_ready();
    peers.push(third);
    let id = peers[2].cluster()["self"].clone();
    let differs = |peer: &Peer| {
        let cluster = peer.cluster();
        let members = cluster["members"].as_array().cloned().unwrap_or_default();
        members.iter().find(|member| member["id"] == id).map(|member| member["configDiffers"].to_string())
    };
    for peer in &peers {
        peer.wait("everybody sees who differs", 20_000, || (differs(peer)? == "[\"scrape job test\"]").then_some(()));
    }
    let scrapes = || peers[2].metric("promesh_scrapes_total");
    pause(2_000);
    let (before, began) = (scrapes(), now_ms());
    pause(5_000);
    assert_eq!(scrapes(), before, "a peer with another version scrapes nothing of the job");
    assert_no_hole(&peers[0].samples("scrapes_total", 5), 1_000, 10, began, 0);
    // Its operator writes what the others have, and reloads all through another peer.
    std::fs::write(&own, &common).expect("written");
    let (status, body) = post(peers[1].web, "/-/reload?scope=cluster");
    assert_eq!(status, 200, "{body}");
    for peer in &peers {
        peer.wait("nobody differs", 20_000, || (differs(peer)? == "[]").then_some(()));
    }
    peers[2].wait("it scrapes again", 10_000, || (scrapes() > before).then_some(()));
    // What is wrong on one peer is said by whom.
    std::fs::write(&own, "nonsense: 1\n").expect("written");
    let (status, body) = post(peers[1].web, "/-/reload?scope=cluster");
    assert_eq!(status, 500);
    assert!(body.contains(id.as_str().expect("an id")) && body.contains("own.yml:1:1"), "{body}");
}
