//! Runs scenarios over seeds: `promesh-sim [kills|rolling|chaos] [first seed] [count] [seconds]`.
//!
//! A single seed is told as it happens. Exit code 1 when an invariant broke; the failing seeds are printed, to be kept in `sim/seeds.txt`.

use promesh_sim::{Scenario, run};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, default: u64| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (first, count, seconds) = (number(1, 1), number(2, 20), number(3, 600));
    let scenario = match arguments.first().map(String::as_str) {
        None | Some("chaos") => Scenario::Chaos { seconds },
        Some("kills") => Scenario::KillsInTurn,
        Some("rolling") => Scenario::RollingRestart,
        Some(other) => {
            eprintln!("unknown scenario {other:?}: kills, rolling or chaos");
            std::process::exit(2);
        }
    };
    let mut failed = Vec::new();
    for seed in first..first + count {
        let report = run(scenario, seed, count == 1);
        println!(
            "seed {seed}: {} peers, {} targets, {} s, {} slots missed, {} split, {} violations",
            report.peers,
            report.sources,
            report.seconds,
            report.missed,
            report.split,
            report.violations.len()
        );
        for violation in report.violations.iter().take(5) {
            println!("    {violation}");
        }
        if !report.violations.is_empty() {
            failed.push(seed);
        }
    }
    if !failed.is_empty() {
        println!("failing seeds of {scenario:?}: {failed:?}");
        std::process::exit(1);
    }
}
