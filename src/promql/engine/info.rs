//! `info`: enriching series with the labels of info metrics such as `target_info`.
//!
//! Which info series matter is known only once the argument is evaluated, so this is the one function that asks
//! storage a second time.
//!
//! Source: prometheus `promql/info.go`.

use std::collections::{BTreeMap, BTreeSet};

use promesh_model::labels::METRIC_NAME;
use promesh_model::storage::{SelectHints, SelectRequest};
use promesh_model::{Labels, LabelsBuilder, MatchOp, Matcher, Timestamp};

use super::QueryError;
use super::eval::Evaluator;
use super::grid::{Grid, Row, Sample, Steps, is_absent};
use super::plan::InfoNode;

/// The labels by which an info series belongs to another.
const IDENTIFYING: [&str; 2] = ["instance", "job"];
const TARGET_INFO: &str = "target_info";

/// The conditions on the name of info metrics.
fn name_matchers(matchers: &[Matcher]) -> Result<Vec<Matcher>, QueryError> {
    let names: Vec<Matcher> = matchers.iter().filter(|matcher| matcher.name == METRIC_NAME).cloned().collect();
    if names.is_empty() {
        return Ok(vec![Matcher::equal(METRIC_NAME, TARGET_INFO)]);
    }
    if names.iter().any(|matcher| !matcher.op.is_negative()) {
        return Ok(names);
    }
    let any = Matcher::new(MatchOp::Regex, METRIC_NAME, ".+_info").map_err(failed)?;
    Ok(std::iter::once(any).chain(names).collect())
}

fn failed(error: impl ToString) -> QueryError {
    QueryError::Execution(error.to_string())
}

/// Info series at one step by name and identifying labels: row, and when its sample was taken.
type Present<'a> = BTreeMap<(&'a str, Labels), (usize, f64)>;

struct Enrichment<'a> {
    base: &'a Grid,
    info: &'a Grid,
    /// Conditions on the labels to take; empty: take all.
    wanted: BTreeMap<&'a str, Vec<&'a Matcher>>,
    ignored: Vec<bool>,
    names: BTreeSet<&'a str>,
}

impl Evaluator<'_> {
    pub fn info(&mut self, node: &InfoNode, steps: Steps) -> Result<Grid, QueryError> {
        let base = self.grid(&node.arg, steps)?;
        let matchers = node.matchers.clone().unwrap_or_default();
        let names = name_matchers(&matchers)?;
        // Info series themselves are left as they are.
        let ignored: Vec<bool> =
            base.rows.iter().map(|row| names.iter().all(|m| m.matches(row.labels.value(METRIC_NAME)))).collect();
        let info = self.info_series(node, &base, &ignored, &matchers, names, steps)?;
        let mut wanted: BTreeMap<&str, Vec<&Matcher>> = BTreeMap::new();
        for matcher in matchers.iter().filter(|matcher| matcher.name != METRIC_NAME) {
            wanted.entry(&matcher.name).or_default().push(matcher);
        }
        let names = info.rows.iter().map(|row| row.labels.value(METRIC_NAME)).collect();
        let held = base.samples() + info.samples();
        let result = Enrichment { base: &base, info: &info, wanted, ignored, names }.run(steps)?;
        self.hold(result.samples())?;
        self.release(held);
        Ok(result)
    }

    fn info_series(
        &mut self,
        node: &InfoNode,
        base: &Grid,
        ignored: &[bool],
        matchers: &[Matcher],
        names: Vec<Matcher>,
        steps: Steps,
    ) -> Result<Grid, QueryError> {
        let mut request = Vec::new();
        for label in IDENTIFYING {
            let rows = base.rows.iter().zip(ignored).filter(|(_, ignored)| !**ignored);
            let values: BTreeSet<&str> = rows.filter_map(|(row, _)| row.labels.get(label)).collect();
            if !values.is_empty() {
                let pattern = values.into_iter().map(regex::escape).collect::<Vec<_>>().join("|");
                request.push(Matcher::new(MatchOp::Regex, label, pattern).map_err(failed)?);
            }
        }
        if request.is_empty() {
            return Ok(Grid::default());
        }
        request.extend(matchers.iter().filter(|matcher| matcher.name != METRIC_NAME).cloned());
        request.extend(names);
        let (start, end) = node.at.map_or((steps.start, steps.end()), |at| (at, at));
        let request = SelectRequest {
            matchers: request,
            start: Timestamp(start.saturating_sub(self.lookback - 1).saturating_sub(node.offset)),
            end: Timestamp(end.saturating_sub(node.offset)),
            hints: SelectHints { step_ms: steps.interval, func: "info".to_owned(), ..SelectHints::default() },
        };
        let mut selections = self.storage.select(std::slice::from_ref(&request), &self.budget)?;
        let selection = selections.pop().unwrap_or_default();
        for warning in &selection.warnings {
            self.annotations.add_storage(warning);
        }
        if let Some(series) = selection.series.iter().find(|series| !series.histograms.is_empty()) {
            let labels = series.labels.to_string();
            return Err(failed(format!("this should be an info metric, with float samples: {labels}")));
        }
        // The value of an info metric is 1 by convention: its place is taken by the sample's own time.
        let lookback = self.lookback;
        self.look_up(&selection.series, node.offset, node.at, steps, |found| Sample::Float(found.at as f64), lookback)
    }
}

