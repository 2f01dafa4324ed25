//! A run: a size, a workload, faults, then peace; what came out of it.

use promesh_model::{SHARD_COUNT, ShardId, Timestamp};
use promesh_node::SourceSpec;
use promesh_replication::SourceId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::faults;
use crate::invariants::{every_slot_scraped, holders_agree, nothing_lost, one_owner};
use crate::world::{MS, SECOND, World};

/// What is done to a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Peers killed and restarted in turn. Promise: no slot missed.
    KillsInTurn,
    /// Peers stopped by SIGTERM and restarted in turn. Promise: no slot missed, none scraped twice.
    RollingRestart,
    /// Loss, cuts, partitions, kills, pauses, clock steps at random for so many simulated seconds.
    Chaos {
        /// How long, before everything heals.
        seconds: u64,
    },
}

/// What came out of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Peers.
    pub peers: usize,
    /// Targets.
    pub sources: usize,
    /// Simulated seconds.
    pub seconds: u64,
    /// Slots nobody scraped.
    pub missed: usize,
    /// Slots that differ between holders.
    pub split: usize,
    /// Broken invariants.
    pub violations: Vec<String>,
}

/// How long a healed mesh may take to come to rest.
const CONVERGENCE: u64 = 60 * SECOND;

/// Runs a scenario. The same seed gives the same report; `verbose` prints faults and changes as they happen.
pub fn run(scenario: Scenario, seed: u64, verbose: bool) -> Report {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let peers = match scenario {
        Scenario::Chaos { .. } => rng.random_range(3..8),
        _ => rng.random_range(3..6),
    };
    let replication_factor = if peers >= 5 && rng.random_bool(0.3) { 3 } else { 2 };
    let intervals: &[i64] = if scenario == Scenario::KillsInTurn { &[5000, 15_000] } else { &[1000, 5000, 15_000] };
    let sources: Vec<SourceSpec> = (0..rng.random_range(20..60))
        .map(|_| SourceSpec {
            source: SourceId(rng.random()),
            shard: ShardId(rng.random_range(0..SHARD_COUNT as u16)),
            interval_ms: intervals[rng.random_range(0..intervals.len())],
        })
        .collect();
    let mut world = World::new(peers, sources, replication_factor, seed);
    world.verbose = verbose;
    for peer in 0..peers {
        world.now = peer as u64 * 100 * MS;
        world.start(peer);
    }
    let plan = match scenario {
        Scenario::KillsInTurn => faults::kills_in_turn(peers, &mut rng),
        Scenario::RollingRestart => faults::rolling_restart(peers, &mut rng),
        Scenario::Chaos { seconds } => faults::chaos(peers, seconds * SECOND, &mut rng),
    };
    let last_fault = plan.iter().map(|(at, _)| *at).max().unwrap_or(0);
    world.plan(plan);
    world.run_until(last_fault + 15 * SECOND);
    world.heal_all();
    let end = world.now + CONVERGENCE;
    world.run_until(end);
    report(&world, scenario, replication_factor)
}

fn report(world: &World, scenario: Scenario, replication_factor: usize) -> Report {
    let strict = !matches!(scenario, Scenario::Chaos { .. });
    let mut violations = one_owner::violations(world, replication_factor);
    let (missed, slots) = every_slot_scraped::violations(world, 30 * SECOND, world.now - 5 * SECOND, strict);
    violations.extend(slots);
    let settled: Timestamp = world.wall();
    violations.extend(nothing_lost::violations(world, settled.ms() - 5_000));
    let (split, differing) = holders_agree::violations(world, strict);
    violations.extend(differing);
    Report {
        peers: world.peers.len(),
        sources: world.sources.len(),
        seconds: world.now / SECOND,
        missed,
        split,
        violations,
    }
}
