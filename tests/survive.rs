//! What a kill and a join cost a mesh under load, a verdict a line:
//! `cargo test --release --test soak survive -- --nocapture --test-threads=1`.
//!
//! `PROMESH_SERIES` says how many series the targets have together (20,000; the promises are about 100,000),
//! `PROMESH_PAIRS=all` kills each pair of five peers instead of every second one.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::support::write::{Proto, snappy};
use crate::support::{Peer, blocks_of, escaped, exchange, get, mesh_with, one_mesh_at_a_time, pause, wall};

/// Series of one target.
const PER_TARGET: usize = 1_000;

fn series() -> usize {
    let wanted = std::env::var("PROMESH_SERIES").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    usize::max(wanted / PER_TARGET, 1) * PER_TARGET
}

/// Lines as they are found to hold or not.
#[derive(Default)]
struct Verdicts(Vec<String>);

impl Verdicts {
    fn line(&mut self, holds: bool, text: String) {
        println!("{} {text}", if holds { "ok    " } else { "FAILED" });
        if !holds {
            self.0.push(text);
        }
    }

    fn end(self) {
        assert!(self.0.is_empty(), "{:#?}", self.0);
    }
}

/// Targets of a thousand series each, of which every tenth has another value in every second scrape.
fn load() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let answer = |odd: usize| {
        let mut body = String::from("# TYPE load gauge\n");
        for n in 0..PER_TARGET {
            let value = if n % 10 == 0 { n + odd } else { n };
            body.push_str(&format!("load{{n=\"{n}\",kind=\"{}\"}} {value}\n", n % 7));
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n";
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let answers = Arc::new([answer(0), answer(1)]);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answers = Arc::clone(&answers);
            std::thread::spawn(move || serve(stream, &*answers));
        }
    });
    address
}

fn serve(mut stream: TcpStream, answers: &[Vec<u8>; 2]) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let mut count = 0;
    loop {
        while !lines.next()?.ok()?.is_empty() {}
        count += 1;
        stream.write_all(&answers[count % 2]).ok()?;
    }
}

fn config(address: SocketAddr) -> String {
    let mut text = String::from("global: {scrape_interval: 5s, scrape_timeout: 4s}\nscrape_configs:\n");
    text.push_str("- job_name: load\n  static_configs:\n");
    for target in 0..series() / PER_TARGET {
        text.push_str(&format!(
            "  - {{targets: ['{address}'], labels: {{__metrics_path__: /metrics/{target}, instance: t{target}}}}}\n"
        ));
    }
    text
}

/// One number; `None` where the answer is an error, empty, or warned about.
fn number(port: u16, query: &str) -> Option<f64> {
    told(port, query).ok()
}

/// One number, or what was answered instead.
fn told(port: u16, query: &str) -> Result<f64, String> {
    let (_, body) = get(port, &format!("/api/v1/query?query={}", escaped(query)));
    let read = |answer: &Value| {
        let warned = answer.get("warnings").is_some();
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok().filter(|_| !warned)
    };
    serde_json::from_str(&body).ok().as_ref().and_then(read).ok_or(body)
}

/// What one peer answered while others were dead, in seconds since `began`.
#[derive(Default)]
struct Answers {
    /// The last that lacked something was asked for then.
    incomplete: f64,
    /// How many did, and what the last was.
    lacking: (usize, String),
    /// The longest that one took, when it was asked, and which it was.
    slowest: (f64, f64, String),
    /// All that they took together.
    together: f64,
    count: usize,
}

/// Asked again and again for so many seconds.
fn asked(port: u16, began: f64, seconds: f64, expected: f64, at: f64) -> Answers {
    let history = format!("sum(count_over_time(load[30s] @ {at:.3}))");
    let mut answers = Answers::default();
    while wall() - began < seconds {
        for (query, wanted) in [("count(load)", expected), (history.as_str(), 6.0 * expected)] {
            let asked = wall() - began;
            let told = told(port, query);
            if told != Ok(wanted) {
                answers.incomplete = asked;
                answers.lacking = (answers.lacking.0 + 1, format!(" ({query}: {told:?})"));
            }
            let took = wall() - began - asked;
            if took > answers.slowest.0 {
                answers.slowest = (took, asked, query.to_owned());
            }
            answers.together += took;
            answers.count += 1;
        }
        pause(50);
    }
    answers
}

