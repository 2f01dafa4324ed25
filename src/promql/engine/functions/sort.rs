//! Sorting of instant vectors; the results of range queries are sorted by labels anyway.

use std::cmp::Ordering;

use super::super::QueryError;
use super::super::eval::Evaluator;
use super::super::grid::{Grid, Row, Steps, is_absent};
use super::super::plan::Node;
use super::texts;

impl Evaluator<'_> {
    pub(super) fn sort(&mut self, name: &str, args: &[Node], steps: Steps) -> Result<Grid, QueryError> {
        let mut grid = self.grid(&args[0], steps)?;
        match name {
            "sort" => sort_by_value(&mut grid, |a, b| a.partial_cmp(&b)),
            "sort_desc" => sort_by_value(&mut grid, |a, b| b.partial_cmp(&a)),
            _ => {
                let labels = texts(&args[1..]);
                grid.rows.sort_by(|a, b| by_labels(a, b, &labels));
                if name == "sort_by_label_desc" {
                    grid.rows.reverse();
                }
            }
        }
        Ok(grid)
    }
}

/// Sorts floats, NaN last; histograms fall out.
fn sort_by_value(grid: &mut Grid, order: impl Fn(f64, f64) -> Option<Ordering>) {
    for row in &mut grid.rows {
        row.histograms = None;
    }
    grid.drop_empty();
    if grid.rows.iter().any(|row| row.floats.len() != 1 || is_absent(row.floats[0])) {
        return;
    }
    grid.rows.sort_by(|a, b| {
        let (a, b) = (a.floats[0], b.floats[0]);
        order(a, b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
    });
}

fn by_labels(a: &Row, b: &Row, labels: &[&str]) -> Ordering {
    labels
        .iter()
        .map(|label| natural_order(a.labels.value(label), b.labels.value(label)))
        .find(|order| order.is_ne())
        .unwrap_or_else(|| a.labels.cmp(&b.labels))
}

/// Texts with numbers in them, the numbers by value: `a2` before `a10`.
///
/// Source: github.com/facette/natsort, which prometheus uses: texts are cut into runs of digits and of other
/// characters, runs of digits compare as numbers.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (runs(a), runs(b));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(left), Some(right)) => {
                let digits = |run: &str| run.bytes().all(|byte| byte.is_ascii_digit());
                let order = if digits(left) && digits(right) { numbers(left, right) } else { left.cmp(right) };
                if order.is_ne() {
                    return order;
                }
            }
        }
    }
}

fn numbers(a: &str, b: &str) -> Ordering {
    let (short_a, short_b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    short_a.len().cmp(&short_b.len()).then_with(|| short_a.cmp(short_b)).then_with(|| a.len().cmp(&b.len()))
}

fn runs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.bytes().next()?.is_ascii_digit();
        let end = rest.bytes().position(|byte| byte.is_ascii_digit() != first).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        rest = tail;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_within_texts_sort_by_value() {
        let mut texts = vec!["cpu10", "cpu2", "cpu", "10", "9", "cpu2a"];
        texts.sort_by(|a, b| natural_order(a, b));
        assert_eq!(texts, ["9", "10", "cpu", "cpu2", "cpu2a", "cpu10"]);
    }
}
