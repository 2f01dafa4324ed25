//! `promesh query …`: promtool's queries, with its output.

mod analyze;

use clap::{Arg, ArgMatches, Command};
use promesh_model::{Labels, duration};
use serde_json::Value;

use super::{Done, Failure, http};
use crate::clock;

/// Points of a range when no step is given.
const POINTS_DEFAULT: f64 = 250.0;

pub(super) fn command() -> Command {
    let server = || Arg::new("server").required(true).help("HTTP address of a peer or of a Prometheus");
    let expression = || Arg::new("expression").required(true).help("PromQL expression");
    let output = || {
        let formats = ["promql", "json"];
        Arg::new("format")
            .short('o')
            .long("format")
            .value_parser(formats)
            .default_value("promql")
            .help("How to print it")
    };
    let instant = |name: &'static str| Arg::new(name).long(name).value_name("TIME").help("RFC 3339 or Unix seconds");
    let step = Arg::new("step").long("step").value_name("DURATION").help("Step between points");
    let matches = || {
        let many = clap::ArgAction::Append;
        Arg::new("match").long("match").value_name("SELECTOR").action(many).help("Series selector. Can be repeated")
    };
    let name = Arg::new("name").required(true).help("Name of the label");
    Command::new("query")
        .about("Run queries against a peer")
        .subcommand_required(true)
        .subcommand(Command::new("instant").about("Run an instant query").args([
            output(),
            server(),
            expression(),
            instant("time"),
        ]))
        .subcommand(
            Command::new("range").about("Run a range query; the last five minutes if not said otherwise").args([
                output(),
                server(),
                expression(),
                instant("start"),
                instant("end"),
                step,
            ]),
        )
        .subcommand(Command::new("series").about("List series").args([
            server(),
            matches().required(true),
            instant("start"),
            instant("end"),
        ]))
        .subcommand(Command::new("analyze").about("Show how many buckets of histograms are in use").args([
            Arg::new("server").long("server").value_name("URL").required(true).help("HTTP address of a peer"),
            Arg::new("type").long("type").required(true).help("Kind of metric: histogram"),
            Arg::new("duration").long("duration").default_value("1h").help("How far back to look"),
            instant("time"),
            matches().required(true),
        ]))
        .subcommand(Command::new("labels").about("List the values of a label").args([
            server(),
            name,
            matches(),
            instant("start"),
            instant("end"),
        ]))
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    if name == "analyze" {
        return analyze::run(matches);
    }
    if matches!(name, "series" | "labels") {
        return list(name, matches);
    }
    let text = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
    let required = |name: &str| text(name).expect("a required argument or one with a default");
    let mut query = vec![("query", required("expression"))];
    let path = if name == "instant" {
        query.extend(text("time").map(|time| ("time", time)));
        "/api/v1/query"
    } else {
        query.extend(range(text("start"), text("end"), text("step"))?);
        "/api/v1/query_range"
    };
    let answer = http::get(&required("server"), path, &query)?;
    for note in &answer.notes {
        eprintln!("{note}");
    }
    if required("format") == "json" {
        println!("{}", answer.data["result"]);
    } else {
        print!("{}", promql(&answer.data));
    }
    Ok(())
}

/// `series` and `labels`: one line each.
fn list(command: &str, matches: &ArgMatches) -> Done {
    let text = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
    let selectors = matches.get_many::<String>("match").into_iter().flatten();
    let mut query: Vec<_> = selectors.map(|selector| ("match[]", selector.clone())).collect();
    query.extend(text("start").map(|start| ("start", start)));
    query.extend(text("end").map(|end| ("end", end)));
    let path = match text("name") {
        Some(name) if command == "labels" => format!("/api/v1/label/{name}/values"),
        _ => "/api/v1/series".to_owned(),
    };
    let answer = http::get(&text("server").expect("a required argument"), &path, &query)?;
    for note in &answer.notes {
        eprintln!("{note}");
    }
    for item in answer.data.as_array().into_iter().flatten() {
        match item {
            Value::String(value) => println!("{value}"),
            series => println!("{}", labels(series).as_metric()),
        }
    }
    Ok(())
}

fn labels(object: &Value) -> Labels {
    serde_json::from_value(object.clone()).unwrap_or_default()
}

fn range(
    start: Option<String>,
    end: Option<String>,
    step: Option<String>,
) -> Result<[(&'static str, String); 3], Failure> {
    let seconds = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<f64>().ok());
    let now = clock::wall().as_secs_f64();
    let step = match step {
        Some(text) => duration::parse(&text).map_err(|error| Failure::usage(format!("--step: {error}")))?.as_secs_f64(),
        None => {
            let end = seconds(&end).unwrap_or(now);
            ((end - seconds(&start).unwrap_or(end - 300.0)) / POINTS_DEFAULT).floor().max(1.0)
        }
    };
    let start = start.unwrap_or_else(|| (seconds(&end).unwrap_or(now) - 300.0).to_string());
    Ok([("start", start), ("end", end.unwrap_or_else(|| now.to_string())), ("step", step.to_string())])
}

/// A result as promtool prints it.
pub(super) fn promql(data: &Value) -> String {
    let result = &data["result"];
    let point = |point: &Value| format!("{} @[{}]", plain(&point[1]), plain(&point[0]));
    let metric = |series: &Value| labels(&series["metric"]).as_metric().to_string();
    let series = result.as_array().into_iter().flatten();
    match data["resultType"].as_str() {
        Some("scalar") => format!("scalar: {}\n", point(result)),
        Some("string") => format!("{}\n", plain(&result[1])),
        Some("vector") => series
            .map(|sample| {
                let value = if sample["value"].is_null() { &sample["histogram"] } else { &sample["value"] };
                format!("{} => {}\n", metric(sample), point(value))
            })
            .collect(),
        _ => series
            .map(|series| {
                let points = ["values", "histograms"].iter().flat_map(|field| series[*field].as_array()).flatten();
                let points: Vec<_> = points.map(point).collect();
                format!("{} =>\n{}\n", metric(series), points.join("\n"))
            })
            .collect(),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
