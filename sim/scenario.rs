//! A run: a size, a workload, faults, then peace; what came out of it.

use std::ops::Range;

use promesh_model::{SHARD_COUNT, ShardId, Timestamp};
use promesh_node::SourceSpec;
use promesh_replication::SourceId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::faults;
use crate::invariants::{every_slot_scraped, history_is_whole, holders_agree, nothing_lost, one_owner};
use crate::paging;
use crate::world::{MS, SECOND, World, job};

/// What is done to a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Peers killed and restarted in turn. Promise: no slot missed.
    KillsInTurn,
    /// Peers stopped by SIGTERM and restarted in turn. Promise: no slot missed, none scraped twice.
    RollingRestart,
    /// Peers stand still in turn, for up to twelve seconds. Promise: no slot missed, none left with two batches.
    Pauses,
    /// A new version of the configuration, loaded by one peer after the other. Promise: no slot missed.
    RollingReload,
    /// Peers join one after the other, up to thirty; then some leave. Promise: no slot missed, none scraped twice.
    Joins,
    /// All peers die at once and come back. Promise: no slot missed but while they are away.
    ColdStart,
    /// The mesh falls into two parts, also so that only one cannot hear the other. Promise: no slot missed.
    Partition,
    /// Disks that sync in seconds and lose what they had not, disks that fill up. Promise: no slot missed, nothing lost.
    BadDisks,
    /// Loss, cuts, partitions, kills, pauses, clock steps at random for so many simulated seconds.
    Chaos {
        /// How long, before everything heals.
        seconds: u64,
    },
    /// Windows are sealed within minutes: peers away for long, empty disks, cuts, samples pushed for sealed windows.
    /// Promise: every sealed window is on R peers whole again.
    History {
        /// How long, before everything heals.
        seconds: u64,
    },
    /// The same with cuts that leave a peer alone, or halve the mesh, while samples are pushed for sealed windows to both
    /// sides. Promise: the same, and what either side took is with all who claim its time.
    Late {
        /// How long, before everything heals.
        seconds: u64,
    },
    /// The same cuts and crashes, while samples minutes old are pushed for the window that is still open. Promise: what either
    /// side took is with all who claim its time, without waiting for the window's end.
    Belated {
        /// How long, before everything heals.
        seconds: u64,
    },
    /// Up to R - 1 peers die at once, others stand still for moments, and every peer reads all the while. Promise: each read has
    /// all that living peers have, and warns of nothing.
    Reads,
    /// Chaos among seven peers for as long as wanted: by the hour, then everything heals, is looked at, and begins again.
    Soak {
        /// How long, peace aside.
        seconds: u64,
    },
    /// Alerts that come and go, posted by own rules and by clients, under faults of peers, links, disks and receivers.
    Paging {
        /// How long, before everything heals.
        seconds: u64,
    },
    /// As above, and who evaluates a rule stands still before it posts that the alert fires, until after that has ended.
    Evaluators {
        /// How long, before everything heals.
        seconds: u64,
    },
}

impl Scenario {
    /// All of them, by the name the command line knows; chaos lasts so many seconds.
    pub fn by_name(name: &str, seconds: u64) -> Option<Scenario> {
        Some(match name {
            "kills" => Scenario::KillsInTurn,
            "reads" => Scenario::Reads,
            "rolling" => Scenario::RollingRestart,
            "pauses" => Scenario::Pauses,
            "reload" => Scenario::RollingReload,
            "joins" => Scenario::Joins,
            "cold" => Scenario::ColdStart,
            "partition" => Scenario::Partition,
            "disks" => Scenario::BadDisks,
            "chaos" => Scenario::Chaos { seconds },
            "history" => Scenario::History { seconds },
            "late" => Scenario::Late { seconds },
            "belated" => Scenario::Belated { seconds },
            "soak" => Scenario::Soak { seconds },
            "paging" => Scenario::Paging { seconds },
            "evaluators" => Scenario::Evaluators { seconds },
            _ => return None,
        })
    }

    /// The names that [`Scenario::by_name`] knows.
    pub const NAMES: [&'static str; 16] = [
        "kills",
        "reads",
        "rolling",
        "pauses",
        "reload",
        "joins",
        "cold",
        "partition",
        "disks",
        "chaos",
        "history",
        "late",
        "belated",
        "soak",
        "paging",
        "evaluators",
    ];

