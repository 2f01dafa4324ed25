//! Who is alive, and what each says of itself.
//!
//! foca (SWIM) probes; this machine keeps its timers, spreads records with its packets, and exchanges whole states with
//! single peers over a stream ([`Snapshot`]): on join, because a newcomer knows a seed's address but not its identity,
//! and every ten seconds, because a broadcast can be lost.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, Config, Foca, Member, OwnedNotification, PeriodicParams, State, Timer};
use promesh_model::codec;
use promesh_model::{Generation, Monotonic, Now, PeerId};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::asks::{ASK_PERIOD, Asks, HELPERS, question, request};
use crate::record::PeerRecord;
use crate::swim::{Node, SharedRecords, SwimCodec};

/// How often one random member is asked for all it knows.
const EXCHANGE_PERIOD: Duration = Duration::from_secs(10);

/// How often at most a member is asked for all it knows because it does what this peer has not heard of.
const INQUIRY_PERIOD: Duration = Duration::from_millis(500);

/// One member as this peer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Who.
    pub id: PeerId,
    /// Where its QUIC endpoint is.
    pub address: SocketAddr,
    /// In which of its lives.
    pub generation: Generation,
    /// Whether SWIM holds it for alive; a suspect is.
    pub alive: bool,
    /// Whether SWIM suspects it.
    pub suspect: bool,
    /// What it says of itself; none until its record arrived.
    pub record: Option<PeerRecord>,
}

/// All that one peer knows of all, for exchange over a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    members: Vec<Member<Node>>,
    records: Vec<PeerRecord>,
}

/// A mesh of more members is reported in steps: a thousand joins must not be a thousand lists of a thousand.
const LARGE: usize = 8;
/// The steps, for each member.
const LOOK_STEP: Duration = Duration::from_micros(100);
/// How often members are looked at although nothing was notified.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

impl Snapshot {
    /// In which life, and where, the sender says that a peer is.
    pub fn identity_of(&self, peer: PeerId) -> Option<(Generation, SocketAddr)> {
        let found = self.members.iter().map(Member::id).find(|node| node.id == peer)?;
        Some((found.generation, found.address))
    }
}

/// What happens to membership.
#[derive(Debug)]
pub enum MembershipInput {
    /// A SWIM packet, from the content of a QUIC datagram.
    Datagram(Bytes),
    /// The deadline of [`Membership::poll_timeout`] has come.
    Timeout,
    /// Another peer's state: the answer to an exchange, or what came with its question.
    Snapshot(Snapshot),
    /// This peer's own record changed.
    Record(PeerRecord),
    /// A member does what its record, as known here, says nothing of: it is asked for what it knows.
    Inquire(PeerId),
    /// This peer stops: say so to the others.
    Leave,
}

/// What membership wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum MembershipOutput {
    /// Send a SWIM packet.
    Datagram {
        /// The receiver's QUIC address.
        to: SocketAddr,
        /// At most [`codec::DATAGRAM_BYTES_MAX`] bytes.
        bytes: Bytes,
    },
    /// Exchange snapshots with a member.
    Exchange {
        /// Its QUIC address.
        to: SocketAddr,
    },
    /// The members, or what they say of themselves, changed. Sorted by id; without this peer.
    Members(Vec<MemberView>),
}

/// The machine. One for each peer, on a thread of its own, so that a busy peer does not look dead.
pub struct Membership {
    foca: Foca<Node, SwimCodec, StdRng, SharedRecords>,
    /// Shared with foca, which gives no way back to its handler.
    records: SharedRecords,
    runtime: AccumulatingRuntime<Node>,
    timers: BinaryHeap<Reverse<(Monotonic, u64, TimerEntry)>>,
    timer_count: u64,
    asks: Asks,
    rng: StdRng,
    next_exchange: Monotonic,
    next_inquiry: Monotonic,
    reported: Vec<MemberView>,
    reported_mark: u64,
    /// When members are next compared with what was reported, and with which count of records.
    next_look: (Monotonic, u64),
    /// Whether SWIM has had news to spread since: every change of a member, a suspicion too, is such news.
    has_news: bool,
    outputs: VecDeque<MembershipOutput>,
    errors: u64,
    downs: u64,
    left: bool,
}

/// foca orders timers by urgency; the heap needs no order among equals.
struct TimerEntry(Timer<Node>);

