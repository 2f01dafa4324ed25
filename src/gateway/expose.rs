//! All groups as one exposition: what the mesh scrapes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use promesh_model::Labels;
use promesh_model::labels::{METRIC_NAME, is_classic_label_name, is_classic_metric_name};
use promesh_model::value::format_float_g;

use crate::group::Group;
use crate::groups::Groups;
use crate::{PUSH_FAILURE_TIME, PUSH_TIME};

const PUSH_TIME_HELP: &str = "Last Unix time when changing this group in the Pushgateway succeeded.";
const PUSH_FAILURE_HELP: &str = "Last Unix time when changing this group in the Pushgateway failed.";

/// A family over all groups: type, help, samples.
#[derive(Default)]
struct Shown<'a> {
    kind: &'a str,
    help: &'a str,
    samples: Vec<(&'a Labels, u64)>,
}

impl Groups {
    /// Text format 0.0.4. Every sample names its `instance`, if only as empty, so that with `honor_labels` it gets none from
    /// the scrape.
    pub fn exposition(&self) -> String {
        let mut families: BTreeMap<&str, Shown<'_>> = BTreeMap::new();
        for group in self.iter() {
            for (name, stored) in &group.families {
                let shown = families.entry(name).or_default();
                if shown.samples.is_empty() {
                    (shown.kind, shown.help) = (&stored.family.kind, &stored.family.help);
                }
                shown.samples.extend(stored.family.samples.iter().map(|(labels, bits)| (labels, *bits)));
            }
        }
        let mut out = String::new();
        for (name, shown) in families {
            write_head(&mut out, name, shown.kind, shown.help);
            for (labels, bits) in shown.samples {
                write_sample(&mut out, labels.value(METRIC_NAME), labels, f64::from_bits(bits));
            }
        }
        self.expose_times(&mut out, (PUSH_FAILURE_TIME, PUSH_FAILURE_HELP), Group::failed_at);
        self.expose_times(&mut out, (PUSH_TIME, PUSH_TIME_HELP), Group::pushed_at);
        out
    }

    fn expose_times(&self, out: &mut String, (name, help): (&str, &str), time: fn(&Group) -> i64) {
        if self.iter().next().is_some() {
            write_head(out, name, "gauge", help);
        }
        for group in self.iter() {
            write_sample(out, name, &group.labels, time(group) as f64 / 1000.0);
        }
    }
}

fn write_head(out: &mut String, name: &str, kind: &str, help: &str) {
    let quoted = if is_classic_metric_name(name) { name.to_owned() } else { quote(name) };
    if !help.is_empty() {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(out, "# HELP {quoted} {help}");
    }
    // The text format has five types.
    let kind = if matches!(kind, "counter" | "gauge" | "histogram" | "summary") { kind } else { "untyped" };
    let _ = writeln!(out, "# TYPE {quoted} {kind}");
}

fn write_sample(out: &mut String, name: &str, labels: &Labels, value: f64) {
    let classic = is_classic_metric_name(name);
    if classic {
        out.push_str(name);
    }
    out.push('{');
    if !classic {
        out.push_str(&quote(name));
        out.push(',');
    }
    if labels.get("instance").is_none() {
        out.push_str("instance=\"\",");
    }
    for (name, value) in labels.iter().filter(|(name, _)| *name != METRIC_NAME) {
        let name = if is_classic_label_name(name) { name.to_owned() } else { quote(name) };
        let _ = write!(out, "{name}={},", quote(value));
    }
    // A comma at the end is allowed, and there is one label at least.
    out.pop();
    let _ = writeln!(out, "}} {}", format_float_g(value));
}

/// In quotes, with the text format's escapes: backslash, quote and line feed.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
