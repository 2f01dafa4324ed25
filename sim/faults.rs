//! What goes wrong, and when.

use std::ops::Range;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// One thing that happens to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process dies; what was not synced is lost.
    Kill(usize),
    /// The process starts on its disk.
    Start(usize),
    /// The process stands still for so long.
    Pause(usize, u64),
    /// One direction breaks.
    Cut(usize, usize),
    /// One direction works again.
    Heal(usize, usize),
    /// The share of datagrams lost, in thousandths.
    Loss(u32),
    /// A clock steps by so many ms.
    Step(usize, i64),
    /// Syncing the log takes so long from now on.
    SlowDisk(usize, u64),
    /// The disk has little room left, or has room again.
    FullDisk(usize, bool),
    /// The disk refuses whatever is to be stored, or takes it again.
    Refusing(usize, bool),
    /// The configuration becomes another version and is read again.
    Reload(usize, u128),
    /// The process is asked to stop.
    Terminate(usize),
    /// The disk of a process that is down is empty.
    Wipe(usize),
    /// A sample is pushed for a time so many ms ago.
    Backfill(i64),
}

/// Peers killed and restarted one after the other: what P2 promises must hold without exception.
pub(crate) fn kills_in_turn(peers: usize, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = Vec::new();
    let mut at = 40 * SECOND;
    for peer in 0..peers {
        plan.push((at + rng.random_range(0..5 * SECOND), Fault::Kill(peer)));
        at += rng.random_range(8..15) * SECOND;
        plan.push((at, Fault::Start(peer)));
        at += 30 * SECOND;
    }
    plan
}

/// How many of so many peers may die at once while all is read.
pub(crate) fn deaths_at_once(peers: usize) -> usize {
    if peers >= 5 { 2 } else { 1 }
}

/// Peers killed, as many at once as copies allow, while one of the others stands still for moments that are no deaths.
pub(crate) fn while_reading(peers: usize, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = Vec::new();
    let mut at = 40 * SECOND;
    for _ in 0..4 {
        let mut order: Vec<usize> = (0..peers).collect();
        order.shuffle(rng);
        let (dead, others) = order.split_at(deaths_at_once(peers));
        for peer in dead {
            // Together, or one while the others are not over the first.
            plan.push((at + rng.random_range(0..4) * SECOND, Fault::Kill(*peer)));
        }
        for moment in 0..rng.random_range(0..3) {
            let still = rng.random_range(300..2500) * MS;
            let from = at + moment * 5 * SECOND + rng.random_range(0..2000) * MS;
            plan.push((from, Fault::Pause(others[0], still)));
        }
        at += rng.random_range(9..15) * SECOND;
        plan.extend(dead.iter().map(|peer| (at, Fault::Start(*peer))));
        at += 35 * SECOND;
    }
    plan
}

/// Peers asked to stop one after the other, and started again.
pub(crate) fn rolling_restart(peers: usize, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = Vec::new();
    let mut at = 40 * SECOND;
    for peer in 0..peers {
        plan.push((at, Fault::Terminate(peer)));
        at += rng.random_range(14..20) * SECOND;
        plan.push((at, Fault::Start(peer)));
        at += 30 * SECOND;
    }
    plan
}

/// Peers that stand still in turn, for longer than their connections live and long enough to be held for dead.
pub(crate) fn pauses(peers: usize, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = vec![(0, Fault::Loss(20))];
    let mut at = 40 * SECOND;
    for peer in 0..peers {
        let lasts = rng.random_range(SECOND..12 * SECOND);
        plan.push((at + rng.random_range(0..5 * SECOND), Fault::Pause(peer, lasts)));
        at += lasts + rng.random_range(20..30) * SECOND;
    }
    plan
}

/// A new version of the configuration, loaded by one peer after the other; one is restarted between.
pub(crate) fn rolling_reload(peers: usize, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = Vec::new();
    let mut at = 40 * SECOND;
    for peer in 0..peers {
        plan.push((at, Fault::Reload(peer, 2)));
        at += rng.random_range(4..20) * SECOND;
    }
    plan
}

