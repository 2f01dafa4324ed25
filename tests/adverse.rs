//! What a machine and its neighbours do to a peer: folders of other owners, clocks that jump, bodies that are no samples.
//! Each time a clear error, and nothing lost.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Exporter, Peer, exchange, get, one_mesh_at_a_time, pause, wall};

/// Names and values of labels, as bytes.
type Series<'a> = &'a [(&'a [u8], &'a [u8])];

const NO_TARGETS: &str = "global: {scrape_interval: 15s}\n";

fn receiver(root: &Path) -> Peer {
    let config = root.join("prometheus.yml");
    std::fs::write(&config, NO_TARGETS).expect("written");
    Peer::new(root, "peer-0", &config, &[]).with("--web.enable-remote-write-receiver")
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(content.len() as u64), content].concat()
}

/// A remote write of one sample for each of these label sets, in snappy's form of bytes as they are.
fn body(series: &[Series<'_>], at: i64, value: f64) -> Vec<u8> {
    let sample = [&[9][..], &value.to_le_bytes(), &[16], &varint(at as u64)].concat();
    let mut plain = Vec::new();
    for labels in series {
        let labels = labels.iter().flat_map(|(name, value)| field(1, &[field(1, name), field(2, value)].concat()));
        plain.extend(field(1, &[labels.collect(), field(2, &sample)].concat()));
    }
    let literal = (plain.len() as u32 - 1).to_le_bytes();
    [&varint(plain.len() as u64)[..], &[63 << 2], &literal, &plain].concat()
}

fn push(peer: &Peer, series: &[Series<'_>], at: i64) -> (u16, String) {
    exchange(peer.web, "POST", "/api/v1/write", "", &body(series, at, 7.0))
}

const GOOD: Series<'static> = &[(b"__name__", b"good"), (b"instance", b"a"), (b"job", b"push")];

fn now() -> i64 {
    (wall() * 1000.0) as i64
}

#[test]
fn pushes_that_are_no_samples_are_named_and_cost_the_others_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let mut peer = receiver(root.path());
    peer.start();
    peer.wait_ready();
    let first = now() - 600_000;
    let huge = vec![b'x'; 1 << 20];
    let megabyte: Series<'_> = &[(b"__name__", b"bad"), (b"instance", b"a"), (b"job", b"push"), (b"long", &huge)];
    let no_utf8_name: Series<'_> = &[(b"__name__", b"b\xffad"), (b"job", b"push")];
    let no_utf8_label: Series<'_> = &[(b"__name__", b"bad"), (b"job", b"push"), (b"l\xff", b"x")];
    let cases: [(&str, Series<'_>, &str); 3] = [
        ("a label set of a megabyte", megabyte, "limit of 65536"),
        ("a name that is not UTF-8", no_utf8_name, "UTF-8"),
        ("a label's name that is not UTF-8", no_utf8_label, "UTF-8"),
    ];
    for (number, (case, bad, said)) in cases.into_iter().enumerate() {
        let at = first + number as i64 * 10_000;
        assert_eq!(push(&peer, &[GOOD], at).0, 204, "{case}");
        let (status, text) = push(&peer, &[bad, GOOD], at + 5_000);
        assert_eq!(status, 400, "{case}: {text}");
        assert!(text.contains(said), "{case}: {text:?} does not say {said:?}");
        assert!(text.len() < 4096, "{case}: an answer of {} bytes", text.len());
        // What came after it is taken as before.
        assert_eq!(push(&peer, &[GOOD], at + 6_000).0, 204, "{case}");
    }
    for _ in 0..2 {
        let stored = &peer.samples("good", 3_600);
        let instants: Vec<i64> = stored.values().flatten().map(|(at, _)| *at).collect();
        for number in 0..3 {
            let at = first + number * 10_000;
            assert!(instants.contains(&at) && instants.contains(&(at + 6_000)), "{number}: {instants:?}");
        }
        assert!(peer.samples("bad", 3_600).is_empty());
        assert!(!peer.log().contains("panicked"), "{}", peer.log());
        peer.kill();
        peer.start();
        peer.wait_ready();
    }
}

/// A remote write 2.0 of one sample for each of these label sets.
fn body_2(series: &[Series<'_>], at: i64, value: f64) -> Vec<u8> {
    let sample = [&[9][..], &value.to_le_bytes(), &[16], &varint(at as u64)].concat();
    let (mut symbols, mut lists) = (field(4, b""), Vec::new());
    let mut count = 1;
    for labels in series {
        let mut numbers = Vec::new();
        for text in labels.iter().flat_map(|(name, value)| [name, value]) {
            symbols.extend(field(4, text));
            numbers.extend(varint(count));
            count += 1;
        }
        lists.extend(field(5, &[field(1, &numbers), field(2, &sample)].concat()));
    }
    let plain = [symbols, lists].concat();
    let literal = (plain.len() as u32 - 1).to_le_bytes();
    [&varint(plain.len() as u64)[..], &[63 << 2], &literal, &plain].concat()
}

#[test]
fn a_megabyte_of_labels_costs_its_own_sample_only_by_scrape_and_by_remote_write_2() {
    let root = tempfile::tempdir().expect("a folder");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let huge = "x".repeat(1 << 20);
    let exposed = format!("before 1\nbad{{long=\"{huge}\"}} 2\nafter 3\n");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{exposed}", exposed.len()).as_bytes());
        }
    });
    let config = root.path().join("prometheus.yml");
    let text =
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: test\n  static_configs:\n";
    std::fs::write(&config, format!("{text}  - targets: ['{address}']\n")).expect("written");
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[]).with("--web.enable-remote-write-receiver");
    peer.start();
    peer.wait_ready();
    peer.wait("it scrapes what can be taken", 10_000, || {
        (peer.query("after").len() == 1 && peer.query("before").len() == 1).then_some(())
    });
    assert_eq!(peer.query("up")[0]["value"][1], "1");

    let bad: Series<'_> = &[(b"__name__", b"bad"), (b"job", b"push"), (b"long", huge.as_bytes())];
    let headers = "Content-Type: application/x-protobuf;proto=io.prometheus.write.v2.Request\r\nContent-Encoding: snappy\r\n\
                   X-Prometheus-Remote-Write-Version: 2.0.0\r\n";
    let (status, text) =
        exchange(peer.web, "POST", "/api/v1/write", headers, &body_2(&[bad, GOOD], now() - 5_000, 7.0));
    assert_eq!(status, 400, "{text}");
    assert!(text.contains("limit of 65536") && text.len() < 4096, "{} bytes: {text:.300}", text.len());
    let (status, text) = exchange(peer.web, "POST", "/api/v1/write", headers, &body_2(&[GOOD], now() - 2_000, 8.0));
    assert_eq!(status, 204, "{text}");
    assert_eq!(peer.query("good")[0]["value"][1], "8");
    assert!(peer.query("bad").is_empty());
    assert!(!peer.log().contains("panicked"), "{}", peer.log());
}

