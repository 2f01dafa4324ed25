//! One slot of one group, on a thread that may block.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use promesh_api::{Asked, Origin, QueryWatch as _, Timings};
use promesh_model::histogram::FloatHistogram;
use promesh_model::ingest::{Batch, HistogramSample, HistogramValue, SeriesIndex};
use promesh_model::shard::ShardSet;
use promesh_model::storage::{Budget, SelectHints, SelectRequest};
use promesh_model::value::{is_stale, stale_nan};
use promesh_model::{Labels, Monotonic, ShardId, Timestamp};
use promesh_promql::{QueryOptions, Value, VectorSample};
use promesh_replication::{SourceId, Vanishing};
use promesh_rules::{
    Appended, Coverage, Evaluation, Output, RestoreRequest, RestoredSeries, ResultSample, Sample, SampleValue,
};
use promesh_template::QuerySample;

use super::{Entry, Ruling, Shown, State, fresh};
use crate::clock;
use crate::ingest::OwnBatch;

/// Between two tries to read back state.
const RESTORE_RETRY: Duration = Duration::from_millis(200);

/// A slot as it was started.
#[derive(Clone, Copy)]
struct Slot {
    at: Timestamp,
    rank: u8,
    /// The newest slot that anybody evaluated before it, as far as that is known.
    before: Option<Timestamp>,
}

impl Ruling {
    pub(super) fn evaluate(&self, entry: &Entry, slot: Timestamp, rank: u8) {
        // The slot before is still running: this one is missed, as upstream does it.
        let Some(mut state) = entry.state.try_lock() else {
            entry.counters.miss(1);
            return;
        };
        entry.inherit(&mut state);
        self.take_over(entry, &mut state);
        let newest = self.means.ingest.newest(entry.planned.source, entry.planned.shard).map(|(slot, _)| slot);
        let before = newest.max(Some(state.evaluated).filter(|slot| *slot > Timestamp::MIN));
        state.group.begin(slot, clock::now());
        let slot = Slot { at: slot, rank, before };
        loop {
            while let Some(output) = state.group.poll_output() {
                self.carry_out(entry, &mut state, slot, output);
            }
            let Some(until) = state.group.poll_timeout() else { return };
            std::thread::sleep(until.since(clock::monotonic()));
            state.group.timeout(clock::now());
        }
    }

    /// Another peer has evaluated the group since: what this one remembers is of no use, the replicated series are.
    fn take_over(&self, entry: &Entry, state: &mut State) {
        let newest = self.means.ingest.newest(entry.planned.source, entry.planned.shard);
        if newest.is_some_and(|(slot, is_ours)| !is_ours && slot > state.evaluated) {
            state.group = fresh(&entry.planned);
            state.evaluated = Timestamp::MIN;
        }
    }

    fn carry_out(&self, entry: &Entry, state: &mut State, slot: Slot, output: Output) {
        match output {
            Output::Restore(request) => self.restore(entry, state, slot, &request),
            Output::Evaluate { token, expression, at, .. } => {
                let before = self.coverage();
                let result = self.query(entry, &expression, at).map(|vector| {
                    let coverage = if before == Coverage::Whole { self.coverage() } else { before };
                    state.is_whole = coverage == Coverage::Whole;
                    Evaluation { vector: vector.into_iter().map(result_sample).collect(), coverage }
                });
                entry.counters.evaluations.fetch_add(1, Ordering::Relaxed);
                entry.counters.failures.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
                let query = |text: &str| Ok(self.query(entry, text, at)?.into_iter().map(query_sample).collect());
                state.group.evaluated(token, result, Some(&query), clock::now());
            }
            Output::Append { token, rule, samples, .. } => {
                let result = self.append(entry, rule, slot, &samples, state.is_whole);
                let before = if rule == 0 { 0 } else { entry.counters.samples.load(Ordering::Relaxed) };
                entry.counters.samples.store(before + samples.len() as u64, Ordering::Relaxed);
                state.group.appended(token, &result, clock::now());
            }
            Output::Alerts(alerts) => self.means.outgoing.send(&alerts),
            Output::Finished { evaluated: true, .. } => {
                entry.note_gap(slot.at, slot.before);
                self.write_end(entry, slot);
                state.evaluated = slot.at;
                entry.counters.evaluated.fetch_add(1, Ordering::Relaxed);
                *entry.shown.lock() = Some(Shown::of(&entry.planned, &state.group, slot.at));
            }
            Output::Finished { evaluated: false, .. } => {
                entry.counters.miss(1);
            }
        }
    }

