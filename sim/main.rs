//! Runs scenarios over seeds: `promesh-sim [scenario] [first seed] [count] [seconds]`.
//!
//! A single seed is told as it happens. Exit code 1 when an invariant broke; the failing seeds are printed, to be kept in `sim/seeds.txt`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use promesh_sim::{Report, Scenario, run};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, default: u64| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (first, count, seconds) = (number(1, 1), number(2, 20), number(3, 600));
    let name = arguments.first().map_or("chaos", String::as_str);
    let Some(scenario) = Scenario::by_name(name, seconds) else {
        eprintln!("unknown scenario {name:?}: one of {}", Scenario::NAMES.join(", "));
        std::process::exit(2);
    };
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let report = run(scenario, seed, count == 1);
                    print(seed, &report);
                    if !report.violations.is_empty() {
                        failed.lock().expect("printing does not panic").push(seed);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("printing does not panic");
    failed.sort_unstable();
    if !failed.is_empty() {
        println!("failing seeds of {scenario:?}: {failed:?}");
        std::process::exit(1);
    }
}

/// One piece of text a seed, so that threads do not mix their lines.
fn print(seed: u64, report: &Report) {
    let mut text = format!(
        "seed {seed}: {} peers, {} targets, {} s, {} slots missed, {} split, {} violations\n",
        report.peers,
        report.sources,
        report.seconds,
        report.missed,
        report.split,
        report.violations.len()
    );
    for violation in report.violations.iter().take(5) {
        text.push_str(&format!("    {violation}\n"));
    }
    print!("{text}");
}
