//! Answering: the head's and the blocks' series joined.

use std::collections::BTreeSet;

use promesh_model::labels::Labels;
use promesh_model::storage::{
    Budget, ListRequest, Listing, Queryable, SelectRequest, Selection, SeriesColumns, StorageError,
};

use crate::columns;
use crate::db::Db;

impl Queryable for Db {
    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError> {
        requests.iter().map(|request| self.select_one(request, budget)).collect()
    }

    fn label_names(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<String>, StorageError> {
        budget.check()?;
        let (mut found, mut warnings) = (Vec::new(), Vec::new());
        if self.head.may_overlap(request.start.ms(), request.end.ms()) {
            found = self.head.label_names(&request.matcher_sets);
        }
        for block in self.blocks.overlapping(request.start.ms(), request.end.ms()) {
            budget.check()?;
            found.extend(block.label_names(&request.matcher_sets, &mut warnings));
        }
        Ok(listing(found, request.limit, warnings))
    }

    fn label_values(
        &self,
        name: &str,
        request: &ListRequest,
        budget: &Budget,
    ) -> Result<Listing<String>, StorageError> {
        budget.check()?;
        let (mut found, mut warnings) = (Vec::new(), Vec::new());
        if self.head.may_overlap(request.start.ms(), request.end.ms()) {
            found = self.head.label_values(name, &request.matcher_sets);
        }
        for block in self.blocks.overlapping(request.start.ms(), request.end.ms()) {
            budget.check()?;
            found.extend(block.label_values(name, &request.matcher_sets, &mut warnings));
        }
        Ok(listing(found, request.limit, warnings))
    }

    fn series(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<Labels>, StorageError> {
        let (start, end) = (request.start.ms(), request.end.ms());
        let (mut found, mut warnings) = (Vec::new(), Vec::new());
        let blocks = self.blocks.overlapping(start, end);
        let every: [Vec<promesh_model::Matcher>; 1] = [Vec::new()];
        let sets = if request.matcher_sets.is_empty() { &every[..] } else { &request.matcher_sets };
        for matchers in sets {
            found.extend(self.head.series_labels(matchers, start, end, budget)?);
            for block in &blocks {
                found.extend(block.series_labels(matchers, start, end, budget, &mut warnings)?);
            }
        }
        Ok(listing(found, request.limit, warnings))
    }
}

impl Db {
    fn select_one(&self, request: &SelectRequest, budget: &Budget) -> Result<Selection, StorageError> {
        let (start, end) = (request.start.ms(), request.end.ms());
        let mut warnings = Vec::new();
        // The head first: a window that becomes a block meanwhile is then in the one or in the other, or in both.
        let in_head = self.head.select(&request.matchers, start, end, budget, &mut warnings)?;
        let mut series = Vec::new();
        for block in self.blocks.overlapping(start, end) {
            series.extend(block.select(&request.matchers, start, end, budget, &mut warnings)?);
        }
        series.extend(in_head);
        sort_and_join(&mut series);
        warnings.sort();
        warnings.dedup();
        if request.hints.limit > 0 {
            series.truncate(request.hints.limit);
        }
        Ok(Selection { series, warnings })
    }
}

/// Brings series into label order and joins those with equal labels.
fn sort_and_join(series: &mut Vec<SeriesColumns>) {
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    series.dedup_by(|later, earlier| {
        let same = later.labels == earlier.labels;
        if same {
            columns::join(earlier, std::mem::take(later));
        }
        same
    });
}

fn listing<T: Ord>(items: Vec<T>, limit: usize, mut warnings: Vec<String>) -> Listing<T> {
    let mut items: Vec<T> = items.into_iter().collect::<BTreeSet<T>>().into_iter().collect();
    warnings.sort();
    warnings.dedup();
    if limit > 0 && items.len() > limit {
        items.truncate(limit);
        warnings.push("results truncated due to limit".to_owned());
    }
    Listing { items, warnings }
}
