//! Sealed history in a mesh: copied where copies lack, repaired where a block is damaged, left alone where it is safe.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::push::{send, write_request};
use crate::support::{Exporter, Peer, beside_other_meshes, blocks_of, escaped, exchange, get, pause, wall};

const HOUR: i64 = 3_600;
const SERIES: usize = 40;

/// The beginning of a window that ended hours ago, in seconds.
fn old_window(hours: i64) -> i64 {
    (wall() as i64 - hours * HOUR).div_euclid(2 * HOUR) * 2 * HOUR
}

/// Makes blocks of six hours of a gauge of some series, a sample a minute, in a data directory.
fn make_blocks(data: &Path, begin: i64) {
    let mut text = String::from("# TYPE old gauge\n");
    for series in 0..SERIES {
        for minute in 0..360 {
            let at = begin + minute * 60;
            let value = minute * 7 % 31;
            text.push_str(&format!("old{{job=\"history\",instance=\"h{series}\"}} {value} {at}\n"));
        }
    }
    text.push_str("# EOF\n");
    blocks_of(&text, data);
}

/// What is known of the old samples at an instant: how many there are, their sum, and how many series.
fn old(peer: &Peer, at: i64) -> Option<(f64, f64, f64)> {
    let one = |query: &str| {
        let (_, body) = get(peer.web, &format!("/api/v1/query?query={}&time={at}", escaped(query)));
        let answer: Value = serde_json::from_str(&body).ok()?;
        assert!(answer.get("warnings").is_none(), "{query}: {body}");
        answer["data"]["result"][0]["value"][1].as_str()?.parse::<f64>().ok()
    };
    Some((one("sum(count_over_time(old[6h]))")?, one("sum(sum_over_time(old[6h]))")?, one("count(old)")?))
}

/// The folder of some block of a data directory.
fn a_block(data: &Path) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(data).expect("a folder").flatten().map(|entry| entry.path());
    entries.into_iter().find(|path| path.join("index").exists())
}

fn copies(peer: &Peer, field: &str) -> u64 {
    peer.cluster()["copies"][field].as_u64().unwrap_or(u64::MAX)
}

fn settled(peer: &Peer, windows_done: u64) {
    peer.wait("its history is whole", 60_000, || {
        (copies(peer, "windowsDone") >= windows_done && copies(peer, "windowsLeft") == 0).then_some(())
    });
}

/// What `promesh cluster …` prints.
pub fn operate(peer: &Peer, arguments: &[&str]) -> String {
    let url = format!("--url=http://127.0.0.1:{}", peer.web);
    let output = Command::new(env!("CARGO_BIN_EXE_promesh")).arg("cluster").args(arguments).arg(url).output();
    let output = output.expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}

fn down(peer: &Peer) {
    peer.wait("the other is down", 20_000, || {
        let cluster = peer.cluster();
        let members = cluster["members"].as_array()?;
        members.iter().any(|member| member["state"] == "down").then_some(())
    });
}

