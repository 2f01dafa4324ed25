//! Answering: the head's and the blocks' series joined.

use std::collections::BTreeSet;
use std::sync::Arc;

use promesh_model::Timestamp;
use promesh_model::labels::Labels;
use promesh_model::storage::{
    Budget, ListRequest, Listing, Queryable, SelectRequest, Selection, SelectionCursor, SeriesColumns, SeriesCursor,
    StorageError,
};

use crate::columns;
use crate::db::Db;
use crate::head::{SelectedSeries, Span};

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
        requests.iter().map(|request| self.cursor(request, budget)).collect()
    }

    fn at_hand(&self, requests: &[SelectRequest]) -> Option<(&dyn Queryable, usize)> {
        let series = requests.iter().map(|request| {
            let (start, end) = (request.start.ms(), request.end.ms());
            // What is older may be on disk: a block, or a chunk that the head has written out.
            let recent = start >= self.head.max_time().ms().saturating_sub(AT_HAND_MS);
            let here = recent && self.blocks.overlapping(start, end).is_empty();
            if here { self.head.count_at_most(&request.matchers) } else { None }
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
    fn cursor<'a>(
        &'a self,
        request: &SelectRequest,
        budget: &Budget,
    ) -> Result<Box<dyn SeriesCursor + 'a>, StorageError> {
        let head_only = self.blocks.overlapping(request.start.ms(), request.end.ms()).is_empty();
        if !head_only || request.hints.limit > 0 {
            return Ok(Box::new(SelectionCursor::from(self.select_one(request, budget)?)));
        }
        Ok(Box::new(HeadCursor::new(self, request, budget)))
    }

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

/// The series of a request that touches no block, read from the head one by one.
struct HeadCursor<'a> {
    db: &'a Db,
    request: SelectRequest,
    budget: Budget,
    selected: Arc<SelectedSeries>,
    /// Of the selected series, the one to read next.
    place: usize,
    /// Where the head began: a window that becomes a block meanwhile moves it.
    head_min: Timestamp,
    /// What is left, read at once because the head has moved.
    rest: Option<SelectionCursor>,
    /// What the series before took of the budget.
    taken: usize,
    warnings: Vec<String>,
}

impl<'a> HeadCursor<'a> {
    fn new(db: &'a Db, request: &SelectRequest, budget: &Budget) -> HeadCursor<'a> {
        let head_min = db.head.min_time();
        let empty = !db.head.may_overlap(request.start.ms(), request.end.ms());
        let selected = if empty { Arc::default() } else { db.head.selected_series(&request.matchers) };
        HeadCursor {
            db,
            request: request.clone(),
            budget: budget.clone(),
            selected,
            place: 0,
            head_min,
            rest: None,
            taken: 0,
            warnings: Vec::new(),
        }
    }

    /// Reads from head and blocks what follows the series handed out so far; `place` is the first that was not.
    fn read_rest(&mut self, place: usize) -> Result<SelectionCursor, StorageError> {
        let mut selection = self.db.select_one(&self.request, &self.budget)?;
        if let Some((_, next)) = self.selected.series.get(place) {
            selection.series.retain(|series| series.labels >= *next);
        }
        self.warnings.append(&mut selection.warnings);
        Ok(selection.into())
    }
}

impl SeriesCursor for HeadCursor<'_> {
    fn next(&mut self, series: &mut SeriesColumns) -> Result<bool, StorageError> {
        if let Some(rest) = &mut self.rest {
            return rest.next(series);
        }
        self.budget.give_back(std::mem::take(&mut self.taken));
        let hints = &self.request.hints;
        let span = Span { start: self.request.start.ms(), end: self.request.end.ms(), newest_only: hints.newest_only };
        while self.place < self.selected.series.len() {
            let place = self.place;
            self.place += 1;
            let found = self.db.head.read_selected(&self.selected, place, span, series, &mut self.warnings);
            if self.db.head.min_time() != self.head_min {
                let rest = self.read_rest(place)?;
                return self.rest.insert(rest).next(series);
            }
            if found {
                self.taken = columns::sample_count(series);
                self.budget.take(self.taken)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn take_warnings(&mut self) -> Vec<String> {
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.sort();
        warnings.dedup();
        warnings
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