impl PartialEq for TimerEntry {
    fn eq(&self, _: &TimerEntry) -> bool {
        true
    }
}
impl Eq for TimerEntry {}
impl PartialOrd for TimerEntry {
    fn partial_cmp(&self, other: &TimerEntry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for TimerEntry {
    fn cmp(&self, _: &TimerEntry) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// Down in 3–4 s at a hundred peers; a suspicion of 1 s gave a false death in one of five runs at 5 % loss.
///
/// Source: SWIM §4; design of the mesh, section 3.
fn swim_config() -> Config {
    let one = NonZeroUsize::MIN;
    Config {
        probe_period: Duration::from_millis(500),
        probe_rtt: Duration::from_millis(200),
        num_indirect_probes: NonZeroUsize::new(3).expect("three"),
        max_transmissions: NonZeroU8::new(10).expect("ten"),
        suspect_to_down_after: Duration::from_secs(2),
        remove_down_after: None,
        max_packet_size: NonZeroUsize::new(codec::DATAGRAM_BYTES_MAX).expect("1150"),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams { frequency: Duration::from_secs(30), num_members: one }),
        periodic_announce_to_down_members: Some(PeriodicParams { frequency: Duration::from_secs(5), num_members: one }),
        periodic_gossip: Some(PeriodicParams {
            frequency: Duration::from_millis(200),
            num_members: NonZeroUsize::new(3).expect("three"),
        }),
    }
}

/// A timer so late means that this process stood still: the answers that its verdict waits for lie unread.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// How long a verdict waits after this process stood still: for the answers of a probe, for the word of a suspect.
fn patience(timer: &Timer<Node>) -> Option<Duration> {
    match timer {
        Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } => Some(swim_config().probe_rtt),
        Timer::ChangeSuspectToDown { .. } => Some(swim_config().suspect_to_down_after),
        _ => None,
    }
}

/// What SWIM compares of two words about one member. A suspicion is news too.
fn standing(member: &Member<Node>) -> (u16, bool) {
    (member.incarnation(), member.state() == State::Alive)
}

impl Membership {
    /// A peer that knows nobody yet. `address` is where others reach its QUIC endpoint.
    pub fn new(record: PeerRecord, address: SocketAddr, seed: u64, now: Now) -> Membership {
        let node = Node { id: record.id, generation: record.generation, renewal: 0, address };
        let mut rng = StdRng::seed_from_u64(seed);
        let foca_rng = StdRng::from_rng(&mut rng);
        let records = SharedRecords::default();
        let mut machine = Membership {
            foca: Foca::with_custom_broadcast(node, swim_config(), foca_rng, SwimCodec, records.clone()),
            records,
            runtime: AccumulatingRuntime::new(),
            timers: BinaryHeap::new(),
            timer_count: 0,
            asks: Asks::default(),
            rng,
            next_exchange: now.monotonic + EXCHANGE_PERIOD,
            next_inquiry: now.monotonic,
            reported: Vec::new(),
            reported_mark: 0,
            next_look: (now.monotonic, 0),
            has_news: true,
            outputs: VecDeque::new(),
            errors: 0,
            downs: 0,
            left: false,
        };
        machine.handle(MembershipInput::Record(record), now);
        machine
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: MembershipInput, now: Now) {
        match input {
            MembershipInput::Datagram(bytes) => {
                self.asks.hear(&bytes);
                self.count_error(|foca, runtime| foca.handle_data(&bytes, runtime));
            }
            MembershipInput::Timeout => {
                self.fire_timers(now);
                self.ask(now);
            }
            MembershipInput::Snapshot(snapshot) => self.take_snapshot(snapshot),
            MembershipInput::Record(record) => self.spread(&record),
            MembershipInput::Inquire(peer) => self.inquire(peer, now),
            MembershipInput::Leave => {
                self.left = true;
                self.count_error(|foca, runtime| foca.leave_cluster(runtime));
            }
        }
        self.collect(now);
    }