fn identity(labels: &Labels) -> Labels {
    labels.without(|name| !IDENTIFYING.contains(&name))
}

impl Enrichment<'_> {
    fn run(&self, steps: Steps) -> Result<Grid, QueryError> {
        let identities: Vec<Labels> = self.base.rows.iter().map(|row| identity(&row.labels)).collect();
        let mut out: Vec<Row> = Vec::new();
        let mut index: BTreeMap<Labels, usize> = BTreeMap::new();
        for step in 0..steps.count {
            let present = self.present(step)?;
            for (number, row) in self.base.rows.iter().enumerate() {
                let Some(sample) = row.sample(step) else { continue };
                let labels = if self.ignored[number] {
                    Some(row.labels.clone())
                } else {
                    self.enriched(row, &identities[number], &present)?
                };
                let Some(labels) = labels else { continue };
                let at = *index.entry(labels.clone()).or_insert(out.len());
                if at == out.len() {
                    let mut fresh = Row::empty(labels, steps.count);
                    fresh.drop_name = row.drop_name;
                    out.push(fresh);
                }
                if out[at].is_present(step) {
                    return Err(super::grid::duplicate_labels());
                }
                out[at].set(step, Some(sample));
            }
        }
        Ok(Grid { rows: out })
    }

    /// The newest info series of each name and identity at a step.
    fn present(&self, step: usize) -> Result<Present<'_>, QueryError> {
        let mut present = Present::new();
        for (number, row) in self.info.rows.iter().enumerate() {
            let at = row.floats[step];
            if is_absent(at) {
                continue;
            }
            let key = (row.labels.value(METRIC_NAME), identity(&row.labels));
            match present.get(&key) {
                Some((_, known)) if *known > at => {}
                Some((other, known)) if *known == at => {
                    return Err(QueryError::Execution(format!(
                        "found duplicate series for info metric: existing {} @ {known}, new {} @ {at}",
                        self.info.rows[*other].labels, row.labels
                    )));
                }
                _ => {
                    present.insert(key, (number, at));
                }
            }
        }
        Ok(present)
    }

    /// The labels of a series with those of its info series; `None` when the series is to be left out.
    fn enriched(&self, row: &Row, identity: &Labels, present: &Present<'_>) -> Result<Option<Labels>, QueryError> {
        let mut added = LabelsBuilder::default();
        let mut matched = false;
        for name in &self.names {
            let Some((info, _)) = present.get(&(*name, identity.clone())) else { continue };
            matched = true;
            for (label, value) in self.info.rows[*info].labels.iter() {
                let wanted = self.wanted.is_empty() || self.wanted.contains_key(label);
                if label == METRIC_NAME || !wanted {
                    continue;
                }
                if added.get(label).is_some_and(|known| known != value) {
                    return Err(QueryError::Execution(format!("conflicting label: {label}")));
                }
                if row.labels.get(label).is_none() {
                    added.set(label, value);
                }
            }
        }
        let may_be_missing = self.wanted.values().flatten().all(|matcher| matcher.matches(""));
        if !matched && !may_be_missing {
            return Ok(None);
        }
        let mut labels = row.labels.to_builder();
        for (label, value) in added.iter() {
            labels.set(label, value);
        }
        Ok(Some(labels.build()))
    }
}
