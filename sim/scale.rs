//! What changes as a mesh grows: the time to notice a death and to take over, what a join moves, what peers send, how
//! long a healed partition takes to come to rest.

use std::fmt;
use std::sync::Arc;

use promesh_model::shard::ShardSet;
use promesh_model::{SHARD_COUNT, ShardId};
use promesh_node::{MeshView, SourceSpec};
use promesh_replication::SourceId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::faults::Fault;
use crate::invariants::{every_slot_scraped, nothing_lost, one_owner};
use crate::world::{MS, SECOND, World, job};

/// The figures of one size, times in seconds.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Peers.
    pub peers: usize,
    /// Targets.
    pub targets: usize,
    /// From the last start until every shard has its owner and its copies.
    pub start: f64,
    /// From a kill until the median and the last of the others holds the peer for dead.
    pub detection: (f64, f64),
    /// From a kill until somebody else acts for everything that the dead acted for.
    pub takeover: f64,
    /// Shards whose owner changed when a peer joined, over the share that one of so many peers has.
    pub moved_over_share: f64,
    /// Bytes that a peer sends a second at rest, batches aside.
    pub bytes_per_second: f64,
    /// From the end of a partition in two halves until the mesh is at rest.
    pub convergence: f64,
    /// Slots nobody scraped.
    pub missed: usize,
    /// Simulated seconds.
    pub seconds: u64,
    /// Broken invariants at the end.
    pub violations: Vec<String>,
}

impl Figures {
    /// The line above a table of figures.
    pub const HEADER: &str = "peers targets start detection(median,last) takeover moved/share bytes/peer/s convergence missed violations simulated";
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { peers, targets, start, detection: (median, last), takeover, moved_over_share: moved, .. } = self;
        let (bytes, convergence, missed) = (self.bytes_per_second, self.convergence, self.missed);
        write!(
            f,
            "{peers:5} {targets:7} {start:4.1}s {median:9.2}s,{last:7.2}s {takeover:7.2}s {moved:11.3} {bytes:12.0} \
             {convergence:10.1}s {missed:6} {:10} {:7}s",
            self.violations.len(),
            self.seconds
        )
    }
}

/// A mesh of more peers gets its targets once it is at rest: before, a few peers would have a thousand's. And it does not
/// start at once, but these come to rest, then twice as many, and so on: a thousand that come one by one each see a
/// thousand changes of everybody's.
const AT_ONCE: usize = 100;
const CROWD: usize = 25;