    /// How many peers there may be.
    fn peers(self, rng: &mut StdRng) -> usize {
        let most = match self {
            Scenario::Soak { .. } => return 7,
            Scenario::Joins => 31,
            Scenario::History { .. } | Scenario::Late { .. } | Scenario::Belated { .. } | Scenario::Reads => 6,
            // Most bugs need few peers; now and then there are many.
            _ if rng.random_bool(0.1) => 16,
            Scenario::Chaos { .. } => 8,
            _ => 6,
        };
        let least = if self == Scenario::Joins { 5 } else { 3 };
        rng.random_range(least..most)
    }

    /// Whether no slot may be missed, whatever befell it; elsewhere those are excused that nobody could have scraped.
    fn is_strict(self) -> bool {
        !matches!(
            self,
            Scenario::Chaos { .. }
                | Scenario::Soak { .. }
                | Scenario::History { .. }
                | Scenario::Late { .. }
                | Scenario::Belated { .. }
                | Scenario::ColdStart
                | Scenario::Paging { .. }
                | Scenario::Evaluators { .. }
        )
    }

    fn plan(self, peers: usize, rng: &mut StdRng) -> Vec<(u64, faults::Fault)> {
        match self {
            Scenario::KillsInTurn => faults::kills_in_turn(peers, rng),
            Scenario::Reads => faults::while_reading(peers, rng),
            Scenario::Pauses => faults::pauses(peers, rng),
            Scenario::RollingReload => faults::rolling_reload(peers, rng),
            Scenario::RollingRestart => faults::rolling_restart(peers, rng),
            Scenario::Joins => faults::joins(peers, rng),
            Scenario::ColdStart => faults::cold_start(peers, rng),
            Scenario::Partition => faults::partitions(peers, rng),
            Scenario::BadDisks => faults::bad_disks(peers, rng),
            Scenario::Chaos { seconds } => faults::chaos(peers, seconds * SECOND, rng),
            Scenario::History { seconds } => faults::history(peers, seconds * SECOND, rng),
            Scenario::Late { seconds } => faults::late(peers, seconds * SECOND, SEALED_AGO_MS, rng),
            Scenario::Belated { seconds } => faults::late(peers, seconds * SECOND, OPEN_AGO_MS, rng),
            Scenario::Soak { seconds } => faults::chaos(peers, seconds.min(ROUND) * SECOND, rng),
            Scenario::Paging { .. } | Scenario::Evaluators { .. } => unreachable!("it has a run of its own"),
        }
    }
}

/// How long ago the instants are, in ms, of what is pushed for sealed windows of a simulated mesh …
const SEALED_AGO_MS: Range<i64> = 310_000..600_000;
/// … and for the open one of a real mesh: longer than a peer's clock and a stream's silence are allowed for.
const OPEN_AGO_MS: Range<i64> = 40_000..370_000;

/// A soak's faults last so many seconds, then everything heals once and what is older is forgotten: the batches of a day
/// of seven peers would not fit into memory.
const ROUND: u64 = 3600;
/// What is kept of a round for the next one, in ms: the slowest source's open slots, and what logs are asked for again.
const KEPT_MS: i64 = 120_000;

/// What came out of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Peers.
    pub peers: usize,
    /// Targets.
    pub sources: usize,
    /// Simulated seconds.
    pub seconds: u64,
    /// Slots nobody scraped.
    pub missed: usize,
    /// Slots that more than one peer started, where that is counted.
    pub twice: usize,
    /// Slots that differ between holders.
    pub split: usize,
    /// Reads that ended.
    pub reads: usize,
    /// How long the slowest of them took, in seconds.
    pub slowest_read: f64,
    /// Notifications that receivers took.
    pub notifications: usize,
    /// Of them, repeats that the design allows.
    pub excused: usize,
    /// Broken invariants.
    pub violations: Vec<String>,
}

/// How long a healed mesh may take to come to rest.
const CONVERGENCE: u64 = 60 * SECOND;
/// What is younger may still be on its way.
const UNSETTLED: u64 = 5 * SECOND;

/// For how long an evaluator stands still at most.
const EVALUATORS_PAUSE_MS: i64 = 40_000;

