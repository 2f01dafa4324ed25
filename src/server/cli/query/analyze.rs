//! `promesh query analyze`: how many buckets of histograms are in use, with promtool's output.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use clap::ArgMatches;
use serde_json::Value;

use super::super::{Done, Failure, http};
use super::{labels, plain};
use crate::clock;

const HEADER: &str = "Bucket stats for each histogram series over time
------------------------------------------------
First the min, avg, and max number of populated buckets, followed by the total
number of buckets (only if different from the max number of populated buckets
which is typical for classic but not native histograms).
";
const TOTALS: &str = "Aggregated bucket stats
-----------------------
Each line shows min/avg/max over the series above.
";

/// Buckets of one histogram over time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Populated {
    min: usize,
    avg: f64,
    max: usize,
    total: usize,
}

impl Populated {
    /// Of how many buckets were populated at each instant.
    fn of(counts: &[usize], total: usize) -> Option<Populated> {
        let (min, max) = (*counts.iter().min()?, *counts.iter().max()?);
        Some(Populated { min, avg: counts.iter().sum::<usize>() as f64 / counts.len() as f64, max, total })
    }

    fn shown(&self) -> String {
        let all = format!("{}/{:.3}/{}", self.min, self.avg, self.max);
        if self.total == self.max { all } else { format!("{all}/{}", self.total) }
    }
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let required = |name: &str| text(name).expect("a required argument or one with a default");
    if required("type") != "histogram" {
        return Err(Failure::new(format!("analyze type is {}, must be 'histogram'", required("type"))));
    }
    let at = text("time").unwrap_or_else(|| clock::wall().as_secs_f64().to_string());
    let mut series = Vec::new();
    for selector in matches.get_many::<String>("match").into_iter().flatten() {
        let query = format!("{selector}[{}]", required("duration"));
        let answer = http::get(&required("server"), "/api/v1/query", &[("query", query), ("time", at.clone())])?;
        if answer.data["resultType"] != "matrix" {
            return Err(Failure::new(format!("{selector:?} is no selector of series")));
        }
        series.extend(answer.data["result"].as_array().cloned().unwrap_or_default());
    }
    print!("{}", report(&series));
    Ok(())
}

fn report(series: &[Value]) -> String {
    let native: Vec<(String, Populated)> = series.iter().filter_map(native).collect();
    let classic = classic(series);
    let mut out = format!("{HEADER}\n");
    for (kind, found) in [("native", &native), ("classic", &classic)] {
        for (name, populated) in found {
            let _ = writeln!(out, "- {name} ({kind}): {}", populated.shown());
        }
    }
    let _ = write!(out, "\n{TOTALS}");
    for (kind, found) in [("Native", native), ("Classic", classic)] {
        if !found.is_empty() {
            let all: Vec<Populated> = found.into_iter().map(|(_, populated)| populated).collect();
            let _ = write!(out, "\n{kind} histogram series ({} in total):\n{}", all.len(), spread(&all));
        }
    }
    out
}

/// Smallest, mean and largest of each figure; averages count as whole numbers, as promtool has them.
fn spread(all: &[Populated]) -> String {
    let line = |what: &str, of: fn(&Populated) -> usize| {
        let values: Vec<usize> = all.iter().map(of).collect();
        let mean = values.iter().sum::<usize>() as f64 / values.len() as f64;
        let (min, max) = (values.iter().min().unwrap_or(&0), values.iter().max().unwrap_or(&0));
        format!("- {what}: {min}/{mean:.3}/{max}\n")
    };
    let mut lines = line("min populated", |one| one.min);
    lines.push_str(&line("avg populated", |one| one.avg as usize));
    lines.push_str(&line("max populated", |one| one.max));
    if all.iter().any(|one| one.total != one.max) {
        lines.push_str(&line("total", |one| one.total));
    }
    lines
}

