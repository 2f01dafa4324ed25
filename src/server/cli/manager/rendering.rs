//! `promesh template render`: a template of notifications, tried out.
//!
//! Source: alertmanager cli/template_render.go.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use promesh_config::Source as _;
use promesh_model::Timestamp;
use promesh_template::clock::{Time, parse};
use promesh_template::value::{ListKind, MapKind};
use promesh_template::{Environment, Limits, Template, Value};
use serde::Deserialize;

use super::{Done, Failure};
use crate::clock;
use crate::files::Disk;

pub(super) fn command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("template").about("Try out templates of notifications").subcommand_required(true).subcommand(
        Command::new("render")
            .about("Render a text with the templates of files")
            .args([
                text("template.glob", "PATTERN", "Template files. Can be repeated")
                    .required(true)
                    .action(ArgAction::Append),
                text("template.text", "TEXT", "What to render").required(true),
                text("template.type", "TYPE", "Whether values are escaped as in HTML")
                    .value_parser(["text", "html"])
                    .default_value("text"),
                text("template.data", "FILE", "A notification's data as JSON; an example's by default"),
            ])
            .after_help(
                "Example:\n  promesh template render --template.glob='templates/*.tmpl' --template.text='{{ template \
                 \"slack.default.title\" . }}'",
            ),
    )
}

/// What templates see, as its JSON names it. Upper and lower case are the same to Go; here names are as Go prints them.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Data {
    receiver: String,
    status: String,
    alerts: Vec<Alert>,
    #[serde(rename = "notification_reason")]
    notification_reason: String,
    group_labels: Pairs,
    common_labels: Pairs,
    common_annotations: Pairs,
    route_labels: Pairs,
    #[serde(rename = "externalURL")]
    external_url: String,
}

type Pairs = BTreeMap<String, String>;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Alert {
    status: String,
    labels: Pairs,
    annotations: Pairs,
    starts_at: Option<String>,
    ends_at: Option<String>,
    #[serde(rename = "generatorURL")]
    generator_url: String,
    fingerprint: String,
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (_, matches) = matches.subcommand().expect("clap demands one");
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let mut template = Template::alertmanager();
    for pattern in matches.get_many::<String>("template.glob").expect("a required argument") {
        let found = Disk.glob(pattern).map_err(|error| Failure::new(format!("{pattern}: {error}")))?;
        for file in found {
            let content = std::fs::read_to_string(&file);
            let content = content.map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            template.add(&name, &content).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
        }
    }
    let now = clock::wall();
    let data = match text("template.data") {
        None => example(now),
        Some(file) => {
            let content = std::fs::read(file).map_err(|error| Failure::new(format!("{file}: {error}")))?;
            serde_json::from_slice(&content).map_err(|error| Failure::new(format!("{file}: {error}")))?
        }
    };
    let value = value_of(&data)?;
    let environment = Environment { external_url: &data.external_url, ..Environment::at(now) };
    let failed = |error: promesh_template::TemplateError| Failure::new(error.to_string());
    let wanted = template.with_text("", text("template.text").expect("a required argument")).map_err(failed)?;
    let rendered = match text("template.type") {
        Some("html") => wanted.render_html(&value, &environment, &Limits::default()),
        _ => wanted.render(&value, &environment, &Limits::default()),
    };
    print!("{}", rendered.map_err(failed)?);
    Ok(())
}

fn value_of(data: &Data) -> Result<Value, Failure> {
    let kv = |pairs: &Pairs| Value::map(MapKind::Kv, pairs);
    let instant = |text: &Option<String>| match text {
        None => Ok(Value::Time(Time::zero())),
        Some(text) => parse("2006-01-02T15:04:05.999999999Z07:00", text).map(Value::Time).map_err(Failure::new),
    };
    let alerts = data.alerts.iter().map(|alert| {
        let fields = vec![
            ("Status", "status", Value::text(&alert.status)),
            ("Labels", "labels", kv(&alert.labels)),
            ("Annotations", "annotations", kv(&alert.annotations)),
            ("StartsAt", "startsAt", instant(&alert.starts_at)?),
            ("EndsAt", "endsAt", instant(&alert.ends_at)?),
            ("GeneratorURL", "generatorURL", Value::text(&alert.generator_url)),
            ("Fingerprint", "fingerprint", Value::text(&alert.fingerprint)),
        ];
        Ok(Value::record("template.Alert", fields))
    });
    let alerts = alerts.collect::<Result<Vec<_>, Failure>>()?;
    let fields = vec![
        ("Receiver", "receiver", Value::text(&data.receiver)),
        ("Status", "status", Value::text(&data.status)),
        ("Alerts", "alerts", Value::list(ListKind::Alerts, alerts)),
        ("NotificationReason", "notification_reason", Value::text(&data.notification_reason)),
        ("GroupLabels", "groupLabels", kv(&data.group_labels)),
        ("CommonLabels", "commonLabels", kv(&data.common_labels)),
        ("CommonAnnotations", "commonAnnotations", kv(&data.common_annotations)),
        ("RouteLabels", "routeLabels", kv(&data.route_labels)),
        ("ExternalURL", "externalURL", Value::text(&data.external_url)),
    ];
    Ok(Value::record("template.Data", fields))
}

/// amtool's example: one alert that fires and one that ended.
fn example(now: Timestamp) -> Data {
    let pairs =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Pairs>();
    let common = |what: &str| {
        let pair = |n: usize| (format!("common{what}key{n}"), format!("common{what}value{n}"));
        [pair(1), pair(2)].into_iter().collect::<Pairs>()
    };
    let with = |own: Pairs, what: &str| own.into_iter().chain(common(what)).collect::<Pairs>();
    let before = |minutes: u64| Some(Time::from(now.before(Duration::from_secs(60 * minutes))).rfc3339());
    let alert = |status: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)], minutes: u64, name: &str| Alert {
        status: status.to_owned(),
        labels: with(pairs(labels), "label"),
        annotations: with(pairs(annotations), "annotation"),
        starts_at: before(minutes),
        ends_at: before(0),
        generator_url: "https://generatorurl.com".to_owned(),
        fingerprint: name.to_owned(),
    };
    Data {
        receiver: "receiver".to_owned(),
        status: "alertstatus".to_owned(),
        alerts: vec![
            alert(
                "firing",
                &[("label1", "value1"), ("label2", "value2"), ("instance", "foo.bar:1234")],
                &[("annotation1", "value1"), ("annotation2", "value2")],
                5,
                "fingerprint1",
            ),
            alert("resolved", &[("foo", "bar"), ("baz", "qux")], &[("aaa", "bbb"), ("ccc", "ddd")], 10, "fingerprint2"),
        ],
        group_labels: pairs(&[("grouplabelkey1", "grouplabelvalue1"), ("grouplabelkey2", "grouplabelvalue2")]),
        common_labels: common("label"),
        common_annotations: common("annotation"),
        external_url: "https://example.com".to_owned(),
        ..Data::default()
    }
}