/// Lets a mesh of so many peers start, lose one, take it back, fall apart and heal, for at least so many simulated
/// seconds; links lose one datagram in a hundred.
pub fn measure(peers: usize, targets: usize, seconds: u64, seed: u64, verbose: bool) -> Figures {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5ca1e);
    let sources: Vec<SourceSpec> = (0..targets)
        .map(|_| SourceSpec {
            source: SourceId(rng.random()),
            shard: ShardId(rng.random_range(0..SHARD_COUNT as u16)),
            interval_ms: 15_000,
            phase_ms: None,
            piece: job().id(),
            pinned: false,
        })
        .collect();
    let late = peers > AT_ONCE;
    let mut world = World::new(peers, if late { Vec::new() } else { sources.clone() }, 2, seed);
    world.network.loss = 0.01;
    let mut figures = Figures { peers, targets, ..Figures::default() };
    let say = |world: &World, what: &str| {
        if verbose {
            let (now, spent) = (world.now as f64 / SECOND as f64, cpu_seconds());
            eprintln!("{now:7.1} s of {peers} peers, {spent:.1} CPU s, {} MiB: {what}", peak_mib());
            let counts: Vec<String> = world.counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            eprintln!("          so far: {}", counts.join(", "));
        }
    };
    let mut crowd = CROWD;
    for peer in 0..peers {
        if late && peer == crowd {
            let took = settle(&mut world, 120, SECOND);
            say(&world, &format!("{crowd} are started, at rest after {took:.1} s"));
            crowd *= 2;
        }
        world.start(peer);
        run_for(&mut world, if late && peer >= CROWD { MS } else { 20 * MS });
    }
    say(&world, "all are started");
    figures.start = settle(&mut world, 180, SECOND);
    say(&world, &format!("at rest {:.1} s after the last start", figures.start));
    if late {
        world.set_sources(sources);
    }
    run_for(&mut world, if late { 20 * SECOND } else { 5 * SECOND });
    let rested = world.now;

    world.measuring = true;
    run_for(&mut world, 10 * SECOND);
    world.measuring = false;
    figures.bytes_per_second = world.sent_bytes as f64 / peers as f64 / 10.0;

    let victim = peers / 2;
    let orphaned = world.peers[victim].view.as_ref().map(|view| view.acting.clone()).unwrap_or_default();
    world.plan(vec![(world.now, Fault::Kill(victim))]);
    let killed = world.now;
    let mut noticed = Vec::new();
    let mut taken = None;
    while (noticed.len() + 1 < peers || taken.is_none()) && world.now < killed + 60 * SECOND {
        run_for(&mut world, 50 * MS);
        let since = (world.now - killed) as f64 / SECOND as f64;
        let dead = world.peers[victim].id;
        let holds_dead = world.peers.iter().filter_map(|peer| peer.mind.as_ref()).filter(|mind| {
            let members = mind.membership.members();
            members.binary_search_by_key(&dead, |member| member.id).is_ok_and(|place| !members[place].alive)
        });
        noticed.resize(holds_dead.count(), since);
        if taken.is_none() && orphaned.is_subset(&acted_for(&world)) {
            taken = Some(since);
        }
    }
    figures.takeover = taken.unwrap_or(f64::NAN);
    figures.detection =
        (noticed.get(noticed.len() / 2).copied().unwrap_or(f64::NAN), noticed.last().copied().unwrap_or(f64::NAN));
    let Figures { detection: (median, last), takeover, bytes_per_second: bytes, .. } = &figures;
    say(
        &world,
        &format!(
            "a death is known after {median:.2} s (median), {last:.2} s (last) at 1 % loss, taken over after {takeover:.2} s; \
             {bytes:.0} bytes a peer and second at rest"
        ),
    );
    run_for(&mut world, 30 * SECOND);

    let owners = |world: &World| -> Vec<_> {
        let view = world.peers[0].view.clone().expect("the first peer was never killed");
        (0..SHARD_COUNT as u16).map(|shard| view.placement.owner(ShardId(shard))).collect()
    };
    let before = owners(&world);
    world.start(victim);
    settle(&mut world, 120, SECOND);
    let moved = before.iter().zip(owners(&world)).filter(|(before, after)| **before != *after).count();
    figures.moved_over_share = moved as f64 * peers as f64 / SHARD_COUNT as f64;
    say(&world, &format!("it came back: {:.3} of its share moved", figures.moved_over_share));

    let cuts = |heal: bool| {
        let half = peers / 2;
        let pairs = (0..half).flat_map(move |a| (half..peers).flat_map(move |b| [(a, b), (b, a)]));
        pairs.map(move |(a, b)| if heal { Fault::Heal(a, b) } else { Fault::Cut(a, b) })
    };
    let now = world.now;
    world.plan(cuts(false).map(|cut| (now, cut)).collect());
    run_for(&mut world, 20 * SECOND);
    let now = world.now;
    world.plan(cuts(true).map(|heal| (now, heal)).collect());
    figures.convergence = settle(&mut world, 120, SECOND / 2);
    say(&world, &format!("the partition is over, at rest {:.1} s after", figures.convergence));
    let rest = (seconds * SECOND).saturating_sub(world.now) + 20 * SECOND;
    run_for(&mut world, rest);

    let end = world.now - 20 * SECOND;
    let (missed, _) = every_slot_scraped::violations(&world, rested, end, true);
    figures.missed = missed;
    figures.violations = one_owner::violations(&world, 2);
    figures.violations.extend(nothing_lost::violations(&world, world.wall().ms() - 5_000));
    figures.seconds = world.now / SECOND;
    figures
}

/// What this thread has taken of a processor so far: a busy machine makes nothing slow.
pub fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// The most memory that this process has had so far.
pub fn peak_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    peak.unwrap_or(0) / 1024
}

fn run_for(world: &mut World, time: u64) {
    let end = world.now + time;
    world.run_until(end);
}

/// Runs until the mesh is at rest, for so many seconds at most; says how long that took.
fn settle(world: &mut World, seconds_max: u64, step: u64) -> f64 {
    let began = world.now;
    while world.now < began + seconds_max * SECOND {
        run_for(world, step);
        let living = world.peers.iter().filter(|peer| peer.mind.is_some()).count();
        let is_ranked = |view: &Arc<MeshView>| view.placement.len() == living;
        let all_ranked =
            world.peers.iter().filter_map(|peer| peer.view.as_ref()).filter(|view| is_ranked(view)).count();
        if all_ranked == living && one_owner::violations(world, 2).is_empty() {
            return (world.now - began) as f64 / SECOND as f64;
        }
    }
    f64::INFINITY
}

fn acted_for(world: &World) -> ShardSet {
    let mut all = ShardSet::default();
    for view in world.peers.iter().filter(|peer| peer.mind.is_some()).filter_map(|peer| peer.view.as_ref()) {
        all.insert_all(&view.acting);
    }
    all
}
