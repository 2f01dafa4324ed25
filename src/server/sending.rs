//! Samples on their way out: remote write of the whole mesh, each series by its shard's owner.
//!
//! What this peer writes as an owner goes to each receiver's queue as it is written. How far each peer has come is said to
//! all others every two seconds, and kept: everything before that instant has arrived. Whoever gains a shard, by takeover,
//! by a move or by a restart, first reads from storage what lies after the earliest such instant, and goes on from there
//! with what is written; so nothing is lost, and some is sent twice, with the same instants. A receiver that is away for
//! long fills the queue; then it is emptied, and what did not fit is read from storage later, the same way.

mod progress;
mod remote;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use promesh_config::prometheus::Config;
use promesh_model::codec;
use promesh_model::ingest::Batch;
use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, ShardId};
use promesh_node::MeshView;
use tokio::sync::watch;

use crate::clock;
use crate::exposition::Page;
use crate::ingest::Ingest;
use crate::live::Live;
use crate::scraping::Scraping;
use progress::Progress;
use remote::Remote;

/// On a live stream: "so far have I come", by receiver, in ms.
pub const PROGRESS: u8 = 67;
/// How often it is said.
const TELL_PERIOD: Duration = Duration::from_secs(2);
/// How long a stopping peer waits for its queues.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// All receivers of remote write.
pub struct Sending {
    ingest: Arc<Ingest>,
    view: watch::Receiver<Option<Arc<MeshView>>>,
    scraping: Arc<Scraping>,
    progress: Progress,
    remotes: ArcSwap<Vec<Arc<Remote>>>,
}

impl Sending {
    /// No receivers yet; `data` is where the progress is kept.
    pub fn new(
        ingest: Arc<Ingest>,
        view: watch::Receiver<Option<Arc<MeshView>>>,
        scraping: Arc<Scraping>,
        me: PeerId,
        data: &Path,
    ) -> Arc<Sending> {
        let progress = Progress::open(me, data);
        Arc::new(Sending { ingest, view, scraping, progress, remotes: ArcSwap::default() })
    }

    /// Makes the receivers those of a configuration. Unchanged ones go on; new ones begin with the present, or where an
    /// earlier life left them.
    ///
    /// # Errors
    /// What cannot be used; the old ones stay.
    pub fn apply(self: &Arc<Self>, config: &Config) -> Result<(), String> {
        let before = self.remotes.load_full();
        let mut remotes = Vec::new();
        for write in &config.remote_write {
            let name = remote::name_of(write);
            let external = config.external_labels();
            let known = before.iter().find(|remote| remote.is_same(write, external));
            let remote = match known {
                Some(known) => Arc::clone(known),
                None => Remote::start(name, write.clone(), external.clone(), Arc::clone(self))?,
            };
            remotes.push(remote);
        }
        for gone in before.iter().filter(|old| !remotes.iter().any(|new| Arc::ptr_eq(old, new))) {
            gone.stop();
        }
        self.remotes.store(Arc::new(remotes));
        Ok(())
    }

    /// Takes what this peer has written.
    pub fn tap(&self, shard: ShardId, batch: &Batch) {
        for remote in self.remotes.load().iter() {
            remote.take(shard, batch, self);
        }
    }

    /// What another peer says of its progress.
    pub fn heard(&self, peer: PeerId, payload: &[u8]) {
        match codec::decode::<BTreeMap<String, i64>, { codec::RPC_BYTES_MAX }>(payload) {
            Ok(told) => self.progress.heard(peer, told, clock::wall()),
            Err(error) => tracing::warn!(%peer, %error, "a peer's progress of remote write is unreadable"),
        }
    }

    /// Follows the mesh, tells and keeps the progress, until the process ends.
    pub async fn run(self: Arc<Self>, live: Option<Live>) {
        loop {
            let remotes = self.remotes.load_full();
            let view = self.view.borrow().clone();
            if !remotes.is_empty()
                && let Some(view) = view
            {
                for remote in remotes.iter() {
                    remote.follow(&view.acting, &self);
                }
                let own: BTreeMap<String, i64> = remotes
                    .iter()
                    .filter_map(|remote| Some((remote.name.clone(), remote.progress(&self.progress)?)))
                    .collect();
                // Before that an earlier life's word stands, and those of others beside it.
                let has_begun = remotes.iter().any(|remote| remote.has_begun());
                if let Some(live) = live.as_ref().filter(|_| has_begun) {
                    let payload = codec::encode(&own);
                    let living = view.peers.iter().filter(|peer| peer.alive);
                    living.for_each(|peer| live.send(peer.id, PROGRESS, payload.clone()));
                }
                if has_begun {
                    self.progress.keep(own, clock::wall());
                }
            }
            tokio::time::sleep(TELL_PERIOD).await;
        }
    }

