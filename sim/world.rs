//! Peers, links, disks and one heap of events.

mod event;
pub(crate) mod history;
mod late;
mod lives;
mod reads;
mod streams;
mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};

use promesh_cluster::{PeerState, RankTables};
use promesh_model::shard::ShardSet;
use promesh_model::{Generation, Monotonic, Now, PeerId, SHARD_COUNT, ShardId, Timestamp};
use promesh_node::{
    Elected, Input, LateParts, MeshView, Output, Peer, PeerInput, PeerOutput, Piece, SourceCatalog, SourceSpec,
};
use promesh_replication::{BatchHeader, Order, Origin, SourceId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

pub(crate) use self::event::{Envelope, Event};
use self::history::History;
use self::late::Shown;
use self::reads::Reads;
pub(crate) use self::wire::Wire;
use crate::disk::Store;
use crate::faults::Fault;
use crate::invariants::{majority_runs, no_false_skew};
use crate::network::Network;
use crate::paging::Paging;

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000_000_000;
/// The wall clock when a world begins.
pub(crate) const EPOCH_MS: i64 = 1_767_225_600_000;
/// How often a log is synced at least.
const SYNC_PERIOD: u64 = SECOND;
/// A scrape that ends so much later than it should is not written.
const SCRAPE_LATE_MAX: u64 = SECOND;
/// How long an answer to a copy or an exchange is waited for.
const REQUEST_TIMEOUT: u64 = 3 * SECOND;

pub(crate) struct SimPeer {
    pub(crate) id: PeerId,
    pub(crate) boot: u64,
    pub(crate) mind: Option<Peer>,
    pub(crate) store: Store,
    pub(crate) view: Option<Arc<MeshView>>,
    /// What was pushed late and is in no claim.
    pub(crate) late: LateParts,
    subscribers: BTreeMap<usize, ShardSet>,
    /// What it last asked anybody for.
    asked: ShardSet,
    fetches: BTreeMap<u64, usize>,
    pub(crate) zone: String,
    skew_ms: i64,
    /// How long a sync of the log takes.
    sync_takes: u64,
    pub(crate) paused_until: u64,
    next_wake: u64,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) peers: Vec<SimPeer>,
    pub(crate) sources: Vec<SourceSpec>,
    catalog: Arc<SourceCatalog>,
    by_id: HashMap<PeerId, usize>,
    /// By shard, who ever asked anybody for its batches: of a thousand subscribers only those need a look.
    askers: Vec<BTreeSet<usize>>,
    rank_tables: Arc<RankTables>,
    /// Bytes that peers sent since it was set to zero, while `measuring`.
    pub(crate) sent_bytes: u64,
    pub(crate) measuring: bool,
    /// How often what happened, by kind: where the time of a large world goes.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    fed: u64,
    pub(crate) network: Network<Envelope>,
    /// When, a die that orders what falls together, a running number, a place in `pending`.
    events: BinaryHeap<Reverse<(u64, u64, u64, usize)>>,
    pending: Vec<Option<Event>>,
    free: Vec<usize>,
    event_count: u64,
    pub(crate) rng: StdRng,
    replication_factor: usize,
    pub(crate) faults_at: Vec<u64>,
    /// The last of them.
    pub(crate) last_fault: u64,
    /// The vote of the peers that are ready now; made anew when they, or what they load, change.
    pub(crate) elected: Option<Elected>,
    /// When somebody was lost to somebody else: a process died or stood still, a link broke.
    pub(crate) losses: BTreeSet<u64>,
    /// Scrapes that died with their scraper, and batches that only a peer had which had just come back when it died.
    pub(crate) unfinished: BTreeSet<(SourceId, Timestamp)>,
    /// For each peer since when it was or was not there: ready, and not standing still.
    pub(crate) standing: Vec<Vec<(u64, bool)>>,
    /// How often each slot was started, if that is counted.
    pub(crate) started: Option<HashMap<(SourceId, Timestamp), usize>>,
    /// Broken invariants that show only while things happen.
    pub(crate) found: Vec<String>,
    /// Prints faults and changes as they happen.
    pub(crate) verbose: bool,
    /// Whether windows are sealed within minutes, leave the logs, and are copied as history.
    pub(crate) seals: bool,
    pub(crate) history: History,
    /// Whether late pushes are taken by whoever acts for their shard, and not only by those who have their time.
    pub(crate) pushes_anywhere: bool,
    /// Late pushes that others compare, by peer.
    shown: BTreeMap<(usize, u64), Shown>,
    /// The alerting side, if there is one.
    pub(crate) paging: Option<Paging>,
    /// Queries.
    pub(crate) reads: Reads,
}

