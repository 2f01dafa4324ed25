//! Aggregations that pick series: `topk`, `bottomk`, `limitk`, `limit_ratio`.
//!
//! Source: prometheus `evaluator.aggregationK`. Ties are resolved by the order in which a binary heap leaves them, so
//! the heap is Go's (`container/heap`), step for step.

use promesh_model::Labels;
use xxhash_rust::xxh64::xxh64;

use super::QueryError;
use super::aggregate::{Grouping, grouping};
use super::annotations::Note;
use super::eval::Evaluator;
use super::grid::{Floats, Grid, Row, Sample, Steps};
use super::plan::AggregateNode;
use crate::parser::AggregateOp;

/// A candidate: its value and its row.
type Candidate = (f64, u32);

/// The k best of one group so far, the worst of them at the top.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heap {
    pub items: Vec<Candidate>,
    largest: bool,
}

impl Heap {
    pub fn new(largest: bool) -> Heap {
        Heap { items: Vec::new(), largest }
    }

    /// Whether `a` comes before `b`: NaN first, then, looking for the largest, the smaller.
    fn less(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.items[a].0, self.items[b].0);
        a.is_nan() || if self.largest { a < b } else { a > b }
    }

    pub fn push(&mut self, candidate: Candidate) {
        self.items.push(candidate);
        let mut child = self.items.len() - 1;
        while child > 0 {
            let parent = (child - 1) / 2;
            if !self.less(child, parent) {
                break;
            }
            self.items.swap(child, parent);
            child = parent;
        }
    }

    fn sink(&mut self, mut parent: usize) {
        loop {
            let left = 2 * parent + 1;
            if left >= self.items.len() {
                return;
            }
            let right = left + 1;
            let child = if right < self.items.len() && self.less(right, left) { right } else { left };
            if !self.less(child, parent) {
                return;
            }
            self.items.swap(parent, child);
            parent = child;
        }
    }

    /// Takes a candidate if it is among the k best.
    pub fn offer(&mut self, candidate: Candidate, k: usize) {
        if self.items.len() < k {
            self.push(candidate);
            return;
        }
        let (worst, value) = (self.items[0].0, candidate.0);
        let better = if self.largest { worst < value } else { worst > value };
        if better || (worst.is_nan() && !value.is_nan()) {
            self.items[0] = candidate;
            self.sink(0);
        }
    }

    /// The candidates, best first.
    pub fn sorted(mut self) -> Vec<Candidate> {
        let largest = self.largest;
        self.items.sort_by(|a, b| {
            let order = if largest { b.0.partial_cmp(&a.0) } else { a.0.partial_cmp(&b.0) };
            order.unwrap_or_else(|| a.0.is_nan().cmp(&b.0.is_nan()))
        });
        self.items
    }
}

