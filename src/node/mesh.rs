//! The mind that decides who starts which slot, who holds what, and when this peer is ready.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

mod damping;
mod definitions;
mod history;
mod members;
mod pace;
mod review;
mod room;
mod tell;

use promesh_cluster::{Beat, Candidate, Digests, Judge, MemberView, PeerRecord, PeerState, RankTables};
use promesh_model::shard::ShardSet;
use promesh_model::{Generation, Monotonic, Now, PeerId, Timestamp};
use promesh_replication::BatchHeader;

use crate::clock_offset::ClockOffsets;
use crate::messages::MeshMessage;
use crate::ownership::Ownership;
use crate::possession::Possession;
use crate::schedule::{Schedule, SourceCatalog, SourceSpec};
use crate::sync::{Holdings, Windows};
use crate::view::MeshView;

/// The shortest time between beats.
const BEAT_PERIOD_MIN: Duration = Duration::from_millis(200);
/// Added to the period for every peer, so that a large mesh does not drown in beats.
const BEAT_PERIOD_PER_PEER: Duration = Duration::from_millis(4);
/// How long a leaving peer waits for its shards to be taken.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a newcomer waits to hear what the others act for.
const GREETING_PATIENCE: Duration = Duration::from_secs(2);

/// What a mesh mind starts with.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Copies of every sample.
    pub replication_factor: usize,
    /// How long to wait for peers that should be there. Default 10s.
    pub start_hold: Duration,
    /// Whether seeds are configured that are not this peer itself.
    pub has_seeds: bool,
    /// Members of the mesh that were alive when this peer last ran: they are waited for.
    pub persisted: Vec<PeerId>,
    /// Those that were away then, and may have written since: what they have is owed, and nobody waits for them.
    pub remembered: Vec<PeerId>,
    /// What this peer held when it last ran.
    pub possession: Possession,
    /// The newest sample on its disk.
    pub newest_sample: Option<Timestamp>,
    /// The span of a block when it leaves the log. Default 2h.
    pub window: Duration,
    /// Rank tables that other peers of this process share; none outside of a simulator.
    pub rank_tables: Option<Arc<RankTables>>,
}

/// What happens to the mesh mind.
#[derive(Clone, Debug)]
pub enum Input {
    /// Membership changed.
    Members(Vec<MemberView>),
    /// The sources of the configuration and discovery; replaces those before.
    Sources(Arc<SourceCatalog>),
    /// Another mind speaks.
    Message {
        /// Whose.
        from: PeerId,
        /// What it says.
        message: MeshMessage,
    },
    /// A batch, own or received, was appended to the log.
    Appended(BatchHeader),
    /// A copy ended, and what came would survive a crash.
    Fetched {
        /// The copy.
        token: u64,
        /// Since when what came is all there is; `None` if it failed.
        whole_from: Option<Timestamp>,
    },
    /// A span of sealed history of some shards is here whole: copied, or found to be what others have.
    Held {
        /// Which.
        shards: ShardSet,
        /// The first instant.
        from: Timestamp,
        /// The first instant after it.
        to: Timestamp,
    },
    /// A span of history cannot be vouched for any more: a block of it is damaged.
    Damaged {
        /// The first instant.
        from: Timestamp,
        /// The first instant after it.
        to: Timestamp,
    },
    /// A peer has batches, from an instant on, that were not taken: they lie too far ahead of the clock here.
    Ahead {
        /// The peer.
        from: PeerId,
        /// The first of their slots.
        since: Timestamp,
        /// Of which shards.
        shards: ShardSet,
    },
    /// The connection to a peer ended: what it streamed to us since it was last heard may not have arrived.
    StreamLost {
        /// The peer.
        from: PeerId,
    },
    /// This peer is to stop: give everything away first.
    Leave,
    /// The disk is full (or has room again).
    DiskFull(bool),
    /// The disk refused what was to be stored (or takes it again): what came since is not here.
    DiskRefuses(bool),
    /// An operator wants this peer to own and gain nothing (or to do so again).
    Drain(bool),
    /// An operator says that a peer that is down will not come back.
    Remove(PeerId),
    /// What this peer's configuration says, after a start or a reload.
    Definitions(Digests),
    /// The deadline of [`Mesh::poll_timeout`] has come.
    Timeout,
}

