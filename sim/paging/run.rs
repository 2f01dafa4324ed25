//! A paging run: alerts, faults, peace, and what the receivers saw.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Paging, plan};
use crate::faults::Fault;
use crate::invariants::{at_most_one_notification, no_false_alert};
use crate::scenario::Report;
use crate::world::{MS, SECOND, World};

/// How long a healed mesh may take until everything is told: the longest unstated end, and two flushes.
const CONVERGENCE: u64 = 190 * SECOND;

/// Runs alerting under faults for so many seconds; evaluators stand still for up to so many ms at the worst time.
pub(crate) fn run(seconds: u64, evaluators_pause_ms: i64, seed: u64, verbose: bool) -> Report {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x9a6e);
    let peers = [1, 2, 3, 3, 3, 3, 4, 5, 5, 7][rng.random_range(0..10)];
    let (alerts, sources) = plan::alerts(seconds * SECOND, &mut rng);
    let mut world = World::new(peers, sources, 2, seed);
    world.verbose = verbose;
    world.paging = Some(Paging::new(&plan::config(&mut rng), alerts, peers));
    // Of one that is alone nobody else could tell the end.
    world.paging().evaluators_pause_ms = if peers > 1 { evaluators_pause_ms } else { 0 };
    let late = rng.random_bool(0.3);
    for peer in 0..peers {
        if late && peer > 0 && rng.random_bool(0.5) {
            let at = rng.random_range(5..100) * SECOND;
            world.plan(vec![(at, Fault::Start(peer))]);
        } else {
            world.now = peer as u64 * 100 * MS;
            world.start(peer);
        }
    }
    let (faults, paging) = if peers == 1 {
        plan::faults_alone(seconds * SECOND, &mut rng)
    } else {
        plan::faults(peers, seconds * SECOND, &mut rng)
    };
    world.plan(faults);
    world.plan_paging(paging);
    world.run_until(seconds * SECOND);
    world.paging().armed.clear();
    world.heal_all();
    let end = world.now + CONVERGENCE;
    world.run_until(end);
    if verbose {
        for peer in 0..peers {
            let now = world.clock(peer);
            if let Some(alerting) = world.alerting(peer) {
                println!("{peer}: {:?} {:?}", alerting.electorate(), alerting.snapshot());
                let _ = now;
            }
        }
    }
    let told = at_most_one_notification::violations(&world);
    let mut violations = told.violations;
    violations.extend(no_false_alert::violations(&world));
    Report {
        peers,
        sources: world.sources.len(),
        seconds: world.now / SECOND,
        notifications: told.notifications,
        excused: told.excused,
        violations,
        ..Report::default()
    }
}