    /// What is to be done, in order; drain it after every [`Membership::handle`].
    pub fn poll_output(&mut self) -> Option<MembershipOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`Membership::handle`] with `Timeout`, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        let timer = self.timers.peek().map(|Reverse((at, _, _))| *at);
        [timer, self.asks.next].into_iter().flatten().chain([self.next_exchange]).min()
    }

    /// All this peer knows, itself included, for an exchange.
    pub fn snapshot(&self) -> Snapshot {
        let own = Member::alive(*self.foca.identity());
        Snapshot {
            members: self.foca.iter_membership_state().cloned().chain([own]).collect(),
            records: self.records.lock().newest.values().cloned().collect(),
        }
    }

    /// Packets that were no SWIM packets, since the start.
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// How often a member was taken for Down, since the start.
    pub fn downs(&self) -> u64 {
        self.downs
    }

    /// The members as last reported.
    pub fn members(&self) -> &[MemberView] {
        &self.reported
    }

    fn count_error(
        &mut self,
        run: impl FnOnce(
            &mut Foca<Node, SwimCodec, StdRng, SharedRecords>,
            &mut AccumulatingRuntime<Node>,
        ) -> Result<(), foca::Error>,
    ) {
        if let Err(error) = run(&mut self.foca, &mut self.runtime) {
            self.errors += 1;
            tracing::debug!(%error, "SWIM packet or timer refused");
        }
    }

    fn fire_timers(&mut self, now: Now) {
        let mut due = Vec::new();
        let mut postponed = Vec::new();
        while self.timers.peek().is_some_and(|Reverse((at, _, _))| *at <= now.monotonic) {
            let Reverse((at, _, TimerEntry(timer))) = self.timers.pop().expect("peeked");
            match patience(&timer).filter(|_| now.monotonic.since(at) > STOOD_STILL) {
                Some(patience) => postponed.push((now.monotonic + patience, timer)),
                None => due.push(timer),
            }
        }
        if !postponed.is_empty() {
            // Records that were spread meanwhile come around no more.
            self.next_exchange = now.monotonic;
        }
        for (at, timer) in postponed {
            self.schedule(at, timer);
        }
        // Timers that fall together go in foca's order: a probe ends before the next begins.
        due.sort();
        for timer in due.into_iter().filter(|timer| self.stands(timer)).collect::<Vec<_>>() {
            self.count_error(|foca, runtime| foca.handle_timer(timer, runtime));
        }
        if self.next_exchange <= now.monotonic {
            self.next_exchange = now.monotonic + EXCHANGE_PERIOD;
            let alive: Vec<SocketAddr> = self.foca.iter_members().map(|member| member.id().address).collect();
            if !alive.is_empty() {
                let to = alive[self.rng.random_range(0..alive.len())];
                self.outputs.push_back(MembershipOutput::Exchange { to });
            }
        }
    }

    fn inquire(&mut self, peer: PeerId, now: Now) {
        let known = self.foca.iter_members().find(|member| member.id().id == peer);
        if let Some(to) = known.map(|member| member.id().address).filter(|_| self.next_inquiry <= now.monotonic) {
            self.next_inquiry = now.monotonic + INQUIRY_PERIOD;
            self.outputs.push_back(MembershipOutput::Exchange { to });
        }
    }

    /// Whether a verdict is still to be spoken. foca looks too and lets the living live, but tells them all the same that
    /// they are Down: each suspicion that was refuted in time cost its victim its identity two seconds later, and whoever
    /// did not hear of the new one took the old one for dead.
    fn stands(&self, timer: &Timer<Node>) -> bool {
        let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = timer else { return true };
        let mut members = self.foca.iter_membership_state();
        members.any(|member| member.id() == member_id && member.incarnation() == *incarnation)
    }

    /// Asks whom it has to ask, and suspects who answered nobody.
    fn ask(&mut self, now: Now) {
        let Some(due) = self.asks.next.filter(|due| *due <= now.monotonic) else { return };
        if now.monotonic.since(due) > STOOD_STILL {
            self.asks.forgive();
        }
        let round = self.asks.round();
        for node in round.silent {
            let known = self.foca.iter_members().find(|member| *member.id() == node).map(Member::incarnation);
            let Some(incarnation) = known.filter(|known| !self.asks.suspects.contains(&(node, *known))) else {
                continue;
            };
            let suspicion = Member::new(node, incarnation, State::Suspect);
            self.count_error(|foca, runtime| foca.apply_many([suspicion].into_iter(), true, runtime));
            let timer = Timer::ChangeSuspectToDown { member_id: node, incarnation, token: self.asks.token };
            self.asks.note(&timer);
            self.schedule(now.monotonic + swim_config().suspect_to_down_after, timer);
        }
        self.asks.suspects.retain(|(node, incarnation)| {
            let mut members = self.foca.iter_members();
            let found = members.find(|member| member.id() == node).map(|member| (member.state(), member.incarnation()));
            found == Some((State::Suspect, *incarnation))
        });
        let own = *self.foca.identity();
        let mut send = |to: Node, bytes| self.outputs.push_back(MembershipOutput::Datagram { to: to.address, bytes });
        for (suspect, incarnation) in &self.asks.suspects {
            send(*suspect, question(own, *suspect, Some(*incarnation)));
        }
        let suspected = |node: &Node| self.asks.suspects.iter().any(|(suspect, _)| suspect == node);
        for node in round.direct.into_iter().filter(|node| !suspected(node)) {
            send(node, question(own, node, None));
        }
        for target in round.through_others {
            let others = self.foca.iter_members().map(|member| *member.id()).filter(|node| *node != target);
            for helper in others.sample(&mut self.rng, HELPERS) {
                send(helper, request(own, helper, target));
            }
        }
        self.asks.next = (!self.asks.is_idle()).then(|| now.monotonic + ASK_PERIOD);
    }

    fn schedule(&mut self, at: Monotonic, timer: Timer<Node>) {
        self.timer_count += 1;
        self.timers.push(Reverse((at, self.timer_count, TimerEntry(timer))));
    }

    fn take_snapshot(&mut self, snapshot: Snapshot) {
        let identity = *self.foca.identity();
        // Others' belief about us arrives by SWIM, where it can be answered with a renewal. Only whom all others hold for
        // Down, and who holds all others for Down, hears no SWIM any more: foca is silent then. Down is for ever, so being
        // told of it once more is answered with a renewal, as by SWIM.
        let is_end_of_us = |member: &Member<Node>| *member.id() == identity && member.state() == State::Down;
        // Most of it is known: foca would walk its list for each.
        let known: BTreeMap<Node, (u16, bool)> = {
            let members = self.foca.iter_membership_state();
            members.map(|member| (*member.id(), standing(member))).collect()
        };
        let own = identity.id;
        let is_news = |member: &Member<Node>| {
            member.id().id != own && known.get(member.id()).is_none_or(|known| *known != standing(member))
        };
        let members: Vec<Member<Node>> =
            snapshot.members.into_iter().filter(|member| is_news(member) || is_end_of_us(member)).collect();
        self.count_error(|foca, runtime| foca.apply_many(members.into_iter(), true, runtime));
        for record in snapshot.records {
            let known = self.records.lock().newest.get(&record.id).is_some_and(|known| !record.is_newer_than(known));
            if record.id != own && !known {
                self.spread(&record);
            }
        }
    }

    fn spread(&mut self, record: &PeerRecord) {
        let bytes = codec::encode(record);
        self.count_error(|foca, _| foca.add_broadcast(&bytes).map(drop));
    }

    /// Turns what foca wants into outputs and reports members that changed.
    fn collect(&mut self, now: Now) {
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.asks.note(&timer);
            self.schedule(now.monotonic + after, timer);
        }
        while let Some((to, bytes)) = self.runtime.to_send() {
            self.outputs.push_back(MembershipOutput::Datagram { to: to.address, bytes });
        }
        let mut stirred = false;
        while let Some(notification) = self.runtime.to_notify() {
            stirred = true;
            self.downs += u64::from(matches!(notification, OwnedNotification::MemberDown(_)));
        }
        if stirred {
            self.set_ring(now);
        }
        // Most packets change nothing: that must cost no walk over all members, and no list. A suspicion alone is no
        // notification; it is seen a little later.
        let changes = self.records.lock().changes;
        stirred |= changes != self.next_look.1;
        self.has_news |= stirred || self.foca.updates_backlog() > 0;
        let members = self.reported.len();
        let due = now.monotonic >= self.next_look.0;
        if !self.has_news || !due && (!stirred || members > LARGE) {
            return;
        }
        self.has_news = false;
        // A look walks over all members: beyond a hundred the steps grow faster than the mesh.
        let crowd = (members as f64 / 100.0).sqrt().max(1.0);
        let pause = if members > LARGE { (LOOK_STEP * members as u32).mul_f64(crowd) } else { LOOK_PERIOD };
        self.next_look = (now.monotonic + pause, changes);
        let mark = self.mark();
        if mark == self.reported_mark {
            return;
        }
        self.reported_mark = mark;
        let members = self.view();
        if members != self.reported {
            self.reported.clone_from(&members);
            self.outputs.push_back(MembershipOutput::Members(members));
        }
    }

    /// Somebody came, went or lives anew.
    fn set_ring(&mut self, now: Now) {
        if self.left {
            self.asks = Asks::default();
            return;
        }
        let own = *self.foca.identity();
        self.asks.set_ring(&own, self.foca.iter_members().map(|member| *member.id()));
        if !self.asks.is_idle() && self.asks.next.is_none() {
            self.asks.next = Some(now.monotonic + self.rng.random_range(Duration::ZERO..ASK_PERIOD));
        }
    }

    /// A sum over all that [`Membership::view`] shows: equal sums, equal views.
    fn mark(&self) -> u64 {
        let mut sum = self.records.lock().changes.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for member in self.foca.iter_membership_state() {
            let mut hasher = DefaultHasher::new();
            (member.id(), member.state() as u8).hash(&mut hasher);
            sum = sum.wrapping_add(hasher.finish());
        }
        sum
    }

    fn view(&self) -> Vec<MemberView> {
        let own = self.foca.identity().id;
        let records = self.records.lock();
        let mut members: BTreeMap<PeerId, MemberView> = BTreeMap::new();
        for member in self.foca.iter_membership_state() {
            let Node { id, address, generation, .. } = *member.id();
            let (alive, suspect) = (member.state() != State::Down, member.state() == State::Suspect);
            // A record of an earlier life says nothing about this one.
            let record = records.newest.get(&id).filter(|record| record.generation >= generation).cloned();
            let view = MemberView { id, address, generation, alive, suspect, record };
            let better = members.get(&id).is_none_or(|known| (alive, generation) > (known.alive, known.generation));
            if id != own && better {
                members.insert(id, view);
            }
        }
        members.into_values().collect()
    }
}

#[cfg(test)]
mod tests;
