//! Runs scenarios over seeds: `promesh-sim [scenario] [first seed] [count] [seconds]`; measures how a mesh grows:
//! `promesh-sim scale`; counts false deaths: `promesh-sim deaths`; soaks: `promesh-sim soak [first seed] [count] [hours]`.
//!
//! A single seed is told as it happens. Exit code 1 when an invariant broke; the failing seeds are printed, to be kept in `sim/seeds.txt`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use promesh_sim::{Report, Scenario, deaths, run, scale};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, default: u64| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    let name = arguments.first().map_or("chaos", String::as_str);
    match name {
        "scale" => return scale(&arguments[1..]),
        "deaths" => return deaths(number(1, 1), number(2, 100), number(3, 600), number(4, 7) as usize, number(5, 50)),
        _ => {}
    }
    let (first, count, seconds) = (number(1, 1), number(2, 20), number(3, 600));
    // A soak is chaos by the hour.
    let (name, seconds) = if name == "soak" { ("chaos", number(3, 1) * 3600) } else { (name, seconds) };
    let Some(scenario) = Scenario::by_name(name, seconds) else {
        eprintln!("unknown scenario {name:?}: one of {}, soak, scale or deaths", Scenario::NAMES.join(", "));
        std::process::exit(2);
    };
    let mut slowest = Vec::new();
    let failed = Mutex::new(Vec::new());
    let times = Mutex::new(&mut slowest);
    over_seeds(first, count, |seed| {
        let began = cpu_seconds();
        let report = run(scenario, seed, count == 1);
        times.lock().expect("no holder panics").push((cpu_seconds() - began, seed));
        print(seed, &report);
        if !report.violations.is_empty() {
            failed.lock().expect("printing does not panic").push(seed);
        }
    });
    slowest.sort_by(|a, b| b.0.total_cmp(&a.0));
    let total: f64 = slowest.iter().map(|(seconds, _)| seconds).sum();
    let named: Vec<String> = slowest.iter().take(3).map(|(took, seed)| format!("{seed} ({took:.1} s)")).collect();
    println!("{count} seeds of {name} took {total:.1} CPU s; slowest: {}", named.join(", "));
    let mut failed = failed.into_inner().expect("printing does not panic");
    failed.sort_unstable();
    if !failed.is_empty() {
        println!("failing seeds of {scenario:?}: {failed:?}");
        std::process::exit(1);
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

/// What this thread has taken of a processor so far: a busy machine makes no seed slow.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
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
        println!("{figures}   ({:.0} CPU s)", cpu_seconds() - began);
        for violation in figures.violations.iter().take(3) {
            println!("    {violation}");
        }
        broken |= !figures.violations.is_empty();
    }
    std::process::exit(i32::from(broken));
}

/// `deaths [first seed] [count] [seconds] [peers] [loss in thousandths]`: living peers held for dead.
fn deaths(first: u64, count: u64, seconds: u64, peers: usize, thousandths: u64) {
    let total = AtomicU64::new(0);
    over_seeds(first, count, |seed| {
        let deaths = deaths::count(peers, seconds, thousandths as f64 / 1000.0, seed);
        total.fetch_add(deaths as u64, Ordering::Relaxed);
        if deaths > 0 {
            println!("seed {seed}: {deaths} false deaths");
        }
    });
    let total = total.into_inner();
    println!("{count} seeds of {peers} peers, {seconds} s, {thousandths}/1000 lost: {total} false deaths");
    std::process::exit(i32::from(total > 0));
}

/// One piece of text a seed, so that threads do not mix their lines.
fn print(seed: u64, report: &Report) {
    let mut text = format!(
        "seed {seed}: {} peers, {} targets, {} s, {} slots missed, {} split, {} told, {} excused, {} violations\n",
        report.peers,
        report.sources,
        report.seconds,
        report.missed,
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