    /// Shards that no peer answers for now. What is lost of the time before is absent, and never a reason to stop paging.
    fn coverage(&self) -> Coverage {
        let Some(view) = self.means.view.borrow().clone() else { return Coverage::Whole };
        let now = clock::wall();
        let missing = promesh_node::reading::unheard(&view, &ShardSet::all(), now, now);
        if missing.is_empty() { Coverage::Whole } else { Coverage::Missing(missing.iter().collect::<Vec<ShardId>>()) }
    }

    fn query(&self, entry: &Entry, expression: &str, at: Timestamp) -> Result<Vec<VectorSample>, String> {
        let budget = Budget::new(self.means.options.query.samples_max);
        let (cancelled, timeout) = (budget.clone(), self.means.options.query.timeout);
        let timer = self.runtime.spawn(async move {
            tokio::time::sleep(timeout).await;
            cancelled.cancel();
        });
        let options = QueryOptions { budget: Some(budget), ..QueryOptions::default() };
        let slot = self.means.queries.begin(expression, clock::wall());
        let began = clock::now().monotonic;
        let span = promesh_trace::span(promesh_trace::Kind::Internal, "rule", || {
            vec![("rule_group", entry.planned.spec.name.clone()), ("query", expression.to_owned())]
        });
        let outcome = span.within(|| self.means.engine.instant(&*self.means.storage, expression, at, &options));
        if let Err(error) = &outcome {
            span.fail(error);
        }
        drop(span);
        timer.abort();
        let line = self.means.queries.wants_lines().then(|| {
            let (file, name) = (entry.planned.path.clone(), entry.planned.spec.name.clone());
            let (query, origin) = (expression.to_owned(), Origin::Rules { file, name });
            let now = clock::now();
            let timings = Timings { evaluated: now.monotonic.since(began), ..Timings::default() };
            Asked { query, start: at, end: at, step: Duration::ZERO, origin }.line(now.wall, &outcome, timings)
        });
        self.means.queries.end(slot, line);
        match outcome.map_err(|error| error.to_string())?.value {
            Value::Vector(vector) => Ok(vector),
            Value::Scalar { at, value } => {
                let value = promesh_promql::SampleValue::Float(value);
                Ok(vec![VectorSample { labels: Labels::empty(), at, value }])
            }
            Value::String { .. } | Value::Matrix(_) => Err("rule result is not a vector or scalar".to_owned()),
        }
    }