/// The job that all sources are of.
pub(crate) fn job() -> Piece {
    Piece::Job("job".to_owned())
}

impl SimPeer {
    pub(crate) fn is_ready(&self) -> bool {
        self.mind.as_ref().is_some_and(|mind| mind.mesh.state() == PeerState::Ready)
    }
}

pub(crate) fn address(peer: usize) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 10_000 + peer as u16).into()
}

pub(crate) fn peer_at(address: SocketAddr) -> usize {
    usize::from(address.port()) - 10_000
}

impl World {
    pub(crate) fn new(peers: usize, sources: Vec<SourceSpec>, replication_factor: usize, seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let peer = |rng: &mut StdRng| SimPeer {
            id: PeerId(rng.random()),
            boot: 0,
            mind: None,
            store: Store::default(),
            view: None,
            late: LateParts::default(),
            subscribers: BTreeMap::new(),
            asked: ShardSet::default(),
            fetches: BTreeMap::new(),
            zone: String::new(),
            skew_ms: rng.random_range(-150..150),
            sync_takes: 0,
            paused_until: 0,
            next_wake: u64::MAX,
        };
        let peers: Vec<SimPeer> = (0..peers).map(|_| peer(&mut rng)).collect();
        let standing = vec![vec![(0, false)]; peers.len()];
        let by_id = peers.iter().enumerate().map(|(number, peer)| (peer.id, number)).collect();
        World {
            now: 0,
            peers,
            catalog: Arc::new(sources.iter().copied().collect()),
            sources,
            by_id,
            askers: vec![BTreeSet::new(); SHARD_COUNT],
            rank_tables: Arc::default(),
            sent_bytes: 0,
            measuring: false,
            counts: BTreeMap::new(),
            fed: 0,
            network: Network::new(),
            events: BinaryHeap::new(),
            pending: Vec::new(),
            free: Vec::new(),
            event_count: 0,
            rng,
            replication_factor,
            faults_at: Vec::new(),
            last_fault: 0,
            elected: None,
            losses: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            standing,
            started: None,
            found: Vec::new(),
            verbose: false,
            seals: false,
            history: History::default(),
            pushes_anywhere: false,
            shown: BTreeMap::new(),
            paging: None,
            reads: Reads::default(),
        }
    }

    /// Everybody's configuration has these sources from now on.
    pub(crate) fn set_sources(&mut self, sources: Vec<SourceSpec>) {
        self.catalog = Arc::new(sources.iter().copied().collect());
        self.sources = sources;
        for peer in 0..self.peers.len() {
            let catalog = Arc::clone(&self.catalog);
            self.feed(peer, PeerInput::Mesh(Input::Sources(catalog)));
        }
    }

    pub(crate) fn clock(&self, peer: usize) -> Now {
        let wall = EPOCH_MS + (self.now / MS) as i64 + self.peers[peer].skew_ms;
        // Each machine's monotonic clock starts somewhere else.
        Now { monotonic: Monotonic(self.now + peer as u64 * 7_777 * SECOND), wall: Timestamp(wall) }
    }