/// What the mesh mind wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Start a slot: scrape, or evaluate. The batch carries the slot and this rank.
    Start {
        /// What.
        spec: SourceSpec,
        /// For when.
        slot: Timestamp,
        /// This peer's rank for the shard, as it sees it.
        rank: u8,
    },
    /// Say something to another mind.
    Send {
        /// Whom.
        to: PeerId,
        /// What.
        message: MeshMessage,
    },
    /// This peer's record changed: spread it.
    Record(PeerRecord),
    /// Have a peer stream its batches of these shards to us; replaces what was asked of it before.
    Subscribe {
        /// Whom to ask.
        to: PeerId,
        /// Which.
        shards: ShardSet,
    },
    /// Copy shards; answer with [`Input::Fetched`].
    Fetch {
        /// Names the copy.
        token: u64,
        /// From whom.
        from: PeerId,
        /// Which.
        shards: ShardSet,
        /// Its log since then, any origin; `None`: the open window as head chunks, and the log of the last minute.
        since: Option<Timestamp>,
    },
    /// What is known changed.
    View(Arc<MeshView>),
    /// Something an operator would tell a colleague.
    Change(Change),
    /// A peer acts that is not known to be ready: membership is to ask it.
    Inquire(PeerId),
    /// Everything is given away, or nobody takes it: this peer may stop.
    Left,
}

/// A change of ownership or state, for the cluster endpoint and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// What: `takeover`, `handover`, `yield`, `state`, `down`, `up`, `copied`, `suspended`.
    pub what: &'static str,
    /// Whom it concerns.
    pub peer: PeerId,
    /// How many shards.
    pub shards: usize,
    /// Why.
    pub reason: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for peers that should be there.
    Waiting {
        until: Monotonic,
    },
    /// Copies what it will hold, hears what the others act for.
    Syncing {
        greeted_by: Monotonic,
    },
    Ready,
    Leaving {
        until: Monotonic,
    },
    Left,
}

/// The machine.
pub struct Mesh {
    config: MeshConfig,
    record: PeerRecord,
    phase: Phase,
    members: Vec<MemberView>,
    since: BTreeMap<PeerId, (u8, Timestamp)>,
    ownership: Ownership,
    holdings: Holdings,
    schedule: Schedule,
    judge: Judge,
    offsets: ClockOffsets,
    silent: BTreeSet<PeerId>,
    possession: Arc<BTreeMap<PeerId, Arc<Possession>>>,
    greeted: BTreeSet<PeerId>,
    subscribed: BTreeMap<PeerId, ShardSet>,
    told_acting: BTreeMap<PeerId, ShardSet>,
    told_possession: Possession,
    /// What this peer holds may have changed since it was told.
    possession_stirred: bool,
    started_through: Timestamp,
    /// The wall clock when it was last looked at.
    looked_at: Timestamp,
    position: u64,
    next_beat: Monotonic,
    expected: Option<Monotonic>,
    suspended: Option<(Monotonic, Monotonic)>,
    definitions: definitions::Definitions,
    pace: pace::Pace,
    disk_full: bool,
    /// Since when the disk refuses what is to be stored.
    refuses_since: Option<Timestamp>,
    /// Whether it held nothing since this peer was ready.
    disclaimed: bool,
    drained: bool,
    /// Peers that are down and were given up by an operator.
    removed: BTreeSet<PeerId>,
    /// Living members, by id.
    alive: Vec<PeerId>,
    /// Every peer met or remembered, and in which of its lives.
    lives: BTreeMap<PeerId, Option<Generation>>,
    /// Of members, also of those that are away: the newest instant up to which their stream to us is known to work.
    heard: BTreeMap<PeerId, Timestamp>,
    /// What a newcomer will hold, over these candidates.
    prospect: Option<(Vec<Candidate>, ShardSet)>,
    /// A peer that falls over again and again is not ready before this.
    damped_until: Monotonic,
    /// Something that ranks or holdings follow from has changed.
    dirty: bool,
    view_number: u64,
    view_at: Monotonic,
    view_changed: bool,
    outputs: VecDeque<Output>,
}

