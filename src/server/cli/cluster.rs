//! `promesh cluster …`: the mesh as a peer sees it, and its secret.

mod top;

use clap::{Arg, ArgMatches, Command};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::{Done, Failure, http, url_argument};

fn output_argument() -> Arg {
    let help = "How to print it";
    Arg::new("output").short('o').long("output").value_parser(["table", "json"]).default_value("table").help(help)
}

/// Whether it is to be printed for programs.
fn wants_json(matches: &ArgMatches) -> bool {
    matches.get_one::<String>("output").is_some_and(|output| output == "json")
}

/// What the peer that is asked says of the mesh.
fn asked(matches: &ArgMatches) -> Result<Value, Failure> {
    let url = matches.get_one::<String>("url").expect("it has a default");
    Ok(http::get(url, "/api/v1/cluster", &[])?.data)
}

pub(super) fn command() -> Command {
    Command::new("cluster")
        .about("Look at the mesh; make its secret")
        .subcommand_required(true)
        .subcommand(Command::new("status").about("Print the members").args([url_argument(), output_argument()]))
        .subcommand(
            Command::new("capacity").about("Print what the mesh can lose").args([url_argument(), output_argument()]),
        )
        .subcommand(
            Command::new("top").about("Show the members as they change, until interrupted").args([
                url_argument(),
                Arg::new("interval").short('n').long("interval").default_value("1s").help("How often"),
                Arg::new("count")
                    .long("count")
                    .value_parser(clap::value_parser!(u64))
                    .default_value("0")
                    .help("How many times; 0 for ever"),
            ]),
        )
        .subcommand(
            Command::new("config")
                .about("Compare the configurations of the peers")
                .subcommand_required(true)
                .subcommand(
                    Command::new("diff")
                        .about("Print what peers have otherwise than the mesh runs it; exit code 1 if anything")
                        .args([url_argument(), output_argument()]),
                ),
        )
        .subcommand(order("leave", "Have a peer give its shards away and stop", Some(false)))
        .subcommand(order("drain", "Have a peer give its shards away and stay; its data is served on", Some(false)))
        .subcommand(order("undrain", "Have a drained peer take its share again", Some(false)))
        .subcommand(order("remove", "Have all peers forget one that is down and will not come back", Some(true)))
        .subcommand(order("snapshot", "Have every peer take a snapshot; prints their names", None))
        .subcommand(order("rebalance", "Move sealed history to the peers that rank for it", None))
        .subcommand(Command::new("secret").about("Print a new secret for --cluster.secret-file"))
}

/// A command that a peer carries out. `peer`: whether it must, or may, be told whom it concerns.
fn order(name: &'static str, about: &'static str, peer: Option<bool>) -> Command {
    let command = Command::new(name).about(about).args([url_argument(), output_argument()]);
    match peer {
        None => command,
        Some(required) => command.arg(
            Arg::new("peer")
                .value_name("PEER")
                .required(required)
                .help("Its UUID or address; by default the peer that is asked"),
        ),
    }
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    match matches.subcommand() {
        Some(("secret", _)) => println!("{}", promesh_transport::generate_secret()),
        Some(("status", matches)) => {
            let cluster = asked(matches)?;
            if wants_json(matches) {
                println!("{cluster:#}");
            } else {
                println!("{}", status(&cluster));
            }
        }
        Some(("capacity", matches)) => {
            let cluster = asked(matches)?;
            if wants_json(matches) {
                println!("{:#}", cluster["capacity"]);
            } else {
                capacity(&cluster).iter().for_each(|line| println!("{line}"));
            }
        }
        Some(("top", matches)) => return top::run(matches),
        Some(("config", matches)) => {
            let (_, matches) = matches.subcommand().expect("clap demands it");
            return compare(&asked(matches)?, wants_json(matches));
        }
        Some((order, matches)) => {
            let url = matches.get_one::<String>("url").expect("it has a default");
            let peer = matches.try_get_one::<String>("peer").ok().flatten();
            let query: Vec<(&str, String)> = peer.map(|peer| ("peer", peer.clone())).into_iter().collect();
            let done = http::post(url, &format!("/-/cluster/{order}"), &query)?.data;
            if wants_json(matches) {
                println!("{done:#}");
                return Ok(());
            }
            for one in done.as_array().into_iter().flatten() {
                println!("{}: {}", text(&one["peer"]), text(&one["outcome"]));
            }
        }
        None => unreachable!("clap demands a command it"),
    }
    Ok(())
}

fn compare(cluster: &Value, as_json: bool) -> Done {
    let lines = differences(cluster);
    if as_json {
        let contests = &cluster["configContests"];
        println!("{:#}", if contests.is_array() { contests.clone() } else { Value::Array(Vec::new()) });
    } else {
        lines.iter().for_each(|line| println!("{line}"));
    }
    match lines.len() {
        0 => {
            if !as_json {
                println!("all ready peers have the same configuration");
            }
            Ok(())
        }
        1 => Err(Failure::new("the configurations differ in 1 place")),
        count => Err(Failure::new(format!("the configurations differ in {count} places"))),
    }
}

