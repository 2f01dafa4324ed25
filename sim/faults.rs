//! What goes wrong, and when.

use rand::RngExt;
use rand::rngs::StdRng;

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
    /// The process is asked to stop.
    Terminate(usize),
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
            5 => plan.extend(partition(peers, at, at + lasts, rng)),
            _ => plan.push((at, Fault::Step(peer, rng.random_range(-400..400)))),
        }
    }
    plan
}

fn partition(peers: usize, from: u64, to: u64, rng: &mut StdRng) -> Vec<(u64, Fault)> {
    let left: Vec<bool> = (0..peers).map(|_| rng.random_bool(0.5)).collect();
    let mut plan = Vec::new();
    for a in 0..peers {
        for b in 0..peers {
            if left[a] != left[b] {
                plan.extend([(from, Fault::Cut(a, b)), (to, Fault::Heal(a, b))]);
            }
        }
    }
    plan
}
