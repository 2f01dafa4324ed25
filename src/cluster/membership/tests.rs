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

/// The rule of the ring: by SWIM's dice alone one kill in seven is not suspected by then.
#[test]
fn a_death_is_suspected_within_a_second_and_a_quarter() {
    for victim in 1..=12 {
        let mut net = Net::new(12, 0.01, 20 + u64::from(victim));
        net.run(3000);
        net.peers.remove(&victim);
        net.run(1250);
        let suspects = |machine: &Membership| {
            let members = machine.foca.iter_members();
            members.filter(|member| member.state() == State::Suspect).any(|node| node.id().address.port() == victim)
        };
        assert!(net.peers.values().any(suspects), "nobody suspects {victim}");
    }
}

/// A suspect that nobody's gossip reaches hears of it from who suspects it, and its answer is the refutation.
#[test]
fn a_question_says_what_its_receiver_is_suspected_of() {
    let mut net = Net::new(2, 0.0, 6);
    net.run(1000);
    let (one, two) = (*net.peers[&1].foca.identity(), *net.peers[&2].foca.identity());
    let incarnation = |net: &Net| net.peers[&1].foca.iter_members().next().expect("the other").incarnation();
    assert_eq!(incarnation(&net), 0);
    let now = net.instant();
    let asked = net.peers.get_mut(&2).expect("started");
    asked.handle(MembershipInput::Datagram(question(one, two, None)), now);
    net.deliver();
    assert_eq!(incarnation(&net), 0, "nothing to refute");
    let asked = net.peers.get_mut(&2).expect("started");
    asked.handle(MembershipInput::Datagram(question(one, two, Some(0))), now);
    net.deliver();
    assert_eq!(incarnation(&net), 1);
    assert_eq!((net.peers[&1].errors(), net.peers[&2].errors()), (0, 0));
}

/// foca told it so two seconds after each suspicion, refuted or not.
#[test]
fn who_refuted_a_suspicion_is_not_told_that_it_is_dead() {
    let mut net = Net::new(3, 0.0, 8);
    net.run(1000);
    let two = *net.peers[&2].foca.identity();
    net.loss = 1.0;
    net.run(1500);
    let suspicions = |net: &Net| net.peers[&1].asks.suspects.iter().filter(|(node, _)| *node == two).count();
    assert_eq!(suspicions(&net), 1);
    net.loss = 0.0;
    net.run(4000);
    assert_eq!(suspicions(&net), 0);
    assert_eq!(*net.peers[&2].foca.identity(), two, "it was made to take another identity");
    assert_eq!(net.peers.values().map(Membership::downs).sum::<u64>(), 0);
}

#[test]
fn who_is_alone_or_has_left_asks_nobody() {
    let mut net = Net::new(1, 0.0, 7);
    net.run(1000);
    assert_eq!(net.peers[&1].asks.next, None);
    net.start(2, 1);
    net.run(1000);
    assert!(net.peers[&1].asks.next.is_some());
    let now = net.instant();
    net.peers.get_mut(&1).expect("started").handle(MembershipInput::Leave, now);
    net.run(1000);
    assert_eq!(net.peers[&1].asks.next, None);
    assert_eq!(net.peers[&2].asks.next, None, "nobody is left to be asked");
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
