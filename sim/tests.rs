use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Scenario, run};

/// Every seed that once broke something.
fn kept_seeds() -> Vec<(Scenario, u64)> {
    let lines = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |index: usize| words[index].parse::<u64>().expect("a number");
            let scenario =
                Scenario::by_name(words[0], number(2)).unwrap_or_else(|| panic!("unknown scenario {}", words[0]));
            (scenario, number(1))
        })
        .collect()
}

#[test]
fn kept_seeds_stay_mended() {
    let (seeds, next) = (kept_seeds(), AtomicUsize::new(0));
    let runs = || {
        while let Some((scenario, seed)) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let report = run(*scenario, *seed, false);
            assert!(report.violations.is_empty(), "{scenario:?} {seed}: {:#?}", report.violations);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(runs);
        runs();
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let scenario = Scenario::Chaos { seconds: 60 };
    let once = format!("{:?}", run(scenario, 11, false));
    assert_eq!(once, format!("{:?}", run(scenario, 11, false)));
}

/// Sixteen peers joined within a third of a second: two of them acted for one shard for ever.
#[test]
fn a_mesh_that_starts_at_once_comes_to_rest_and_takes_over_in_time() {
    let figures = crate::scale::measure(20, 200, 0, 1, false);
    assert!(figures.start < 10.0, "{figures:?}");
    assert!(figures.detection.1 <= 4.0 && figures.takeover <= 1.5, "{figures:?}");
    assert!((0.8..1.2).contains(&figures.moved_over_share), "{figures:?}");
    assert!(figures.convergence < 60.0 && figures.violations.is_empty(), "{figures:?}");
}

/// Thirty peers lost thirteen in a hundred runs before a suspect was asked by who suspects it: see `deaths`.
#[test]
fn loss_kills_nobody_and_a_death_is_known_in_four_seconds() {
    for (peers, seconds, seeds) in [(7, 120, 4), (30, 60, 4), (100, 20, 1)] {
        for seed in 1..=seeds {
            let quiet = crate::deaths::count(peers, seconds, 0.05, seed);
            assert_eq!((quiet.deaths, quiet.blind), (0, 0), "seed {seed} of {peers} peers: {quiet:?}");
        }
    }
    for peers in [3, 10, 100] {
        let detection = crate::deaths::detection(peers, 3, 0.01, 1);
        assert_eq!(detection.deaths, 0, "{peers} peers: {detection}");
        assert!(detection.kills.iter().all(|[.., last]| *last <= 4.0), "{peers} peers: {detection}");
    }
}
