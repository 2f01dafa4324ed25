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
use foca::{AccumulatingRuntime, Config, Foca, Member, PeriodicParams, State, Timer};
use promesh_model::codec;
use promesh_model::{Generation, Monotonic, Now, PeerId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::record::PeerRecord;
use crate::swim::{Node, SharedRecords, SwimCodec};

/// How often one random member is asked for all it knows.
const EXCHANGE_PERIOD: Duration = Duration::from_secs(10);

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
    rng: StdRng,
    next_exchange: Monotonic,
    reported: Vec<MemberView>,
    reported_mark: u64,
    /// When members are next compared with what was reported, and with which count of records.
    next_look: (Monotonic, u64),
    /// Whether SWIM has had news to spread since: every change of a member, a suspicion too, is such news.
    has_news: bool,
    outputs: VecDeque<MembershipOutput>,
    errors: u64,
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
            rng,
            next_exchange: now.monotonic + EXCHANGE_PERIOD,
            reported: Vec::new(),
            reported_mark: 0,
            next_look: (now.monotonic, 0),
            has_news: true,
            outputs: VecDeque::new(),
            errors: 0,
        };
        machine.handle(MembershipInput::Record(record), now);
        machine
    }

    /// Takes what happened.
    pub fn handle(&mut self, input: MembershipInput, now: Now) {
        match input {
            MembershipInput::Datagram(bytes) => self.count_error(|foca, runtime| foca.handle_data(&bytes, runtime)),
            MembershipInput::Timeout => self.fire_timers(now),
            MembershipInput::Snapshot(snapshot) => self.take_snapshot(snapshot),
            MembershipInput::Record(record) => self.spread(&record),
            MembershipInput::Leave => self.count_error(|foca, runtime| foca.leave_cluster(runtime)),
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
        Some(timer.map_or(self.next_exchange, |at| at.min(self.next_exchange)))
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
        for (at, timer) in postponed {
            self.timer_count += 1;
            self.timers.push(Reverse((at, self.timer_count, TimerEntry(timer))));
        }
        // Timers that fall together go in foca's order: a probe ends before the next begins.
        due.sort();
        for timer in due {
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
            self.timer_count += 1;
            self.timers.push(Reverse((now.monotonic + after, self.timer_count, TimerEntry(timer))));
        }
        while let Some((to, bytes)) = self.runtime.to_send() {
            self.outputs.push_back(MembershipOutput::Datagram { to: to.address, bytes });
        }
        let mut stirred = false;
        while self.runtime.to_notify().is_some() {
            stirred = true;
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
mod tests {
    use std::net::Ipv4Addr;

    use promesh_model::Timestamp;

    use super::*;
    use crate::record::PeerState;

    const MS: u64 = 1_000_000;

    fn address(peer: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, peer).into()
    }

    fn record(peer: u16, generation: u64) -> PeerRecord {
        PeerRecord {
            id: PeerId(u128::from(peer)),
            generation: Generation(generation),
            version: 1,
            state: PeerState::Ready,
            zone: String::new(),
            weight: 4,
            protocol: (1, 1),
            web_address: None,
            root: 0,
        }
    }

    /// Peers joined by a lossy, instant network; time moves in steps of 10 ms.
    struct Net {
        peers: BTreeMap<u16, Membership>,
        rng: StdRng,
        loss: f64,
        now: u64,
    }

    impl Net {
        fn new(count: u16, loss: f64, seed: u64) -> Net {
            let mut net = Net { peers: BTreeMap::new(), rng: StdRng::seed_from_u64(seed), loss, now: 0 };
            for peer in 1..=count {
                net.start(peer, 1);
            }
            net
        }

        fn instant(&self) -> Now {
            Now { monotonic: Monotonic(self.now * MS), wall: Timestamp(self.now as i64) }
        }

        /// A peer starts and exchanges snapshots with peer 1, its seed.
        fn start(&mut self, peer: u16, generation: u64) {
            let seed = u64::from(peer) << 32 | generation;
            let machine = Membership::new(record(peer, generation), address(peer), seed, self.instant());
            self.peers.insert(peer, machine);
            if peer != 1 {
                self.exchange(peer, 1);
            }
        }

        fn exchange(&mut self, from: u16, to: u16) {
            let now = self.instant();
            let Some(theirs) = self.peers.get(&to).map(Membership::snapshot) else { return };
            let ours = self.peers[&from].snapshot();
            self.peers.get_mut(&to).expect("just seen").handle(MembershipInput::Snapshot(ours), now);
            self.peers.get_mut(&from).expect("it asks").handle(MembershipInput::Snapshot(theirs), now);
        }

        fn run(&mut self, ms: u64) {
            for _ in 0..ms / 10 {
                self.now += 10;
                let now = self.instant();
                for machine in self.peers.values_mut() {
                    while machine.poll_timeout().is_some_and(|at| at <= now.monotonic) {
                        machine.handle(MembershipInput::Timeout, now);
                    }
                }
                self.deliver();
            }
        }

        fn deliver(&mut self) {
            loop {
                let mut outputs = Vec::new();
                for (peer, machine) in &mut self.peers {
                    while let Some(output) = machine.poll_output() {
                        outputs.push((*peer, output));
                    }
                }
                if outputs.is_empty() {
                    return;
                }
                for (from, output) in outputs {
                    match output {
                        MembershipOutput::Datagram { to, bytes } if !self.rng.random_bool(self.loss) => {
                            let now = self.instant();
                            if let Some(machine) = self.peers.get_mut(&to.port()) {
                                machine.handle(MembershipInput::Datagram(bytes), now);
                            }
                        }
                        MembershipOutput::Exchange { to } => self.exchange(from, to.port()),
                        _ => {}
                    }
                }
            }
        }

        fn alive_at(&self, peer: u16) -> Vec<u16> {
            let alive = self.peers[&peer].members().iter().filter(|member| member.alive);
            alive.map(|member| member.address.port()).collect()
        }
    }

    #[test]
    fn peers_meet_through_one_seed_and_know_each_others_records() {
        let mut net = Net::new(5, 0.0, 1);
        net.run(1000);
        for peer in 1..=5 {
            let others: Vec<u16> = (1..=5).filter(|other| *other != peer).collect();
            assert_eq!(net.alive_at(peer), others);
            assert!(net.peers[&peer].members().iter().all(|member| member.record.is_some()));
        }
    }

    #[test]
    fn a_crash_is_known_within_four_seconds_and_a_restart_at_once() {
        let mut net = Net::new(5, 0.01, 2);
        net.run(3000);
        net.peers.remove(&3);
        net.run(4000);
        for peer in [1, 2, 4, 5] {
            assert!(!net.alive_at(peer).contains(&3), "peer {peer} still sees 3");
        }
        net.start(3, 2);
        net.run(1000);
        for peer in [1, 2, 4, 5] {
            assert!(net.alive_at(peer).contains(&3), "peer {peer} does not see 3 again");
            let back = net.peers[&peer].members().iter().find(|member| member.address.port() == 3).expect("known");
            assert_eq!(back.record.as_ref().map(|record| record.generation), Some(Generation(2)));
        }
    }

    #[test]
    fn five_percent_loss_kills_nobody() {
        let mut net = Net::new(7, 0.05, 3);
        net.run(3000);
        for _ in 0..60 {
            net.run(1000);
            for peer in 1..=7 {
                assert_eq!(net.alive_at(peer).len(), 6, "at {} ms peer {peer} lost someone", net.now);
            }
        }
    }

    #[test]
    fn a_changed_record_reaches_everybody() {
        let mut net = Net::new(4, 0.05, 4);
        net.run(2000);
        let mut changed = record(2, 1);
        (changed.version, changed.state) = (2, PeerState::Leaving);
        let now = net.instant();
        net.peers.get_mut(&2).expect("started").handle(MembershipInput::Record(changed), now);
        net.run(2000);
        for peer in [1, 3, 4] {
            let seen = net.peers[&peer].members().iter().find(|member| member.address.port() == 2).expect("known");
            assert_eq!(seen.record.as_ref().map(|record| record.state), Some(PeerState::Leaving));
        }
    }

    #[test]
    fn garbage_is_counted() {
        let mut net = Net::new(1, 0.0, 5);
        let now = net.instant();
        let machine = net.peers.get_mut(&1).expect("started");
        machine.handle(MembershipInput::Datagram(Bytes::from_static(&[0xff; 900])), now);
        assert_eq!(machine.errors(), 1);
    }

    #[test]
    fn all_that_hold_each_other_for_down_meet_again_by_one_exchange_a_second() {
        let mut net = Net::new(3, 0.0, 5);
        net.run(3000);
        net.loss = 1.0;
        net.run(12_000);
        net.loss = 0.0;
        let alive = |net: &Net, peer: u16| net.peers[&peer].members().iter().filter(|member| member.alive).count();
        assert_eq!((alive(&net, 1), alive(&net, 2), alive(&net, 3)), (0, 0, 0));
        for _ in 0..5 {
            for peer in [2, 3] {
                net.exchange(peer, 1);
            }
            net.run(1000);
        }
        assert_eq!((alive(&net, 1), alive(&net, 2), alive(&net, 3)), (2, 2, 2));
    }
}
