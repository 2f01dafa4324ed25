//! A hostile exporter hurts only itself; a good one is scraped in all its slots meanwhile.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::support::{Exporter, Peer, one_mesh_at_a_time, pause};

const TEXT: &str = "text/plain; version=0.0.4";

/// Answers `/endless`, `/drip`, `/labels`, `/nan`, `/future`, `/type`, `/utf8` and `/bomb` as their names say.
fn hostile() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = answer(stream);
            });
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0u8; 4096];
    let length = stream.read(&mut request)?;
    let text = String::from_utf8_lossy(&request[..length]).into_owned();
    let path = text.split_whitespace().nth(1).unwrap_or("").to_owned();
    let head = |kind: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n");
    match path.as_str() {
        "/endless" => {
            stream.write_all(head(TEXT).as_bytes())?;
            let lines: String = (0..1000).map(|line| format!("endless{{line=\"{line}\"}} 1\n")).collect();
            loop {
                stream.write_all(lines.as_bytes())?;
            }
        }
        "/drip" => {
            stream.write_all(head(TEXT).as_bytes())?;
            for byte in "drip 1\n".bytes().cycle() {
                stream.write_all(&[byte])?;
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        }
        "/labels" => {
            stream.write_all(head(TEXT).as_bytes())?;
            stream.write_all(b"labels{")?;
            let piece: String = (0..1000).map(|_| "a=\"1\",").collect();
            for _ in 0..10_000 {
                stream.write_all(piece.as_bytes())?;
            }
            stream.write_all(b"} 1\n")
        }
        "/nan" => {
            stream.write_all(head(TEXT).as_bytes())?;
            let lines: String = (0..20_000).map(|line| format!("nan_flood{{line=\"{line}\"}} NaN\n")).collect();
            stream.write_all(lines.as_bytes())
        }
        // Taken, this would be the newest sample of all, and those of today too old.
        "/future" => stream.write_all((head(TEXT) + "future 1 99999999999999\nfuture_too{a=\"1\"} 2\n").as_bytes()),
        "/type" => stream.write_all((head("application/octet-stream") + "binary 1\n").as_bytes()),
        "/utf8" => {
            stream.write_all(head(TEXT).as_bytes())?;
            stream.write_all(b"utf8{a=\"\xff\xfe\"} 1\n")
        }
        _ => {
            // Nothing that is gzip.
            let head = head(TEXT).replace("\r\n\r\n", "\r\nContent-Encoding: gzip\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            stream.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xff, 0xff])
        }
    }
}

#[test]
fn a_hostile_exporter_hurts_only_itself() {
    let _alone = one_mesh_at_a_time();
    let root = tempfile::tempdir().expect("a folder");
    let (good, bad) = (Exporter::start(), hostile());
    let config = root.path().join("prometheus.yml");
    let paths = ["endless", "drip", "labels", "nan", "future", "type", "utf8", "bomb"];
    let mut text = good.config(5, "2s", "1500ms");
    text.push_str("- job_name: hostile\n  static_configs:\n");
    for path in paths {
        text.push_str(&format!(
            "  - {{targets: ['{bad}'], labels: {{__metrics_path__: /{path}, instance: {path}}}}}\n"
        ));
    }
    std::fs::write(&config, text).expect("written");
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[]);
    peer.start();
    peer.wait_ready();
    peer.wait("all were scraped", 30_000, || (peer.query("up").len() == 13).then_some(()));
    pause(20_000);
    let up = |instance: &str| peer.query(&format!("up{{instance=\"{instance}\"}}"))[0]["value"][1].clone();
    for path in paths {
        assert_eq!(up(path), if matches!(path, "nan" | "future") { "1" } else { "0" }, "{path}");
    }
    // The good ones missed no slot and none of theirs failed.
    for (series, samples) in peer.samples("up{job=\"test\"}", 16) {
        assert!(samples.iter().all(|(_, value)| value == "1"), "{series}: {samples:?}");
        assert!(samples.windows(2).all(|pair| pair[1].0 - pair[0].0 == 2_000), "{series}: {samples:?}");
        assert!(samples.len() >= 7, "{series}: {samples:?}");
    }
    assert_eq!(peer.query("count(nan_flood)")[0]["value"][1], "20000");
    assert!(peer.query("future").is_empty());
    assert_eq!(peer.query("future_too").len(), 1);
    assert!(peer.metric("prometheus_target_scrapes_sample_out_of_bounds_total") >= 5.0);
    let resident = peer.metric("process_resident_memory_bytes");
    assert!(resident < 1.5e9, "{resident} bytes");
    let (_, targets) = crate::support::get(peer.web, "/api/v1/targets?state=active");
    for reason in ["context deadline exceeded", "unsupported Content-Type", "invalid UTF-8", "gzip"] {
        assert!(targets.contains(reason), "{reason:?} is not in {targets}");
    }
    assert_eq!(peer.terminate(), Some(0));
}