/// More and more peers, one after the other, then some are asked to leave. The first three run from the beginning.
pub(crate) fn joins(peers: usize, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = Vec::new();
    let mut at = 30 * SECOND;
    for peer in 3..peers {
        at += rng.random_range(3 * SECOND..25 * SECOND);
        plan.push((at, Fault::Start(peer)));
    }
    at += 30 * SECOND;
    for peer in (1..peers).step_by(4) {
        plan.push((at, Fault::Terminate(peer)));
        at += rng.random_range(15..25) * SECOND;
    }
    plan
}

/// All peers die at once and come back within seconds of each other.
pub(crate) fn cold_start(peers: usize, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let at = 60 * SECOND;
    let kills = (0..peers).map(|peer| (at, Fault::Kill(peer)));
    let spread = rng.random_range(1..8 * SECOND);
    let starts: Vec<u64> = (0..peers).map(|_| at + SECOND + rng.random_range(0..spread)).collect();
    kills.chain(starts.into_iter().enumerate().map(|(peer, at)| (at, Fault::Start(peer)))).collect()
}

/// The mesh falls into two parts, or one part cannot be heard by the other; twice.
pub(crate) fn partitions(peers: usize, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = Vec::new();
    let mut at = 40 * SECOND;
    for _ in 0..2 {
        let lasts = rng.random_range(2 * SECOND..60 * SECOND);
        let both_ways = rng.random_bool(0.6);
        plan.extend(partition(peers, at, at + lasts, both_ways, rng));
        at += lasts + 40 * SECOND;
    }
    plan
}

/// Disks that sync in seconds, and are killed meanwhile; disks that fill up to the last byte and have room again.
pub(crate) fn bad_disks(peers: usize, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = Vec::new();
    let mut at = 40 * SECOND;
    for peer in 0..peers {
        match peer % 2 {
            0 => {
                plan.push((at, Fault::SlowDisk(peer, rng.random_range(2..9) * SECOND)));
                plan.push((at + 15 * SECOND, Fault::Kill(peer)));
                plan.push((at + rng.random_range(17..30) * SECOND, Fault::Start(peer)));
            }
            _ => {
                let ends = at + rng.random_range(5..30) * SECOND;
                // Half of them fill up before anybody looks, and some die of it.
                if rng.random_bool(0.5) {
                    plan.push((at, Fault::FullDisk(peer, true)));
                    plan.push((at + rng.random_range(0..5) * SECOND, Fault::Refusing(peer, true)));
                } else {
                    plan.push((at, Fault::Refusing(peer, true)));
                    plan.push((at + 2 * SECOND, Fault::FullDisk(peer, true)));
                }
                if rng.random_bool(0.3) {
                    plan.extend([(ends - SECOND, Fault::Kill(peer)), (ends + 5 * SECOND, Fault::Start(peer))]);
                }
                plan.extend([(ends, Fault::FullDisk(peer, false)), (ends + SECOND, Fault::Refusing(peer, false))]);
            }
        }
        at += 60 * SECOND;
    }
    plan
}

/// Peers that are away for seconds or for longer than logs reach, come back with their disk or an empty one, and are cut
/// off for a while; samples are pushed for sealed windows all the time.
pub(crate) fn history(peers: usize, end: u64, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = vec![(0, Fault::Loss(rng.random_range(0..20)))];
    let mut at = 60 * SECOND;
    while at + 120 * SECOND < end {
        at += rng.random_range(10..60) * SECOND;
        let peer = rng.random_range(0..peers);
        match rng.random_range(0..4) {
            // One at a time: of R = 2 copies the other must be there to be copied.
            0 => {
                let lasts = rng.random_range(5..(end - at) / SECOND) * SECOND;
                let lasts = lasts.min(420 * SECOND);
                plan.extend([(at, Fault::Kill(peer)), (at + lasts, Fault::Start(peer))]);
                at += lasts + 90 * SECOND;
            }
            1 => {
                let lasts = rng.random_range(5..60) * SECOND;
                plan.extend([(at, Fault::Kill(peer)), (at + SECOND, Fault::Wipe(peer))]);
                plan.push((at + lasts, Fault::Start(peer)));
                at += lasts + 150 * SECOND;
            }
            _ => {
                let other = (peer + rng.random_range(1..peers)) % peers;
                let lasts = rng.random_range(1..20) * SECOND;
                for (a, b) in [(peer, other), (other, peer)] {
                    plan.extend([(at, Fault::Cut(a, b)), (at + lasts, Fault::Heal(a, b))]);
                }
            }
        }
    }
    let mut at = 400 * SECOND;
    while at < end {
        at += rng.random_range(SECOND / 2..8 * SECOND);
        plan.push((at, Fault::Backfill(rng.random_range(310_000..600_000))));
    }
    plan
}