/// A series of native histograms; nothing for another, and for one with less than two samples.
fn native(series: &Value) -> Option<(String, Populated)> {
    let histograms = series["histograms"].as_array().filter(|all| all.len() > 1 && series["values"].is_null())?;
    let buckets = |sample: &Value| sample[1]["buckets"].as_array().cloned().unwrap_or_default();
    let bounds = |bucket: &Value| format!("{} {} {}", bucket[0], bucket[1], bucket[2]);
    let mut all = BTreeSet::new();
    let mut counts = Vec::new();
    for sample in histograms {
        let found = buckets(sample);
        all.extend(found.iter().map(bounds));
        counts.push(found.len());
    }
    Some((labels(&series["metric"]).as_metric().to_string(), Populated::of(&counts, all.len())?))
}

/// Series named `…_bucket`, those that differ in `le` alone as one histogram.
fn classic(series: &[Value]) -> Vec<(String, Populated)> {
    let mut histograms: BTreeMap<String, Vec<(f64, &Vec<Value>)>> = BTreeMap::new();
    for one in series {
        let all = labels(&one["metric"]);
        let named = all.metric_name().is_some_and(|name| name.ends_with("_bucket"));
        let bound = all.get("le").and_then(|bound| bound.trim_start_matches('+').parse::<f64>().ok());
        if let (true, Some(bound), Some(values)) = (named, bound, one["values"].as_array()) {
            let name = all.without(|name| name == "le").as_metric().to_string();
            histograms.entry(name).or_default().push((bound, values));
        }
    }
    let populated = |(name, mut buckets): (String, Vec<(f64, &Vec<Value>)>)| {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let instants = buckets.iter().map(|(_, values)| values.len()).min().filter(|count| *count > 1)?;
        let value = |values: &Vec<Value>, at: usize| plain(&values[at][1]).parse::<f64>().unwrap_or(f64::NAN);
        let at = |at: usize| {
            let mut before = 0.0;
            let grown = buckets.iter().filter(|(_, values)| {
                let count = value(values, at);
                let grown = count != before;
                before = count;
                grown
            });
            grown.count()
        };
        let counts: Vec<usize> = (0..instants).map(at).collect();
        Some((name, Populated::of(&counts, buckets.len())?))
    };
    histograms.into_iter().filter_map(populated).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn populated_buckets_are_counted_as_promtool_counts_them() {
        let bucket = |le: &str, counts: [u32; 3]| {
            let values: Vec<Value> = counts.iter().enumerate().map(|(at, c)| json!([at, c.to_string()])).collect();
            json!({"metric": {"__name__": "a_bucket", "le": le, "job": "x"}, "values": values})
        };
        let sample = |at: u32, buckets: Value| json!([at, {"count": "3", "sum": "1", "buckets": buckets}]);
        let native = json!({"metric": {"__name__": "n"}, "histograms": [
            sample(1, json!([[0, "1", "2", "3"]])),
            sample(2, json!([[0, "1", "2", "3"], [0, "2", "4", "1"]])),
        ]});
        let once = json!({"metric": {"__name__": "once"}, "histograms": [sample(1, json!([]))]});
        let plain = json!({"metric": {"__name__": "up"}, "values": [[1, "1"], [2, "1"]]});
        let all = [bucket("+Inf", [2, 3, 4]), bucket("1", [0, 1, 1]), bucket("2", [2, 2, 2]), native, once, plain];
        let expected = format!(
            "{HEADER}
- n (native): 1/1.500/2
- a_bucket{{job=\"x\"}} (classic): 1/2.333/3

{TOTALS}
Native histogram series (1 in total):
- min populated: 1/1.000/1
- avg populated: 1/1.000/1
- max populated: 2/2.000/2

Classic histogram series (1 in total):
- min populated: 1/1.000/1
- avg populated: 2/2.000/2
- max populated: 3/3.000/3
"
        );
        assert_eq!(report(&all), expected);
    }
}