    /// The true wall clock.
    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp(EPOCH_MS + (self.now / MS) as i64)
    }

    pub(crate) fn schedule(&mut self, at: u64, event: Event) {
        self.event_count += 1;
        let tie = self.rng.random::<u64>();
        let place = self.free.pop().unwrap_or_else(|| {
            self.pending.push(None);
            self.pending.len() - 1
        });
        self.pending[place] = Some(event);
        self.events.push(Reverse((at.max(self.now), tie, self.event_count, place)));
    }

    pub(crate) fn plan(&mut self, faults: Vec<(u64, Fault)>) {
        for (at, fault) in faults {
            self.schedule(at, Event::Fault(fault));
        }
    }

    pub(crate) fn run_until(&mut self, end: u64) {
        while let Some(&Reverse((at, _, number, place))) = self.events.peek() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now = at;
            // What reaches a process that stands still waits for it, in order.
            let waits =
                |event: &Event| event.touched().map(|peer| self.peers[peer].paused_until).filter(|at| *at > self.now);
            if let Some(at) = self.pending[place].as_ref().and_then(waits) {
                self.events.push(Reverse((at, number, number, place)));
                continue;
            }
            let event = self.pending[place].take().expect("every place in the heap is taken");
            self.free.push(place);
            self.happen(event);
        }
        self.now = end;
    }

    /// What lies before an instant was looked at: nobody keeps it any more.
    pub(crate) fn forget_before(&mut self, oldest: Timestamp) {
        for peer in &mut self.peers {
            peer.store.forget_before(oldest);
        }
        self.unfinished.retain(|(_, slot)| *slot >= oldest);
        let oldest = (oldest.ms() - EPOCH_MS).max(0) as u64 * MS;
        self.faults_at.retain(|at| *at >= oldest);
        self.losses.retain(|at| *at >= oldest);
    }

    pub(crate) fn is_up(&self, peer: usize, boot: u64) -> bool {
        self.peers[peer].boot == boot && self.peers[peer].mind.is_some()
    }

    pub(crate) fn happen(&mut self, event: Event) {
        *self.counts.entry(event.kind()).or_default() += 1;
        match event {
            Event::Wake { peer, boot } if self.is_up(peer, boot) => {
                if self.peers[peer].next_wake <= self.now {
                    self.peers[peer].next_wake = u64::MAX;
                    self.feed(peer, PeerInput::Timeout);
                }
            }
            Event::Datagram { to, bytes } => {
                if self.peers[to].mind.is_some() {
                    self.feed(to, PeerInput::Datagram(bytes));
                }
            }
            Event::Stream(envelope) => self.arrive(*envelope),
            // A scrape that outlived its timeout because the process stood still is none.
            Event::Scraped { peer, boot, due, spec, slot, rank }
                if self.is_up(peer, boot) && self.now <= due + SCRAPE_LATE_MAX =>
            {
                self.scraped(peer, spec, slot, rank);
            }
            Event::Sync { peer, boot } if self.is_up(peer, boot) => {
                // What a sync covers was written before it began.
                let store = &mut self.peers[peer].store;
                store.disk.synced = std::mem::replace(&mut store.sync_began, store.disk.log.len());
                let takes = self.peers[peer].sync_takes;
                self.schedule(self.now + SYNC_PERIOD + takes, Event::Sync { peer, boot });
            }
            // It died with its scraper.
            Event::Scraped { spec, slot, .. } => drop(self.unfinished.insert((spec.source, slot))),
            Event::Seek { peer, boot } if self.is_up(peer, boot) => self.seek(peer),
            Event::FetchTimeout { peer, boot, token } if self.is_up(peer, boot) => {
                if self.peers[peer].fetches.remove(&token).is_some() {
                    self.feed(peer, PeerInput::Mesh(Input::Fetched { token, whole_from: None }));
                }
            }
            Event::Stop { peer, boot } if self.is_up(peer, boot) => self.stop(peer),
            Event::StreamLost { peer, boot, from } if self.is_up(peer, boot) => {
                self.feed(peer, PeerInput::Mesh(Input::StreamLost { from }));
            }
            Event::History { peer, boot } if self.is_up(peer, boot) => self.look_at_history(peer, boot),
            Event::HistoryTimeout { peer, boot, token } if self.is_up(peer, boot) => {
                self.give_up_window(peer, boot, token);
            }
            Event::Read { peer, boot } if self.is_up(peer, boot) => self.read(peer, boot),
            Event::ReadWake { peer, boot, token } if self.is_up(peer, boot) => self.go_on_reading(peer, token),
            Event::ReadAnswer { peer, boot, to, token, ask, shards, span } if self.is_up(peer, boot) => {
                self.answer_read((peer, to), (token, ask), &shards, span);
            }
            Event::Fault(fault) => self.strike(fault),
            Event::Paging(event) => self.paging_event(event),
            Event::Resumed(peer) => {
                for other in (0..self.peers.len()).filter(|other| *other != peer) {
                    self.reset(peer, other);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn feed(&mut self, peer: usize, input: PeerInput) {
        let now = self.clock(peer);
        let Some(mind) = self.peers[peer].mind.as_mut() else { return };
        mind.handle(input, now);
        // In a large world a look at all that each peer knows would be most of the work.
        self.fed += 1;
        if self.by_id.len() < 50 || self.fed.is_multiple_of(512) {
            mind.mesh.check_invariants();
        }
        self.drain(peer);
    }

    fn drain(&mut self, peer: usize) {
        while let Some(output) = self.peers[peer].mind.as_mut().and_then(Peer::poll_output) {
            match output {
                PeerOutput::Datagram { to, bytes } => {
                    let to = peer_at(to);
                    if self.measuring {
                        self.sent_bytes += bytes.len() as u64;
                    }
                    for at in self.network.datagram(peer, to, self.now, &mut self.rng) {
                        self.schedule(at, Event::Datagram { to, bytes: bytes.clone() });
                    }
                }
                PeerOutput::Exchange { to } => self.ask(peer, peer_at(to)),
                PeerOutput::Mesh(output) => self.carry_out(peer, output),
                PeerOutput::Alerting(output) => self.page(peer, output),
            }
        }
        self.note_standing(peer);
        let now = self.clock(peer);
        let boot = self.peers[peer].boot;
        let Some(mind) = &self.peers[peer].mind else { return };
        if let Some(at) = mind.poll_timeout() {
            let at = self.now + at.since(now.monotonic).as_nanos() as u64;
            if at < self.peers[peer].next_wake {
                self.peers[peer].next_wake = at;
                self.schedule(at, Event::Wake { peer, boot });
            }
        }
    }

    /// Takes note of whether a peer is there.
    fn note_standing(&mut self, peer: usize) {
        let stands = self.peers[peer].is_ready() && self.peers[peer].paused_until <= self.now;
        let (now, known) = (self.now, &mut self.standing[peer]);
        if known.last().is_none_or(|(_, stood)| *stood != stands) {
            known.push((now, stands));
            self.elected = None;
        }
    }

    fn carry_out(&mut self, peer: usize, output: Output) {
        if self.verbose && matches!(output, Output::Subscribe { .. } | Output::Fetch { .. }) {
            println!("{:9.3} s {peer}: {output:?}", self.now as f64 / 1e9);
        }
        match output {
            Output::Start { spec, slot, rank } => {
                let found = majority_runs::violation(self, peer, spec.piece);
                self.found.extend(found);
                if let Some(started) = &mut self.started {
                    let times = started.entry((spec.source, slot)).or_default();
                    *times += 1;
                    if self.verbose && *times > 1 {
                        println!(
                            "{:9.3} s {}: {slot:?} of {spec:?} is started again",
                            self.now as f64 / 1e9,
                            self.peers[peer].id
                        );
                    }
                }
                let slow = self.rng.random_bool(0.02);
                let takes = if slow { self.rng.random_range(200..2000) } else { self.rng.random_range(2..60) };
                // No scrape outlives its timeout.
                let takes = takes.min(spec.interval_ms as u64 * 9 / 10);
                let boot = self.peers[peer].boot;
                let due = self.now + takes * MS;
                self.schedule(due, Event::Scraped { peer, boot, due, spec, slot, rank });
            }
            Output::Send { to, message } => {
                if let Some(to) = self.find(to) {
                    self.send(peer, to, Wire::Mind(message));
                }
            }
            Output::Subscribe { to, shards } => {
                if let Some(to) = self.find(to) {
                    let asked = std::mem::replace(&mut self.peers[peer].asked, shards.clone());
                    for shard in shards.difference(&asked).iter() {
                        self.askers[usize::from(shard.0)].insert(peer);
                    }
                    self.send(peer, to, Wire::Subscribe(shards));
                }
            }
            Output::Fetch { token, from, shards, since } => {
                if let Some(to) = self.find(from) {
                    self.peers[peer].fetches.insert(token, to);
                    let boot = self.peers[peer].boot;
                    self.schedule(self.now + REQUEST_TIMEOUT, Event::FetchTimeout { peer, boot, token });
                    self.send(peer, to, Wire::Fetch { token, shards, since });
                }
            }
            Output::View(view) => {
                let ids = |alive| view.peers.iter().filter(move |peer| peer.alive == alive).map(|peer| peer.id);
                let members: Vec<PeerId> = ids(true).collect();
                let disk = &mut self.peers[peer].store;
                if !disk.refuses {
                    let disk = &mut disk.disk;
                    disk.possession = (*view.own).clone();
                    // As the process does: a lone survivor keeps what it wrote last.
                    if !members.is_empty() {
                        disk.members = members;
                        disk.away = ids(false).chain(view.unmet.iter().copied()).collect();
                    }
                }
                self.peers[peer].view = Some(view);
                self.go_on_with_reads(peer);
            }
            Output::Change(change) => {
                self.found.extend(no_false_skew::violation(&change, self.now as f64 / 1e9));
                if self.verbose {
                    println!("{:9.3} s {}: {change:?}", self.now as f64 / 1e9, self.peers[peer].id);
                }
            }
            // What was started is finished and sent before the process ends.
            Output::Left => {
                let boot = self.peers[peer].boot;
                self.schedule(self.now + 2500 * MS, Event::Stop { peer, boot });
            }
            Output::Record(_) | Output::Inquire(_) => unreachable!("Peer feeds records to membership itself"),
        }
    }

    pub(crate) fn find(&self, id: PeerId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Whether a peer's disk refuses what is to be stored; the first time its mind hears of it.
    fn refuses(&mut self, peer: usize) -> bool {
        let store = &mut self.peers[peer].store;
        let (refuses, is_news) =
            (store.refuses, store.refuses && !std::mem::replace(&mut store.refused, store.refuses));
        if is_news {
            self.feed(peer, PeerInput::Mesh(Input::DiskRefuses(true)));
        }
        refuses
    }

    fn append(&mut self, peer: usize, header: BatchHeader) {
        if self.refuses(peer) {
            return;
        }
        let now = self.clock(peer).wall;
        self.peers[peer].store.take(header, now);
        self.note_late(peer, &header);
        self.feed(peer, PeerInput::Mesh(Input::Appended(header)));
    }

    fn scraped(&mut self, peer: usize, spec: SourceSpec, slot: Timestamp, rank: u8) {
        let writer = &mut self.peers[peer];
        writer.store.sequence += 1;
        let origin = Origin { writer: writer.id, generation: Generation(writer.store.disk.generation) };
        let order = Order { failed: false, rank, origin };
        let header =
            BatchHeader { source: spec.source, shard: spec.shard, slot, order, sequence: writer.store.sequence };
        self.append(peer, header);
        self.evaluated(peer, spec.source, slot);
        for to in self.route(peer, spec.shard) {
            self.send(peer, to, Wire::Batch(header));
        }
    }

    /// Who gets a peer's batches of a shard.
    pub(crate) fn route(&self, from: usize, shard: ShardId) -> Vec<usize> {
        let subscribers = &self.peers[from].subscribers;
        let subscribed = |to: &&usize| subscribers.get(to).is_some_and(|shards| shards.contains(shard));
        self.askers[usize::from(shard.0)].iter().filter(subscribed).copied().collect()
    }

    fn ask(&mut self, from: usize, to: usize) {
        let Some(mind) = &self.peers[from].mind else { return };
        let snapshot = mind.membership.snapshot();
        self.send(from, to, Wire::Ask(snapshot));
    }

    /// A peer that knows nobody alive asks its seed and its persisted members, again and again.
    fn seek(&mut self, peer: usize) {
        let alone =
            self.peers[peer].mind.as_ref().is_some_and(|mind| mind.membership.members().iter().all(|m| !m.alive));
        if alone {
            let disk = &self.peers[peer].store.disk;
            let known: Vec<PeerId> = disk.members.iter().chain(&disk.away).copied().collect();
            let mut asked: Vec<usize> = known.into_iter().filter_map(|id| self.find(id)).collect();
            if peer != 0 {
                asked.push(0);
            }
            for to in asked {
                self.ask(peer, to);
            }
        }
        let boot = self.peers[peer].boot;
        self.schedule(self.now + SECOND, Event::Seek { peer, boot });
    }
}
