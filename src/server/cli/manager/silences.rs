//! `promesh silences query|add|expire|import|update`.
//!
//! Source: alertmanager cli/silence_*.go.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use futures_util::StreamExt as _;
use promesh_alerting::SilenceId;
use promesh_alerting::api::{ApiTime, parse_rfc3339};
use promesh_client::Request;
use promesh_model::{MatchOp, Matcher, Timestamp, duration};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::format::{Silence, matcher};
use super::{ANSWER_BYTES_MAX, Common, Done, Failure, Server, done, with_common};
use crate::clock;

pub(super) fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let matchers = |help: &'static str| Arg::new("matchers").value_name("MATCHER").num_args(0..).help(help);
    let quiet = || Arg::new("quiet").long("quiet").short('q').action(ArgAction::SetTrue).help("Print ids only");
    let ids = || Arg::new("ids").value_name("ID").num_args(0..).help("Which");
    let query = || {
        [
            Arg::new("expired")
                .long("expired")
                .action(ArgAction::SetTrue)
                .help("Those that have ended instead of the others"),
            quiet(),
            text("created-by", "NAME", "Only those of this author"),
            text("id", "ID", "Only this one"),
            text("within", "DURATION", "Only those that end, or ended, within this span of now"),
            matchers("Only silences with such matchers"),
        ]
    };
    let times = || {
        [
            text("start", "TIME", "When it begins, RFC 3339"),
            text("end", "TIME", "When it ends, RFC 3339; stronger than the duration"),
            text("comment", "TEXT", "Why").short('c'),
        ]
    };
    let command = Command::new("silences")
        .visible_alias("silence")
        .about("Look at silences; add, change, end and import them")
        .args_conflicts_with_subcommands(true)
        .args(query())
        .subcommand(Command::new("query").about("List silences; what `silences` alone does").args(query()).after_help(
            "Examples:\n  promesh silences query foo node=bar\n  promesh silences query --within=8h           # about to \
             end\n  promesh silences query --within=2h --expired # ended in the last two hours\n  promesh silences \
             query -o json > silences.json",
        ))
        .subcommand(
            Command::new("add")
                .about("Silence alerts that match; prints the silence's id")
                .args([
                    text("author", "NAME", "Who wants it; by default the user").short('a'),
                    text("duration", "DURATION", "How long it lasts [default: 1h]").short('d'),
                    text("require-comment", "BOOL", "Whether a comment must be given [default: true]")
                        .num_args(0..=1)
                        .require_equals(true)
                        .default_missing_value("true")
                        .hide(true),
                    Arg::new("no-require-comment").long("no-require-comment").action(ArgAction::SetTrue).hide(true),
                    text("annotation", "NAME=VALUE", "A further fact. Can be repeated").action(ArgAction::Append),
                    matchers("What it silences: all of these must match"),
                ])
                .args(times())
                .after_help(
                    "Examples:\n  promesh silences add alertname=foo node=bar --comment='new disk on its way'\n  \
                     promesh silences add foo 'instance=~web-.*' -d 2h -c deploy",
                ),
        )
        .subcommand(Command::new("expire").about("End silences now").arg(ids()).after_help(
            "Example:\n  promesh silences expire $(promesh silences query -q alertname=foo)",
        ))
        .subcommand(
            Command::new("update")
                .about("Change silences; prints them as they are then")
                .args([quiet(), text("duration", "DURATION", "How long it lasts, from its beginning").short('d'), ids()])
                .args(times())
                .after_help("Example:\n  promesh silences update -d 4h 6f1c3b1e-0c52-4e4f-8a50-6f1d6cbb6ad2"),
        )
        .subcommand(
            Command::new("import")
                .about("Add silences from a file of JSON, or standard input")
                .args([
                    Arg::new("force")
                        .long("force")
                        .short('f')
                        .action(ArgAction::SetTrue)
                        .help("Add them anew also where they exist"),
                    text("worker", "COUNT", "How many at once")
                        .short('w')
                        .value_parser(clap::value_parser!(u16).range(1..))
                        .default_value("8"),
                    Arg::new("file").value_name("FILE").help("What `silences query -o json` printed"),
                ])
                .after_help("Example:\n  promesh silences query -o json > silences.json; promesh silences import silences.json"),
        );
    with_common(command)
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    match matches.subcommand() {
        Some(("add", matches)) => add(matches),
        Some(("expire", matches)) => expire(matches),
        Some(("update", matches)) => update(matches),
        Some(("import", matches)) => import(matches),
        Some((_, matches)) => query(matches),
        None => query(matches),
    }
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.get_one::<String>(name).map(String::as_str).filter(|text| !text.is_empty())
}

fn instant(flag: &str, text: &str) -> Result<Timestamp, Failure> {
    parse_rfc3339(text).ok_or_else(|| Failure::new(format!("--{flag}: {text:?} is not an RFC 3339 time")))
}