    /// Lets the queues empty themselves, for so long or for a moment.
    pub async fn flush(&self, deadline: Option<Duration>) {
        let remotes = self.remotes.load_full();
        let empty = async {
            while remotes.iter().any(|remote| remote.sender.queue.pending() > 0) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = tokio::time::timeout(deadline.unwrap_or(FLUSH_MAX), empty).await;
        let own = remotes.iter().filter_map(|remote| Some((remote.name.clone(), remote.progress(&self.progress)?)));
        self.progress.keep(own.collect(), clock::wall());
        remotes.iter().for_each(|remote| remote.stop());
    }

    /// Whose samples this peer sends now.
    fn acting(&self) -> ShardSet {
        self.view.borrow().as_ref().map(|view| view.acting.clone()).unwrap_or_default()
    }

    /// Upstream's families.
    pub fn metrics(&self, page: &mut Page) {
        let remotes = self.remotes.load_full();
        if remotes.is_empty() {
            return;
        }
        type Read = fn(&Remote) -> f64;
        const fn family(name: &'static str, kind: &'static str, help: &'static str, read: Read) -> Family {
            Family { name, kind, help, read }
        }
        struct Family {
            name: &'static str,
            kind: &'static str,
            help: &'static str,
            read: Read,
        }
        fn of(counter: &std::sync::atomic::AtomicU64) -> f64 {
            counter.load(Ordering::Relaxed) as f64
        }
        let families = [
            family("samples_total", "counter", "Samples sent.", |r| of(&r.sender.counters.samples)),
            family("histograms_total", "counter", "Histograms sent.", |r| of(&r.sender.counters.histograms)),
            family("exemplars_total", "counter", "Exemplars sent.", |r| of(&r.sender.counters.exemplars)),
            family("metadata_total", "counter", "Metadata entries sent.", |r| of(&r.sender.counters.metadata)),
            family("samples_failed_total", "counter", "Samples refused for good.", |r| of(&r.sender.counters.failed)),
            family("samples_retried_total", "counter", "Samples sent again.", |r| of(&r.sender.counters.retried)),
            family("samples_dropped_total", "counter", "Samples dropped before.", |r| of(&r.sender.counters.dropped)),
            family("bytes_total", "counter", "Bytes of samples sent.", |r| of(&r.sender.counters.bytes)),
            family("samples_pending", "gauge", "Samples waiting.", |r| r.sender.queue.pending() as f64),
            family("shards", "gauge", "Senders at work.", |r| of(&r.sender.counters.shards)),
            family("shards_max", "gauge", "Most senders.", |r| r.sender.config.queue_config.max_shards as f64),
            family("shards_min", "gauge", "Fewest senders.", |r| r.sender.config.queue_config.min_shards as f64),
            family("shard_capacity", "gauge", "Samples waiting a sender, at most.", |r| {
                r.sender.config.queue_config.capacity as f64
            }),
            family("max_samples_per_send", "gauge", "Most samples of a request.", |r| {
                r.sender.config.queue_config.max_samples_per_send as f64
            }),
            family("queue_highest_sent_timestamp_seconds", "gauge", "Newest instant sent.", |r| {
                r.sender.counters.highest_sent.load(Ordering::Relaxed) as f64 / 1000.0
            }),
            family("enqueue_retries_total", "counter", "Times the queue was full.", |r| of(&r.overflows)),
        ];
        for Family { name, kind, help, read } in families {
            let name = format!("prometheus_remote_storage_{name}");
            page.family(&name, kind, help);
            for remote in remotes.iter() {
                let url = remote.sender.shown_url();
                page.sample(&name, &[("remote_name", &remote.name), ("url", &url)], read(remote));
            }
        }
        let newest = self.ingest.db().head().max_time().ms().max(0) as f64 / 1000.0;
        let name = "prometheus_remote_storage_highest_timestamp_in_seconds";
        page.value(name, "gauge", "Newest instant in storage.", newest);
    }
}
