//! Storage as an operator meets it: a process killed under load, a disk that is full, folders that cannot be used.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Peer, get, pause, program, wall};

const NO_TARGETS: &str = "global: {scrape_interval: 15s}\n";

/// A peer that takes remote write, on a data folder that may be there already.
fn receiver(root: &Path) -> Peer {
    let config = root.join("prometheus.yml");
    std::fs::write(&config, NO_TARGETS).expect("written");
    Peer::new(root, "peer-0", &config, &[]).with("--web.enable-remote-write-receiver")
}

/// A remote write of one sample, value equal to its number, to each of a few series.
fn push_body(at: i64, number: u32) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let label = |name: &str, value: &str| field(1, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat());
    let mut plain = Vec::new();
    for host in ["a", "b", "c"] {
        let mut sample = vec![9];
        sample.extend_from_slice(&f64::from(number).to_le_bytes());
        sample.push(16);
        let mut rest = at as u64;
        while rest >= 0x80 {
            sample.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        sample.push(rest as u8);
        let labels = [label("__name__", "pushed"), label("instance", host), label("job", "push")].concat();
        plain.extend(field(1, &[labels, field(2, &sample)].concat()));
    }
    // Snappy's block form of bytes as they are: the length, then one literal.
    let length = plain.len();
    assert!(length < 16_384, "two bytes of length are enough");
    let mut body = vec![length as u8 | 0x80, (length >> 7) as u8, 61 << 2];
    body.extend_from_slice(&(length as u16 - 1).to_le_bytes());
    body.extend(plain);
    body
}

/// Pushes; answers the status, 0 when nobody answers, and the text.
fn push(peer: &Peer, at: i64, number: u32) -> (u16, String) {
    crate::support::exchange(peer.web, "POST", "/api/v1/write", "", &push_body(at, number))
}

/// Every instant and value stored of the pushed series is as pushed, and every acknowledged one is there.
fn check_pushed(peer: &Peer, pushed: &[(i64, u32)], acknowledged: &[(i64, u32)]) {
    let found = peer.samples("pushed", 3_600);
    assert!(found.len() == 3 || acknowledged.is_empty(), "{} series", found.len());
    for (series, samples) in &found {
        let stored: std::collections::BTreeMap<i64, &str> =
            samples.iter().map(|(at, value)| (*at, value.as_str())).collect();
        assert_eq!(stored.len(), samples.len(), "{series}: each instant once");
        for (at, number) in acknowledged {
            assert_eq!(stored.get(at).copied(), Some(number.to_string().as_str()), "{series} at {at}");
        }
        for (at, value) in stored {
            let sent = pushed.iter().find(|(sent, _)| *sent == at).map(|(_, number)| number.to_string());
            assert_eq!(sent.as_deref(), Some(value), "{series} at {at}: was never sent");
        }
    }
}

/// `PROMESH_CRASH_SECONDS=600 cargo test --test promesh storage::killed` is the soak.
#[test]
fn killed_at_random_moments_no_acknowledged_sample_is_lost() {
    let seconds: f64 =
        std::env::var("PROMESH_CRASH_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(20.0);
    let root = tempfile::tempdir().expect("a folder");
    let mut peer = receiver(root.path());
    let (began, first) = (wall(), (wall() * 1000.0) as i64 - 900_000);
    let (mut pushed, mut acknowledged, mut number, mut kills) = (Vec::new(), Vec::new(), 0u32, 0);
    while wall() - began < seconds {
        peer.start();
        peer.wait_ready();
        check_pushed(&peer, &pushed, &acknowledged);
        // Somewhere in the next second, never at the same place of the log.
        let until = wall() + f64::from(number.wrapping_mul(2_654_435_761) % 1000) / 1000.0;
        let killed = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let pusher = scope.spawn({
                let (peer, killed) = (&peer, &killed);
                let mut next = number;
                move || {
                    let mut sent = Vec::new();
                    while !killed.load(std::sync::atomic::Ordering::Relaxed) {
                        next += 1;
                        let at = first + i64::from(next);
                        sent.push((at, next, push(peer, at, next).0));
                    }
                    sent
                }
            });
            while wall() < until {
                pause(1);
            }
            peer.signal("KILL");
            killed.store(true, std::sync::atomic::Ordering::Relaxed);
            for (at, sent, status) in pusher.join().expect("pushes") {
                number = sent;
                pushed.push((at, sent));
                if status == 204 {
                    acknowledged.push((at, sent));
                }
            }
        });
        peer.kill();
        kills += 1;
    }
    peer.start();
    peer.wait_ready();
    check_pushed(&peer, &pushed, &acknowledged);
    assert!(kills > 1 && acknowledged.len() > 20, "{kills} kills, {} acknowledged", acknowledged.len());
    println!("{kills} kills, {} pushes acknowledged, 0 lost", acknowledged.len());
}