/// A line for each piece of the configuration that not all ready peers have alike.
pub(super) fn differences(cluster: &Value) -> Vec<String> {
    let name = |id: &Value| {
        let members = cluster["members"].as_array().into_iter().flatten();
        let found = members.into_iter().find(|member| member["id"] == *id);
        found.map_or_else(|| text(id), |member| format!("{} ({})", text(&member["name"]), text(&member["address"])))
    };
    let line = |contest: &Value| {
        let peers =
            |field: &str| -> Vec<String> { contest[field].as_array().into_iter().flatten().map(name).collect() };
        let votes = text(&contest["votes"]);
        let runs = if contest["present"] == true { "runs the version of" } else { "runs without it, as do" };
        let mut line = format!("{}: the mesh {runs} {votes} ready peers", text(&contest["piece"]));
        for (what, peers) in [("another version on", peers("differentOn")), ("absent on", peers("absentOn"))] {
            if !peers.is_empty() {
                line.push_str(&format!("; {what} {}", peers.join(", ")));
            }
        }
        line
    };
    cluster["configContests"].as_array().into_iter().flatten().map(line).collect()
}

/// The mesh as a table with a line of totals above.
pub(super) fn status(cluster: &Value) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "", "NAME", "ADDRESS", "ZONE", "STATE", "SINCE", "VERSION", "RTT", "OFFSET", "OWNED", "HELD", "TARGETS",
        "SERIES", "LAG",
    ]);
    for member in cluster["members"].as_array().into_iter().flatten() {
        let mark = if member["id"] == cluster["self"] { "*" } else { "" };
        let seconds = |field: &str| member[field].as_f64().map_or("-".to_owned(), milliseconds);
        table.add_row([
            mark.to_owned(),
            text(&member["name"]),
            text(&member["address"]),
            text(&member["zone"]),
            text(&member["state"]),
            text(&member["since"]),
            text(&member["version"]),
            seconds("rttSeconds"),
            seconds("clockOffsetSeconds"),
            text(&member["shardsOwned"]),
            text(&member["shardsHeld"]),
            text(&member["targetsOwned"]),
            text(&member["series"]),
            seconds("replicationLagSeconds"),
        ]);
    }
    let copies = copies(cluster).map(|line| line + "\n").unwrap_or_default();
    format!("{}\n{copies}{}", totals(cluster), table.trim_fmt())
}

/// How far the copies of sealed history are, while there are any.
fn copies(cluster: &Value) -> Option<String> {
    let copies = &cluster["copies"];
    let windows = copies["windowsLeft"].as_u64().filter(|windows| *windows > 0)?;
    let (done, left) = (copies["bytesDone"].as_f64().unwrap_or(0.0), copies["bytesLeft"].as_f64().unwrap_or(0.0));
    let remaining = match copies["etaSeconds"].as_f64() {
        Some(seconds) if seconds > 0.0 => format!("about {seconds:.0} s and {:.1} MB left", left / 1e6),
        _ => "the first is under way".to_owned(),
    };
    let windows_done = text(&copies["windowsDone"]);
    Some(format!("copying history: {windows} windows to go, {windows_done} done ({:.1} MB); {remaining}", done / 1e6))
}

/// What can be lost, in words.
fn capacity(cluster: &Value) -> Vec<String> {
    let capacity = &cluster["capacity"];
    let count = |field: &str| capacity[field].as_u64().unwrap_or(0);
    let mut lines = vec![match count("peersMayBeLost") {
        0 => format!("of {} peers none may be lost: some shards have one copy only", count("peers")),
        1 => format!("of {} peers any one may be lost", count("peers")),
        many => format!("of {} peers any {many} may be lost at once", count("peers")),
    }];
    for zone in capacity["zones"].as_array().into_iter().flatten() {
        let name = if zone["zone"] == "" { "no zone".to_owned() } else { format!("zone {}", text(&zone["zone"])) };
        let verdict = match zone["mayBeLost"].as_bool() {
            Some(true) => "may be lost as a whole".to_owned(),
            _ => format!("may not: {} shards are nowhere else", text(&zone["shardsOnlyThere"])),
        };
        lines.push(format!("{name}, {} peers: {verdict}", text(&zone["peers"])));
    }
    if count("standingBack") > 0 {
        lines.push(format!("{} peers stand back: full, drained or with a wrong clock", count("standingBack")));
    }
    let history = cluster["copies"]["underReplicatedHistory"].as_u64().unwrap_or(0);
    if history > 0 {
        lines.push(format!("{history} shards of sealed windows have fewer copies than they should"));
    }
    lines
}

fn totals(cluster: &Value) -> String {
    let (shards, targets) = (&cluster["shards"], &cluster["targets"]);
    let split = if cluster["split"] == true { ", SPLIT" } else { "" };
    format!(
        "mesh {}, view {}, {} copies; shards {}, under-replicated {}, unowned {}; targets {}, unscraped {}; split slots {}{split}",
        text(&cluster["cluster"]),
        text(&cluster["view"]),
        text(&cluster["replicationFactor"]),
        text(&shards["total"]),
        text(&shards["underReplicated"]),
        text(&shards["unowned"]),
        text(&targets["total"]),
        text(&targets["unscraped"]),
        text(&cluster["splitSlots"]),
    )
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1}ms", seconds * 1000.0)
}