fn wait_whole(peers: &[Peer], count: usize) {
    for peer in peers {
        peer.wait_ready();
        peer.wait("all are ready and hold their shards", 120_000, || {
            let cluster = peer.cluster();
            let ready = cluster["members"].as_array()?.iter().filter(|member| member["state"] == "ready").count();
            (ready == count && cluster["shards"]["underReplicated"] == 0).then_some(())
        });
        peer.wait("every series is seen", 60_000, || {
            (number(peer.web, "count(load)")? == series() as f64).then_some(())
        });
    }
}

/// Kills some peers at once, looks at what the others answer, and starts the killed again.
fn kill(peers: &mut [Peer], victims: &[usize], verdicts: &mut Verdicts) {
    let (all, count) = (series() as f64, peers.len());
    let began = wall();
    victims.iter().for_each(|victim| peers[*victim].kill());
    let survivors: Vec<&Peer> = (0..count).filter(|peer| !victims.contains(peer)).map(|peer| &peers[peer]).collect();
    let name = format!("{victims:?} of {count} killed under {all} series at 5 s:");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = |peer: &&Peer| {
            let port = peer.web;
            scope.spawn(move || asked(port, began, 8.0, all, began - 1.0))
        };
        let asking: Vec<_> = survivors.iter().map(ask).collect();
        asking.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for (peer, Answers { incomplete, lacking: (lacking, last), slowest, together, count }) in answers.iter().enumerate()
    {
        let (mean, (slowest, asked, query)) = (together / *count as f64, slowest);
        verdicts.line(
            *incomplete < 1.0,
            format!(
                "{name} survivor {peer} answered {count} queries, {lacking} lacked something, the last was asked after \
                 {incomplete:.2} s{last}, one took {mean:.2} s, the slowest {slowest:.2} s ({query}, asked after {asked:.2} s)"
            ),
        );
    }
    let mut restored = 0.0f64;
    for peer in &survivors {
        peer.wait("R copies are back", 60_000, || {
            let cluster = peer.cluster();
            let down = cluster["members"].as_array()?.iter().filter(|member| member["state"] == "down").count();
            (down == victims.len() && cluster["shards"]["underReplicated"] == 0).then_some(())
        });
        restored = restored.max(wall() - began);
    }
    verdicts.line(restored < 60.0, format!("{name} every shard has R copies again after {restored:.1} s"));
    while wall() < began + 18.0 {
        pause(100);
    }
    for (number_of, peer) in survivors.iter().enumerate() {
        let at = began + 15.0;
        let samples = number(peer.web, &format!("sum(count_over_time(load[30s] @ {at:.3}))"));
        let fewest = number(peer.web, &format!("min(count_over_time(up[30s] @ {at:.3}))"));
        let up = number(peer.web, &format!("min(min_over_time(up[30s] @ {at:.3}))"));
        verdicts.line(
            samples == Some(6.0 * all) && fewest == Some(6.0) && up == Some(1.0),
            format!(
                "{name} survivor {number_of} has {samples:?} of {} samples around the kill, {fewest:?} of 6 slots of the \
                 target with the fewest",
                6.0 * all
            ),
        );
    }
    drop(survivors);
    victims.iter().for_each(|victim| peers[*victim].start());
    wait_whole(peers, count);
    pause(16_000);
}

#[test]
fn survive_the_loss_of_any_one_of_three() {
    let _alone = one_mesh_at_a_time();
    let (root, mut verdicts) = (tempfile::tempdir().expect("a folder"), Verdicts::default());
    let mut peers = mesh_with(root.path(), 3, &config(load()), &["--cluster.replication-factor=2"]);
    wait_whole(&peers, 3);
    pause(32_000);
    for victim in 0..3 {
        kill(&mut peers, &[victim], &mut verdicts);
    }
    verdicts.end();
}

#[test]
fn survive_the_loss_of_any_two_of_five() {
    let _alone = one_mesh_at_a_time();
    let (root, mut verdicts) = (tempfile::tempdir().expect("a folder"), Verdicts::default());
    let mut peers = mesh_with(root.path(), 5, &config(load()), &["--cluster.replication-factor=3"]);
    wait_whole(&peers, 5);
    pause(32_000);
    let every = std::env::var("PROMESH_PAIRS").is_ok_and(|pairs| pairs == "all");
    let pairs = (0..5).flat_map(|a| (a + 1..5).map(move |b| [a, b]));
    for pair in pairs.step_by(if every { 1 } else { 2 }) {
        kill(&mut peers, &pair, &mut verdicts);
    }
    verdicts.end();
}

