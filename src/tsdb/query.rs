//! Answering: the head's and the blocks' series joined.

use std::collections::BTreeSet;

use promesh_model::labels::Labels;
use promesh_model::storage::{
    Budget, ListRequest, Listing, Queryable, SelectRequest, Selection, SeriesColumns, SeriesCursor, StorageError,
};

use crate::cursor::DbCursor;
use crate::db::Db;

/// How far back from the newest sample all is taken to be in memory.
const AT_HAND_MS: i64 = 900_000;

impl Queryable for Db {
    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError> {
        requests.iter().map(|request| self.select_one(request, budget)).collect()
    }

    fn cursors<'a>(
        &'a self,
        requests: &[SelectRequest],
        budget: &Budget,
    ) -> Result<Vec<Box<dyn SeriesCursor + 'a>>, StorageError> {
        budget.check()?;
        let boxed = |request| Box::new(DbCursor::new(self, request, budget)) as Box<dyn SeriesCursor + 'a>;
        Ok(requests.iter().map(boxed).collect())
    }

    fn at_hand(&self, requests: &[SelectRequest]) -> Option<(&dyn Queryable, usize)> {
        let series = requests.iter().map(|request| {
            let (start, end) = (request.start.ms(), request.end.ms());
            let in_head = self.head.count_at_most(&request.matchers)?;
            // What is older may be on disk: a block, or a chunk that the head has written out. What is nowhere is not.
            let recent = start >= self.head.max_time().ms().saturating_sub(AT_HAND_MS);
            let mut blocks = self.blocks.overlapping(start, end).into_iter();
            let here = (recent || in_head == 0) && blocks.all(|block| block.index().lacks(&request.matchers));
            here.then_some(in_head)
        });
        Some((self, series.sum::<Option<usize>>()?))
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
        let mut cursor = DbCursor::new(self, request, budget);
        let mut all = Vec::new();
        let mut series = SeriesColumns::default();
        while cursor.next(&mut series)? {
            cursor.keep();
            all.push(std::mem::take(&mut series));
        }
        Ok(Selection { series: all, warnings: cursor.take_warnings() })
    }
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
