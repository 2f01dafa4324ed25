//! Reading the head: from matchers to slots, from slots to columns.

use std::sync::atomic::Ordering;

use promesh_model::ingest::SeriesRef;
use promesh_model::labels::Labels;
use promesh_model::matcher::{Matcher, matches_all};
use promesh_model::storage::{Budget, SeriesColumns, StorageError};
use roaring::RoaringBitmap;

use super::append::Cursor;
use super::pages::PAGE_SLOTS;
use super::selections::Selected;
use super::series::{Series, Value};
use super::{Head, SelectedSeries, labels_of, same_labels, series_key};
use crate::block::tombstones::drop_spans;
use crate::chunk::Encoding;
use crate::columns;

/// Series selected at one moment.
#[derive(Debug)]
pub struct SelectedSlots {
    slots: RoaringBitmap,
    /// The moment: slots freed since may hold other series.
    epoch: u64,
}

impl SelectedSlots {
    /// The slots; those freed since may hold other series.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter()
    }
}

/// What of a series is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The first instant, inclusive.
    pub start: i64,
    /// The last instant, inclusive.
    pub end: i64,
    /// Whether the samples before the newest may be left out.
    pub newest_only: bool,
}

impl Head {
    /// The series that satisfy all matchers.
    pub fn select_slots(&self, matchers: &[Matcher]) -> SelectedSlots {
        let epoch = self.reuse_epoch.load(Ordering::Acquire);
        let index = self.index.read();
        SelectedSlots { slots: index.postings.select(matchers, &index.symbols), epoch }
    }

    /// At most how many series satisfy all matchers, when that needs no look at any label's values but those that the
    /// matchers name.
    pub fn count_at_most(&self, matchers: &[Matcher]) -> Option<usize> {
        let index = self.index.read();
        index.postings.count_at_most(matchers, &index.symbols)
    }