/// A command in front of the peer's that takes root's right to pass over permissions away; none when this user has no such
/// right to give up, and cannot give files away either.
fn without_override() -> Option<Vec<&'static str>> {
    let prefix = vec!["setpriv", "--bounding-set=-dac_override,-dac_read_search"];
    let tried = Command::new(prefix[0]).args(&prefix[1..]).arg("true").output();
    tried.is_ok_and(|output| output.status.success()).then_some(prefix)
}

#[test]
fn folders_that_others_own_are_named_and_left_as_they_are() {
    let Some(prefix) = without_override() else {
        println!(
            "not run: only root can give a folder to another user, and setpriv is needed to be bound by permissions"
        );
        return;
    };
    let root = tempfile::tempdir().expect("a folder");
    let mut peer = receiver(root.path()).through(&prefix);
    peer.start();
    peer.wait_ready();
    let at = now() - 600_000;
    assert_eq!(push(&peer, &[GOOD], at).0, 204);
    peer.kill();
    let data = root.path().join("peer-0/data");
    let chmod = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("the owner may");
    };
    let segment = || -> PathBuf {
        let entries = std::fs::read_dir(data.join("log")).expect("the log").flatten();
        entries.map(|entry| entry.path()).min().expect("a segment")
    };
    let refuses = |peer: &mut Peer, case: &str, named: &str| {
        let before = peer.log().len();
        peer.start();
        assert_eq!(peer.wait_end(), Some(1), "{case}: {}", &peer.log()[before..]);
        let log = peer.log()[before..].to_owned();
        for said in ["data directory", named, "ermission denied"] {
            assert!(log.contains(said), "{case}: {said:?} is not in {log}");
        }
        assert!(!log.contains("panicked"), "{case}: {log}");
    };
    chmod(&data, 0o000);
    refuses(&mut peer, "a folder that nobody may read", "data");
    chmod(&data, 0o500);
    refuses(&mut peer, "a folder that may not be written", "data");
    chmod(&data, 0o755);
    let oldest = segment();
    chmod(&oldest, 0o000);
    refuses(&mut peer, "a part of the log that may not be read", "log");
    chmod(&oldest, 0o644);
    std::os::unix::fs::chown(&data, Some(12_345), Some(12_345)).expect("root gives it away");
    chmod(&data, 0o700);
    refuses(&mut peer, "another owner's folder", "data");
    std::os::unix::fs::chown(&data, Some(0), Some(0)).expect("root takes it back");
    peer.start();
    peer.wait_ready();
    let stored: Vec<i64> = peer.samples("good", 3_600).values().flatten().map(|(at, _)| *at).collect();
    assert_eq!(stored, [at], "nothing was lost meanwhile");
}

