//! Runs scenarios over seeds: `promesh-sim [scenario] [first seed] [count] [seconds]`; measures how a mesh grows:
//! `promesh-sim scale`; counts false deaths: `promesh-sim deaths`, and tells how soon true ones are known: `promesh-sim
//! detection`; soaks: `promesh-sim soak [first seed] [count] [hours] [CPU seconds]`, which takes no further seed once so
//! many CPU seconds are spent, and ends with a report.
//!
//! A single seed is told as it happens. Exit code 1 when an invariant broke; the failing seeds are printed, to be kept in `sim/seeds.txt`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use promesh_sim::scale::{self, cpu_seconds, peak_mib};
use promesh_sim::{Report, Scenario, deaths, run};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, default: u64| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let name = arguments.first().map_or("chaos", String::as_str);
    match name {
        "scale" => return scale(&arguments[1..]),
        "deaths" => return deaths(number(1, 1), number(2, 100), number(3, 600), number(4, 7) as usize, number(5, 50)),
        "detection" => return detection(number(1, 1), number(2, 10), number(3, 10), number(4, 100), number(5, 10)),
        _ => {}
    }
    let (first, count, seconds) = (number(1, 1), number(2, 20), number(3, 600));
    let soaks = name == "soak";
    let (seconds, budget) = if soaks { (number(3, 1) * 3600, number(4, u64::MAX) as f64) } else { (seconds, f64::MAX) };
    let Some(scenario) = Scenario::by_name(name, seconds) else {
        eprintln!("unknown scenario {name:?}: one of {}, scale, deaths or detection", Scenario::NAMES.join(", "));
        std::process::exit(2);
    };
    let total = Mutex::new(Total::default());
    over_seeds(first, count, |seed| {
        if total.lock().expect("no holder panics").seconds() > budget {
            return;
        }
        let began = cpu_seconds();
        let report = run(scenario, seed, count == 1);
        print(seed, &report);
        total.lock().expect("no holder panics").add(seed, cpu_seconds() - began, report);
    });
    let total = total.into_inner().expect("no holder panics");
    println!("{}", total.text(name));
    let failed = total.failed();
    if !failed.is_empty() {
        println!("failing seeds of {scenario:?}: {failed:?}");
        std::process::exit(1);
    }
}

/// What all seeds came to.
#[derive(Default)]
struct Total(Vec<(u64, f64, Report)>);

impl Total {
    fn add(&mut self, seed: u64, took: f64, report: Report) {
        self.0.push((seed, took, report));
    }

    fn seconds(&self) -> f64 {
        self.0.iter().map(|(_, took, _)| took).sum()
    }

    fn failed(&self) -> Vec<u64> {
        let mut failed: Vec<u64> = self.0.iter().filter(|run| !run.2.violations.is_empty()).map(|run| run.0).collect();
        failed.sort_unstable();
        failed
    }

    /// How much was run, what broke, and which seeds took longest: with a fault that makes work they are where to look.
    fn text(&self, name: &str) -> String {
        let sum = |of: fn(&Report) -> u64| self.0.iter().map(|(_, _, report)| of(report)).sum::<u64>();
        let (simulated, spent) = (sum(|report| report.seconds), self.seconds());
        let mut slowest: Vec<(f64, u64)> = self.0.iter().map(|(seed, took, _)| (*took, *seed)).collect();
        slowest.sort_by(|a, b| b.0.total_cmp(&a.0));
        let reads = match sum(|report| report.reads as u64) {
            0 => String::new(),
            count => {
                let slowest = self.0.iter().map(|run| run.2.slowest_read).fold(0.0, f64::max);
                format!(", {count} reads, the slowest of {slowest:.2} s")
            }
        };
        let named: Vec<String> = slowest.iter().take(5).map(|(took, seed)| format!("{seed} ({took:.1} s)")).collect();
        format!(
            "{} seeds of {name}, {:.1} simulated hours in {spent:.0} CPU s ({:.0} times as fast as time): {} seeds failed, \
             {} slots missed, {} started twice, {} left with two batches{reads}; slowest: {}",
            self.0.len(),
            simulated as f64 / 3600.0,
            simulated as f64 / spent.max(0.001),
            self.failed().len(),
            sum(|report| report.missed as u64),
            sum(|report| report.twice as u64),
            sum(|report| report.split as u64),
            named.join(", ")
        )
    }
}