/// Cuts, one after the other, that leave one peer alone or halve the mesh, and crashes during them; samples are pushed for
/// instants so long ago all the time.
pub(crate) fn late(peers: usize, end: u64, ago_ms: Range<i64>, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = vec![(0, Fault::Loss(rng.random_range(0..20)))];
    let mut at = 400 * SECOND;
    while at + 120 * SECOND < end {
        at += rng.random_range(10..40) * SECOND;
        let lasts = rng.random_range(5..60) * SECOND;
        let alone = rng.random_range(0..peers);
        if rng.random_bool(0.6) {
            for other in (0..peers).filter(|other| *other != alone) {
                for (a, b) in [(alone, other), (other, alone)] {
                    plan.extend([(at, Fault::Cut(a, b)), (at + lasts, Fault::Heal(a, b))]);
                }
            }
        } else {
            plan.extend(partition(peers, at, at + lasts, true, rng));
        }
        if rng.random_bool(0.3) {
            let killed = at + rng.random_range(0..lasts + 10 * SECOND);
            plan.extend([(killed, Fault::Kill(alone)), (killed + 5 * SECOND, Fault::Start(alone))]);
        }
        at += lasts + 20 * SECOND;
    }
    let mut at = 390 * SECOND;
    while at < end {
        at += rng.random_range(SECOND / 4..4 * SECOND);
        plan.push((at, Fault::Backfill(rng.random_range(ago_ms.clone()))));
    }
    plan
}

/// Anything, at random, until `end`; every fault ends before it.
pub(crate) fn chaos(peers: usize, end: u64, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let mut plan = vec![(0, Fault::Loss(rng.random_range(0..60)))];
    let mut at = 30 * SECOND;
    while at + 50 * SECOND < end {
        at += rng.random_range(2..40) * SECOND;
        let peer = rng.random_range(0..peers);
        let other = (peer + rng.random_range(1..peers)) % peers;
        let lasts = rng.random_range(1..30) * SECOND + rng.random_range(0..SECOND);
        match rng.random_range(0..7) {
            0 | 1 => plan.extend([(at, Fault::Kill(peer)), (at + lasts, Fault::Start(peer))]),
            2 => plan.push((at, Fault::Pause(peer, rng.random_range(SECOND / 2..12 * SECOND)))),
            3 => plan.extend([(at, Fault::Cut(peer, other)), (at + lasts, Fault::Heal(peer, other))]),
            4 => {
                for (a, b) in [(peer, other), (other, peer)] {
                    plan.extend([(at, Fault::Cut(a, b)), (at + lasts, Fault::Heal(a, b))]);
                }
            }
            5 => plan.extend(partition(peers, at, at + lasts, true, rng)),
            _ => plan.push((at, Fault::Step(peer, rng.random_range(-400..400)))),
        }
    }
    plan
}

fn partition(peers: usize, from: u64, to: u64, both_ways: bool, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let left: Vec<bool> = (0..peers).map(|_| rng.random_bool(0.5)).collect();
    let mut plan = Vec::new();
    for a in 0..peers {
        for b in 0..peers {
            if left[a] != left[b] && (both_ways || left[a]) {
                plan.extend([(from, Fault::Cut(a, b)), (to, Fault::Heal(a, b))]);
            }
        }
    }
    plan
}