#[test]
fn imported_history_is_copied_repaired_and_made_good_but_not_moved() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, exporter.config(4, "5s", "4s")).expect("written");
    let begin = old_window(14);
    let end = begin + 6 * HOUR - 60;
    make_blocks(&root.path().join("peer-0/data"), begin);
    let mut peers = vec![Peer::new(root.path(), "peer-0", &path, &[])];
    peers[0].start();
    peers[0].wait_ready();
    let whole = peers[0].wait("it answers", 10_000, || old(&peers[0], end));
    assert_eq!((whole.0, whole.2), ((SERIES * 360) as f64, SERIES as f64));

    // A second peer gets a copy of what was imported into the first.
    let second = Peer::new(root.path(), "peer-1", &path, &[&peers[0]]);
    peers.push(second);
    peers[1].start();
    peers[1].wait_ready();
    settled(&peers[1], 3);
    assert_eq!(peers[1].metric("promesh_history_under_replicated"), 0.0);
    let copied = peers[1].metric("promesh_history_copied_series_total");
    assert_eq!(copied, (3 * SERIES) as f64, "three windows");
    peers[0].kill();
    peers[1].wait("it has all of it alone", 10_000, || (old(&peers[1], end)? == whole).then_some(()));
    peers[0].start();
    peers[0].wait_ready();

    // A damaged block is set aside and its content fetched again.
    assert_eq!(peers[1].terminate(), Some(0));
    let block = a_block(&root.path().join("peer-1/data")).expect("a block");
    std::fs::write(block.join("index"), b"nonsense").expect("written");
    peers[1].start();
    peers[1].wait_ready();
    assert_eq!(peers[1].metric("promesh_history_damaged_blocks_total"), 1.0, "{}", peers[1].log());
    settled(&peers[1], 1);
    peers[0].kill();
    peers[1].wait("it has all of it again", 10_000, || (old(&peers[1], end)? == whole).then_some(()));
    peers[0].start();
    peers[0].wait_ready();

    // A third is ready and copies nothing: there are two copies. Once one of the two is given up it makes them good.
    let mut third = Peer::new(root.path(), "peer-2", &path, &[&peers[0]]);
    third.start();
    third.wait_ready();
    pause(12_000);
    assert_eq!((copies(&third, "windowsDone"), copies(&third, "windowsLeft")), (0, 0));
    let status = operate(&third, &["capacity"]);
    assert!(status.contains("of 3 peers any one may be lost"), "{status}");
    let gone = peers[1].cluster()["self"].as_str().expect("an id").to_owned();
    peers[1].kill();
    down(&third);
    down(&peers[0]);
    operate(&peers[0], &["remove", &gone]);
    settled(&third, 3);
    peers[0].kill();
    third.wait("it has all of it alone", 20_000, || (old(&third, end)? == whole).then_some(()));
}

/// Samples of the last minutes of an old window, by remote write.
fn backfill(peer: &Peer, begin: i64, steps: std::ops::Range<u32>) {
    for step in steps {
        let body = crate::blocks::body(step, (begin + 60 * i64::from(step)) * 1000);
        let headers = "Content-Encoding: snappy\r\nContent-Type: application/x-protobuf\r\n";
        let (status, answer) = exchange(peer.web, "POST", "/api/v1/write", headers, &body);
        assert!(status / 100 == 2, "{status}: {answer}");
    }
}

#[test]
fn a_peer_that_was_away_fetches_what_was_pushed_for_sealed_windows_meanwhile() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let config = exporter.config(2, "5s", "4s") + "storage: {tsdb: {out_of_order_time_window: 1d}}\n";
    let mut peers = crate::support::mesh_with(root.path(), 2, &config, &["--web.enable-remote-write-receiver"]);
    let begin = old_window(10);
    let count = |peer: &Peer| {
        let query = escaped("sum(count_over_time(blocks_total[2h]))");
        let (_, body) = get(peer.web, &format!("/api/v1/query?query={query}&time={}", begin + 2 * HOUR - 1));
        let answer: Value = serde_json::from_str(&body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse::<f64>().ok()
    };
    backfill(&peers[0], begin, 0..20);
    peers[1].wait("it has what was pushed", 20_000, || (count(&peers[1])? == 80.0).then_some(()));
    peers[1].kill();
    pause(1_000);
    backfill(&peers[0], begin, 20..30);
    peers[1].start();
    peers[1].wait_ready();
    // With the open window, as a window that is missing or as one that differs: by what the two had in blocks by then.
    pause(25_000);
    peers[0].kill();
    peers[1].wait("it has all of it alone", 10_000, || (count(&peers[1])? == 120.0).then_some(()));
    assert!(peers[1].metric("promesh_history_copied_series_total") <= 8.0, "no more than it missed");
}