    /// The columns of the series that satisfy all matchers and have samples in `start ..= end`, in no order.
    ///
    /// # Errors
    /// When the budget ends.
    pub fn select(
        &self,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        budget: &Budget,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<SeriesColumns>, StorageError> {
        let mut answer = Vec::new();
        if !self.may_overlap(start, end) {
            return Ok(answer);
        }
        let selected = self.selected_series(matchers);
        let span = Span { start, end, newest_only: false };
        for place in 0..selected.series.len() {
            let mut columns = SeriesColumns::default();
            if self.read_selected(&selected, place, span, &mut columns, warnings) {
                budget.take(columns::sample_count(&columns))?;
                answer.push(columns);
            }
        }
        Ok(answer)
    }

    /// Reads one series of a selection; answers false when it has no samples in the span, or is gone.
    pub fn read_selected(
        &self,
        selected: &SelectedSeries,
        place: usize,
        span: Span,
        columns: &mut SeriesColumns,
        warnings: &mut Vec<String>,
    ) -> bool {
        let Selected { slot, labels, .. } = &selected.series[place];
        columns.clear();
        let read = self.with_series(*slot, |series| {
            // A freed slot may hold another series by now.
            let same = self.reuse_epoch.load(Ordering::Acquire) == selected.reuse_epoch
                || same_labels(&self.index.read().symbols, &series.labels, labels);
            if same {
                self.read_span(series, span, columns, warnings);
            }
        });
        if read.is_none() || columns.timestamps.is_empty() && columns.histograms.is_empty() {
            return false;
        }
        columns.labels = labels.clone();
        true
    }

    pub(super) fn selected_at(&self, slot: u32) -> Option<Selected> {
        self.with_series(slot, |series| {
            let labels = labels_of(&self.index.read().symbols, &series.labels);
            Selected { slot, shard: series.shard, labels }
        })
    }

    fn read_span(&self, series: &Series, span: Span, columns: &mut SeriesColumns, warnings: &mut Vec<String>) {
        let plain = span.newest_only && !self.has_tombstones.load(Ordering::Relaxed);
        let start = span.start.max(self.min.load(Ordering::Acquire));
        // What was copied to a peer that was away is late, and older than what it scraped since.
        if plain
            && let Some((at, bits)) = series.newest_float_until(start, span.end)
            && !series.late().is_some_and(|late| late.has_any_in(at, span.end))
        {
            columns.timestamps.push(at);
            columns.values.push(f64::from_bits(bits));
            fill_starts(series, columns);
            return;
        }
        self.read_series(series, span.start, span.end, columns, warnings);
    }

    /// The label sets of the series that satisfy all matchers and may have samples in `start ..= end`.
    ///
    /// # Errors
    /// When the query is cancelled.
    pub fn series_labels(
        &self,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        budget: &Budget,
    ) -> Result<Vec<Labels>, StorageError> {
        let selected = self.select_slots(matchers);
        let mut answer = Vec::new();
        for (count, slot) in selected.slots.iter().enumerate() {
            if count % 1024 == 0 {
                budget.check()?;
            }
            let labels = self.with_series(slot, |series| {
                self.overlaps(series, start, end).then(|| labels_of(&self.index.read().symbols, &series.labels))
            });
            if let Some(labels) = labels.flatten()
                && (self.reuse_epoch.load(Ordering::Acquire) == selected.epoch || matches_all(matchers, &labels))
            {
                answer.push(labels);
            }
        }
        Ok(answer)
    }

    /// Names of labels of the series that satisfy all matchers of one of the sets; of all series for no sets.
    pub fn label_names(&self, matcher_sets: &[Vec<Matcher>]) -> Vec<String> {
        let index = self.index.read();
        let slots = self.any_of(&index, matcher_sets);
        let mut names: Vec<String> =
            index.postings.names(slots.as_ref()).map(|name| index.symbols.text(name).to_owned()).collect();
        names.sort_unstable();
        names
    }

    /// Values of a label, as [`Head::label_names`].
    pub fn label_values(&self, name: &str, matcher_sets: &[Vec<Matcher>]) -> Vec<String> {
        let index = self.index.read();
        let Some(symbol) = index.symbols.find(name) else { return Vec::new() };
        let slots = self.any_of(&index, matcher_sets);
        let mut values: Vec<String> = index
            .postings
            .values_of(symbol, slots.as_ref())
            .map(|value| index.symbols.text(value).to_owned())
            .collect();
        values.sort_unstable();
        values
    }

    fn any_of(&self, index: &super::Index, matcher_sets: &[Vec<Matcher>]) -> Option<RoaringBitmap> {
        let mut sets = matcher_sets.iter().map(|matchers| index.postings.select(matchers, &index.symbols));
        let first = sets.next()?;
        Some(sets.fold(first, |all, set| all | set))
    }

    pub(super) fn with_series<T>(&self, slot: u32, read: impl FnOnce(&Series) -> T) -> Option<T> {
        let page = self.pages.page(slot)?.lock();
        page[slot as usize % PAGE_SLOTS].series.as_ref().map(read)
    }

    /// Whether any sample of the head may lie in `start ..= end`.
    pub fn may_overlap(&self, start: i64, end: i64) -> bool {
        self.has_late() || end >= self.oldest_any() && start <= self.max.load(Ordering::Acquire)
    }

    fn has_late(&self) -> bool {
        self.late_samples.load(Ordering::Relaxed) > 0
    }

    fn oldest_any(&self) -> i64 {
        if self.has_late() { i64::MIN } else { self.oldest.load(Ordering::Acquire) }
    }

    fn overlaps(&self, series: &Series, start: i64, end: i64) -> bool {
        let late = series.late().is_some_and(|late| late.has_any_in(start, end));
        late || series.newest() >= start.max(self.min.load(Ordering::Acquire))
            && self.oldest.load(Ordering::Acquire) <= end
    }

    /// Appends the samples within `start ..= end` of the series with these labels, if it is still in that slot.
    pub fn read_slot(
        &self,
        slot: u32,
        labels: &Labels,
        start: i64,
        end: i64,
        columns: &mut SeriesColumns,
        warnings: &mut Vec<String>,
    ) {
        self.with_series(slot, |series| {
            if same_labels(&self.index.read().symbols, &series.labels, labels) {
                self.read_series(series, start, end, columns, warnings);
            }
        });
    }

    /// Appends the samples within `start ..= end` of a series that was resolved, in order of time; none of one that was
    /// collected since.
    pub fn read_resolved(
        &self,
        series: SeriesRef,
        start: i64,
        end: i64,
        columns: &mut SeriesColumns,
        warnings: &mut Vec<String>,
    ) {
        if let Some(series) = Cursor::new(&self.pages).series(series) {
            self.read_series(series, start, end, columns, warnings);
        }
    }

    /// Appends a series' samples within `start ..= end` that are not in blocks.
    pub(super) fn read_series(
        &self,
        series: &Series,
        start: i64,
        end: i64,
        columns: &mut SeriesColumns,
        warnings: &mut Vec<String>,
    ) {
        self.read_in_order(series, start.max(self.min.load(Ordering::Acquire)), end, columns, warnings);
        let late = series.late().map(|late| late.range(start, end)).into_iter().flatten();
        for late in late.filter(|late| !late.is_empty()) {
            let mut more = SeriesColumns::default();
            late.iter().for_each(|(at, value)| columns::push_value(&mut more, *at, value));
            columns::join(columns, &mut more);
        }
        if self.has_tombstones.load(Ordering::Relaxed) {
            let reference = series_key(&self.index.read().symbols, series);
            if let Some(spans) = self.tombstones.read().get(&reference) {
                drop_spans(spans, columns);
            }
        }
        fill_starts(series, columns);
    }

    fn read_in_order(
        &self,
        series: &Series,
        start: i64,
        end: i64,
        columns: &mut SeriesColumns,
        warnings: &mut Vec<String>,
    ) {
        if start > end || series.newest() < start {
            return;
        }
        let pending = series.pending();
        // Most queries want the newest samples only.
        let only_pending = pending.as_ref().is_some_and(|(at, _)| *at == start);
        if !only_pending {
            let in_place = series.only_open_floats(start)
                && series.read_open_floats(start, end, &mut columns.timestamps, &mut columns.values);
            if !in_place {
                for chunk in series.chunks(start, end, &self.spill) {
                    push_or_warn(columns, chunk.encoding, &chunk.bytes, start, end, warnings);
                }
            }
        }
        if let Some((at, value)) = pending.filter(|(at, _)| (start..=end).contains(at)) {
            columns::push_value(columns, at, &value);
        }
    }

    /// The newest float of a series that satisfies all matchers, for those who want no history.
    pub fn newest_floats(&self, matchers: &[Matcher]) -> Vec<(Labels, i64, f64)> {
        let selected = self.select_slots(matchers);
        let mut answer = Vec::new();
        for slot in &selected.slots {
            let found = self.with_series(slot, |series| {
                let (at, bits) = series.newest_float()?;
                Some((labels_of(&self.index.read().symbols, &series.labels), at, f64::from_bits(bits)))
            });
            answer.extend(found.flatten().filter(|(labels, _, _)| matches_all(matchers, labels)));
        }
        answer
    }

    /// Whether a value stands at an instant of a series: for tests of what was taken.
    pub fn has_sample(&self, labels: &Labels, at: i64, value: &Value) -> bool {
        use promesh_model::ingest::SeriesIndex as _;
        let Ok(series) = self.resolve(labels) else { return false };
        let mut columns = SeriesColumns::default();
        self.with_series(super::slot_of(series), |series| {
            self.read_series(series, at, at, &mut columns, &mut Vec::new());
        });
        match value {
            Value::Float(bits) => columns.values.iter().any(|value| value.to_bits() == *bits),
            Value::Histogram(_) => !columns.histograms.is_empty(),
        }
    }
}

fn fill_starts(series: &Series, columns: &mut SeriesColumns) {
    if let Some(starts) = series.starts() {
        starts.fill(columns);
    }
}

pub(super) fn push_or_warn(
    columns: &mut SeriesColumns,
    encoding: Encoding,
    bytes: &[u8],
    start: i64,
    end: i64,
    warnings: &mut Vec<String>,
) {
    if let Err(error) = columns::push_chunk(columns, encoding, bytes, start, end) {
        warnings.push(format!("a chunk of the head is damaged, some samples are missing: {error}"));
    }
}
