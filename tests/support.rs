//! Real processes and the little that is needed to talk to them.

pub mod hook;
pub mod paging;
pub mod stub;
pub mod write;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde_json::Value;

static MESHES: RwLock<()> = RwLock::new(());

/// A mesh whose promises are about seconds runs alone: a machine that runs several keeps none.
pub fn one_mesh_at_a_time() -> RwLockWriteGuard<'static, ()> {
    MESHES.write().unwrap_or_else(PoisonError::into_inner)
}

/// One that is asked what it does, and not within which second, runs beside others of its kind.
pub fn beside_other_meshes() -> RwLockReadGuard<'static, ()> {
    MESHES.read().unwrap_or_else(PoisonError::into_inner)
}

pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// The wall clock, in seconds.
#[allow(clippy::disallowed_methods)] // a test looks at the same clock as the peers
pub fn wall() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}

/// A port that is free and stays so, for TCP and UDP: none that the system gives to a connection, none that was given before.
pub fn free_port() -> u16 {
    /// Below those of connections, of every system that leaves their range as it is.
    const PORTS: std::ops::Range<u32> = 12_000..32_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let next = std::process::id().wrapping_mul(97).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + next % (PORTS.end - PORTS.start)) as u16;
        let is_free = TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok();
        if is_free {
            return port;
        }
    }
}

/// Targets under `/metrics/<n>`: a counter that grows with each scrape and a few constants.
pub struct Exporter {
    pub address: SocketAddr,
}

impl Exporter {
    pub fn start() -> Exporter {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let scrapes = Arc::new(AtomicU64::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = Arc::clone(&scrapes);
                std::thread::spawn(move || serve(stream, &counted));
            }
        });
        Exporter { address }
    }

    /// A configuration that scrapes so many targets.
    pub fn config(&self, targets: usize, interval: &str, timeout: &str) -> String {
        let mut text = format!("global: {{scrape_interval: {interval}, scrape_timeout: {timeout}}}\nscrape_configs:\n");
        text.push_str("- job_name: test\n  static_configs:\n");
        for target in 0..targets {
            let address = self.address;
            text.push_str(&format!(
                "  - {{targets: ['{address}'], labels: {{__metrics_path__: /metrics/{target}, instance: t{target}}}}}\n"
            ));
        }
        text
    }
}

/// One target with one gauge, `trigger`.
pub struct Gauge {
    pub address: SocketAddr,
    value: Arc<AtomicU64>,
}

impl Gauge {
    pub fn start(value: u64) -> Gauge {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let gauge = Gauge { address, value: Arc::new(AtomicU64::new(value)) };
        let shown = Arc::clone(&gauge.value);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let body = format!("# TYPE trigger gauge\ntrigger {}\n", shown.load(Ordering::Relaxed));
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
                let mut asked = [0; 4096];
                let _ = stream.read(&mut asked);
                let _ = stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
            }
        });
        gauge
    }

    pub fn set(&self, value: u64) {
        self.value.store(value, Ordering::Relaxed);
    }
}

