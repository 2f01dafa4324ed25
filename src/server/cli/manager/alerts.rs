//! `promesh alerts query|add`.
//!
//! Source: alertmanager cli/alert_query.go, cli/alert_add.go.

use clap::{Arg, ArgAction, ArgMatches, Command};
use promesh_alerting::api::parse_rfc3339;
use serde_json::json;

use super::{Common, Done, Failure, with_common};

pub(super) fn command() -> Command {
    let query = || {
        let flag = |name: &'static str, short: char, help: &'static str| {
            Arg::new(name).long(name).short(short).action(ArgAction::SetTrue).help(help)
        };
        [
            flag("inhibited", 'i', "Show inhibited alerts"),
            flag("silenced", 's', "Show silenced alerts"),
            flag("active", 'a', "Show active alerts; the default if no other kind is named"),
            flag("unprocessed", 'u', "Show unprocessed alerts: there are none"),
            Arg::new("receiver").long("receiver").short('r').value_name("REGEXP").help("Only alerts of such receivers"),
            Arg::new("matchers").value_name("MATCHER").num_args(0..).help("Only alerts that match all of these"),
        ]
    };
    let instant = |name: &'static str, help: &'static str| Arg::new(name).long(name).value_name("TIME").help(help);
    let command = Command::new("alerts")
        .visible_alias("alert")
        .about("Look at alerts, or add one")
        .args_conflicts_with_subcommands(true)
        .args(query())
        .subcommand(
            Command::new("query").about("List alerts that match; what `alerts` alone does").args(query()).after_help(
                "Examples:\n  promesh alerts query alertname=foo node=bar\n  promesh alerts query foo node=bar         \
                 # a first word without operator is the alert's name\n  promesh alerts query 'alertname=~foo.*' -o extended\n  \
                 promesh alerts query --silenced --receiver='team-.*'",
            ),
        )
        .subcommand(
            Command::new("add")
                .about("Add an alert")
                .args([
                    Arg::new("generator-url").long("generator-url").value_name("URL").help("Where it comes from"),
                    instant("start", "When it starts, RFC 3339; now by default"),
                    instant("end", "When it ends, RFC 3339"),
                    Arg::new("annotation")
                        .long("annotation")
                        .value_name("NAME=VALUE")
                        .action(ArgAction::Append)
                        .help("An annotation. Can be repeated"),
                    Arg::new("labels").value_name("NAME=VALUE").num_args(0..).help("Its labels"),
                ])
                .after_help(
                    "Examples:\n  promesh alerts add alertname=foo node=bar\n  promesh alerts add foo node=bar \
                     --annotation=summary='it is full' --end=2026-01-01T00:00:00Z",
                ),
        );
    with_common(command)
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    match matches.subcommand() {
        Some(("add", matches)) => add(matches),
        Some((_, matches)) => query(matches),
        None => query(matches),
    }
}

fn query(matches: &ArgMatches) -> Done {
    let common = Common::of(matches)?;
    let flag = |name: &str| matches.get_flag(name);
    let kinds = ["inhibited", "silenced", "active", "unprocessed"];
    let none = !kinds.iter().any(|kind| flag(kind));
    let said = |kind: &str| if flag(kind) || (none && kind == "active") { "true" } else { "false" };
    let mut pairs: Vec<(&str, &str)> = kinds.iter().map(|kind| (*kind, said(kind))).collect();
    let filters: Vec<String> = common.matchers(matches, "matchers")?.iter().map(super::format::matcher).collect();
    pairs.extend(filters.iter().map(|filter| ("filter", filter.as_str())));
    if let Some(receiver) = matches.get_one::<String>("receiver").filter(|receiver| !receiver.is_empty()) {
        pairs.push(("receiver", receiver));
    }
    let body = common.server()?.get("/alerts", &pairs)?;
    print!("{}", common.form.alerts(&body)?);
    Ok(())
}

fn add(matches: &ArgMatches) -> Done {
    let common = Common::of(matches)?;
    let mut labels = std::collections::BTreeMap::new();
    for matcher in common.matchers(matches, "labels")? {
        super::add_pair(&mut labels, matcher, "labels")?;
    }
    let mut alert = json!({
        "labels": labels,
        "annotations": common.pairs(matches, "annotation", "annotations")?,
    });
    if let Some(url) = matches.get_one::<String>("generator-url") {
        alert["generatorURL"] = url.as_str().into();
    }
    for (flag, field) in [("start", "startsAt"), ("end", "endsAt")] {
        if let Some(text) = matches.get_one::<String>(flag) {
            parse_rfc3339(text).ok_or_else(|| Failure::new(format!("--{flag}: {text:?} is not an RFC 3339 time")))?;
            alert[field] = text.as_str().into();
        }
    }
    common.server()?.post("/alerts", json!([alert]).to_string())?;
    Ok(())
}