/// A remote write request: some series, each with a sample at each of some instants, in ms.
fn request(name: &str, series: std::ops::Range<usize>, instants: &[i64]) -> Vec<u8> {
    let mut message = Proto::default();
    for n in series {
        let mut one = Proto::default();
        let (instance, n) = (format!("t{}", n / PER_TARGET), (n % PER_TARGET).to_string());
        for (label, value) in [("__name__", name), ("instance", instance.as_str()), ("job", "load"), ("n", n.as_str())]
        {
            let mut pair = Proto::default();
            pair.bytes(1, label.as_bytes());
            pair.bytes(2, value.as_bytes());
            one.bytes(1, &pair.0);
        }
        for at in instants {
            let mut sample = Proto::default();
            sample.double(1, (at / 15_000 % 50) as f64);
            sample.number(2, *at as u64);
            one.bytes(2, &sample.0);
        }
        message.bytes(1, &one.0);
    }
    snappy(&message.0)
}

/// Pushes so many series, a sample every 15 s of a span.
fn push(peer: &Peer, name: &str, series: usize, from: i64, to: i64) {
    let instants: Vec<i64> = (from..to).step_by(15_000).collect();
    for instants in instants.chunks(60) {
        for first in (0..series).step_by(500) {
            let body = request(name, first..(first + 500).min(series), instants);
            let headers = "Content-Encoding: snappy\r\nContent-Type: application/x-protobuf\r\n";
            let mut answer = (0, String::new());
            for _ in 0..20 {
                answer = exchange(peer.web, "POST", "/api/v1/write", headers, &body);
                if answer.0 / 100 == 2 {
                    break;
                }
                pause(500);
            }
            assert!(answer.0 / 100 == 2, "{answer:?}");
        }
    }
}

const HOUR_MS: i64 = 3_600_000;
const PUSHED_FLAGS: [&str; 2] = ["--cluster.replication-factor=3", "--web.enable-remote-write-receiver"];

fn pushed(peer: &Peer, to: i64) -> Option<f64> {
    number(peer.web, &format!("sum(count_over_time(pushed[1h] @ {:.3}))", (to - 1) as f64 / 1000.0))
}

/// Starts a third peer; says after how long it is ready, and holds all of its shards.
fn join(third: &mut Peer, others: &[Peer]) -> (f64, f64) {
    let began = wall();
    third.start();
    third.wait("it is ready", 300_000, || (get(third.web, "/-/ready").0 == 200).then_some(()));
    let ready = wall() - began;
    for peer in [&*third].into_iter().chain(others) {
        peer.wait("the third holds all", 300_000, || {
            let cluster = peer.cluster();
            let members = cluster["members"].as_array()?;
            let ready = members.iter().filter(|member| member["state"] == "ready").count();
            (ready == 3 && cluster["shards"]["underReplicated"] == 0).then_some(())
        });
    }
    (ready, wall() - began)
}

/// The third alone answers with all that was pushed.
fn alone(third: &Peer, others: &mut [Peer], to: i64, expected: f64, name: &str, verdicts: &mut Verdicts) {
    others.iter_mut().for_each(Peer::kill);
    pause(8_000);
    let found = number(third.web, &format!("sum(count_over_time(pushed[1h] @ {:.3}))", (to - 1) as f64 / 1000.0));
    verdicts.line(found == Some(expected), format!("{name} alone it has {found:?} of {expected} samples"));
}

