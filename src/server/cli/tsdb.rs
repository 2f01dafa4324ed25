//! `promesh tsdb …`: work on the blocks of a data directory or a snapshot, with promtool's output.
//!
//! Blocks are opened for reading alone: a running peer is not disturbed, and what is only in its log is not seen.

mod analyze;
mod bench;
mod create;
mod dump;
mod unblocked;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use promesh_model::Timestamp;
use promesh_tsdb::block::Block;
use promesh_tsdb::fs::RealFs;

use super::{Done, Failure};

pub(super) fn command() -> Command {
    let path = || Arg::new("path").value_name("DIR").default_value("data/").help("Data directory or snapshot");
    let human = || {
        let help = "Print sizes and instants for people";
        Arg::new("human-readable").short('r').long("human-readable").action(ArgAction::SetTrue).help(help)
    };
    let instant = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("MS").value_parser(value_parser!(i64)).allow_hyphen_values(true).help(help)
    };
    let selection = || {
        let matches = Arg::new("match").long("match").value_name("SELECTOR").action(ArgAction::Append);
        [
            instant("min-time", "First instant, in milliseconds since the epoch"),
            instant("max-time", "Last instant, in milliseconds since the epoch"),
            matches.help("Series selector. Can be repeated"),
        ]
    };
    let output = || Arg::new("output").value_name("DIR").default_value("data/").help("Where the blocks are made");
    let quiet =
        || Arg::new("quiet").short('q').long("quiet").action(ArgAction::SetTrue).help("Do not list the blocks made");
    let label = Arg::new("label").long("label").value_name("NAME=VALUE").action(ArgAction::Append);
    Command::new("tsdb")
        .about("Work on stored blocks")
        .subcommand_required(true)
        .subcommand(Command::new("list").about("List the blocks").args([human(), path()]))
        .subcommand(Command::new("dump").about("Print samples").args(selection()).arg(path()))
        .subcommand(
            Command::new("dump-openmetrics").about("Print samples as OpenMetrics").args(selection()).arg(path()),
        )
        .subcommand(
            Command::new("analyze").about("Show churn, cardinality and what takes room").args([
                Arg::new("limit")
                    .long("limit")
                    .value_parser(value_parser!(usize))
                    .default_value("20")
                    .help("Lines of each list"),
                path(),
                Arg::new("block").value_name("BLOCK").help("Which block; the last one without"),
            ]),
        )
        .subcommand(
            Command::new("create-blocks-from")
                .about("Make blocks of samples from elsewhere")
                .subcommand_required(true)
                .subcommand(Command::new("openmetrics").about("From a file in OpenMetrics, with timestamps").args([
                    human(),
                    quiet(),
                    label.help("Label of every series. Can be repeated"),
                    Arg::new("input").required(true).value_name("FILE").help("The file"),
                    output(),
                ]))
                .subcommand(
                    Command::new("rules").about("From recording rules over a server's data").args([
                        Arg::new("url")
                            .long("url")
                            .default_value("http://localhost:9090")
                            .help("HTTP address of the server"),
                        Arg::new("start").long("start").required(true).help("RFC 3339 or Unix seconds"),
                        Arg::new("end").long("end").help("RFC 3339 or Unix seconds; three hours ago without"),
                        Arg::new("output-dir")
                            .long("output-dir")
                            .default_value("data/")
                            .help("Where the blocks are made"),
                        Arg::new("eval-interval")
                            .long("eval-interval")
                            .default_value("60s")
                            .help("Between evaluations"),
                        Arg::new("files").value_name("FILE").required(true).num_args(1..).help("Rule files"),
                    ]),
                ),
        )
        .subcommand(
            Command::new("bench").about("Measure").subcommand_required(true).subcommand(
                Command::new("write").about("Measure writing samples").args([
                    Arg::new("out").long("out").default_value("benchout").help("Where to write"),
                    Arg::new("metrics")
                        .long("metrics")
                        .value_parser(value_parser!(usize))
                        .default_value("10000")
                        .help("Series"),
                    Arg::new("scrapes")
                        .long("scrapes")
                        .value_parser(value_parser!(usize))
                        .default_value("3000")
                        .help("Samples of each"),
                ]),
            ),
        )
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    let path = || PathBuf::from(matches.get_one::<String>("path").expect("an argument with a default"));
    match name {
        "list" => list(&path(), matches.get_flag("human-readable")),
        "dump" => dump::run(&path(), matches, false),
        "dump-openmetrics" => dump::run(&path(), matches, true),
        "analyze" => analyze::run(&path(), matches),
        "create-blocks-from" => create::run(matches),
        _ => bench::run(matches),
    }
}

/// The blocks of a folder, oldest first; damaged ones are told and left out.
fn open(path: &Path) -> Result<Vec<Arc<Block>>, Failure> {
    if !path.is_dir() {
        return Err(Failure::new(format!("{}: no such directory", path.display())));
    }
    let opened = promesh_tsdb::open_blocks_read_only(Arc::new(RealFs), path);
    let (blocks, aside) = opened.map_err(|error| Failure::new(error.to_string()))?;
    for block in aside {
        eprintln!("block {} cannot be read and is left out: {}", block.name, block.why);
    }
    Ok(blocks)
}

const COLUMNS: [&str; 8] =
    ["BLOCK ULID", "MIN TIME", "MAX TIME", "DURATION", "NUM SAMPLES", "NUM CHUNKS", "NUM SERIES", "SIZE"];

fn list(path: &Path, human: bool) -> Done {
    let blocks = open(path)?;
    let rows: Vec<[String; 8]> = blocks.iter().map(|block| row(block, human)).collect();
    print_rows(&rows);
    Ok(())
}

/// A block as one line of the list.
fn row(block: &Block, human: bool) -> [String; 8] {
    let meta = block.meta();
    let instant = |ms: i64| if human { human_time(ms) } else { ms.to_string() };
    let size = if human { human_bytes(block.bytes()) } else { format!("{}B", block.bytes()) };
    [
        meta.ulid.to_string(),
        instant(meta.min_time),
        instant(meta.max_time),
        go_duration(meta.max_time - meta.min_time),
        meta.stats.samples.to_string(),
        meta.stats.chunks.to_string(),
        meta.stats.series.to_string(),
        size,
    ]
}

fn print_rows(rows: &[[String; 8]]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.chain([COLUMNS[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; 8] = std::array::from_fn(width);
    let print = |cells: [&str; 8]| {
        let line: String = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        println!("{}", line.trim_end());
    };
    print(COLUMNS);
    for row in rows {
        print(std::array::from_fn(|column| row[column].as_str()));
    }
}

/// `2026-11-25 19:52:04 +0000 UTC`, as Go prints a time.
fn human_time(ms: i64) -> String {
    let text = Timestamp(ms.div_euclid(1000) * 1000).to_string();
    format!("{} +0000 UTC", text.trim_end_matches('Z').replace('T', " "))
}

fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            return format!("{value:.3}{unit}").replace(".000", "");
        }
        value /= 1024.0;
    }
    format!("{value:.3}PiB")
}

/// Go's `time.Duration.String` of milliseconds.
fn go_duration(ms: i64) -> String {
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let seconds = (ms % 60_000) as f64 / 1000.0;
    match (hours, minutes) {
        (0, 0) if ms < 1000 && ms > 0 => format!("{ms}ms"),
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests;