/// Each of three peers has two thirds of the series. Their snapshots become the data of two peers that never knew them, one
/// with what one had, one with what the other two had: and each of the two ends up with all of it.
#[test]
fn snapshots_of_three_peers_are_restored_into_two() {
    let _shared = beside_other_meshes();
    let (root, restored) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let exporter = Exporter::start();
    let config = exporter.config(2, "5s", "4s") + "storage: {tsdb: {out_of_order_time_window: 4d}}\n";
    let peers = crate::support::mesh_with(root.path(), 3, &config, &["--web.enable-remote-write-receiver"]);
    // Of yesterday and of three days ago: windows of the last day alone are compared again and again.
    let begins = [old_window(10), old_window(72)];
    let instances = || (0..60).map(|number| format!("i{number}"));
    for begin in begins {
        for step in 0..5 {
            let body = write_request(instances(), (begin + 60 * step) * 1000, step as f64);
            assert_eq!(send(peers[0].web, &body).0, 204);
        }
    }
    let counts = |peer: &Peer| begins.map(|begin| pushed(peer, begin));
    let all = [Some(300.0); 2];
    for peer in &peers {
        peer.wait("it answers all of it", 20_000, || (counts(peer) == all).then_some(()));
    }
    let taken: Value = serde_json::from_str(&operate(&peers[0], &["snapshot", "--output=json"])).expect("JSON");
    assert_eq!(taken.as_array().map(Vec::len), Some(3));
    drop(peers);
    for (old, new) in [(0, 0), (1, 1), (2, 1)] {
        let to = restored.path().join(format!("peer-{new}/data"));
        std::fs::create_dir_all(&to).expect("a folder");
        let snapshots = root.path().join(format!("peer-{old}/data/snapshots"));
        let snapshot = std::fs::read_dir(&snapshots).expect("snapshots").flatten().next().expect("one").path();
        for block in std::fs::read_dir(&snapshot).expect("a snapshot").flatten().map(|entry| entry.path()) {
            let copied = Command::new("cp").arg("-r").args([&block, &to]).status().expect("cp runs");
            assert!(copied.success());
        }
    }
    let mut peers = crate::support::mesh(restored.path(), 2, &exporter.config(2, "5s", "4s"));
    for victim in 0..2 {
        let other = 1 - victim;
        peers[other].wait("its history is whole", 60_000, || {
            let whole = copies(&peers[other], "windowsLeft") == 0 && peers[other].metric(COMPARED) > 0.0;
            (whole && counts(&peers[other]) == all).then_some(())
        });
    }
    // Long enough for one that lacks something to have found it.
    pause(30_000);
    for victim in 0..2 {
        peers[victim].kill();
        let other = &peers[1 - victim];
        other.wait("it has all of it alone", 20_000, || (counts(other) == all).then_some(()));
        peers[victim].start();
        peers[victim].wait_ready();
    }
    // Once more, into one that the mesh knows, of a time that the other claims as well.
    assert_eq!(peers[1].terminate(), Some(0));
    let (begin, end) = (old_window(100), old_window(100) + 6 * HOUR - 60);
    make_blocks(&restored.path().join("peer-1/data"), begin);
    peers[1].start();
    peers[1].wait_ready();
    // Who is asked may be the other, which claims that time and has nothing of it yet.
    let whole = peers[1]
        .wait("all of it is answered", 60_000, || old(&peers[1], end).filter(|found| found.0 == (SERIES * 360) as f64));
    let copied = || peers[0].metric("promesh_history_copied_series_total");
    peers[0].wait("the other fetches it", 40_000, || (copied() >= (3 * SERIES) as f64).then_some(()));
    peers[1].kill();
    peers[0].wait("it has all of it alone", 20_000, || (old(&peers[0], end)? == whole).then_some(()));
}