fn serve(stream: TcpStream, scrapes: &AtomicU64) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    let mut stream = stream;
    loop {
        let mut line = String::new();
        let mut first = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if first.is_empty() {
                first.clone_from(&line);
            }
        }
        let count = scrapes.fetch_add(1, Ordering::Relaxed);
        let path = first.split_whitespace().nth(1).unwrap_or("");
        let body = format!(
            "# TYPE scrapes_total counter\nscrapes_total {count}\n# TYPE level gauge\nlevel{{path=\"{path}\",kind=\"a\"}} 1.5\n\
             level{{path=\"{path}\",kind=\"b\"}} 2\n"
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

/// Addresses of peers that are not on this machine's own one, by web port.
fn hosts() -> MutexGuard<'static, BTreeMap<u16, String>> {
    static HOSTS: Mutex<BTreeMap<u16, String>> = Mutex::new(BTreeMap::new());
    HOSTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One peer: its process, its ports, its folder.
pub struct Peer {
    pub web: u16,
    pub cluster: u16,
    pub folder: PathBuf,
    config: PathBuf,
    arguments: Vec<String>,
    /// Name of its network namespace and its address there; in the tests' own one if none.
    within: Option<(String, String)>,
    /// A command that runs the binary: its name and arguments.
    prefix: Vec<String>,
    /// Its program.
    binary: String,
    child: Option<Child>,
}

impl Peer {
    /// A peer that joins through some others; not started yet.
    pub fn new(root: &Path, name: &str, config: &Path, seeds: &[&Peer]) -> Peer {
        let (web, cluster) = (free_port(), free_port());
        let arguments = seeds.iter().map(|seed| format!("--cluster.peer=127.0.0.1:{}", seed.cluster)).collect();
        let folder = root.join(name);
        Peer {
            web,
            cluster,
            folder,
            config: config.to_owned(),
            arguments,
            within: None,
            prefix: Vec::new(),
            binary: env!("CARGO_BIN_EXE_promesh").to_owned(),
            child: None,
        }
    }

    /// Puts it into a network namespace, where it has this address; it is told elsewhere where to listen for peers.
    #[allow(dead_code)] // the soak's
    pub fn within(mut self, namespace: &str, address: &str) -> Peer {
        hosts().insert(self.web, address.to_owned());
        self.within = Some((namespace.to_owned(), address.to_owned()));
        self
    }

    /// Has another command run the binary, such as `env` or `setpriv`; it must become the binary, not its parent.
    #[allow(dead_code)] // the soak has no use for it
    pub fn through(mut self, command: &[&str]) -> Peer {
        self.prefix = command.iter().map(|part| (*part).to_owned()).collect();
        self
    }

    /// Another build of the program.
    #[allow(dead_code)] // the soak's
    pub fn of_build(mut self, binary: &str) -> Peer {
        binary.clone_into(&mut self.binary);
        self
    }

    /// Adds a flag.
    pub fn with(mut self, argument: impl Into<String>) -> Peer {
        self.arguments.push(argument.into());
        self
    }

    pub fn start(&mut self) {
        std::fs::create_dir_all(&self.folder).expect("a folder");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log");
        let binary = self.binary.as_str();
        let mut command = match &self.within {
            None => match self.prefix.split_first() {
                None => Command::new(binary),
                Some((first, rest)) => {
                    let mut command = Command::new(first);
                    command.args(rest).arg(binary);
                    command
                }
            },
            Some((namespace, _)) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, binary]);
                command
            }
        };
        let host = self.within.as_ref().map_or("127.0.0.1", |(_, address)| address);
        if self.within.is_none() {
            command.arg(format!("--cluster.listen-address=127.0.0.1:{}", self.cluster));
        }
        let child = command
            .arg(format!("--config.file={}", self.config.display()))
            .arg(format!("--storage.tsdb.path={}", self.folder.join("data").display()))
            .arg(format!("--web.listen-address={host}:{}", self.web))
            .arg("--web.enable-lifecycle")
            .args(&self.arguments)
            .current_dir(&self.folder)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&self) {
        self.wait("it is ready", 60_000, || (get(self.web, "/-/ready").0 == 200).then_some(()));
    }

    /// Waits until something is so, for at most so many ms; its log is shown when it never is.
    pub fn wait<T>(&self, what: &str, ms: u64, mut check: impl FnMut() -> Option<T>) -> T {
        for _ in 0..ms / 50 {
            if let Some(found) = check() {
                return found;
            }
            pause(50);
        }
        panic!("it never came that {what}; its log:\n{}", self.log());
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it was running");
            child.wait().expect("it ends");
        }
    }

    /// Whether it has a TCP socket with this local port.
    pub fn holds_port(&self, port: u16) -> bool {
        self.has_socket(|local, _, _| local == port)
    }

    /// Whether it waits for a connection to this port to be accepted.
    pub fn connects_to(&self, port: u16) -> bool {
        const SYN_SENT: &str = "02";
        self.has_socket(|_, remote, state| remote == port && state == SYN_SENT)
    }

    /// Whether one of its TCP sockets, by local port, remote port and state, is so.
    fn has_socket(&self, wanted: impl Fn(u16, u16, &str) -> bool) -> bool {
        let Some(child) = &self.child else { return false };
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", child.id())).unwrap_or_default();
        let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap_or(""), 16).unwrap_or(0);
        let inodes: Vec<String> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields.len() > 9 && wanted(port(fields[1]), port(fields[2]), fields[3]))
            .map(|fields| format!("socket:[{}]", fields[9]))
            .collect();
        let open = std::fs::read_dir(format!("/proc/{}/fd", child.id()));
        let links = open.into_iter().flatten().flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.into_iter().any(|link| inodes.iter().any(|inode| link.to_string_lossy() == *inode))
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it was started").id()
    }

    /// SIGTERM; answers its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it was started");
        let sent = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
        child.wait().expect("it ends").code()
    }

    /// Sends it a signal and leaves it running.
    pub fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("it was started").id().to_string();
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(id).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for it to end by itself; answers its exit code.
    pub fn wait_end(&mut self) -> Option<i32> {
        self.child.take().expect("it was started").wait().expect("it ends").code()
    }

    /// An instant query's result; panics on an error or a warning.
    pub fn query(&self, query: &str) -> Vec<Value> {
        let (status, body) = get(self.web, &format!("/api/v1/query?query={}", escaped(query)));
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}"));
        assert_eq!(answer["status"], "success", "{query}: {body}\n{}", self.log());
        assert!(answer.get("warnings").is_none(), "{query}: {body}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// The raw samples of a selector over the last so many seconds, by series: instants in ms and values.
    pub fn samples(&self, selector: &str, seconds: u64) -> BTreeMap<String, Vec<(i64, String)>> {
        let series = self.query(&format!("{selector}[{seconds}s]"));
        let sample = |pair: &Value| {
            let at = pair[0].as_f64().expect("an instant");
            ((at * 1000.0).round() as i64, pair[1].as_str().unwrap_or_default().to_owned())
        };
        let row = |series: &Value| {
            let values = series["values"].as_array().into_iter().flatten().map(sample).collect();
            (series["metric"].to_string(), values)
        };
        series.iter().map(row).collect()
    }

    /// What `/api/v1/cluster` says.
    pub fn cluster(&self) -> Value {
        let (_, body) = get(self.web, "/api/v1/cluster");
        serde_json::from_str::<Value>(&body).map_or(Value::Null, |answer| answer["data"].clone())
    }

    /// One figure of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, body) = get(self.web, "/metrics");
        let line = body.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(f64::NAN)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Percent-encodes a query.
pub fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// GET; status 0 when nobody answers.
pub fn get(port: u16, path: &str) -> (u16, String) {
    request(port, "GET", path)
}

/// POST without a body.
pub fn post(port: u16, path: &str) -> (u16, String) {
    request(port, "POST", path)
}

/// DELETE.
pub fn delete(port: u16, path: &str) -> (u16, String) {
    request(port, "DELETE", path)
}

/// POST of JSON.
pub fn send_json(port: u16, path: &str, body: &Value) -> (u16, String) {
    exchange(port, "POST", path, "Content-Type: application/json\r\n", body.to_string().as_bytes())
}

fn request(port: u16, method: &str, path: &str) -> (u16, String) {
    exchange(port, method, path, "", b"")
}

/// A request with headers, each ended by `\\r\\n`, and a body; status 0 when nobody answers.
pub fn exchange(port: u16, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let exchange = || -> std::io::Result<String> {
        let host = hosts().get(&port).cloned().unwrap_or_else(|| "127.0.0.1".to_owned());
        let mut stream = TcpStream::connect((host, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nHost: test\r\n{headers}Content-Length: {length}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), body].concat())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let Ok(answer) = exchange() else { return (0, String::new()) };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, body.to_owned())
}

