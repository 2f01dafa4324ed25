//! Bytes a sample in the log and on the wire, for a real node exporter: `cargo bench -p promesh-scrape --bench bytes`.
//!
//! Scrapes `NODE_EXPORTER` (host:port; without it, `prometheus-node-exporter` of the PATH is started) once a second for
//! `SLOTS` (100) slots and frames every batch as the server does. A holder's stream carries the frames of the log byte
//! for byte, so both figures are one; the first batch is a key frame, which a target writes twice an hour.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use promesh_client::HttpClient;
use promesh_config::prometheus::load_text;
use promesh_config::source::MemorySource;
use promesh_discovery::TargetGroup;
use promesh_model::frame;
use promesh_model::shard::shard_of;
use promesh_model::time::Clock;
use promesh_model::{Generation, Labels, Monotonic, Now, PeerId, Timestamp};
use promesh_replication::framing::KIND_BATCH;
use promesh_replication::{BatchHeader, Framing, Order, Origin, SourceId, Vanishing};
use promesh_scrape::{ScrapeLoop, ScrapeOptions, targets};
use promesh_tsdb::HeadOptions;
use promesh_tsdb::fs::FaultyFs;
use promesh_tsdb::head::Head;

/// `shared/budgets.md`: must reach and aim.
const LIMITS: (f64, f64) = (2.5, 1.8);

struct Exporter(Option<Child>, String);

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn exporter() -> Option<Exporter> {
    if let Ok(address) = std::env::var("NODE_EXPORTER") {
        return Some(Exporter(None, address));
    }
    let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
    let address = format!("127.0.0.1:{port}");
    let child = Command::new("prometheus-node-exporter")
        .arg(format!("--web.listen-address={address}"))
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let started = Exporter(Some(child), address);
    for _ in 0..100 {
        if TcpStream::connect(&started.1).is_ok() {
            return Some(started);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    None
}

struct MachineClock;

impl Clock for MachineClock {
    #[allow(clippy::disallowed_methods)] // a benchmark looks at the machine's clock
    fn now(&self) -> Now {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Now { monotonic: Monotonic(since.as_nanos() as u64), wall: Timestamp(since.as_millis() as i64) }
    }
}

fn main() {
    // `cargo test --benches` runs this too: it measures only when asked to.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let Some(exporter) = exporter() else {
        println!("bytes: no node exporter: set NODE_EXPORTER=host:port, or put prometheus-node-exporter on the PATH");
        return;
    };
    let slots: u64 = std::env::var("SLOTS").ok().and_then(|slots| slots.parse().ok()).unwrap_or(100);
    let text = b"scrape_configs: [{job_name: node}]";
    let loaded = load_text("bench.yml", text, Path::new("/"), &MemorySource::default()).expect("a valid configuration");
    let job = Arc::new(loaded.jobs[0].clone());
    let group = TargetGroup::of_addresses("0", [exporter.1.as_str()], &Labels::empty());
    let target = targets::from_groups(&job, [&group], "").targets.remove(0);
    let client = HttpClient::new(&job.http).expect("plain HTTP");
    let mut scrape_loop = ScrapeLoop::new(target, client, ScrapeOptions::default());
    let head = Head::new(Arc::new(FaultyFs::new()), "head".as_ref(), HeadOptions::default()).expect("in memory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&mut scrape_loop, &head, slots));
}

async fn measure(scrape_loop: &mut ScrapeLoop, head: &Head, slots: u64) {
    let origin = Origin { writer: PeerId(1), generation: Generation(1_764_000_000_000) };
    let order = Order { failed: false, rank: 0, origin };
    let mut framing = Framing::new();
    let (mut samples, mut bytes, mut key_bytes) = (0, 0, 0);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for sequence in 1..=slots {
        ticks.tick().await;
        let slot = Timestamp(1_764_000_000_000 + sequence as i64 * 1000);
        let mut result = scrape_loop.scrape(slot, head, &MachineClock).await;
        assert_eq!(result.failed, None);
        let shard = shard_of(&scrape_loop.target().labels);
        let header = BatchHeader { source: SourceId(u128::MAX / 3), shard, slot, order, sequence };
        let mut payload = Vec::new();
        framing
            .encode(&header, &mut result.batch, None, Vanishing::MarkedUnlessStamped, head, &mut payload)
            .expect("frames");
        let mut framed = Vec::new();
        frame::write(&mut framed, KIND_BATCH, &payload);
        samples += result.batch.series.len();
        bytes += framed.len();
        if sequence == 1 {
            key_bytes = framed.len();
        }
    }
    let each = samples as f64 / slots as f64;
    let (must, aim) = LIMITS;
    println!("node exporter: {each:.0} samples a scrape, {slots} scrapes a second apart");
    println!(
        "log and wire, key frame included: {:.2} B a sample (must be ≤ {must}, aim ≤ {aim})",
        bytes as f64 / samples as f64
    );
    println!("  key frame: {key_bytes} B, {:.1} B a series", key_bytes as f64 / each);
    println!("  other batches: {:.2} B a sample", (bytes - key_bytes) as f64 / (samples as f64 - each));
    println!(
        "  at 15 s, a key frame every half hour: {:.2} B a sample",
        (bytes - key_bytes) as f64 / (samples as f64 - each) + key_bytes as f64 / each / 120.0
    );
}