/// The line of a status that says how far a copy is: windows to go, windows done.
fn progress(status: &str) -> Option<(u64, u64)> {
    let line = status.lines().find(|line| line.starts_with("copying history: "))?;
    let mut numbers = line.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[test]
fn a_copy_says_how_far_it_is_and_goes_on_where_it_was() {
    const WINDOWS: i64 = 60;
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let path = root.path().join("prometheus.yml");
    std::fs::write(&path, exporter.config(4, "5s", "4s")).expect("written");
    let begin = old_window(2 * WINDOWS + 4);
    let mut text = String::from("# TYPE old gauge\n");
    for (series, step) in (0..SERIES as i64).flat_map(|series| (0..WINDOWS * 12).map(move |step| (series, step))) {
        let (value, at) = (step * 7 % 31, begin + step * 600);
        text.push_str(&format!("old{{job=\"history\",instance=\"h{series}\"}} {value} {at}\n"));
    }
    blocks_of(&(text + "# EOF\n"), &root.path().join("peer-0/data"));
    let mut first = Peer::new(root.path(), "peer-0", &path, &[]);
    first.start();
    first.wait_ready();
    let mut second = Peer::new(root.path(), "peer-1", &path, &[&first]);
    second.start();
    second.wait_ready();
    let status = |peer: &Peer| operate(peer, &["status"]);
    let began = second.wait("it copies", 40_000, || progress(&status(&second)).map(|_| wall()));
    // Now and then an operator looks, in either form.
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let mut estimates: Vec<(f64, f64)> = Vec::new();
    let halfway = second.wait("half of it is done", 60_000, || {
        seen.extend(progress(&status(&second)));
        let shown: Value = serde_json::from_str(&operate(&second, &["status", "--output=json"])).expect("JSON");
        let copies = &shown["copies"];
        let (done, left) = (copies["windowsDone"].as_u64()?, copies["windowsLeft"].as_u64()?);
        if done > 5 && left > 0 {
            assert!(copies["bytesLeft"].as_u64()? > 0 && copies["bytesDone"].as_u64()? > 0, "{copies}");
            estimates.push((wall(), copies["etaSeconds"].as_f64()?));
        }
        (done >= WINDOWS as u64 / 2).then_some(done)
    });
    assert!(seen.len() > 2 && seen.is_sorted_by(|a, b| a.0 >= b.0 && a.1 <= b.1), "{seen:?}");
    assert!(seen.iter().all(|(left, done)| (left + done).abs_diff(WINDOWS as u64) <= 1), "{seen:?}");
    // At the pace that it had.
    let (looked, eta) = *estimates.last().expect("somebody looked");
    let pace = (looked - began) / halfway as f64 * (WINDOWS as f64 / 2.0);
    println!("{halfway} windows in {:.1} s, {eta:.1} s left by its word, {pace:.1} s at that pace", looked - began);
    assert!((pace / 3.0..pace * 3.0).contains(&eta), "{eta} s for what takes {pace} s");
    // While it copies the slots go on, and queries are answered.
    assert_eq!(second.query("scrapes_total").len(), 4);
    let copied = second.metric("promesh_history_copied_series_total");
    second.kill();
    second.start();
    second.wait_ready();
    settled(&second, 1);
    let rest = second.metric("promesh_history_copied_series_total");
    println!("{copied} series before it was killed, {rest} after");
    let all = (WINDOWS as usize * SERIES) as f64;
    assert!(copied + rest >= all && copied + rest <= all + 3.0 * SERIES as f64, "{copied} and {rest} of {all}");
    assert!(progress(&status(&second)).is_none(), "nothing is copied any more");
    first.kill();
    let end = begin + WINDOWS * 2 * HOUR - 600;
    second.wait("it has all of it alone", 20_000, || (old(&second, end)?.0 == (SERIES * 36) as f64).then_some(()));
}

const COMPARED: &str = "promesh_history_compared_total";

/// How many pushed samples a window has.
fn pushed(peer: &Peer, begin: i64) -> Option<f64> {
    let query = escaped("sum(count_over_time(pushed_total[2h]))");
    let (_, body) = get(peer.web, &format!("/api/v1/query?query={query}&time={}", begin + 2 * HOUR - 1));
    let answer: Value = serde_json::from_str(&body).ok()?;
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}