impl Evaluator<'_> {
    pub fn aggregate_k(
        &mut self,
        node: &AggregateNode,
        grid: Grid,
        param: &Floats,
        steps: Steps,
    ) -> Result<Grid, QueryError> {
        let limit = node.op == AggregateOp::LimitRatio;
        if !self.check_params(node, param)? {
            return Ok(Grid::default());
        }
        let grouping = grouping(&grid, &node.grouping, node.without);
        if limit {
            return Ok(limit_ratio(grid, param));
        }
        let mut chosen = Vec::new();
        let mut order = Vec::new();
        for step in 0..steps.count {
            if step % 64 == 0 {
                self.check()?;
            }
            let k = (param[step].min(grid.rows.len() as f64)) as usize;
            if k < 1 {
                continue;
            }
            let picked = self.pick(node, &grid, &grouping, k, step);
            if steps.count == 1 {
                order.clone_from(&picked);
            }
            chosen.extend(picked.into_iter().map(|row| (row, step)));
        }
        Ok(keep_chosen(grid, &chosen, &order, steps))
    }

    /// The rows of all groups that are chosen at a step, in order.
    fn pick(&mut self, node: &AggregateNode, grid: &Grid, grouping: &Grouping, k: usize, step: usize) -> Vec<u32> {
        let op = node.op;
        let mut heaps = vec![Heap::new(op != AggregateOp::Bottomk); grouping.labels.len()];
        for (number, (row, group)) in grid.rows.iter().zip(&grouping.of).enumerate() {
            let heap = &mut heaps[*group as usize];
            let value = match row.sample(step) {
                None => continue,
                Some(Sample::Float(value)) => value,
                Some(Sample::Histogram(_)) if op == AggregateOp::Limitk => 0.0,
                Some(Sample::Histogram(_)) => {
                    // Upstream places this remark at the whole aggregation.
                    self.annotations.add(node.span, Note::IgnoredInAggregation(op.as_str()));
                    continue;
                }
            };
            if op != AggregateOp::Limitk {
                heap.offer((value, number as u32), k);
            } else if heap.items.len() < k {
                heap.push((value, number as u32));
            }
        }
        let sort = op != AggregateOp::Limitk;
        heaps.into_iter().flat_map(|heap| if sort { heap.sorted() } else { heap.items }).map(|(_, row)| row).collect()
    }

    /// Checks the parameter; false when nothing can be chosen at any step.
    fn check_params(&mut self, node: &AggregateNode, param: &Floats) -> Result<bool, QueryError> {
        let fail = |why: String| Err(QueryError::Execution(why));
        let most = param.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = param.iter().copied().fold(f64::INFINITY, f64::min);
        let has_nan = param.iter().any(|value| value.is_nan());
        let span = node.param.as_ref().map_or(node.expr.span, |param| param.span);
        if node.op == AggregateOp::LimitRatio {
            if most == 0.0 && least == 0.0 {
                return Ok(false);
            }
            if has_nan {
                return fail("Ratio value is NaN".to_owned());
            }
            if most > 1.0 {
                self.annotations.add(span, Note::InvalidRatio(most, 1.0));
            }
            if least < -1.0 {
                self.annotations.add(span, Note::InvalidRatio(least, -1.0));
            }
            return Ok(true);
        }
        if !has_nan && most < 1.0 {
            return Ok(false);
        }
        if has_nan {
            return fail("Parameter value is NaN".to_owned());
        }
        let print = promesh_model::value::format_float_g;
        if least <= i64::MIN as f64 {
            return fail(format!("Scalar value {} underflows int64", print(least)));
        }
        if most >= i64::MAX as f64 {
            return fail(format!("Scalar value {} overflows int64", print(most)));
        }
        Ok(true)
    }
}

/// Keeps the chosen cells. For one step, rows come in the order in which they were chosen.
fn keep_chosen(mut grid: Grid, chosen: &[(u32, usize)], order: &[u32], steps: Steps) -> Grid {
    if steps.count == 1 {
        let mut rows: Vec<Option<Row>> = grid.rows.into_iter().map(Some).collect();
        let rows = order.iter().filter_map(|row| rows[*row as usize].take()).collect();
        return Grid { rows };
    }
    let mut keep = vec![false; grid.rows.len() * steps.count];
    for (row, step) in chosen {
        keep[*row as usize * steps.count + step] = true;
    }
    for (number, row) in grid.rows.iter_mut().enumerate() {
        for step in 0..steps.count {
            if !keep[number * steps.count + step] {
                row.set(step, None);
            }
        }
    }
    grid.drop_empty();
    grid
}

fn limit_ratio(mut grid: Grid, param: &Floats) -> Grid {
    for row in &mut grid.rows {
        let offset = sample_offset(&row.labels);
        for (step, ratio) in param.iter().enumerate() {
            let ratio = ratio.clamp(-1.0, 1.0);
            let kept = if ratio >= 0.0 { offset < ratio } else { offset >= 1.0 + ratio };
            if ratio == 0.0 || !kept {
                row.set(step, None);
            }
        }
    }
    grid.drop_empty();
    grid
}

/// Where in 0 … 1 a series stands by the hash of its labels.
///
/// Source: prometheus `labels.Labels.Hash`: xxhash of length-prefixed names and values; a length of 255 and more takes
/// the byte 255 and three more.
fn sample_offset(labels: &Labels) -> f64 {
    let mut bytes = Vec::new();
    for (name, value) in labels.iter() {
        for text in [name, value] {
            match u8::try_from(text.len()) {
                Ok(short) if short < 255 => bytes.push(short),
                _ => {
                    bytes.push(255);
                    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes()[..3]);
                }
            }
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    xxh64(&bytes, 0) as f64 / u64::MAX as f64
}
