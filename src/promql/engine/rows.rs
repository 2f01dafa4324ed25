//! Values row by row: whoever folds series into groups never needs all of them at once.

use promesh_model::storage::SeriesColumns;
use promesh_model::value::is_stale;

use super::QueryError;
use super::eval::Evaluator;
use super::functions::range_argument;
use super::grid::{Grid, Row, Steps};
use super::plan::{Kind, Node, Selector};
use super::range::Consume;
use super::select::Cursor;

impl<'a> Evaluator<'a> {
    /// Visits the rows of a node's value, in order.
    pub fn each_row(&mut self, node: &Node, steps: Steps, consume: &mut Consume<'_, 'a>) -> Result<(), QueryError> {
        self.check()?;
        match &node.kind {
            _ if steps.count == 0 => Ok(()),
            Kind::Shared(number) if self.shared.is_single(*number) => {
                let nodes = self.shared.nodes();
                self.each_row(&nodes[*number].node, steps, consume)
            }
            Kind::Vector(selector) if !selector.smoothed => self.each_found(selector, steps, consume),
            Kind::Call(function, args) if function.name != "absent_over_time" => match range_argument(args) {
                Some(index) => self.each_slid(function, args, index, steps, consume),
                None => self.each_of_grid(node, steps, consume),
            },
            _ => self.each_of_grid(node, steps, consume),
        }
    }

    fn each_of_grid(&mut self, node: &Node, steps: Steps, consume: &mut Consume<'_, 'a>) -> Result<(), QueryError> {
        let grid = self.grid(node, steps)?;
        let held = grid.samples();
        for (number, mut row) in grid.rows.into_iter().enumerate() {
            if number % 256 == 0 {
                self.check()?;
            }
            consume(self, &mut row, false)?;
        }
        self.release(held);
        Ok(())
    }

    /// The rows of a selector or range function as a grid.
    pub fn gather(&mut self, node: &Node, steps: Steps) -> Result<Grid, QueryError> {
        let mut grid = Grid::default();
        self.each_row(node, steps, &mut |this, row, name_gone| {
            this.hold_cells(steps.count)?;
            let mut row = row.take();
            if name_gone {
                row.labels = row.without_name();
            }
            grid.rows.push(row);
            Ok(())
        })?;
        Ok(grid)
    }

    /// The rows of a vector selector.
    fn each_found(
        &mut self,
        selector: &Selector,
        steps: Steps,
        consume: &mut Consume<'_, 'a>,
    ) -> Result<(), QueryError> {
        let mut feed = self.feed(selector)?;
        let mut row = Row::empty(promesh_model::Labels::empty(), steps.count);
        let mut number = 0;
        while let Some(columns) = feed.next()? {
            if number % 64 == 0 {
                self.check()?;
            }
            number += 1;
            row.reset(columns.labels.clone(), steps.count);
            let samples = if columns.histograms.is_empty() && !self.counts_steps() {
                let samples = find_floats(columns, selector, steps, self.lookback, &mut row.floats);
                self.count_all(samples as u64);
                samples
            } else {
                self.find_samples(columns, selector, steps, &mut row)
            };
            if samples == 0 {
                continue;
            }
            self.hold(samples)?;
            consume(self, &mut row, false)?;
            if !row.floats.is_empty() {
                self.release(samples);
            }
        }
        self.finish_feed(feed);
        Ok(())
    }

    fn find_samples(&mut self, columns: &SeriesColumns, selector: &Selector, steps: Steps, row: &mut Row) -> usize {
        let mut cursor = Cursor::new(columns);
        let mut samples = 0;
        for step in 0..steps.count {
            let reference = selector.at.unwrap_or_else(|| steps.at(step)).saturating_sub(selector.offset);
            let Some(found) = cursor.find(reference, self.lookback) else { continue };
            let size = match found.histogram {
                Some(point) => {
                    row.set_histogram(step, std::sync::Arc::clone(&point.value));
                    point.value.sample_size()
                }
                None => {
                    row.floats[step] = found.float;
                    1
                }
            };
            samples += size;
            self.count(steps.at(step), size);
        }
        samples
    }
}

/// The newest float at or before each step that is not older than the lookback; answers how many steps have one.
fn find_floats(columns: &SeriesColumns, selector: &Selector, steps: Steps, lookback: i64, out: &mut [f64]) -> usize {
    let (times, values) = (&columns.timestamps[..], &columns.values[..]);
    let values = &values[..times.len()];
    let newest = |seen: usize, reference: i64| {
        let at = seen.checked_sub(1)?;
        (times[at] > reference.saturating_sub(lookback) && !is_stale(values[at])).then(|| values[at])
    };
    let first = selector.at.unwrap_or(steps.start).saturating_sub(selector.offset);
    // How many samples are not after the step.
    let mut seen = times.partition_point(|at| *at <= first);
    if selector.at.is_some() {
        return newest(seen, first).map_or(0, |value| {
            out.fill(value);
            out.len()
        });
    }
    let (mut reference, mut found) = (first, 0);
    for cell in out.iter_mut() {
        while seen < times.len() && times[seen] <= reference {
            seen += 1;
        }
        if let Some(value) = newest(seen, reference) {
            *cell = value;
            found += 1;
        }
        reference = reference.saturating_add(steps.interval);
    }
    found
}