    /// Reads back what the evaluator before left. While shards are missing the slot waits, and is missed in the end:
    /// alerts that begin anew would forget how long they have been active. After the hold, what is there must do.
    fn restore(&self, entry: &Entry, state: &mut State, slot: Slot, request: &RestoreRequest) {
        let stampable = Timestamp(slot.at.ms() + self.stamp_ms(entry));
        loop {
            let whole = self.coverage() == Coverage::Whole;
            let read = self.read_back(request);
            let now = clock::now();
            let since = *state.unread_since.get_or_insert(now.monotonic);
            match read {
                Ok(series) if whole || self.is_past_hold(since, now.monotonic) => {
                    state.unread_since = None;
                    state.group.restored(request.token, Some(&series), now);
                    return;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(group = entry.name(), error, "state could not be read back"),
            }
            if now.wall.after(RESTORE_RETRY) > stampable {
                state.group.stop();
                entry.counters.miss(1);
                return;
            }
            std::thread::sleep(RESTORE_RETRY);
        }
    }

    fn stamp_ms(&self, entry: &Entry) -> i64 {
        let (source, shard, interval_ms) = (entry.planned.source, entry.planned.shard, entry.planned.interval_ms());
        let (piece, phase_ms) = (entry.planned.piece().id(), entry.planned.phase_ms);
        promesh_node::SourceSpec { source, shard, interval_ms, phase_ms, piece, pinned: false }.stamp_ms()
    }

    fn is_past_hold(&self, since: Monotonic, now: Monotonic) -> bool {
        now.since(since) >= self.means.options.rules.incomplete_hold
    }

    fn read_back(&self, request: &RestoreRequest) -> Result<Vec<RestoredSeries>, String> {
        let select = |matchers: &Vec<_>| SelectRequest {
            matchers: matchers.clone(),
            start: request.from,
            end: request.to,
            hints: SelectHints::default(),
        };
        let requests: Vec<SelectRequest> = request.selectors.iter().map(select).collect();
        let budget = Budget::new(self.means.options.query.samples_max);
        let selections = self.means.storage.select(&requests, &budget).map_err(|error| error.to_string())?;
        let series = selections.into_iter().flat_map(|selection| selection.series);
        let last = |series: promesh_model::storage::SeriesColumns| {
            let place = series.values.iter().rposition(|value| !is_stale(*value))?;
            Some(RestoredSeries {
                at: Timestamp(*series.timestamps.get(place)?),
                value: series.values[place],
                ended: place + 1 < series.values.len(),
                labels: series.labels,
            })
        };
        Ok(series.filter_map(last).collect())
    }

    fn append(&self, entry: &Entry, rule: usize, slot: Slot, samples: &[Sample], is_whole: bool) -> Appended {
        let Some(source) = entry.planned.rule_sources.get(rule) else {
            return Appended::Failed(format!("the group has no rule {rule}"));
        };
        match self.write(*source, entry, slot, samples, is_whole) {
            Ok(()) => Appended::Stored,
            Err(reason) => {
                tracing::warn!(group = entry.name(), rule, reason, "samples of a rule could not be stored");
                Appended::Failed(reason)
            }
        }
    }

    /// With `is_whole`, series that the batch before had end here, whoever wrote it. The group marks what it knows of
    /// itself; this adds what only an evaluator before it knew.
    fn write(
        &self,
        source: SourceId,
        entry: &Entry,
        slot: Slot,
        samples: &[Sample],
        is_whole: bool,
    ) -> Result<(), String> {
        let db = self.means.ingest.db();
        let mut batch = Batch { slot: slot.at, ..Batch::default() };
        for sample in samples {
            let series = db.resolve(&sample.labels).map_err(|error| error.to_string())?;
            match &sample.value {
                SampleValue::Float(value) => {
                    if sample.at != slot.at {
                        batch.timestamps.push((batch.series.len() as u32, sample.at));
                    }
                    batch.series.push(series);
                    batch.values.push(*value);
                }
                SampleValue::Histogram(value) => batch.histograms.push(HistogramSample {
                    series,
                    timestamp: sample.at,
                    value: HistogramValue::Float(Arc::clone(value)),
                    start: Timestamp(0),
                }),
            }
        }
        let own = OwnBatch {
            source,
            shard: entry.planned.shard,
            rank: slot.rank,
            failed: false,
            vanishing: if is_whole { Vanishing::Marked } else { Vanishing::Unmarked },
        };
        let outcome = self.means.ingest.write_own(own, batch).map_err(|error| error.to_string())?;
        match outcome.rejected.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} samples refused, the first: {}", outcome.rejected.len(), first.reason)),
        }
    }

    /// The slot is done: others need not start it.
    fn write_end(&self, entry: &Entry, slot: Slot) {
        if let Err(reason) = self.write(entry.planned.source, entry, slot, &[], true) {
            tracing::warn!(group = entry.name(), reason, "the end of a slot could not be stored");
        }
    }

    /// A group is gone from the configuration: its series end now.
    pub(super) fn end_series(&self, entry: &Entry) {
        let mut state = entry.state.lock();
        entry.inherit(&mut state);
        let slot = Slot { at: clock::wall(), rank: 0, before: None };
        for (rule, source) in state.group.state().rules.into_iter().zip(&entry.planned.rule_sources) {
            let marker = |labels| Sample { labels, at: slot.at, value: SampleValue::Float(stale_nan()) };
            let markers: Vec<Sample> = rule.previous.into_iter().map(marker).collect();
            if let Err(reason) = self.write(*source, entry, slot, &markers, true) {
                tracing::warn!(group = entry.name(), reason, "the end of a removed rule's series could not be stored");
            }
        }
    }
}

fn result_sample(sample: VectorSample) -> ResultSample {
    let value = match sample.value {
        promesh_promql::SampleValue::Float(value) => SampleValue::Float(value),
        promesh_promql::SampleValue::Histogram(value) => SampleValue::Histogram(value),
    };
    ResultSample { labels: sample.labels, value }
}

/// As templates see it.
pub fn query_sample(sample: VectorSample) -> QuerySample {
    let shown = |histogram: &FloatHistogram| {
        promesh_template::value::Value::opaque("*histogram.FloatHistogram", format!("{histogram:?}"))
    };
    let value = match &sample.value {
        promesh_promql::SampleValue::Float(value) => promesh_template::value::Value::Float(*value),
        promesh_promql::SampleValue::Histogram(histogram) => shown(histogram),
    };
    QuerySample { labels: sample.labels, value }
}