/// Runs seeds on all cores.
fn over_seeds(first: u64, count: u64, run: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    run(seed);
                }
            });
        }
    });
}

/// `scale [seconds] [peers …]`: the figures of meshes of growing size, a hundred targets a peer.
fn scale(arguments: &[String]) {
    let seconds = arguments.first().and_then(|text| text.parse().ok()).unwrap_or(600);
    let sizes: Vec<usize> = arguments.iter().skip(1).filter_map(|text| text.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![3, 10, 100, 1000] } else { sizes };
    println!("{}", scale::Figures::HEADER);
    let mut broken = false;
    for peers in sizes {
        let began = cpu_seconds();
        let figures = scale::measure(peers, peers * 100, seconds, 1, true);
        println!("{figures}   ({:.0} CPU s, {} MiB at most)", cpu_seconds() - began, peak_mib());
        for violation in figures.violations.iter().take(3) {
            println!("    {violation}");
        }
        broken |= !figures.violations.is_empty();
    }
    std::process::exit(i32::from(broken));
}

/// `deaths [first seed] [count] [seconds] [peers] [loss in thousandths]`: living peers held for dead, and what SWIM sends.
fn deaths(first: u64, count: u64, seconds: u64, peers: usize, thousandths: u64) {
    let all = Mutex::new(Vec::new());
    over_seeds(first, count, |seed| {
        let quiet = deaths::count(peers, seconds, thousandths as f64 / 1000.0, seed);
        if quiet.deaths > 0 || quiet.blind > 0 {
            println!("seed {seed}: {} false deaths, {} peers do not see all others", quiet.deaths, quiet.blind);
        }
        all.lock().expect("no holder panics").push(quiet);
    });
    let all = all.into_inner().expect("no holder panics");
    let mean = |of: fn(&deaths::Quiet) -> f64| all.iter().map(of).sum::<f64>() / all.len().max(1) as f64;
    let (deaths, blind) =
        (all.iter().map(|one| one.deaths).sum::<u64>(), all.iter().map(|one| one.blind).sum::<usize>());
    println!(
        "{count} seeds of {peers} peers, {seconds} s, {thousandths}/1000 lost: {deaths} false deaths, {blind} blind at the \
         end; a peer sends {:.1} datagrams, {:.0} bytes in them and {:.0} in exchanges a second",
        mean(|one| one.datagrams),
        mean(|one| one.datagram_bytes),
        mean(|one| one.exchange_bytes)
    );
    std::process::exit(i32::from(deaths > 0 || blind > 0));
}

/// `detection [first seed] [count] [kills a seed] [peers] [loss in thousandths]`: how soon the others know of a death.
/// Exit code 1 when one of them took longer than four seconds, or when somebody who lived was held for dead.
fn detection(first: u64, count: u64, kills: u64, peers: u64, thousandths: u64) {
    let all = Mutex::new(deaths::Detection::default());
    over_seeds(first, count, |seed| {
        let one = deaths::detection(peers as usize, kills as usize, thousandths as f64 / 1000.0, seed);
        if count <= 20 {
            println!("seed {seed}: {one}");
        }
        let mut all = all.lock().expect("no holder panics");
        all.deaths += one.deaths;
        all.kills.extend(one.kills);
    });
    let all = all.into_inner().expect("no holder panics");
    println!("{count} seeds of {peers} peers, {thousandths}/1000 lost: {all}");
    let late = all.kills.iter().any(|[.., last]| *last > 4.0);
    std::process::exit(i32::from(late || all.deaths > 0));
}

/// One piece of text a seed, so that threads do not mix their lines.
fn print(seed: u64, report: &Report) {
    let mut text = format!(
        "seed {seed}: {} peers, {} targets, {} s, {} slots missed, {} started twice, {} split, {} told, {} excused, {} violations\n",
        report.peers,
        report.sources,
        report.seconds,
        report.missed,
        report.twice,
        report.split,
        report.notifications,
        report.excused,
        report.violations.len()
    );
    for violation in report.violations.iter().take(5) {
        text.push_str(&format!("    {violation}\n"));
    }
    print!("{text}");
}