/// A small file system, where the machine lets us make one.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    pub fn mount(path: &Path, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(path).expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(path);
        let done = mount.output().is_ok_and(|output| output.status.success());
        done.then(|| SmallDisk(path.to_owned()))
    }

    /// Bytes that are free where a folder is.
    pub fn free(path: &Path) -> u64 {
        let output = Command::new("df").args(["--output=avail", "-B1"]).arg(path).output().expect("df runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().nth(1).and_then(|line| line.trim().parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_stops_appends_with_an_error_and_loses_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let data = root.path().join("peer-0/data");
    let Some(disk) = SmallDisk::mount(&data, "4m") else {
        println!("not run: this user may not mount a tmpfs, and only a real full disk answers ENOSPC");
        return;
    };
    let mut peer = receiver(root.path());
    peer.start();
    peer.wait_ready();
    let first = (wall() * 1000.0) as i64 - 900_000;
    let (mut pushed, mut acknowledged) = (Vec::new(), Vec::new());
    let mut one = |peer: &Peer, number: u32| {
        let at = first + i64::from(number) * 10;
        let (status, text) = push(peer, at, number);
        assert!(status != 503 || text.contains("No space left on device"), "{text}");
        pushed.push((at, number));
        if status == 204 {
            acknowledged.push((at, number));
        }
        status
    };
    for number in 1..50 {
        assert_eq!(one(&peer, number), 204);
    }
    let filler = data.join("filler");
    let _ = std::fs::write(&filler, vec![0u8; 8 << 20]);
    let mut refused = 0;
    for number in 50..20_000 {
        let status = one(&peer, number);
        if status == 204 {
            assert_eq!(refused, 0, "a full disk takes nothing");
            continue;
        }
        assert_eq!(status, 503);
        refused += 1;
        if refused == 4 {
            break;
        }
    }
    assert_eq!(refused, 4, "the disk was never full");
    assert_eq!(get(peer.web, "/-/healthy").0, 200);
    assert_eq!(peer.query("count(count_over_time(pushed[1h]))")[0]["value"][1], "3");
    std::fs::remove_file(&filler).expect("removed");
    let next = 20_001;
    peer.wait("it takes samples again", 20_000, || (one(&peer, next) == 204).then_some(()));
    for number in next + 1..next + 50 {
        assert_eq!(one(&peer, number), 204);
    }
    peer.kill();
    peer.start();
    peer.wait_ready();
    check_pushed(&peer, &pushed, &acknowledged);
    peer.kill();
    drop(disk);
}

#[test]
fn folders_that_cannot_be_used_are_named() {
    let root = tempfile::tempdir().expect("a folder");
    let check = |name: &str, prepare: &dyn Fn(&Path), said: &[&str]| {
        let folder = root.path().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = root.path().join("prometheus.yml");
        std::fs::write(&config, NO_TARGETS).expect("written");
        prepare(&folder.join("data"));
        let mut peer = Peer::new(root.path(), name, &config, &[]);
        peer.start();
        assert_eq!(peer.wait_end(), Some(1), "{name}: {}", peer.log());
        let log = peer.log();
        for text in said {
            assert!(log.contains(text), "{name}: {text:?} is not in {log}");
        }
        assert!(!log.contains("panicked"), "{name}: {log}");
    };
    check("file", &|data| std::fs::write(data, "x").expect("written"), &["data directory", "data"]);
    let file_inside = |data: &Path| {
        std::fs::create_dir_all(data).expect("a folder");
        std::fs::write(data.join("log"), "x").expect("written");
    };
    check("log-is-a-file", &file_inside, &["data directory", "log"]);
    let newer = |data: &Path| {
        std::fs::create_dir_all(data).expect("a folder");
        std::fs::write(data.join("format.json"), r#"{"version":9,"min_reader":9}"#).expect("written");
    };
    check("newer", &newer, &["format 9 is newer"]);
    let dangling = |data: &Path| std::os::unix::fs::symlink("/nowhere/at/all", data).expect("a link");
    check("dangling", &dangling, &["data directory"]);
}

/// The lines of `tsdb dump`, by whoever prints them, sorted.
fn dumped(program: &Path, folder: &Path) -> Vec<String> {
    let output = Command::new(program).args(["tsdb", "dump"]).arg(folder).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Every file of a folder with its length, for who says that nothing changes.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
        let length = entry.metadata().expect("it is there").len();
        if entry.path().is_dir() { all.extend(files(&entry.path())) } else { all.push((entry.path(), length)) }
    }
    all.sort();
    all
}

#[test]
fn what_is_in_no_block_yet_is_dumped_too_below_a_running_peer_and_of_a_real_prometheus() {
    let ours = Path::new(env!("CARGO_BIN_EXE_promesh"));
    let root = tempfile::tempdir().expect("a folder");
    let mut peer = receiver(root.path());
    peer.start();
    peer.wait_ready();
    let now = (wall() * 1000.0) as i64 - 60_000;
    let times: Vec<i64> = (0..50).map(|n| now + n * 1000).collect();
    for (number, at) in times.iter().enumerate() {
        assert_eq!(push(&peer, *at, number as u32).0, 204);
    }
    let folder = peer.folder.join("data");
    let pushed = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().filter(|line| line.starts_with("{__name__=\"pushed\"")).collect()
    };
    let expected = |host: &str| {
        let line = move |(number, at): (usize, &i64)| {
            format!("{{__name__=\"pushed\", instance=\"{host}\", job=\"push\"}} {number} {at}")
        };
        times.iter().enumerate().map(line).collect::<Vec<_>>()
    };
    let mut all: Vec<String> = ["a", "b", "c"].into_iter().flat_map(expected).collect();
    all.sort();
    assert_eq!(pushed(dumped(ours, &folder)), all, "while it runs");
    peer.kill();
    let before = files(&folder);
    assert_eq!(pushed(dumped(ours, &folder)), all, "after kill -9");
    assert_eq!(files(&folder), before, "nothing of it is changed");

    let (Some(real), Some(tool)) = (program("prometheus"), program("promtool")) else { return };
    let folder = root.path().join("real");
    let running = crate::remote::Prometheus::start(&real, root.path(), "scrape_configs: []\n");
    for (number, at) in times.iter().enumerate() {
        let body = push_body(*at, number as u32);
        assert_eq!(crate::support::exchange(running.port, "POST", "/api/v1/write", "", &body).0, 204);
    }
    drop(running);
    let before = files(&folder);
    assert_eq!(dumped(ours, &folder), all, "the log of a real one");
    assert_eq!(files(&folder), before, "nothing of it is changed");
    assert_eq!(dumped(&tool, &folder), all);
}