fn query(matches: &ArgMatches) -> Done {
    let common = Common::of(matches)?;
    let filters: Vec<String> = common.matchers(matches, "matchers")?.iter().map(matcher).collect();
    let pairs: Vec<(&str, &str)> = filters.iter().map(|filter| ("filter", filter.as_str())).collect();
    let within = match text(matches, "within") {
        Some(span) => {
            duration::parse_go(span).map_err(|error| Failure::usage(format!("--within: {error}")))? / 1_000_000
        }
        None => 0,
    };
    let body = common.server()?.get("/silences", &pairs)?;
    let now = clock::wall();
    let expired = matches.get_flag("expired");
    let wanted = |silence: &Silence| {
        let ends = parse_rfc3339(&silence.ends_at).unwrap_or(now);
        let in_time = match (expired, within > 0) {
            (false, _) if ends < now => false,
            (true, _) if ends > now => false,
            (_, false) => true,
            (false, true) => ends.0 <= now.0.saturating_add(within),
            (true, true) => ends.0 >= now.0.saturating_sub(within),
        };
        in_time
            && text(matches, "created-by").is_none_or(|author| silence.created_by == author)
            && text(matches, "id").is_none_or(|id| silence.id == id)
    };
    let all: Vec<Box<RawValue>> = read(&body)?;
    let mut shown = Vec::new();
    for raw in all {
        let silence: Silence = read(raw.get().as_bytes())?;
        if wanted(&silence) {
            shown.push((silence, raw));
        }
    }
    print_all(&common, matches.get_flag("quiet"), shown)
}

fn print_all(common: &Common, quiet: bool, silences: Vec<(Silence, Box<RawValue>)>) -> Done {
    if quiet {
        silences.iter().for_each(|(silence, _)| println!("{}", silence.id));
    } else {
        print!("{}", common.form.silences(silences)?);
    }
    Ok(())
}

fn read<'a, T: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::new(format!("the answer is not as expected: {error}")))
}

/// A matcher as the API takes it.
fn posted(matcher: &Matcher) -> Value {
    let regexp = matches!(matcher.op, MatchOp::Regex | MatchOp::NotRegex);
    json!({"name": matcher.name, "value": matcher.value, "isRegex": regexp, "isEqual": !matcher.op.is_negative()})
}

fn add(matches: &ArgMatches) -> Done {
    let common = Common::of(matches)?;
    let matchers = common.matchers(matches, "matchers")?;
    if matchers.is_empty() {
        return Err(Failure::new("no matchers specified"));
    }
    let starts_at = match text(matches, "start") {
        Some(start) => instant("start", start)?,
        None => clock::wall(),
    };
    let ends_at = match text(matches, "end") {
        Some(end) => instant("end", end)?,
        None => starts_at.after(span(text(matches, "duration").unwrap_or("1h"))?),
    };
    if starts_at > ends_at {
        return Err(Failure::new("silence cannot start after it ends"));
    }
    let comment = text(matches, "comment").unwrap_or_default();
    let required = text(matches, "require-comment").or(common.files.get("require-comment").map(String::as_str));
    let required = !matches.get_flag("no-require-comment") && required.is_none_or(|said| said == "true");
    if required && comment.is_empty() {
        return Err(Failure::new("comment required by config"));
    }
    let annotations: BTreeMap<String, String> = common.pairs(matches, "annotation", "annotations")?;
    let author = text(matches, "author").map(str::to_owned).or_else(|| common.files.get("author").cloned());
    let mut silence = json!({
        "matchers": matchers.iter().map(posted).collect::<Vec<_>>(),
        "startsAt": ApiTime(starts_at),
        "endsAt": ApiTime(ends_at),
        "createdBy": author.unwrap_or_else(user_name),
        "comment": comment,
    });
    if !annotations.is_empty() {
        silence["annotations"] = json!(annotations);
    }
    println!("{}", put(&common.server()?, &silence)?);
    Ok(())
}

/// A span in Prometheus' notation, longer than nothing.
fn span(text: &str) -> Result<Duration, Failure> {
    match duration::parse(text) {
        Ok(span) if span.is_zero() => Err(Failure::new("silence duration must be greater than 0")),
        Ok(span) => Ok(span),
        Err(error) => Err(Failure::new(format!("--duration: {error}"))),
    }
}

/// Writes a silence; gives its id.
fn put(server: &Server, silence: &Value) -> Result<String, Failure> {
    id_of(&server.post("/silences", silence.to_string())?)
}

fn id_of(body: &[u8]) -> Result<String, Failure> {
    let answer: Value = read(body)?;
    let id = answer["silenceID"].as_str();
    id.map(str::to_owned).ok_or_else(|| Failure::new(format!("the answer names no silence: {answer}")))
}

