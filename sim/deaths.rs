//! False deaths: peers that others hold for dead while they live, on links that lose datagrams.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bytes::Bytes;
use promesh_cluster::{Membership, MembershipInput, MembershipOutput, PeerRecord, PeerState};
use promesh_model::{Generation, Monotonic, Now, PeerId, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::world::{MS, SECOND, address, peer_at};

/// How long peers have to meet before deaths count.
const MEETING: u64 = 10 * SECOND;

enum Event {
    Datagram(usize, Bytes),
    Wake(usize),
    Exchange(usize, usize),
}

/// How many times a living peer was held for dead by another, in a mesh of memberships alone.
pub fn count(peers: usize, seconds: u64, loss: f64, seed: u64) -> usize {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xdead);
    let mut events = BinaryHeap::new();
    let mut pending = std::collections::HashMap::new();
    let mut number = 0u64;
    let mut schedule = |events: &mut BinaryHeap<_>, pending: &mut std::collections::HashMap<u64, Event>, at, event| {
        number += 1;
        pending.insert(number, event);
        events.push(Reverse((at, number)));
    };
    let at = |now: u64| Now { monotonic: Monotonic(now), wall: Timestamp((now / MS) as i64) };
    let mut machines: Vec<Membership> = (0..peers)
        .map(|peer| {
            let record = PeerRecord {
                id: PeerId(peer as u128 + 1),
                generation: Generation(1),
                version: 1,
                state: PeerState::Ready,
                zone: String::new(),
                weight: 4,
                protocol: (1, 1),
                web_address: None,
                root: 0,
            };
            Membership::new(record, address(peer), seed << 16 | peer as u64, at(0))
        })
        .collect();
    for peer in 1..peers {
        schedule(&mut events, &mut pending, peer as u64 * 10 * MS, Event::Exchange(peer, 0));
    }
    let mut dead: Vec<std::collections::BTreeSet<PeerId>> = vec![std::collections::BTreeSet::new(); peers];
    let mut wakes = vec![u64::MAX; peers];
    let mut deaths = 0;
    while let Some(Reverse((now, number))) = events.pop() {
        if now > seconds * SECOND {
            break;
        }
        let mut touched = Vec::new();
        match pending.remove(&number).expect("scheduled once") {
            Event::Datagram(to, bytes) => {
                machines[to].handle(MembershipInput::Datagram(bytes), at(now));
                touched.push(to);
            }
            Event::Wake(peer) => {
                wakes[peer] = u64::MAX;
                while machines[peer].poll_timeout().is_some_and(|due| due.0 <= now) {
                    machines[peer].handle(MembershipInput::Timeout, at(now));
                }
                touched.push(peer);
            }
            Event::Exchange(from, to) => {
                let (ours, theirs) = (machines[from].snapshot(), machines[to].snapshot());
                machines[to].handle(MembershipInput::Snapshot(ours), at(now));
                machines[from].handle(MembershipInput::Snapshot(theirs), at(now));
                touched.extend([from, to]);
            }
        }
        for peer in touched {
            while let Some(output) = machines[peer].poll_output() {
                match output {
                    MembershipOutput::Datagram { to, bytes } => {
                        if !rng.random_bool(loss) {
                            let arrives = now + rng.random_range(MS / 10..3 * MS);
                            schedule(&mut events, &mut pending, arrives, Event::Datagram(peer_at(to), bytes));
                        }
                    }
                    MembershipOutput::Exchange { to } => {
                        schedule(&mut events, &mut pending, now + MS, Event::Exchange(peer, peer_at(to)));
                    }
                    MembershipOutput::Members(members) => {
                        let present = members.iter().filter(|member| !member.alive).map(|member| member.id).collect();
                        let fresh = |known: &std::collections::BTreeSet<PeerId>,
                                     present: &std::collections::BTreeSet<PeerId>| {
                            present.difference(known).count()
                        };
                        if now > MEETING {
                            deaths += fresh(&dead[peer], &present);
                        }
                        dead[peer] = present;
                    }
                }
            }
            if let Some(due) = machines[peer].poll_timeout()
                && due.0 < wakes[peer]
            {
                wakes[peer] = due.0.max(now);
                schedule(&mut events, &mut pending, wakes[peer], Event::Wake(peer));
            }
        }
    }
    deaths
}
