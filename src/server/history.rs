//! Sealed history between peers: copying what is missing, comparing what is there, and answering those who do.
//!
//! One window at a time, the newest first, and never more than half of the time: live traffic goes by another connection,
//! and queries before copies. A window is claimed once all of it is in blocks, so a copy that is interrupted goes on with
//! the window that it was at. What two peers both claim is compared once after it was sealed, and again after one of them was
//! lost to the other, and whoever lacks something of it fetches that.
//!
//! What is missing is decided by [`promesh_node::plan_history`]; here it is done.

mod brought;
mod late;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use promesh_model::codec;
use promesh_model::shard::ShardSet;
use promesh_model::storage::Budget;
use promesh_model::{PeerId, ShardId, Timestamp};
use promesh_node::{
    HistoryPlan, HistoryRules, Input, LateParts, MeshView, late_concerns, plan_history, under_replicated_history,
};
use promesh_transport::{Responder, Transport};
use promesh_tsdb::{Db, SetAside, Window, WindowSeries};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::clock;
use crate::deletes::Deletes;
use crate::identity::PeerFolder;
use crate::ingest::Lanes;
use crate::minds::{Addresses, Minds};
use crate::options::RETENTION_UNLIMITED;
pub use brought::KnownBlocks;
use brought::{Brought, SHOWINGS};
pub use wire::KINDS;

/// How often this peer looks for windows to copy.
const PERIOD: Duration = Duration::from_secs(5);
/// How often others are asked which windows they have, at most.
const LIST_PERIOD: Duration = Duration::from_secs(20);
/// A window that failed is left alone for so long.
const REST: Duration = Duration::from_secs(15);
/// Windows that ended longer ago are not compared: their turn came when they were younger.
const COMPARE_SPAN: Duration = Duration::from_secs(24 * 3600);
/// The time between two showings of what came with this peer's data directory, at least.
const SHOWING_PAUSE: Duration = Duration::from_secs(20);
/// Others are kept busy for so long in each [`PERIOD`].
const SHOWING_SPAN: Duration = Duration::from_secs(2);
/// Series kept in memory until they become a block.
const BLOCK_BYTES: usize = 64 << 20;
/// Windows that this peer reads for others at once.
const DONATIONS: usize = 2;

/// Figures for people.
#[derive(Debug, Default)]
pub struct HistoryFigures {
    /// Windows that this peer still has to copy.
    pub windows_left: AtomicU64,
    /// Copied so far, packed.
    pub bytes: AtomicU64,
    /// Windows copied whole.
    pub windows: AtomicU64,
    /// Series that came.
    pub series: AtomicU64,
    /// Copies that failed.
    pub failures: AtomicU64,
    /// Comparisons of a window with another peer.
    pub compared: AtomicU64,
    /// Of those, the ones that found something.
    pub differed: AtomicU64,
    /// Blocks that were damaged when this peer started.
    pub damaged: AtomicU64,
    /// Windows of which this peer has late pushes that others do not know of yet.
    pub late_windows: AtomicU64,
    /// How often such a window was shown to the others.
    pub late_shown: AtomicU64,
    /// Nanoseconds spent on copying, pauses between windows included.
    took_ns: AtomicU64,
    /// (window, shard) pairs with fewer living copies than wanted.
    pub under_replicated: AtomicU64,
}

impl HistoryFigures {
    /// About how many bytes are still to come, by those that came; nothing until a window did.
    pub fn bytes_left(&self) -> u64 {
        let done = self.windows.load(Ordering::Relaxed);
        let each = self.bytes.load(Ordering::Relaxed).checked_div(done).unwrap_or(0);
        each * self.windows_left.load(Ordering::Relaxed)
    }

    /// About how many seconds that takes.
    pub fn seconds_left(&self) -> f64 {
        let done = self.windows.load(Ordering::Relaxed);
        let each = self.took_ns.load(Ordering::Relaxed).checked_div(done).unwrap_or(0);
        (each * self.windows_left.load(Ordering::Relaxed)) as f64 / 1e9
    }
}

/// What the history of a peer needs.
pub struct HistoryMeans {
    /// Storage.
    pub db: Arc<Db>,
    /// What was deleted: a copy may bring it back.
    pub deletes: Arc<Deletes>,
    /// The mesh.
    pub view: watch::Receiver<Option<Arc<MeshView>>>,
    /// To others.
    pub transport: Option<Transport>,
    /// Where they are.
    pub addresses: Addresses,
    /// To the mind.
    pub minds: Minds,
    /// How long a peer is down before its copies are made good.
    pub replace_after: Duration,
    /// What was pushed.
    pub lanes: Arc<Lanes>,
    /// Where the list of late pushes, and of those blocks, is kept.
    pub folder: PeerFolder,
    /// Whether this peer never held anything: what lies in its data directory then comes from elsewhere, and nobody in the
    /// mesh knows of it.
    pub is_new: bool,
    /// The blocks that it knew when it last ran.
    pub known_blocks: Option<KnownBlocks>,
}

