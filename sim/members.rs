//! A mesh of memberships alone, on links that lose datagrams: cheap enough for a hundred peers over hours.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use bytes::Bytes;
use promesh_cluster::{Membership, MembershipInput, MembershipOutput, PeerRecord, PeerState, Snapshot};
use promesh_model::{Generation, Monotonic, Now, PeerId, Timestamp, codec};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::{MS, SECOND, address, peer_at};

enum Event {
    Datagram(usize, Bytes),
    Wake(usize),
    Exchange(usize, usize),
}

/// One that lives, and since when; the generation is its number of lives.
struct Life {
    machine: Membership,
    wake: u64,
}

/// Bytes that all peers sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) datagrams: u64,
    /// In datagrams, QUIC's own and below not counted.
    pub(crate) datagram_bytes: u64,
    /// In exchanges of all that is known.
    pub(crate) exchange_bytes: u64,
}

pub(crate) struct Members {
    pub(crate) now: u64,
    pub(crate) sent: Sent,
    /// Who came to hold whom for dead, as [`Membership::members`] says it, since somebody last took these.
    pub(crate) told: Vec<(u64, usize, PeerId)>,
    lives: Vec<Option<Life>>,
    generations: Vec<u64>,
    /// How often a peer that lives no more took another for dead.
    downs_before: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    pending: HashMap<u64, Event>,
    number: u64,
    loss: f64,
    seed: u64,
    pub(crate) rng: StdRng,
}

impl Members {
    /// So many peers that start within a second and know the first.
    pub(crate) fn new(peers: usize, loss: f64, seed: u64) -> Members {
        let mut members = Members {
            now: 0,
            sent: Sent::default(),
            told: Vec::new(),
            lives: (0..peers).map(|_| None).collect(),
            generations: vec![0; peers],
            downs_before: 0,
            events: BinaryHeap::new(),
            pending: HashMap::new(),
            number: 0,
            loss,
            seed,
            rng: StdRng::seed_from_u64(seed ^ 0xdead),
        };
        for peer in 0..peers {
            members.run_until((peer as u64 * 10 * MS).min(SECOND));
            members.start(peer, 0);
        }
        members
    }

    /// A peer begins its next life and asks a seed.
    pub(crate) fn start(&mut self, peer: usize, seed: usize) {
        self.generations[peer] += 1;
        let record = PeerRecord {
            id: id(peer),
            generation: Generation(self.generations[peer]),
            version: 1,
            state: PeerState::Ready,
            zone: String::new(),
            weight: 4,
            protocol: (1, 1),
            web_address: None,
            root: 0,
        };
        let dice = self.seed << 16 ^ self.generations[peer] << 40 | peer as u64;
        let machine = Membership::new(record, address(peer), dice, self.clock());
        self.lives[peer] = Some(Life { machine, wake: u64::MAX });
        if peer != seed {
            self.schedule(self.now, Event::Exchange(peer, seed));
        }
        self.serve(peer);
    }

    pub(crate) fn kill(&mut self, peer: usize) {
        self.downs_before += self.lives[peer].take().map_or(0, |life| life.machine.downs());
    }

    /// How often one peer took another for dead, since the start.
    pub(crate) fn downs(&self) -> u64 {
        self.downs_before + self.lives.iter().flatten().map(|life| life.machine.downs()).sum::<u64>()
    }

    pub(crate) fn living(&self) -> impl Iterator<Item = usize> {
        self.lives.iter().enumerate().filter(|(_, life)| life.is_some()).map(|(peer, _)| peer)
    }

    /// Those who do not hold all others that live for alive.
    pub(crate) fn blind(&self) -> usize {
        let living = self.living().count();
        let sees = |life: &Life| life.machine.members().iter().filter(|member| member.alive).count();
        self.lives.iter().flatten().filter(|life| sees(life) + 1 != living).count()
    }

    pub(crate) fn run_until(&mut self, end: u64) {
        while let Some(Reverse((at, number))) = self.events.peek().copied() {
            if at > end {
                break;
            }
            self.events.pop();
            self.now = at;
            let event = self.pending.remove(&number).expect("scheduled once");
            self.handle(event);
        }
        self.now = end;
    }

    fn handle(&mut self, event: Event) {
        let now = self.clock();
        match event {
            Event::Datagram(to, bytes) => self.feed(to, MembershipInput::Datagram(bytes)),
            Event::Wake(peer) => {
                let Some(life) = &mut self.lives[peer] else { return };
                if life.wake > self.now {
                    return;
                }
                life.wake = u64::MAX;
                while life.machine.poll_timeout().is_some_and(|due| due <= now.monotonic) {
                    life.machine.handle(MembershipInput::Timeout, now);
                }
                self.serve(peer);
            }
            Event::Exchange(from, to) => {
                let (Some(ours), Some(theirs)) = (self.snapshot(from), self.snapshot(to)) else { return };
                self.sent.exchange_bytes += (codec::encode(&ours).len() + codec::encode(&theirs).len()) as u64;
                self.feed(to, MembershipInput::Snapshot(ours));
                self.feed(from, MembershipInput::Snapshot(theirs));
            }
        }
    }

    fn snapshot(&self, peer: usize) -> Option<Snapshot> {
        self.lives[peer].as_ref().map(|life| life.machine.snapshot())
    }

    fn feed(&mut self, peer: usize, input: MembershipInput) {
        let now = self.clock();
        if let Some(life) = &mut self.lives[peer] {
            life.machine.handle(input, now);
            self.serve(peer);
        }
    }

    /// Does what a peer wants done.
    fn serve(&mut self, peer: usize) {
        while let Some(output) = self.lives[peer].as_mut().and_then(|life| life.machine.poll_output()) {
            match output {
                MembershipOutput::Datagram { to, bytes } => {
                    self.sent.datagrams += 1;
                    self.sent.datagram_bytes += bytes.len() as u64;
                    if !self.rng.random_bool(self.loss) {
                        let arrives = self.now + self.rng.random_range(MS / 10..3 * MS);
                        self.schedule(arrives, Event::Datagram(peer_at(to), bytes));
                    }
                }
                MembershipOutput::Exchange { to } => {
                    self.schedule(self.now + MS, Event::Exchange(peer, peer_at(to)));
                }
                MembershipOutput::Members(members) => {
                    let dead = members.iter().filter(|member| !member.alive).map(|member| member.id);
                    self.told.extend(dead.map(|dead| (self.now, peer, dead)));
                }
            }
        }
        let now = self.now;
        let Some(life) = &mut self.lives[peer] else { return };
        if let Some(due) = life.machine.poll_timeout()
            && due.0 < life.wake
        {
            life.wake = due.0.max(now);
            let wake = life.wake;
            self.schedule(wake, Event::Wake(peer));
        }
    }

    fn clock(&self) -> Now {
        Now { monotonic: Monotonic(self.now), wall: Timestamp((self.now / MS) as i64) }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.number += 1;
        self.pending.insert(self.number, event);
        self.events.push(Reverse((at, self.number)));
    }
}

pub(crate) fn id(peer: usize) -> PeerId {
    // Not in the order of their start: an id is drawn.
    PeerId(u128::from((peer as u32 + 1).wrapping_mul(0x9e37_79b1)))
}