/// A mesh of peers over one configuration, all ready.
pub fn mesh(root: &Path, count: usize, config: &str) -> Vec<Peer> {
    mesh_with(root, count, config, &[] as &[&str])
}

/// The same, each peer with some more flags.
pub fn mesh_with(root: &Path, count: usize, config: &str, flags: &[impl AsRef<str>]) -> Vec<Peer> {
    let flags: Vec<&str> = flags.iter().map(AsRef::as_ref).collect();
    mesh_of(root, config, &vec![flags.as_slice(); count])
}

/// The same, each peer with flags of its own.
pub fn mesh_of(root: &Path, config: &str, flags: &[&[&str]]) -> Vec<Peer> {
    let path = root.join("prometheus.yml");
    std::fs::write(&path, config).expect("written");
    let count = flags.len();
    let mut peers: Vec<Peer> = Vec::new();
    for (number, flags) in flags.iter().enumerate() {
        let seeds: Vec<&Peer> = peers.iter().take(1).collect();
        let mut peer = Peer::new(root, &format!("peer-{number}"), &path, &seeds);
        peer.arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        peer.start();
        peers.push(peer);
    }
    for peer in &peers {
        peer.wait_ready();
        peer.wait("it sees all others", 30_000, || {
            let cluster = peer.cluster();
            let members = cluster["members"].as_array()?;
            let ready = members.iter().filter(|member| member["state"] == "ready").count();
            (ready == count && cluster["shards"]["underReplicated"] == 0).then_some(())
        });
    }
    peers
}

/// Waits until each shard has one owner: nothing is being handed over.
pub fn wait_for_one_owner(peers: &[Peer]) {
    peers[0].wait("each shard has one owner", 30_000, || {
        let views: Vec<_> = peers.iter().map(Peer::cluster).collect();
        let owned: Option<u64> = views.iter().map(|view| view["members"][0]["shardsOwned"].as_u64()).sum();
        (owned == views[0]["shards"]["total"].as_u64()).then_some(())
    });
}

/// Where a program to compare with is; the test says that it did not run when there is none.
pub fn program(name: &str) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/tools/peers.sh");
    let folder = Command::new(&script).output().ok().filter(|output| output.status.success());
    let folder = folder.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let found = folder.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("no real {name} here: this test did not run");
    }
    found
}

/// SIGKILL to all, and all again at once; back when all are ready.
pub fn crash_all(peers: &mut [Peer]) {
    peers.iter_mut().for_each(Peer::kill);
    peers.iter_mut().for_each(Peer::start);
    peers.iter().for_each(Peer::wait_ready);
}

/// Makes blocks of OpenMetrics text in a data directory.
pub fn blocks_of(text: &str, data: &Path) {
    std::fs::create_dir_all(data).expect("a folder");
    let file = data.with_extension("openmetrics");
    std::fs::write(&file, text).expect("written");
    let made = Command::new(env!("CARGO_BIN_EXE_promesh"))
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([&file, data])
        .output()
        .expect("it runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