/// Sealed history of one peer.
pub struct History {
    means: HistoryMeans,
    /// Figures for people.
    pub figures: HistoryFigures,
    rebalance: AtomicBool,
    donations: Semaphore,
    /// Windows are compared for others one at a time.
    comparing: tokio::sync::Mutex<()>,
    listed: Mutex<Listed>,
    /// What this peer has in part.
    late: Mutex<LateParts>,
    /// What came with the data directory.
    brought: Mutex<Brought>,
}

/// Which windows others say they have.
#[derive(Default)]
struct Listed {
    at: Option<promesh_model::Monotonic>,
    of: BTreeMap<Window, BTreeSet<PeerId>>,
}

impl History {
    /// Nothing copied yet; damaged blocks are not vouched for any more.
    ///
    /// # Errors
    /// When the list of late pushes cannot be read.
    pub fn new(mut means: HistoryMeans, set_aside: &[SetAside]) -> std::io::Result<History> {
        for block in set_aside {
            // Of one that does not say what it held, everything before the open window may be gone.
            let everything = (i64::MIN, means.db.head().min_time().ms());
            let (from, to) = block.span.unwrap_or(everything);
            tracing::error!(
                block = block.name,
                why = block.why,
                "a damaged block is set aside; what it held is fetched from others"
            );
            means.minds.tell(Input::Damaged { from: Timestamp(from), to: Timestamp(to) });
        }
        let figures = HistoryFigures::default();
        figures.damaged.store(set_aside.len() as u64, Ordering::Relaxed);
        let (rebalance, donations) = (AtomicBool::new(false), Semaphore::new(DONATIONS));
        let brought = Brought::at_start(&means.db, means.known_blocks.take(), means.is_new);
        let late = Mutex::new(LateParts::restored(means.folder.late()?));
        Ok(History {
            means,
            figures,
            rebalance,
            donations,
            comparing: tokio::sync::Mutex::default(),
            listed: Mutex::default(),
            brought: Mutex::new(brought),
            late,
        })
    }

    /// Answers another peer.
    pub async fn answer(self: Arc<Self>, asker: PeerId, kind: u8, payload: Bytes, responder: Responder) {
        if kind == wire::COMPARE || kind == wire::COMPARE_SHARDS {
            let compared = match kind {
                wire::COMPARE => self.compare_all_with(asker, &payload).await.map(|()| Vec::new()),
                _ => self.compare_late_with(asker, &payload).await.map(|has| codec::encode(&has)),
            };
            let _ = match compared {
                Ok(answer) => responder.respond(kind, &answer).await,
                Err(why) => responder.refuse(&why).await,
            };
            return;
        }
        let Ok(_turn) = self.donations.acquire().await else { return };
        let runtime = Handle::current();
        let db = Arc::clone(&self.means.db);
        let served = tokio::task::spawn_blocking(move || wire::serve(&db, kind, &payload, responder, &runtime)).await;
        if let Err(error) = served {
            tracing::error!(%error, "a window could not be read for another peer");
        }
    }

    /// Has this peer copy the history of all shards that it ranks for.
    pub fn rebalance(&self) {
        self.rebalance.store(true, Ordering::Relaxed);
        self.listed.lock().at = None;
    }