/// Runs a scenario. The same seed gives the same report; `verbose` prints faults and changes as they happen.
pub fn run(scenario: Scenario, seed: u64, verbose: bool) -> Report {
    match scenario {
        Scenario::Paging { seconds } => return paging::run(seconds, 0, seed, verbose),
        Scenario::Evaluators { seconds } => return paging::run(seconds, EVALUATORS_PAUSE_MS, seed, verbose),
        _ => {}
    }
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
    let peers = scenario.peers(&mut rng);
    let replication_factor = match scenario {
        Scenario::Reads => 1 + faults::deaths_at_once(peers),
        _ if peers >= 5 && rng.random_bool(0.3) => 3,
        _ => 2,
    };
    // A promise to miss no slot is one about intervals of five seconds and more; a peer that leaves misses none at all.
    let slow = scenario.is_strict() && scenario != Scenario::RollingRestart;
    let intervals: &[i64] = if slow { &[5000, 15_000] } else { &[1000, 5000, 15_000] };
    let sources: Vec<SourceSpec> = (0..rng.random_range(20..60))
        .map(|_| SourceSpec {
            source: SourceId(rng.random()),
            shard: ShardId(rng.random_range(0..SHARD_COUNT as u16)),
            interval_ms: intervals[rng.random_range(0..intervals.len())],
            phase_ms: None,
            piece: job().id(),
            pinned: false,
        })
        .collect();
    let mut world = World::new(peers, sources, replication_factor, seed);
    world.verbose = verbose;
    world.pushes_anywhere = matches!(scenario, Scenario::Late { .. } | Scenario::Belated { .. });
    world.seals = matches!(scenario, Scenario::History { .. } | Scenario::Late { .. });
    world.started = scenario.is_strict().then(Default::default);
    world.reads.on = scenario == Scenario::Reads;
    if rng.random_bool(0.3) {
        world.set_zones(rng.random_range(2..4));
    }
    let first = if scenario == Scenario::Joins { 3 } else { peers };
    for peer in 0..first {
        world.now = peer as u64 * 100 * MS;
        world.start(peer);
    }
    let mut report = Report { peers, sources: world.sources.len(), ..Report::default() };
    let rounds = if let Scenario::Soak { seconds } = scenario { seconds.div_ceil(ROUND).max(1) } else { 1 };
    for round in 0..rounds {
        let begins = if round == 0 { 0 } else { world.now };
        let checked = if round == 0 { 30 * SECOND } else { world.now - UNSETTLED };
        let plan: Vec<_> = scenario.plan(peers, &mut rng).into_iter().map(|(at, fault)| (begins + at, fault)).collect();
        let last_fault = plan.iter().map(|(at, _)| *at).max().unwrap_or(0);
        world.plan(plan);
        world.run_until(last_fault + 15 * SECOND);
        world.heal_all();
        // A window a look, a look in five seconds, and comparisons after the copies.
        let end = world.now + if world.seals { 6 * CONVERGENCE } else { CONVERGENCE };
        world.run_until(end);
        look(&mut world, checked, scenario, replication_factor, &mut report);
        world.forget_before(Timestamp(world.wall().ms() - KEPT_MS));
    }
    report.seconds = world.now / SECOND;
    (report.reads, report.slowest_read) = (world.reads.count, world.reads.slowest as f64 / 1e9);
    report
}

/// Looks at all that a mesh at rest did since an instant.
fn look(world: &mut World, since: u64, scenario: Scenario, replication_factor: usize, report: &mut Report) {
    let strict = scenario.is_strict();
    let mut violations = std::mem::take(&mut world.found);
    violations.extend(one_owner::violations(world, replication_factor));
    let (missed, slots) = every_slot_scraped::violations(world, since, world.now - UNSETTLED, strict);
    violations.extend(slots);
    let settled = world.wall().ms() - (UNSETTLED / MS) as i64;
    violations.extend(nothing_lost::violations(world, settled));
    if world.seals {
        violations.extend(history_is_whole::violations(world));
    }
    let (split, differing) = holders_agree::violations(world);
    violations.extend(differing);
    let started = world.started.iter().flatten();
    report.twice = started.filter(|(_, times)| **times > 1).count();
    report.missed += missed;
    report.split += split;
    report.violations.extend(violations);
}
