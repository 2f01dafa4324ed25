//! `promesh cluster …`: the mesh as a peer sees it, and its secret.

use clap::{Arg, ArgMatches, Command};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use super::{Done, http, url_argument};

pub(super) fn command() -> Command {
    let output = Arg::new("output")
        .short('o')
        .long("output")
        .value_parser(["table", "json"])
        .default_value("table")
        .help("How to print it");
    Command::new("cluster")
        .about("Look at the mesh; make its secret")
        .subcommand_required(true)
        .subcommand(Command::new("status").about("Print the members").arg(url_argument()).arg(output))
        .subcommand(Command::new("secret").about("Print a new secret for --cluster.secret-file"))
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    match matches.subcommand() {
        Some(("secret", _)) => println!("{}", promesh_transport::generate_secret()),
        Some(("status", matches)) => {
            let text = |name: &str| matches.get_one::<String>(name).expect("arguments with defaults");
            let cluster = http::get(text("url"), "/api/v1/cluster", &[])?.data;
            if text("output") == "json" {
                println!("{cluster:#}");
            } else {
                println!("{}", status(&cluster));
            }
        }
        _ => unreachable!("clap demands a command and knows these only"),
    }
    Ok(())
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
    format!("{}\n{}", totals(cluster), table.trim_fmt())
}

fn totals(cluster: &Value) -> String {
    let (shards, targets) = (&cluster["shards"], &cluster["targets"]);
    let split = if cluster["split"] == true { ", SPLIT" } else { "" };
    format!(
        "mesh {}, view {}, {} copies; shards {}, under-replicated {}, unowned {}; targets {}, unscraped {}; conflicts {}{split}",
        text(&cluster["cluster"]),
        text(&cluster["view"]),
        text(&cluster["replicationFactor"]),
        text(&shards["total"]),
        text(&shards["underReplicated"]),
        text(&shards["unowned"]),
        text(&targets["total"]),
        text(&targets["unscraped"]),
        text(&cluster["conflicts"]),
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