impl Mesh {
    /// A mind that knows nobody yet. `record` is this peer's own, in state `Joining`.
    pub fn new(mut config: MeshConfig, record: PeerRecord, now: Now) -> Mesh {
        let mut own = std::mem::take(&mut config.possession);
        let falls = own.started(now.wall, now.wall.before(damping::FLAPPING));
        // With nothing on its disk a peer holds nothing, whatever it once said.
        let durable = config.newest_sample.unwrap_or(Timestamp::MIN);
        let holdings = Holdings::restarted(own, durable, Windows::of(config.window), now.wall);
        let me = record.id;
        let waits = config.has_seeds || config.persisted.iter().any(|peer| *peer != me);
        let until = if waits { now.monotonic + config.start_hold } else { now.monotonic };
        let known = config.persisted.iter().chain(&config.remembered);
        let lives = known.filter(|peer| **peer != me).map(|peer| (*peer, None)).collect();
        let mut mesh = Mesh {
            config,
            phase: Phase::Waiting { until },
            members: Vec::new(),
            since: BTreeMap::new(),
            ownership: Ownership::new(me),
            holdings,
            schedule: Schedule::default(),
            judge: Judge::new(),
            offsets: ClockOffsets::default(),
            silent: BTreeSet::new(),
            possession: Arc::default(),
            greeted: BTreeSet::new(),
            subscribed: BTreeMap::new(),
            told_acting: BTreeMap::new(),
            told_possession: Possession::default(),
            possession_stirred: true,
            started_through: now.wall,
            looked_at: now.wall,
            position: 0,
            next_beat: now.monotonic,
            expected: None,
            suspended: None,
            definitions: definitions::Definitions::default(),
            pace: pace::Pace::default(),
            disk_full: false,
            refuses_since: None,
            disclaimed: false,
            drained: false,
            removed: BTreeSet::new(),
            alive: Vec::new(),
            lives,
            heard: BTreeMap::new(),
            prospect: None,
            damped_until: now.monotonic + damping::damping(falls),
            dirty: true,
            view_number: 0,
            view_at: now.monotonic,
            view_changed: true,
            outputs: VecDeque::new(),
            record,
        };
        mesh.track(now);
        mesh.progress(now);
        mesh.finish(now);
        mesh
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: Input, now: Now) {
        // The one input that comes with every scrape: nothing else follows from it.
        if let Input::Appended(header) = input {
            return self.note_batch(&header);
        }
        // As often as batches come from a peer whose clock is wrong.
        if let Input::Ahead { from, since, shards } = input {
            self.possession_stirred |= self.holdings.refuse(from, since, &shards);
            return;
        }
        self.notice_pause(now);
        self.notice_set_back(now);
        // Beats, timers and parts of copies change nothing that ranks follow from, unless they say so themselves.
        let quiet = match &input {
            Input::Timeout | Input::Message { message: MeshMessage::Beat(_), .. } => true,
            Input::Fetched { whole_from, .. } => whole_from.is_some(),
            _ => false,
        };
        self.dirty |= !quiet;
        self.possession_stirred |= !quiet;
        match input {
            Input::Members(members) => self.set_members(members, now),
            Input::Sources(catalog) => self.schedule.set_sources(catalog, now.wall),
            Input::Message { from, message } => self.hear(from, message, now),
            Input::Fetched { token, whole_from } => self.note_fetched(token, whole_from, now),
            Input::Held { shards, from, to } => self.note_history(&shards, from, to, now),
            Input::Damaged { from, to } => self.lose_history(from, to, now),
            Input::StreamLost { from } => self.note_stream_lost(from, now),
            Input::Leave => self.begin_leaving(now),
            Input::DiskFull(full) => self.disk_full = full,
            Input::DiskRefuses(refuses) => self.note_refusal(refuses, now),
            Input::Drain(drained) => self.drained = drained,
            Input::Remove(peer) => self.remove(peer, now),
            Input::Definitions(digests) => self.set_definitions(digests),
            Input::Timeout | Input::Appended(_) | Input::Ahead { .. } => {}
        }
        self.progress(now);
        self.finish(now);
    }

