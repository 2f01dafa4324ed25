//! Printing samples.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;

use clap::ArgMatches;
use promesh_model::storage::{Budget, Queryable as _, SelectHints, SelectRequest, SeriesColumns};
use promesh_model::value::format_float_g;
use promesh_model::{Labels, Matcher, Timestamp};
use promesh_promql::parser;
use promesh_tsdb::Db;
use promesh_tsdb::block::{Block, BlockSeries};

use super::super::{Done, Failure};
use super::{open, unblocked};

pub(super) fn run(path: &Path, matches: &ArgMatches, open_metrics: bool) -> Done {
    let start = matches.get_one::<i64>("min-time").copied().unwrap_or(i64::MIN);
    let end = matches.get_one::<i64>("max-time").copied().unwrap_or(i64::MAX);
    let selectors = matches.get_many::<String>("match").into_iter().flatten();
    let parse = |text: &String| parser::parse_selector(text).map_err(|error| Failure::usage(error.to_string()));
    let mut sets: Vec<Vec<Matcher>> = selectors.map(parse).collect::<Result<_, _>>()?;
    if sets.is_empty() {
        sets.push(Vec::new());
    }
    let blocks = open(path)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut failed = |error: std::io::Error| match error.kind() {
        // `head` has seen enough.
        std::io::ErrorKind::BrokenPipe => Failure::quiet(),
        _ => Failure::new(format!("cannot write: {error}")),
    };
    let mut all = select(&blocks, &sets, (start, end))?;
    if let Some(newest) = unblocked::open(path)? {
        let before = blocks.iter().map(|block| block.meta().max_time).max().unwrap_or(i64::MIN);
        add_unblocked(&mut all, &newest.db, &sets, (start.max(before), end))?;
    }
    for (labels, series) in all {
        for columns in &series {
            let written =
                if open_metrics { metrics(&mut out, &labels, columns) } else { text(&mut out, &labels, columns) };
            written.map_err(&mut failed)?;
        }
    }
    if open_metrics {
        writeln!(out, "# EOF").map_err(&mut failed)?;
    }
    out.flush().map_err(&mut failed)
}

/// Adds what is in no block.
fn add_unblocked(
    all: &mut BTreeMap<Labels, Vec<SeriesColumns>>,
    db: &Db,
    sets: &[Vec<Matcher>],
    (start, end): (i64, i64),
) -> Result<(), Failure> {
    let mut seen = std::collections::BTreeSet::new();
    for matchers in sets {
        let (start, end) = (Timestamp(start), Timestamp(end));
        let request = SelectRequest { matchers: matchers.clone(), start, end, hints: SelectHints::default() };
        let found = db.select(&[request], &Budget::unlimited()).map_err(|error| Failure::new(error.to_string()))?;
        for columns in found.into_iter().flat_map(|selection| selection.series) {
            let is_empty = columns.timestamps.is_empty() && columns.histograms.is_empty();
            if !is_empty && seen.insert(columns.labels.clone()) {
                all.entry(columns.labels.clone()).or_default().push(columns);
            }
        }
    }
    Ok(())
}

/// The series of all blocks, each with its samples block by block.
pub(super) fn select(
    blocks: &[Arc<Block>],
    sets: &[Vec<Matcher>],
    (start, end): (i64, i64),
) -> Result<BTreeMap<Labels, Vec<SeriesColumns>>, Failure> {
    let mut all: BTreeMap<Labels, Vec<SeriesColumns>> = BTreeMap::new();
    let mut warnings = Vec::new();
    for block in blocks.iter().filter(|block| block.overlaps(start, end)) {
        let mut seen = std::collections::BTreeSet::new();
        for set in sets {
            let mut found = BlockSeries::new(Arc::clone(block), set, (start, end), None, &mut warnings);
            while let Some(labels) = found.labels().cloned() {
                let mut columns = SeriesColumns::default();
                found.read(&mut columns, &mut SeriesColumns::default(), &mut warnings);
                let is_empty = columns.timestamps.is_empty() && columns.histograms.is_empty();
                if !is_empty && seen.insert(labels.clone()) {
                    columns.labels = labels.clone();
                    all.entry(labels).or_default().push(columns);
                }
                found.advance(&mut warnings);
            }
        }
    }
    for warning in warnings {
        eprintln!("{warning}");
    }
    Ok(all)
}

/// `{labels} value instant`.
pub(super) fn text(out: &mut impl std::io::Write, labels: &Labels, columns: &SeriesColumns) -> std::io::Result<()> {
    for (at, value) in columns.timestamps.iter().zip(&columns.values) {
        writeln!(out, "{labels} {} {at}", format_float_g(*value))?;
    }
    for point in &columns.histograms {
        writeln!(out, "{labels} {} {}", point.value, point.timestamp)?;
    }
    Ok(())
}

/// `name{labels} value seconds`; histograms have no place in the text form and are left out, as promtool does.
fn metrics(out: &mut impl std::io::Write, labels: &Labels, columns: &SeriesColumns) -> std::io::Result<()> {
    let metric = labels.as_metric().to_string();
    for (at, value) in columns.timestamps.iter().zip(&columns.values) {
        let seconds = format!("{}.{:03}", at.div_euclid(1000), at.rem_euclid(1000));
        let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
        writeln!(out, "{metric} {} {seconds}", format_float_g(*value))?;
    }
    Ok(())
}
