//! Making blocks of samples from elsewhere.
//!
//! A block spans two hours of the epoch, as the ones that a running server makes: they can be put beside its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use promesh_config::rules;
use promesh_model::{Labels, duration};
use promesh_textparse::{Event, OpenMetricsParser, Parser as _, RawLabels};
use promesh_tsdb::block::BlockMeta;
use promesh_tsdb::block::ulid::Ulid;
use promesh_tsdb::block::writer::BlockWriter;
use promesh_tsdb::fs::RealFs;
use promesh_tsdb::head::encode_chunks;
use promesh_tsdb::head::series::Value;

use super::super::progress::Progress;
use super::super::{Done, Failure, http};
use super::{print_rows, row};
use crate::clock;
use crate::files::Disk;

/// A block's span.
const SPAN_MS: i64 = 2 * 3600 * 1000;
/// Evaluations asked of a server at once.
const POINTS_MAX: i64 = 5_000;

/// Samples by window and series.
#[derive(Default)]
struct Windows(BTreeMap<i64, BTreeMap<Labels, Vec<(i64, f64)>>>);

impl Windows {
    fn push(&mut self, labels: &Labels, at: i64, value: f64) {
        let window = self.0.entry(at.div_euclid(SPAN_MS)).or_default();
        match window.get_mut(labels) {
            Some(samples) => samples.push((at, value)),
            None => drop(window.insert(labels.clone(), vec![(at, value)])),
        }
    }

    /// Writes a block for each window; their folders.
    fn write(self, output: &Path) -> Result<Vec<PathBuf>, Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", output.display()));
        std::fs::create_dir_all(output).map_err(failed)?;
        let mut made = Vec::new();
        let mut progress = Progress::new("blocks written", self.0.len() as u64);
        let seed = uuid::Uuid::new_v4().as_u128() as u64;
        for (number, (window, series)) in self.0.into_iter().enumerate() {
            let mut symbols: Vec<&str> =
                series.keys().flat_map(|labels| labels.iter()).flat_map(|(n, v)| [n, v]).collect();
            symbols.sort_unstable();
            symbols.dedup();
            let ulid = Ulid::new(clock::wall().ms(), seed, number as u64);
            let mut meta = BlockMeta {
                ulid,
                min_time: window * SPAN_MS,
                max_time: (window + 1) * SPAN_MS,
                ..BlockMeta::default()
            };
            meta.compaction.level = 1;
            meta.compaction.sources = vec![ulid];
            // The writer wants its own copy of the symbols' order; labels follow in rising order.
            let mut writer = BlockWriter::new(&RealFs, output, meta, symbols.iter().copied()).map_err(failed)?;
            for (labels, samples) in &series {
                let mut samples = samples.clone();
                samples.sort_by_key(|(at, _)| *at);
                samples.dedup_by_key(|(at, _)| *at);
                let values = samples.into_iter().map(|(at, value)| (at, Value::Float(value.to_bits())));
                writer.push(labels, &encode_chunks(values)).map_err(failed)?;
            }
            if let Some(meta) = writer.finish().map_err(failed)? {
                made.push(output.join(meta.ulid.to_string()));
            }
            progress.advance(1);
        }
        Ok(made)
    }
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    if name == "rules" { from_rules(matches) } else { from_open_metrics(matches) }
}

fn from_open_metrics(matches: &ArgMatches) -> Done {
    let text = |name: &str| matches.get_one::<String>(name).expect("a required argument or one with a default");
    let input = std::fs::read(text("input")).map_err(|error| Failure::new(format!("{}: {error}", text("input"))))?;
    let mut more = Vec::new();
    for label in matches.get_many::<String>("label").into_iter().flatten() {
        let pair = label.split_once('=');
        more.push(pair.ok_or_else(|| Failure::usage(format!("--label={label}: expected NAME=VALUE")))?);
    }
    let windows = read_open_metrics(&input, &more).map_err(Failure::new)?;
    let made = windows.write(Path::new(text("output")))?;
    if !matches.get_flag("quiet") {
        let open = |dir: &PathBuf| promesh_tsdb::block::Block::open(&RealFs, dir);
        let blocks: Result<Vec<_>, _> = made.iter().map(open).collect();
        let blocks = blocks.map_err(|error| Failure::new(error.to_string()))?;
        let rows: Vec<_> = blocks.iter().map(|block| row(block, matches.get_flag("human-readable"))).collect();
        print_rows(&rows);
    }
    Ok(())
}