/// The wall clock as a file says: so many seconds from the machine's.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (failed || clock != CLOCK_REALTIME) return failed;
    char text[32] = {0};
    int file = open(getenv("TEST_CLOCK"), O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, text, sizeof text - 1) > 0) at->tv_sec += atoll(text);
        close(file);
    }
    return 0;
}
"#;

/// A wall clock that can be set.
pub struct Clock(PathBuf);

impl Clock {
    /// The clock, and what to put before a command that is to read it; `None`, and a line that says so, where it cannot be made.
    pub fn new(root: &Path) -> Option<(Clock, Vec<String>)> {
        let (source, library, offset) = (root.join("clock.c"), root.join("clock.so"), root.join("clock"));
        std::fs::write(&source, SHIM).expect("written");
        let mut cc = Command::new("cc");
        let compiled = cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).output();
        if !compiled.is_ok_and(|output| output.status.success()) {
            println!("not run: no C compiler for a clock that can be set");
            return None;
        }
        let variables = [format!("LD_PRELOAD={}", library.display()), format!("TEST_CLOCK={}", offset.display())];
        let clock = Clock(offset);
        clock.set(0);
        Some((clock, ["env".to_owned()].into_iter().chain(variables).collect()))
    }

    pub fn set(&self, seconds: i64) {
        let next = self.0.with_extension("next");
        std::fs::write(&next, seconds.to_string()).expect("written");
        std::fs::rename(&next, &self.0).expect("in place at once");
    }
}

#[test]
fn a_clock_that_jumps_hours_costs_no_sample_that_was_stored() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let Some((clock, prefix)) = Clock::new(root.path()) else { return };
    let exporter = Exporter::start();
    let config = root.path().join("prometheus.yml");
    std::fs::write(&config, exporter.config(2, "1s", "500ms")).expect("written");
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[]).through(&prefix);
    peer.start();
    peer.wait_ready();
    // The instants stored around a moment of the machine's clock, moved by so many seconds.
    let stored = |peer: &Peer, moved: i64, began: f64| -> usize {
        let (end, span) = (wall() + moved as f64, (wall() - began).ceil().max(1.0));
        let query = crate::support::escaped(&format!("sum(count_over_time(up{{job=\"test\"}}[{span}s]))"));
        let (_, text) = get(peer.web, &format!("/api/v1/query?time={end:.3}&query={query}"));
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        answer["data"]["result"][0]["value"][1].as_str().and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    const HOURS: i64 = 3 * 3600;
    let began = wall();
    peer.wait("samples come", 20_000, || (stored(&peer, 0, began) >= 8).then_some(()));
    clock.set(HOURS);
    peer.wait("samples come hours later", 30_000, || (stored(&peer, HOURS, began) >= 8).then_some(()));
    let before = stored(&peer, 0, began);
    assert!(before >= 8, "{before} of before the jump");
    clock.set(0);
    let back = wall();
    pause(6_000);
    let since = stored(&peer, 0, back);
    clock.set(-HOURS);
    pause(6_000);
    assert_eq!(get(peer.web, "/-/healthy").0, 200);
    clock.set(0);
    let (then, later) = (stored(&peer, 0, began), stored(&peer, HOURS, began));
    assert!(then >= before && later >= 8, "{then} then, {later} later");
    peer.kill();
    peer.start();
    peer.wait_ready();
    assert!(stored(&peer, 0, began) >= then, "{} of {then} after a restart", stored(&peer, 0, began));
    assert!(stored(&peer, HOURS, began) >= 8, "{} of {later} after a restart", stored(&peer, HOURS, began));
    let log = peer.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(log.contains("the wall clock was set forward"), "{log}");
    assert!(since > 0 || log.contains("the wall clock was set back"), "nothing was stored and nobody said why: {log}");
    println!("{since} samples a second time after the jump back; {then} then, {later} later");
}
