//! `label_replace`, `label_join`, and the labels of `absent`.

use std::collections::BTreeSet;

use promesh_model::labels::METRIC_NAME;
use promesh_model::regexp::expand;
use promesh_model::{Labels, LabelsBuilder, MatchOp};

use super::super::QueryError;
use super::super::eval::{Evaluator, text_of};
use super::super::grid::{Grid, Row, Steps};
use super::super::plan::{Kind, Node};
use super::texts;

/// The largest compiled expression of `label_replace`.
const PROGRAM_BYTES_MAX: usize = 10 << 20;

/// The longest value that `label_replace` and `label_join` make: nested, they could double it with each level.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Longer values count in the budget, so many bytes as a sample.
const SAMPLE_BYTES: usize = 16;

fn too_long(function: &str, label: &str) -> QueryError {
    let why = format!("{function}() could make a value of label {label:?} longer than {VALUE_BYTES_MAX} bytes");
    QueryError::Execution(why)
}

impl Evaluator<'_> {
    /// Counts the text of a label that was made.
    fn hold_text(&mut self, value: &str) -> Result<(), QueryError> {
        let samples = value.len() / SAMPLE_BYTES;
        if samples < SAMPLE_BYTES { Ok(()) } else { self.hold(samples) }
    }

    pub(super) fn label_replace(&mut self, args: &[Node], steps: Steps) -> Result<Grid, QueryError> {
        let [target, replacement, source, pattern] = [1, 2, 3, 4].map(|index| args.get(index).map_or("", text_of));
        let bad = |what: &str, text: &str| QueryError::Execution(format!("invalid {what} in label_replace(): {text}"));
        let regex = regex::RegexBuilder::new(&format!("^(?s:{pattern})$"))
            .size_limit(PROGRAM_BYTES_MAX)
            .build()
            .map_err(|_| bad("regular expression", pattern))?;
        if target.is_empty() {
            return Err(bad("destination label name", target));
        }
        let mut grid = self.grid(&args[0], steps)?;
        for row in &mut grid.rows {
            let before = row.labels.value(source);
            let Some(captures) = regex.captures(before) else { continue };
            let value = replaced(&captures, before, replacement).ok_or_else(|| too_long("label_replace", target))?;
            self.hold_text(&value)?;
            set_label(row, target, &value);
        }
        grid.merge_duplicates()?;
        Ok(grid)
    }

    pub(super) fn label_join(&mut self, args: &[Node], steps: Steps) -> Result<Grid, QueryError> {
        let texts = texts(&args[1..]);
        let (target, separator, sources) = (texts[0], texts[1], &texts[2..]);
        let bad = |what: &str, text: &str| {
            QueryError::Execution(format!("invalid {what} label name in label_join(): {text}"))
        };
        if let Some(source) = sources.iter().find(|source| source.is_empty()) {
            return Err(bad("source", source));
        }
        if target.is_empty() {
            return Err(bad("destination", target));
        }
        let mut grid = self.grid(&args[0], steps)?;
        for row in &mut grid.rows {
            let values: Vec<&str> = sources.iter().map(|source| row.labels.value(source)).collect();
            let bytes: usize = values.iter().map(|value| value.len() + separator.len()).sum();
            if bytes > VALUE_BYTES_MAX {
                return Err(too_long("label_join", target));
            }
            let value = values.join(separator);
            self.hold_text(&value)?;
            set_label(row, target, &value);
        }
        grid.merge_duplicates()?;
        Ok(grid)
    }
}

fn set_label(row: &mut Row, name: &str, value: &str) {
    let mut labels = row.labels.to_builder();
    labels.set(name, value);
    row.labels = labels.build();
    if name == METRIC_NAME {
        row.drop_name = false;
    }
}

/// What a replacement makes of a value; `None` when it could be too long.
fn replaced(captures: &regex::Captures<'_>, value: &str, replacement: &str) -> Option<String> {
    let references = replacement.bytes().filter(|byte| *byte == b'$').count();
    if replacement.len().saturating_add(references.saturating_mul(value.len())) > VALUE_BYTES_MAX {
        return None;
    }
    let group = |name: &str| {
        // `$01` is a name, as in Go.
        let is_number = name == "0" || !name.starts_with('0');
        let group = match name.parse::<usize>() {
            Ok(number) if is_number => captures.get(number),
            _ => captures.name(name),
        };
        group.map_or("", |group| group.as_str())
    };
    Some(expand(replacement, group))
}

/// The labels that a selector demands: those matched by exactly one `=`.
///
/// Source: prometheus `promql.createLabelsForAbsentFunction`.
pub(crate) fn absent_labels(arg: &Node) -> Labels {
    let (Kind::Vector(selector) | Kind::Range(selector, _)) = &arg.kind else { return Labels::empty() };
    let mut labels = LabelsBuilder::default();
    let mut seen = BTreeSet::new();
    for matcher in selector.matchers.iter().filter(|matcher| matcher.name != METRIC_NAME) {
        if matcher.op == MatchOp::Equal && seen.insert(&matcher.name) {
            labels.set(&matcher.name, &matcher.value);
        } else {
            labels.remove(&matcher.name);
        }
    }
    labels.build()
}
