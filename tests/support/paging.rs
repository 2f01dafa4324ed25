//! Meshes that deliver alerts to a webhook, and what is posted to them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::hook::{Hook, Manner};
use super::{Peer, get, mesh_with, pause, send_json, wall};

/// What the route of most tests says.
pub const ROUTE: &str = "group_by: [alertname], group_wait: 1s, group_interval: 2s, repeat_interval: 4h";
/// Nothing is sent so long after the last thing that should be: a second sender would have had its turn.
pub const QUIET_MS: u64 = 8_000;

pub fn write(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).expect("written");
    path
}

/// So many peers without targets that deliver to a webhook.
pub fn pagers(root: &Path, count: usize, hook: &Hook, route: &str) -> Vec<Peer> {
    let file = write(root.join("alertmanager.yml"), &hook.config(route));
    let flag = format!("--alertmanager.config.file={}", file.display());
    let peers = mesh_with(root, count, "scrape_configs: []\n", &[flag]);
    for peer in &peers {
        peer.wait("all peers vote", 30_000, || (electors(peer) == count).then_some(()));
    }
    peers
}

pub fn status(peer: &Peer) -> Value {
    serde_json::from_str(&get(peer.web, "/api/v2/status").1).unwrap_or(Value::Null)
}

pub fn electors(peer: &Peer) -> usize {
    status(peer)["electorate"]["members"].as_array().map_or(0, Vec::len)
}

/// An alert as a Prometheus would post it.
pub fn alert(name: &str, ended: bool) -> Value {
    let now = wall();
    let end = if ended { now - 1.0 } else { now + 3600.0 };
    json!({"labels": {"alertname": name, "severity": "page"}, "endsAt": instant(end)})
}

/// RFC 3339, of seconds.
pub fn instant(at: f64) -> String {
    let seconds = at as i64;
    let days = seconds.div_euclid(86_400);
    // Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let rest = seconds.rem_euclid(86_400);
    let ms = (at.fract() * 1000.0) as i64;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

pub fn post_alert(peer: &Peer, name: &str, ended: bool) {
    let (status, body) = send_json(peer.web, "/api/v2/alerts", &json!([alert(name, ended)]));
    assert_eq!(status, 200, "{body}\n{}", peer.log());
}

pub fn firing(name: &str) -> String {
    format!("firing {{\"alertname\":\"{name}\"}}")
}

pub fn resolved(name: &str) -> String {
    format!("resolved {{\"alertname\":\"{name}\"}}")
}

/// Who sends for a group: it fires and ends once, and whoever told is asked for.
pub fn learn_sender(peers: &[Peer], hook: &Hook, name: &str) -> usize {
    let before = hook.told().len();
    hook.answer(Manner::Holding);
    post_alert(&peers[0], name, false);
    let told = hook.wait_for(before + 1, 15.0);
    let sender = peers.iter().position(|peer| peer.holds_port(told[before].from.port()));
    hook.answer(Manner::Kind);
    post_alert(&peers[0], name, true);
    assert_eq!(hook.wait_taken(before + 2, 15.0)[before..], [firing(name), resolved(name)]);
    sender.expect("the sender is one of ours")
}

/// Somebody who is not that one.
pub fn other_than(peers: &[Peer], one: usize) -> &Peer {
    &peers[(one + 1) % peers.len()]
}

/// Ends the alert, and checks that from `since` on it was told once, and its end once.
pub fn ends_once(peers: &[Peer], one: usize, hook: &Hook, since: usize, name: &str) {
    pause(QUIET_MS);
    assert_eq!(hook.taken()[since..], [firing(name)], "{}", other_than(peers, one).log());
    post_alert(other_than(peers, one), name, true);
    hook.wait_taken(since + 2, 15.0);
    pause(QUIET_MS);
    assert_eq!(hook.taken()[since..], [firing(name), resolved(name)]);
}