    /// Copies and compares for as long as the peer runs.
    pub async fn run(self: Arc<Self>) {
        let Some(transport) = self.means.transport.clone() else { return };
        let mut resting: BTreeMap<Window, promesh_model::Monotonic> = BTreeMap::new();
        let mut compared: BTreeMap<(Window, PeerId), u64> = BTreeMap::new();
        let mut brought = std::mem::take(&mut *self.brought.lock());
        loop {
            self.keep_blocks(&mut brought);
            tokio::time::sleep(PERIOD).await;
            loop {
                let Some(view) = self.means.view.borrow().clone() else { break };
                if view.state != promesh_cluster::PeerState::Ready {
                    break;
                }
                self.list(&transport, &view).await;
                let windows = self.windows().await;
                let now = clock::monotonic();
                resting.retain(|_, until| *until > now);
                let rebalances = self.rebalance.load(Ordering::Relaxed);
                let planned = self.plan(&view, &windows, rebalances);
                self.figures.windows_left.store(planned.len() as u64, Ordering::Relaxed);
                if rebalances && planned.is_empty() {
                    tracing::info!("this peer has the history of all shards that rank here");
                    self.rebalance.store(false, Ordering::Relaxed);
                }
                let next = planned.into_iter().find(|(window, _)| !resting.contains_key(window));
                let Some((window, plan)) = next else {
                    self.show(&transport, &view, &mut brought).await;
                    self.compare_next(&transport, &view, &windows, &mut compared).await;
                    break;
                };
                let began = clock::monotonic();
                match self.copy(&transport, window, &plan).await {
                    Ok(()) => {
                        self.figures.windows.fetch_add(1, Ordering::Relaxed);
                        self.means.minds.tell(Input::Held { shards: plan.shards, from: plan.from, to: plan.to });
                    }
                    Err(why) => {
                        self.figures.failures.fetch_add(1, Ordering::Relaxed);
                        tracing::warn!(window = %window.start, why, "copying a window failed, it is tried again");
                        resting.insert(window, clock::monotonic() + REST);
                    }
                }
                // The mind takes the claim in before the next look.
                tokio::time::sleep(Duration::from_millis(100).max(clock::monotonic().since(began) / 4)).await;
                // With the pause: the time that is left is told by it.
                let took = clock::monotonic().since(began);
                self.figures.took_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
            }
        }
    }

    /// Asks everybody who is heard which windows they have, now and then.
    async fn list(&self, transport: &Transport, view: &MeshView) {
        let now = clock::monotonic();
        if self.listed.lock().at.is_some_and(|at| now.since(at) < LIST_PERIOD) {
            return;
        }
        let mut of: BTreeMap<Window, BTreeSet<PeerId>> = BTreeMap::new();
        for peer in view.peers.iter().filter(|peer| peer.alive && !peer.silent) {
            match wire::windows(transport, peer.address).await {
                Ok(windows) => {
                    for window in windows {
                        of.entry(window).or_default().insert(peer.id);
                    }
                }
                Err(error) => tracing::debug!(peer = %peer.id, error, "a peer does not say which windows it has"),
            }
        }
        *self.listed.lock() = Listed { at: Some(now), of };
    }

    /// The sealed windows that anybody has, the newest first, and who has them.
    async fn windows(&self) -> BTreeMap<std::cmp::Reverse<Window>, BTreeSet<PeerId>> {
        let now = clock::now();
        let db = Arc::clone(&self.means.db);
        let own = tokio::task::spawn_blocking(move || db.sealed_windows(now)).await.unwrap_or_default();
        let oldest = now.wall.before(self.means.db.retention().time.unwrap_or(RETENTION_UNLIMITED));
        let me = self.means.view.borrow().as_ref().map(|view| view.me);
        let mut all = self.listed.lock().of.clone();
        for window in own {
            all.entry(window).or_default().extend(me);
        }
        all.retain(|window, _| window.start > oldest && self.means.db.is_sealed(*window, now));
        all.into_iter().map(|(window, peers)| (std::cmp::Reverse(window), peers)).collect()
    }

    fn plan(
        &self,
        view: &MeshView,
        windows: &BTreeMap<std::cmp::Reverse<Window>, BTreeSet<PeerId>>,
        rebalance: bool,
    ) -> Vec<(Window, HistoryPlan)> {
        let now = clock::wall();
        let gone = view.peers.iter().filter(|peer| !peer.alive && now.since(peer.since) >= self.means.replace_after);
        let given_up = gone.map(|peer| peer.id).collect();
        let mut rules = HistoryRules { given_up, having: BTreeSet::new(), rebalance };
        let mut planned = Vec::new();
        let mut under_replicated = 0;
        for (std::cmp::Reverse(window), having) in windows {
            rules.having.clone_from(having);
            under_replicated += under_replicated_history(view, window.start, window.end);
            let plan = plan_history(view, window.start, window.end, &rules);
            if !plan.shards.is_empty() {
                planned.push((*window, plan));
            }
        }
        self.figures.under_replicated.store(under_replicated as u64, Ordering::Relaxed);
        planned
    }

    /// Fetches what this peer lacks of some shards in a window from each who has them, or a part.
    async fn copy(&self, transport: &Transport, window: Window, plan: &HistoryPlan) -> Result<(), String> {
        let mut series = 0;
        for (peer, shards) in &plan.ask {
            let address = self.address(*peer)?;
            series += self.fetch_differing(transport, address, window, shards).await?.0;
        }
        self.apply_deletes().await;
        tracing::info!(
            window = %window.start, shards = plan.shards.len(), series, peers = plan.ask.len(), "copied a window of history"
        );
        Ok(())
    }