#[test]
fn survive_a_join_with_an_hour_in_the_open_window() {
    let _alone = one_mesh_at_a_time();
    let mut verdicts = Verdicts::default();
    for half in [false, true] {
        let root = tempfile::tempdir().expect("a folder");
        let mut peers = mesh_with(root.path(), 2, "scrape_configs: []\n", &PUSHED_FLAGS);
        let path = root.path().join("prometheus.yml");
        let mut third = Peer::new(root.path(), "peer-2", &path, &[&peers[0]]);
        for flag in PUSHED_FLAGS {
            third = third.with(flag);
        }
        // Ends now: the half hour after a window's end it is open still, with the beginning of the next.
        let to = (wall() * 1000.0) as i64 / 15_000 * 15_000;
        let (from, middle) = (to - HOUR_MS, to - HOUR_MS / 2);
        let name = format!(
            "a third, {}, joins two with an hour of {} series:",
            if half { "with half" } else { "empty" },
            series()
        );
        let began = wall();
        if half {
            join(&mut third, &peers);
            push(&peers[0], "pushed", series(), from, middle);
            third.kill();
            pause(5_000);
            push(&peers[0], "pushed", series(), middle, to);
        } else {
            push(&peers[0], "pushed", series(), from, to);
        }
        println!("       pushed in {:.0} s", wall() - began);
        let expected = (series() * 240) as f64;
        peers[1].wait("both have all", 60_000, || (pushed(&peers[1], to)? == expected).then_some(()));
        let (ready, whole) = join(&mut third, &peers);
        verdicts
            .line(ready <= 60.0 && whole <= 60.0, format!("{name} ready after {ready:.1} s, whole after {whole:.1} s"));
        alone(&third, &mut peers, to, expected, &name, &mut verdicts);
    }
    verdicts.end();
}

const WINDOW: i64 = 7_200;

/// Blocks of six hours of a gauge, a sample a minute.
fn make_blocks(data: &Path, series: usize, begin: i64) {
    let mut text = String::from("# TYPE old gauge\n");
    for n in 0..series {
        for minute in 0..360 {
            let at = begin + minute * 60;
            text.push_str(&format!("old{{job=\"load\",instance=\"t{}\",n=\"{n}\"}} {} {at}\n", n / 100, minute % 31));
        }
    }
    text.push_str("# EOF\n");
    blocks_of(&text, data);
}

#[test]
fn survive_a_join_with_sealed_history() {
    let _alone = one_mesh_at_a_time();
    let (root, mut verdicts) = (tempfile::tempdir().expect("a folder"), Verdicts::default());
    let old_series = series() / 10;
    let begin = (wall() as i64 - 14 * 3_600).div_euclid(WINDOW) * WINDOW;
    make_blocks(&root.path().join("peer-0/data"), old_series, begin);
    let configured = "scrape_configs: []\nstorage: {tsdb: {out_of_order_time_window: 1d}}\n";
    let mut peers = mesh_with(root.path(), 2, configured, &PUSHED_FLAGS);
    let path = root.path().join("prometheus.yml");
    let mut third = Peer::new(root.path(), "peer-2", &path, &[&peers[0]]);
    for flag in PUSHED_FLAGS {
        third = third.with(flag);
    }
    let done = |peer: &Peer, windows: u64| {
        peer.wait("its history is whole", 300_000, || {
            let copies = peer.cluster()["copies"].clone();
            (copies["windowsDone"].as_u64()? >= windows && copies["windowsLeft"] == 0).then_some(())
        });
    };
    done(&peers[1], 3);
    let name = format!("a third joins two with six sealed hours of {old_series} series:");
    let began = wall();
    let (ready, _) = join(&mut third, &peers);
    done(&third, 3);
    let copied = third.metric("promesh_history_copied_series_total");
    verdicts.line(
        ready <= 60.0 && copied == (3 * old_series) as f64,
        format!(
            "{name} ready after {ready:.1} s, {copied} series of three windows copied after {:.1} s",
            wall() - began
        ),
    );
    // What was pushed for a sealed window while it was away is all that it fetches.
    third.kill();
    pause(5_000);
    let (from, missed) = ((begin + 600) * 1000, 50);
    push(&peers[0], "late", missed, from, from + 600_000);
    let began = wall();
    let (ready, _) = join(&mut third, &peers);
    pause(25_000);
    let copied = third.metric("promesh_history_copied_series_total");
    verdicts.line(
        ready <= 60.0 && copied <= (2 * missed) as f64,
        format!(
            "{name} back after {missed} were pushed late: ready after {ready:.1} s, {copied} series copied by {:.0} s",
            wall() - began
        ),
    );
    peers.iter_mut().for_each(Peer::kill);
    pause(8_000);
    let end = begin + 6 * 3_600 - 1;
    let old = number(third.web, &format!("sum(count_over_time(old[6h] @ {end}))"));
    let late = number(third.web, &format!("sum(count_over_time(late[6h] @ {end}))"));
    let wanted = (Some((old_series * 360) as f64), Some((missed * 40) as f64));
    verdicts.line((old, late) == wanted, format!("{name} alone it has {old:?} and {late:?} samples, of {wanted:?}"));
    verdicts.end();
}