/// Who runs this, as the system calls him.
fn user_name() -> String {
    let id = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    named.or_else(|| std::env::var("USER").ok()).unwrap_or_default()
}

fn expire(matches: &ArgMatches) -> Done {
    let common = Common::of(matches)?;
    let server = common.server()?;
    for id in ids(matches)? {
        let mut request = Request::get(server.url(&format!("/silence/{id}"), &[]));
        request.method = http::Method::DELETE;
        server.ask(request)?;
    }
    Ok(())
}

fn ids(matches: &ArgMatches) -> Result<Vec<SilenceId>, Failure> {
    let ids = matches.get_many::<String>("ids").into_iter().flatten();
    let ids: Vec<SilenceId> = ids
        .map(|id| id.parse().map_err(|_| Failure::new(format!("{id:?} is not the id of a silence"))))
        .collect::<Result<_, _>>()?;
    if ids.is_empty() { Err(Failure::new("no silence IDs specified")) } else { Ok(ids) }
}

fn update(matches: &ArgMatches) -> Done {
    let common = Common::of(matches)?;
    let server = common.server()?;
    let mut changed = Vec::new();
    for id in ids(matches)? {
        let mut silence: Value = read(&server.get(&format!("/silence/{id}"), &[])?)?;
        if let Some(start) = text(matches, "start") {
            silence["startsAt"] = json!(ApiTime(instant("start", start)?));
        }
        let starts_at = instant("start", silence["startsAt"].as_str().unwrap_or_default())?;
        if let Some(end) = text(matches, "end") {
            silence["endsAt"] = json!(ApiTime(instant("end", end)?));
        } else if let Some(length) = text(matches, "duration") {
            silence["endsAt"] = json!(ApiTime(starts_at.after(span(length)?)));
        }
        if starts_at > instant("end", silence["endsAt"].as_str().unwrap_or_default())? {
            return Err(Failure::new("silence cannot start after it ends"));
        }
        if let Some(comment) = text(matches, "comment") {
            silence["comment"] = comment.into();
        }
        silence["id"] = put(&server, &postable(silence.clone(), false))?.into();
        let raw = RawValue::from_string(silence.to_string()).expect("a JSON value prints as JSON");
        changed.push((read(raw.get().as_bytes())?, raw));
    }
    print_all(&common, matches.get_flag("quiet"), changed)
}

/// What a listed silence has beside what the API takes.
fn postable(mut silence: Value, anew: bool) -> Value {
    if let Some(fields) = silence.as_object_mut() {
        fields.retain(|name, _| !(matches!(name.as_str(), "status" | "updatedAt") || anew && name == "id"));
    }
    silence
}

fn import(matches: &ArgMatches) -> Done {
    let common = Common::of(matches)?;
    let bad =
        |error: &dyn std::fmt::Display| Failure::new(format!("couldn't unmarshal input data, is it JSON?: {error}"));
    let mut content = Vec::new();
    match text(matches, "file") {
        Some(file) => content = std::fs::read(file).map_err(|error| Failure::new(format!("{file}: {error}")))?,
        None => drop(std::io::stdin().read_to_end(&mut content).map_err(|error| Failure::new(error.to_string()))?),
    }
    let silences: Vec<Value> = serde_json::from_slice(&content).map_err(|error| bad(&error))?;
    let (count, force) = (silences.len(), matches.get_flag("force"));
    let workers = usize::from(*matches.get_one::<u16>("worker").expect("it has a default"));
    let server = common.server()?;
    let all = futures_util::stream::iter(silences.into_iter().map(|silence| {
        let server = &server;
        async move {
            let id = silence["id"].as_str().unwrap_or_default().to_owned();
            match import_one(server, postable(silence, force)).await {
                Ok(new) => {
                    println!("{new}");
                    0
                }
                Err(why) => {
                    eprintln!("Error adding silence id='{id}': {why}");
                    1
                }
            }
        }
    }));
    let failed: usize =
        server.runtime.block_on(all.buffer_unordered(workers).fold(0, |sum, one| async move { sum + one }));
    if failed > 0 {
        return Err(Failure::new(format!("couldn't import {failed} out of {count} silences")));
    }
    Ok(())
}

/// Under its own id if the server knows it, else anew.
async fn import_one(server: &Server, mut silence: Value) -> Result<String, String> {
    loop {
        let request = Request::post(server.url("/silences", &[]), "application/json", silence.to_string());
        let answer = server.client.fetch(request, server.timeout, ANSWER_BYTES_MAX).await;
        let (status, _, body) = answer.map_err(|error| error.to_string())?;
        let named = silence.get("id").and_then(Value::as_str).is_some_and(|id| !id.is_empty());
        if status == http::StatusCode::NOT_FOUND && named {
            silence = postable(silence, true);
            continue;
        }
        return id_of(&done(status, body)?).map_err(|failure| failure.message);
    }
}