    fn address(&self, peer: PeerId) -> Result<SocketAddr, String> {
        self.means.addresses.load().get(&peer).copied().ok_or_else(|| format!("{peer} has no address"))
    }

    async fn apply_deletes(&self) {
        let (db, deletes) = (Arc::clone(&self.means.db), Arc::clone(&self.means.deletes));
        let applied = tokio::task::spawn_blocking(move || deletes.apply_again(&db)).await;
        if let Err(error) = applied {
            tracing::error!(%error, "deletes could not be applied to what was copied");
        }
    }

    /// Fetches the series of some shards that a peer has otherwise than this one. Answers how many came, and of which
    /// shards the two had different samples.
    async fn fetch_differing(
        &self,
        transport: &Transport,
        from: SocketAddr,
        window: Window,
        shards: &ShardSet,
    ) -> Result<(usize, ShardSet), String> {
        let db = Arc::clone(&self.means.db);
        let own = {
            let (db, shards) = (Arc::clone(&db), shards.clone());
            blocking(move || db.shard_digests(&shards, window, &Budget::unlimited())).await
        };
        // With damage here whatever the other has is wanted.
        let own = own.unwrap_or_default();
        let theirs = wire::digests(transport, from, shards, window).await?;
        let differing: ShardSet =
            theirs.iter().filter(|(shard, digest)| own.get(*shard) != Some(*digest)).map(|(shard, _)| *shard).collect();
        if differing.is_empty() {
            return Ok((0, differing));
        }
        let known = if differing.iter().any(|shard: ShardId| own.contains_key(&shard)) {
            let (db, shards) = (Arc::clone(&db), differing.clone());
            blocking(move || db.series_digests(&shards, window, &Budget::unlimited())).await.unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        let mut incoming = wire::Incoming::ask(transport, from, &differing, window, known).await?;
        let (mut waiting, mut bytes, mut count): (Vec<WindowSeries>, usize, usize) = (Vec::new(), 0, 0);
        while let Some(piece) = incoming.next().await? {
            let began = clock::monotonic();
            self.figures.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            let read = tokio::task::spawn_blocking(move || wire::series(&piece)).await;
            let series = read.map_err(|error| error.to_string())??;
            bytes += series.iter().flat_map(|(_, chunks)| chunks).map(|chunk| chunk.bytes.len() + 64).sum::<usize>();
            count += series.len();
            waiting.extend(series);
            if bytes >= BLOCK_BYTES {
                bytes = 0;
                self.store(window, std::mem::take(&mut waiting)).await?;
            }
            // Copying takes half of the time at most.
            tokio::time::sleep(clock::monotonic().since(began)).await;
        }
        self.store(window, waiting).await?;
        self.figures.series.fetch_add(count as u64, Ordering::Relaxed);
        Ok((count, differing))
    }

    async fn store(&self, window: Window, series: Vec<WindowSeries>) -> Result<(), String> {
        if series.is_empty() {
            return Ok(());
        }
        let db = Arc::clone(&self.means.db);
        blocking(move || db.add_window(window, &series, clock::now())).await.map(drop)
    }

    /// Has the others compare the windows that came with this peer's data directory, the newest first: whoever claims one may
    /// lack what is here, as when the snapshots of some peers are the data of others.
    async fn show(&self, transport: &Transport, view: &MeshView, brought: &mut Brought) {
        let began = clock::monotonic();
        let ready = |peer: &&promesh_node::PeerInfo| {
            peer.alive && !peer.silent && peer.state == Some(promesh_cluster::PeerState::Ready)
        };
        for showing in 1..=SHOWINGS {
            if showing > 1 && brought.shown_once.is_none_or(|at| began.since(at) < SHOWING_PAUSE) {
                return;
            }
            for window in brought.windows.iter().rev() {
                for peer in view.peers.iter().filter(ready) {
                    if brought.shown.get(&(*window, peer.id)).is_some_and(|shown| *shown >= showing) {
                        continue;
                    }
                    match wire::compare(transport, peer.address, *window).await {
                        Ok(()) => drop(brought.shown.insert((*window, peer.id), showing)),
                        Err(why) => {
                            tracing::debug!(window = %window.start, peer = %peer.id, why, "a window was not compared with ours");
                        }
                    }
                    if clock::monotonic().since(began) > SHOWING_SPAN {
                        return;
                    }
                }
            }
            if showing == 1 && !brought.shown.is_empty() {
                brought.shown_once.get_or_insert(began);
            }
        }
        let peers: Vec<PeerId> = view.peers.iter().map(|peer| peer.id).collect();
        brought.forget(&peers, clock::wall().before(self.means.db.retention().time.unwrap_or(RETENTION_UNLIMITED)));
    }

    /// Writes down which blocks are here: others at the next start are somebody else's.
    fn keep_blocks(&self, brought: &mut Brought) {
        if let Err(error) = brought.keep(&self.means.db, &self.means.folder) {
            tracing::error!(%error, "which blocks are here could not be written down");
        }
    }

    /// Compares all that this peer claims of a window with a peer that asks for it.
    async fn compare_all_with(&self, asker: PeerId, payload: &[u8]) -> Result<(), String> {
        let window = wire::window(payload)?;
        let held = |view: &MeshView| view.own.touching(window.start, Timestamp(window.end.ms() - 1));
        self.compare_with(asker, window, held).await.map(drop)
    }

    /// Compares what a peer has in part with it; answers of which shards everything is here now.
    async fn compare_late_with(&self, asker: PeerId, payload: &[u8]) -> Result<ShardSet, String> {
        let (window, shards) = wire::window_shards(payload)?;
        self.compare_with(asker, window, |view| late_concerns(view, (window.start, window.end), &shards)).await
    }

    /// Compares some shards of a window with a peer, and fetches what is otherwise there.
    async fn compare_with(
        &self,
        asker: PeerId,
        window: Window,
        held: impl FnOnce(&MeshView) -> ShardSet,
    ) -> Result<ShardSet, String> {
        if self.means.db.window_of(window.start) != window || !self.means.db.is_sealed(window, clock::now()) {
            return Err(format!("{} is no sealed window here", window.start));
        }
        let (Some(transport), Some(view)) = (self.means.transport.clone(), self.means.view.borrow().clone()) else {
            return Err("this peer is not in the mesh yet".to_owned());
        };
        let held = held(&view);
        if held.is_empty() {
            return Ok(held);
        }
        let _one_at_a_time = self.comparing.lock().await;
        let (series, shards) = self.fetch_differing(&transport, self.address(asker)?, window, &held).await?;
        self.figures.compared.fetch_add(1, Ordering::Relaxed);
        if series > 0 {
            self.figures.differed.fetch_add(1, Ordering::Relaxed);
            self.apply_deletes().await;
            tracing::info!(
                window = %window.start, peer = %asker, series, shards = shards.len(), "fetched what another peer had and showed"
            );
        }
        Ok(held)
    }

    /// Compares one window that both claim with one peer, if there is one that was not compared yet, or not since the other
    /// may have got what did not come here: what is pushed late for a sealed window is in no log that a peer that was cut
    /// off asks for.
    async fn compare_next(
        &self,
        transport: &Transport,
        view: &MeshView,
        windows: &BTreeMap<std::cmp::Reverse<Window>, BTreeSet<PeerId>>,
        compared: &mut BTreeMap<(Window, PeerId), u64>,
    ) {
        let youngest = clock::wall().before(COMPARE_SPAN);
        compared.retain(|(window, _), _| window.end > youngest);
        for std::cmp::Reverse(window) in windows.keys().filter(|window| window.0.end > youngest) {
            let (from, last) = (window.start, Timestamp(window.end.ms() - 1));
            for peer in view.peers.iter().filter(|peer| peer.alive && !peer.silent) {
                if compared.get(&(*window, peer.id)) == Some(&peer.doubts) {
                    continue;
                }
                let Some(held) = view.possession.get(&peer.id) else { continue };
                let shared = view.own.touching(from, last).intersection(&held.touching(from, last));
                compared.insert((*window, peer.id), peer.doubts);
                if shared.is_empty() {
                    continue;
                }
                self.figures.compared.fetch_add(1, Ordering::Relaxed);
                match self.fetch_differing(transport, peer.address, *window, &shared).await {
                    Ok((0, _)) => {}
                    Ok((series, shards)) => {
                        self.figures.differed.fetch_add(1, Ordering::Relaxed);
                        self.apply_deletes().await;
                        tracing::info!(
                            window = %window.start, peer = %peer.id, series, shards = shards.len(),
                            "fetched what another peer had otherwise"
                        );
                    }
                    Err(why) => {
                        compared.remove(&(*window, peer.id));
                        tracing::debug!(window = %window.start, peer = %peer.id, why, "a window could not be compared");
                    }
                }
                return;
            }
        }
    }
}

async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}