    /// What is to be done, in order; drain it after every [`Mesh::handle`].
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Mesh::handle`] with `Timeout`, if nothing else happens before; `now` as in the last call.
    pub fn poll_timeout(&self, now: Now) -> Option<Monotonic> {
        let pinned = self.schedule.has_pinned() && self.owns();
        let idle = self.ownership.acting().is_empty() && self.definitions.elected.is_unanimous() && !pinned;
        let slot = if idle { None } else { self.schedule.next() };
        let from_wall = |at: Timestamp| now.monotonic + at.since(now.wall);
        let slot = slot.map(from_wall);
        let beat = (!self.alive.is_empty()).then_some(self.next_beat);
        let phase = match self.phase {
            Phase::Waiting { until } | Phase::Leaving { until } => Some(until),
            Phase::Syncing { greeted_by } => {
                [greeted_by, self.damped_until].into_iter().filter(|at| *at > now.monotonic).min()
            }
            Phase::Ready | Phase::Left => None,
        };
        let suspended = self.suspended.map(|(least, _)| least.max(now.monotonic + Duration::from_millis(50)));
        // What calls for a review calls no more once one is to come: that may have to wait for its step.
        let review = (!self.dirty).then(|| {
            let walls = [self.ownership.next_settlement(), self.pace.joins_at, self.holdings.next_due()];
            let walls = walls.map(|at| at.map(from_wall));
            let asks = [self.ownership.next_deadline(), self.holdings.next_retry()];
            walls.into_iter().chain(asks).flatten().min()
        });
        let (paced, silence) = (self.next_paced(), self.next_silence());
        [slot, beat, phase, suspended, silence, paced, review.flatten()].into_iter().flatten().min()
    }

    /// Where this peer stands.
    pub fn state(&self) -> PeerState {
        self.record.state
    }

    /// What this peer holds, to be kept across restarts.
    pub fn possession(&self) -> &Possession {
        &self.holdings.own
    }

    /// Everything that must hold between calls. Always on in the simulator and in tests.
    pub fn check_invariants(&self) {
        self.ownership.check_invariants();
        if !matches!(self.phase, Phase::Ready | Phase::Leaving { .. }) {
            assert!(self.ownership.acting().is_empty(), "only a ready peer starts slots");
        }
    }

    fn me(&self) -> PeerId {
        self.record.id
    }

    fn is_silent(&self, peer: PeerId) -> bool {
        self.silent.contains(&peer)
    }

    fn beat_period(&self) -> Duration {
        BEAT_PERIOD_MIN.max(BEAT_PERIOD_PER_PEER * (self.members.len() as u32 + 1))
    }

    fn send(&mut self, to: PeerId, message: MeshMessage) {
        self.outputs.push_back(Output::Send { to, message });
    }

    fn change(&mut self, now: Now, what: &'static str, peer: PeerId, shards: usize, reason: &'static str) {
        self.view_changed = true;
        self.outputs.push_back(Output::Change(Change { at: now.wall, what, peer, shards, reason }));
    }

    fn change_record(&mut self, edit: impl FnOnce(&mut PeerRecord)) {
        let before = self.record.clone();
        edit(&mut self.record);
        if self.record != before {
            self.record.version += 1;
            self.view_changed = true;
            self.outputs.push_back(Output::Record(self.record.clone()));
        }
    }

    fn note_batch(&mut self, header: &BatchHeader) {
        self.schedule.note(header.source, header.slot);
        if header.order.origin.writer == self.me() && header.order.origin.generation == self.record.generation {
            self.position = self.position.max(header.sequence);
        }
    }

    fn hear(&mut self, from: PeerId, message: MeshMessage, now: Now) {
        if from == self.me() {
            return;
        }
        match message {
            MeshMessage::Beat(beat) => self.hear_beat(from, beat, now),
            MeshMessage::Handover { shards, from: slot } => {
                for (at, shards) in self.ownership.grant(&shards, slot, now.wall) {
                    self.change(now, "handover", from, shards.len(), "its rank");
                    self.send(from, MeshMessage::HandoverAck { shards, from: at });
                }
            }
            MeshMessage::HandoverAck { shards, from: slot } if self.owns() => {
                self.ownership.granted_to_us(from, &shards, slot);
            }
            MeshMessage::HandoverAck { .. } => {}
            MeshMessage::Acting(shards) => {
                self.greeted.insert(from);
                if self.alive.binary_search(&from).is_err() {
                    // Its word is good while it is heard; of one that membership buried nobody waits for a beat yet.
                    self.judge.expect(from, Generation::default(), now.monotonic);
                }
                self.inquire(from, &shards);
                let given = self.ownership.hear(from, shards, self.wall_of(from, now), now.wall);
                if !given.is_empty() {
                    self.change(now, "yield", from, given.len(), "it ranks before us");
                }
                self.view_changed = true;
            }
            MeshMessage::Possession(extents) => {
                let mut possession = Possession::of(extents);
                let known = Arc::make_mut(&mut self.possession);
                possession.set_debts(known.remove(&from).map(|known| Arc::clone(known.debts())).unwrap_or_default());
                known.insert(from, Arc::new(possession));
                self.view_changed = true;
            }
            MeshMessage::WantDigests => self.send(from, MeshMessage::Digests((*self.definitions.own).clone())),
            MeshMessage::Digests(digests) => self.hear_digests(from, digests),
            MeshMessage::Owed(debts) => {
                // Debts say nothing without the claims they qualify.
                if let Some(known) = Arc::make_mut(&mut self.possession).get_mut(&from) {
                    Arc::make_mut(known).set_debts(debts);
                }
            }
        }
    }

    fn hear_beat(&mut self, from: PeerId, beat: Beat, now: Now) {
        let period = self.beat_period();
        let stood_back = self.stands_back_from_all(from);
        let suspended = self.judge.newest(from).is_some_and(|newest| newest.suspended);
        // A beat that lay in a queue, here or there, shows the clock of another moment.
        let before = self.judge.newest(from).map(|newest| newest.wall).zip(self.judge.silence(from, now.monotonic));
        let is_fresh =
            before.is_some_and(|(wall, gap)| beat.wall > wall && beat.wall.since(wall).abs_diff(gap) <= period / 2);
        self.judge.hear(from, beat, now.monotonic, period);
        if is_fresh {
            self.offsets.note(from, beat.wall, now);
        }
        self.dirty |= stood_back != self.stands_back_from_all(from);
        if self.silent.remove(&from) || (beat.suspended && !suspended) {
            self.pace.untold = true;
            // Whatever each did while it could not hear the other has to be said again.
            self.told_acting.remove(&from);
            self.subscribed.remove(&from);
            self.dirty = true;
            self.view_changed = true;
        }
        self.heard.insert(from, beat.wall.min(now.wall));
    }

    /// Whether a peer says that it starts nothing for now, and acts for nothing: it stood still, and whoever is next does.
    fn stands_back_from_all(&self, peer: PeerId) -> bool {
        self.judge.newest(peer).is_some_and(|beat| beat.suspended)
            && self.ownership.acting_of(peer).is_some_and(ShardSet::is_empty)
    }

    /// Peers that start no slots now: they are not heard, or say so.
    fn idle(&self) -> BTreeSet<PeerId> {
        let back = self.alive.iter().filter(|peer| self.stands_back_from_all(**peer));
        self.silent.iter().chain(back).copied().collect()
    }

    fn note_fetched(&mut self, token: u64, whole_from: Option<Timestamp>, now: Now) {
        if let Some(restored) = self.holdings.fetched(token, whole_from, &self.possession, now.monotonic) {
            let me = self.me();
            self.change(now, "copied", me, restored.shards.len(), "held again");
            self.dirty = true;
            self.possession_stirred = true;
        }
        self.view_changed = true;
    }

    fn begin_leaving(&mut self, now: Now) {
        if !matches!(self.phase, Phase::Leaving { .. } | Phase::Left) {
            self.phase = Phase::Leaving { until: now.monotonic + LEAVE_PATIENCE };
            self.set_state(PeerState::Leaving, now);
        }
    }

    fn set_state(&mut self, state: PeerState, now: Now) {
        if self.record.state != state {
            self.dirty = true;
            self.change_record(|record| record.state = state);
            let me = self.me();
            self.change(now, "state", me, 0, state.as_str());
        }
    }

    fn progress(&mut self, now: Now) {
        self.end_suspension(now);
        self.judge_silence(now);
        if self.ownership.next_settlement().is_some_and(|at| at <= now.wall) {
            // What was due before shards changed hands is still its former owner's.
            self.start_due(now);
            self.dirty = true;
        }
        self.dirty |= self.ownership.next_deadline().is_some_and(|at| at <= now.monotonic);
        self.dirty |= self.holdings.has_rested(now.monotonic) | self.holdings.has_come_due(now.wall);
        self.dirty |= self.pace.joins_at.is_some_and(|at| at <= now.wall) || self.waited(now);
        self.progress_phase(now);
        if self.take_dirty(now, false) {
            self.elect();
            self.review_holdings(now);
            self.review_ownership(now);
            // What it now acts for it also holds.
            if self.ownership.changed {
                self.review_holdings(now);
            }
            self.track(now);
        }
        self.start_due(now);
    }

    fn end_suspension(&mut self, now: Now) {
        let Some((least, most)) = self.suspended else { return };
        // A beat alone says nothing of who acts for what: this peer would take what others go on with.
        let heard = self.alive.iter().any(|peer| self.greeted.contains(peer));
        let all = self.alive.iter().all(|peer| self.greeted.contains(peer) || self.is_silent(*peer));
        if now.monotonic >= most || (heard && all && now.monotonic >= least) {
            self.suspended = None;
            self.pace.untold = true;
            self.dirty = true;
            self.told_acting.clear();
            self.view_changed = true;
        }
    }

    fn judge_silence(&mut self, now: Now) {
        let peers = self.members.len() + 1;
        if promesh_cluster::grace_max(peers).is_none() || now.monotonic < self.judge.floor(peers) {
            return;
        }
        let mut next = None;
        // Also whoever speaks to us while membership holds it for dead: nobody waits for what it acts for once it is silent.
        let unburied = self.ownership.others().keys().filter(|peer| self.alive.binary_search(peer).is_err());
        let watched: Vec<PeerId> = self.alive.iter().chain(unburied).copied().collect();
        for peer in watched {
            let Some(deadline) = self.judge.deadline(peer, peers).filter(|_| !self.is_silent(peer)) else { continue };
            if deadline > now.monotonic {
                next = Some(next.map_or(deadline, |next: Monotonic| next.min(deadline)));
                continue;
            }
            self.silent.insert(peer);
            self.lose(peer, now);
            self.inherit_from(peer, now);
            self.dirty = true;
            self.view_changed = true;
        }
        self.judge.set_floor(peers, next);
    }

    fn progress_phase(&mut self, now: Now) {
        match self.phase {
            Phase::Waiting { until } => {
                let met = |peer: &PeerId| self.members.iter().any(|m| m.id == *peer && m.alive && m.record.is_some());
                let ready_one = self.members.iter().any(|m| m.alive && has_state(m, PeerState::Ready));
                let expected = self.config.persisted.iter().filter(|peer| **peer != self.record.id);
                let all_met = expected.clone().count() > 0 && expected.clone().all(met);
                let seeds_met = self.config.persisted.is_empty() && self.members.iter().any(|m| m.alive);
                if now.monotonic >= until || ready_one || all_met || seeds_met {
                    self.phase = Phase::Syncing { greeted_by: now.monotonic + GREETING_PATIENCE };
                    self.set_state(PeerState::Syncing, now);
                    self.progress_phase(now);
                }
            }
            Phase::Syncing { greeted_by } => {
                if self.take_dirty(now, now.monotonic >= greeted_by) {
                    self.review_holdings(now);
                }
                let damped = now.monotonic < self.damped_until;
                let owners = self.members.iter().filter(|m| m.alive && has_state(m, PeerState::Ready));
                let greeted = owners.map(|m| m.id).all(|id| self.greeted.contains(&id) || self.silent.contains(&id));
                let known = self.alive.iter().all(|id| self.possession.contains_key(id) || self.silent.contains(id));
                if ((greeted && known) || now.monotonic >= greeted_by) && !self.holdings.is_syncing() && !damped {
                    self.phase = Phase::Ready;
                    self.set_state(PeerState::Ready, now);
                }
            }
            Phase::Ready => {
                let state = match (self.offsets.is_skewed(), self.stands_back()) {
                    (true, _) => PeerState::Skewed,
                    (false, true) => PeerState::Full,
                    (false, false) => self.has_room(now),
                };
                self.set_state(state, now);
            }
            Phase::Leaving { until } => {
                let takers = self.members.iter().any(|m| m.alive && has_state(m, PeerState::Ready));
                if now.monotonic >= until || !takers || self.ownership.acting().is_empty() {
                    self.phase = Phase::Left;
                    self.holdings.own.stopped_in_peace();
                    self.view_changed = true;
                    self.ownership.suspend();
                    self.outputs.push_back(Output::Left);
                }
            }
            Phase::Left => {}
        }
    }

    /// How many sources there are, and how many lie in shards that this peer acts for.
    pub fn source_counts(&self) -> (usize, usize) {
        (self.schedule.len(), self.schedule.count(|shard| self.ownership.acting().contains(shard)))
    }
}

fn has_state(member: &MemberView, state: PeerState) -> bool {
    member.record.as_ref().is_some_and(|record| record.state == state)
}
