//! Three peers and a small target, one of the peers killed and brought back: what an operator would see.
//!
//! `cargo run --release --example mesh` takes about a minute. The peers are children of this process, made from the same
//! build: a peer that is to be killed must be a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Running {
    name: &'static str,
    web: u16,
    cluster: u16,
    folder: PathBuf,
    child: Option<Child>,
}

fn main() {
    // The same file is both: without arguments the story, with them a peer.
    if std::env::args().len() > 1 {
        match promesh_server::cli::interpret(std::env::args_os()) {
            promesh_server::cli::Invocation::Serve(options) => {
                promesh_server::logging::start(options.log);
                promesh_server::run(*options);
            }
            promesh_server::cli::Invocation::Exit(_) => {}
        }
        return;
    }
    tell(&std::env::temp_dir().join(format!("promesh-example-{}", std::process::id())));
}

fn tell(root: &Path) {
    let target = start_target();
    std::fs::create_dir_all(root).expect("a folder for the example");
    let config = root.join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\nscrape_configs:\n\
         - {{job_name: example, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}\n\
         - {{job_name: promesh, peer_sd_configs: [{{}}]}}\n"
    );
    std::fs::write(&config, text).expect("the configuration is written");
    let mut peers: Vec<Running> = Vec::new();
    for name in ["one", "two", "three"] {
        let (web, cluster) = (free_port(), free_port());
        let mut peer = Running { name, web, cluster, folder: root.join(name), child: None };
        let seed = peers.first().map(|first| first.cluster);
        start(&mut peer, &config, seed);
        say(&format!("peer {name} starts: http://127.0.0.1:{web}"));
        peers.push(peer);
    }
    let seed = peers[0].cluster;
    for peer in &peers {
        wait_ready(peer);
    }
    say("all three are ready");
    nap(6);
    show(&peers);
    say("killing peer two with SIGKILL");
    kill(&mut peers[1]);
    nap(1);
    say("one second later, from each survivor:");
    show(&peers);
    nap(6);
    say("six seconds after that:");
    show(&peers);
    say("starting peer two again");
    start(&mut peers[1], &config, Some(seed));
    wait_ready(&peers[1]);
    nap(4);
    show(&peers);
    say("the target's samples of the last 25 seconds, one a second, as peer two has them:");
    println!("    {}", query(&peers[1], "count_over_time(example_total[25s])"));
    for peer in &mut peers {
        kill(peer);
    }
    let _ = std::fs::remove_dir_all(root);
}

fn say(text: &str) {
    println!("\n== {text}");
}

fn nap(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

/// Who scrapes the target, how many series each peer sees, and the last change it noticed.
fn show(peers: &[Running]) {
    for peer in peers {
        if peer.child.is_none() {
            println!("  {:>5}: down", peer.name);
            continue;
        }
        let cluster = get(peer.web, "/api/v1/cluster");
        let states: Vec<&str> =
            cluster.split("\"state\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        println!("  {:>5}: members {states:?}, up = {}", peer.name, query(peer, "sum(up)"));
    }
}

fn query(peer: &Running, query: &str) -> String {
    let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = get(peer.web, &format!("/api/v1/query?query={escaped}"));
    let value = answer.split("\"value\":[").nth(1).and_then(|rest| rest.split('"').nth(1));
    value.unwrap_or("nothing").to_owned()
}

fn start(peer: &mut Running, config: &Path, seed: Option<u16>) {
    std::fs::create_dir_all(&peer.folder).expect("a folder for the peer");
    let log = std::fs::File::create(peer.folder.join("log")).expect("a log");
    let mut command = Command::new(std::env::current_exe().expect("this file"));
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", peer.folder.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{}", peer.web))
        .arg(format!("--cluster.listen-address=127.0.0.1:{}", peer.cluster));
    if let Some(seed) = seed.filter(|seed| *seed != peer.cluster) {
        command.arg(format!("--cluster.peer=127.0.0.1:{seed}"));
    }
    peer.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("the peer starts"));
}

fn kill(peer: &mut Running) {
    if let Some(mut child) = peer.child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn wait_ready(peer: &Running) {
    for _ in 0..300 {
        if get(peer.web, "/-/ready").contains("Ready") {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("peer {} is not ready after 30 s; its log is in {}", peer.name, peer.folder.display());
}

fn get(port: u16, path: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: example\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_default()
}

fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = tcp.local_addr().expect("bound").port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A target that counts its scrapes.
fn start_target() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for (count, stream) in listener.incoming().flatten().enumerate() {
            std::thread::spawn(move || answer(stream, count));
        }
    });
    port
}

fn answer(stream: TcpStream, mut count: usize) {
    let Ok(clone) = stream.try_clone() else { return };
    let (mut lines, mut stream) = (BufReader::new(clone).lines(), stream);
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            count += 1;
            let body = format!("# TYPE example_total counter\nexample_total {count}\n");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
            if stream.write_all((head + &body).as_bytes()).is_err() {
                return;
            }
        }
    }
}