fn read_open_metrics(input: &[u8], more: &[(&str, &str)]) -> Result<Windows, String> {
    let mut windows = Windows::default();
    let mut parser = OpenMetricsParser::new(input);
    let mut raw = RawLabels::default();
    let mut progress = Progress::new("bytes read", input.len() as u64);
    let mut samples = 0u64;
    loop {
        let sample = match parser.next(None).map_err(|error| error.to_string())? {
            None => return Ok(windows),
            Some(Event::Sample(sample)) => sample,
            Some(_) => continue,
        };
        raw.0.clear();
        parser.labels(&mut raw);
        let pairs = raw.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut labels = Labels::from_pairs(pairs).to_builder();
        for (name, value) in more {
            labels.set(name, value);
        }
        let labels = labels.build();
        let at = sample.timestamp.ok_or_else(|| format!("expected timestamp for series {labels}, got none"))?;
        windows.push(&labels, at, sample.value);
        samples += 1;
        if samples.is_multiple_of(100_000) {
            progress.set_note(format!("{samples} samples"));
        }
    }
}

fn from_rules(matches: &ArgMatches) -> Done {
    let text = |name: &str| matches.get_one::<String>(name);
    let required = |name: &str| text(name).expect("a required argument or one with a default").clone();
    let instant = |name: &str, text: &str| {
        promesh_api::parse_time(text).map_err(|error| Failure::usage(format!("--{name}: {error}")))
    };
    let start = instant("start", &required("start"))?.ms();
    let end = match text("end") {
        Some(text) => instant("end", text)?.ms(),
        None => clock::wall().ms() - 3 * 3600 * 1000,
    };
    if end <= start {
        return Err(Failure::usage("start time is not before end time"));
    }
    let interval = required("eval-interval");
    let interval = duration::parse(&interval).map_err(|error| Failure::usage(format!("--eval-interval: {error}")))?;
    let patterns: Vec<_> = matches.get_many::<String>("files").expect("a required argument").collect();
    let paths: Vec<_> = patterns.iter().map(|path| promesh_config::yaml::FilePath((*path).clone())).collect();
    let files = rules::load(&paths, Default::default(), &Disk).map_err(|error| Failure::new(error.to_string()))?;
    let groups: Vec<_> = files.iter().flat_map(|file| &file.groups).collect();
    let rules = groups.iter().map(|group| group.rules.len() as u64).sum();
    let mut progress = Progress::new("rules evaluated", rules);
    let mut windows = Windows::default();
    for group in groups {
        let step = if group.interval.is_zero() { interval } else { group.interval };
        let step_ms = promesh_model::time::ms_of(step).max(1);
        // Where a server would evaluate it.
        let first = start.div_euclid(step_ms) * step_ms;
        for rule in &group.rules {
            progress.advance(1);
            if rule.record.value.is_empty() {
                continue;
            }
            let mut from = first;
            while from <= end {
                let to = (from + step_ms * (POINTS_MAX - 1)).min(end);
                let query = [
                    ("query", rule.expr.value.clone()),
                    ("start", seconds(from)),
                    ("end", seconds(to)),
                    ("step", seconds(step_ms)),
                ];
                let answer = http::get(&required("url"), "/api/v1/query_range", &query)?;
                take(&answer.data["result"], rule, group, &mut windows);
                from = to + step_ms;
            }
        }
    }
    let made = windows.write(Path::new(&required("output-dir")))?;
    println!("{} blocks made", made.len());
    Ok(())
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000))
}

fn take(result: &serde_json::Value, rule: &rules::Rule, group: &rules::RuleGroup, windows: &mut Windows) {
    for series in result.as_array().into_iter().flatten() {
        let labels: Labels = serde_json::from_value(series["metric"].clone()).unwrap_or_default();
        let mut labels = labels.to_builder();
        labels.set("__name__", &rule.record.value);
        for (name, value) in group.labels.iter().chain(rule.labels.iter()) {
            labels.set(name, value);
        }
        let labels = labels.build();
        for point in series["values"].as_array().into_iter().flatten() {
            let at = point[0].as_f64().map(|seconds| (seconds * 1000.0).round() as i64);
            let value = point[1].as_str().and_then(|text| text.parse::<f64>().ok());
            if let (Some(at), Some(value)) = (at, value) {
                windows.push(&labels, at, value);
            }
        }
    }
}

#[cfg(test)]
pub(super) fn blocks_of(input: &[u8], output: &Path) -> Vec<PathBuf> {
    read_open_metrics(input, &[]).expect("it parses").write(output).unwrap_or_else(|failure| panic!("{failure:?}"))
}
