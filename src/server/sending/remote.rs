//! One receiver: which shards go to it as they are written, and which are read from storage first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use promesh_config::prometheus::{RemoteWriteConfig, WriteMessage, content_digest};
use promesh_model::ingest::{Batch, Exemplar, HistogramValue, Metadata, SeriesIndex as _, SeriesRef};
use promesh_model::matcher::MatchOp;
use promesh_model::shard::{ShardSet, shard_of};
use promesh_model::storage::{Budget, Queryable as _, SelectHints, SelectRequest, SeriesColumns};
use promesh_model::{Labels, Matcher, ShardId, Timestamp, relabel};
use promesh_remote::{Item, OutSeries, Sender, Value};
use tokio_util::sync::CancellationToken;

use super::Sending;
use super::progress::Progress;
use crate::clock;
use crate::scraping::MachineClock;

/// A scrape is written up to its timeout after its instant: what was said to have arrived goes no further back than that.
const OVERLAP_MS: i64 = 15_000;
/// What is read from storage at once.
const READ_SPAN_MS: i64 = 60_000;
/// Jobs that begin no further apart are one.
const JOIN_MS_MAX: i64 = 5_000;
/// Between two looks whether something is to be read.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Series whose form is remembered.
const CACHE_MAX: usize = 2_000_000;
/// Items that wait for a reading to end.
const DEFERRED_MAX: usize = 200_000;

/// Shards that are read from storage from an instant on.
struct Job {
    from: i64,
    shards: ShardSet,
}

#[derive(Default)]
struct State {
    /// What goes out as it is written.
    sending: ShardSet,
    jobs: VecDeque<Job>,
    /// What was written of the first job's shards while its last stretch is read.
    deferred: Option<Vec<Item>>,
    /// Whether any shard was ever gained.
    has_begun: bool,
}

impl State {
    /// Has shards read from an instant on, together with others that are due from about the same one.
    fn read_later(&mut self, from: i64, shards: &ShardSet) {
        // The first job may be on its last stretch: what joins it now would not be read whole.
        let kin = self.jobs.iter_mut().skip(1).find(|job| (from - JOIN_MS_MAX..=from).contains(&job.from));
        match kin {
            Some(job) => job.shards = job.shards.union(shards),
            None => self.jobs.push_back(Job { from, shards: shards.clone() }),
        }
    }
}

/// One receiver.
pub struct Remote {
    /// Its name in metrics and in the progress.
    pub name: String,
    /// Its queue and what sends from it.
    pub sender: Arc<Sender>,
    /// Times that the queue was full.
    pub overflows: AtomicU64,
    config: RemoteWriteConfig,
    external_labels: Labels,
    series: Mutex<HashMap<SeriesRef, Option<Arc<OutSeries>>>>,
    state: Mutex<State>,
    stop: CancellationToken,
}

/// A receiver's name: as configured, or from its settings.
pub fn name_of(config: &RemoteWriteConfig) -> String {
    match config.name.as_str() {
        "" => format!("{:032x}", content_digest(config))[..6].to_owned(),
        name => name.to_owned(),
    }
}

impl Remote {
    /// Begins to send.
    ///
    /// # Errors
    /// What cannot be used of the settings.
    pub fn start(
        name: String,
        config: RemoteWriteConfig,
        external_labels: Labels,
        sending: Arc<Sending>,
    ) -> Result<Arc<Remote>, String> {
        let sender = Arc::new(Sender::new(config.clone(), Arc::new(MachineClock))?);
        let remote = Arc::new(Remote {
            name,
            sender: Arc::clone(&sender),
            overflows: AtomicU64::new(0),
            config,
            external_labels,
            series: Mutex::default(),
            state: Mutex::default(),
            stop: CancellationToken::new(),
        });
        tokio::spawn(sender.run(remote.stop.clone()));
        tokio::spawn(Arc::clone(&remote).read_on(Arc::clone(&sending)));
        tokio::spawn(Arc::clone(&remote).tell_metadata(sending));
        Ok(remote)
    }

    /// Ends sending; what has not arrived is left to the progress.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether it is what these settings say.
    pub fn is_same(&self, config: &RemoteWriteConfig, external_labels: &Labels) -> bool {
        self.config == *config && self.external_labels == *external_labels
    }

    /// Whether it was ever this peer's turn to send anything.
    pub fn has_begun(&self) -> bool {
        self.state.lock().has_begun
    }

    /// Takes what was written in a shard of this peer's.
    pub fn take(&self, shard: ShardId, batch: &Batch, sending: &Sending) {
        let mut state = self.state.lock();
        let goes = state.sending.contains(shard);
        let defers =
            !goes && state.deferred.is_some() && state.jobs.front().is_some_and(|job| job.shards.contains(shard));
        if !goes && !defers {
            if !state.jobs.iter().any(|job| job.shards.contains(shard)) {
                let from = self.resume_point(&sending.progress).min(batch.slot.ms());
                state.has_begun = true;
                state.read_later(from, &std::iter::once(shard).collect());
            }
            return;
        }
        let items = self.items(batch, sending);
        if defers {
            if let Some(deferred) = &mut state.deferred {
                deferred.extend(items);
                if deferred.len() > DEFERRED_MAX {
                    // The reading begins its last stretch anew.
                    state.deferred = None;
                }
            }
            return;
        }
        if let Err(items) = self.sender.queue.push(items, clock::monotonic()) {
            self.overflows.fetch_add(1, Ordering::Relaxed);
            let from = items.iter().map(|item| item.at).min().unwrap_or(batch.slot.ms());
            let shards = std::mem::take(&mut state.sending);
            state.read_later(from, &shards);
        }
    }

    /// Where to go on: what all peers say has arrived, less what may have been under way.
    fn resume_point(&self, progress: &Progress) -> i64 {
        let now = clock::wall();
        progress.through(&self.name, now).map_or(now.ms(), |through| through.saturating_sub(OVERLAP_MS))
    }

    /// The shards are now these: gained ones are read from storage first, lost ones are forgotten.
    pub fn follow(&self, acting: &ShardSet, sending: &Sending) {
        let mut state = self.state.lock();
        state.sending = state.sending.intersection(acting);
        let mut known = state.sending.clone();
        for job in &mut state.jobs {
            job.shards = job.shards.intersection(acting);
            known = known.union(&job.shards);
        }
        let gained = acting.difference(&known);
        if !gained.is_empty() {
            let from = self.resume_point(&sending.progress);
            state.read_later(from, &gained);
            state.has_begun = true;
        }
    }

    /// Everything before this has arrived, as far as this peer was to send it; none while nothing can be said.
    pub fn progress(&self, progress: &Progress) -> Option<i64> {
        let state = self.state.lock();
        if !state.has_begun {
            // An earlier life's word stands until this one has taken over from it.
            return progress.own(&self.name);
        }
        let reading = state.jobs.iter().map(|job| job.from).min();
        let waiting = self.sender.queue.oldest();
        drop(state);
        Some(reading.into_iter().chain(waiting).min().unwrap_or(clock::wall().ms()).min(clock::wall().ms()))
    }

    /// Reads from storage what jobs say, one after the other.
    async fn read_on(self: Arc<Self>, sending: Arc<Sending>) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_PERIOD) => {}
            }
            loop {
                let has_job = {
                    let mut state = self.state.lock();
                    while state.jobs.front().is_some_and(|job| job.shards.is_empty()) {
                        state.jobs.pop_front();
                    }
                    !state.jobs.is_empty()
                };
                if !has_job || self.stop.is_cancelled() {
                    break;
                }
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.sender.queue.half_empty() => {}
                }
                let (remote, whole) = (Arc::clone(&self), Arc::clone(&sending));
                let read = tokio::task::spawn_blocking(move || remote.read_stretch(&whole)).await;
                if let Ok(Err(error)) = read {
                    tracing::warn!(
                        remote = self.name,
                        error,
                        "samples for remote write could not be read, it is tried again"
                    );
                    break;
                }
            }
        }
    }

    /// Reads one stretch of the first job; after the last one its shards go out as they are written.
    fn read_stretch(&self, sending: &Sending) -> Result<(), String> {
        let now = clock::wall().ms();
        let (from, shards, is_last) = {
            let mut state = self.state.lock();
            let Some(job) = state.jobs.front() else { return Ok(()) };
            let (from, shards) = (job.from, job.shards.clone());
            let is_last = from + READ_SPAN_MS >= now;
            if is_last {
                state.deferred = Some(Vec::new());
            }
            (from, shards, is_last)
        };
        let to = if is_last { i64::MAX } else { from + READ_SPAN_MS - 1 };
        let items = self.read(sending, &shards, from, to)?;
        let mut newest: HashMap<Labels, i64> = HashMap::new();
        if is_last {
            for item in &items {
                let at = newest.entry(item.series.labels.clone()).or_insert(item.at);
                *at = item.at.max(*at);
            }
        }
        self.push_all(items)?;
        let mut state = self.state.lock();
        if !is_last {
            if let Some(job) = state.jobs.front_mut() {
                job.from = to + 1;
            }
            return Ok(());
        }
        let Some(mut deferred) = state.deferred.take() else {
            // There was too much of it: once more.
            return Ok(());
        };
        deferred.retain(|item| newest.get(&item.series.labels).is_none_or(|newest| item.at > *newest));
        if self.sender.queue.push(deferred, clock::monotonic()).is_err() {
            if let Some(job) = state.jobs.front_mut() {
                job.from = now;
            }
            return Ok(());
        }
        if let Some(job) = state.jobs.pop_front() {
            // Those that were lost meanwhile are not in the job any more.
            state.sending = state.sending.union(&job.shards.intersection(&sending.acting()));
        }
        Ok(())
    }

    fn push_all(&self, items: Vec<Item>) -> Result<(), String> {
        let mut rest = items;
        let mut patience = 600;
        loop {
            match self.sender.queue.push(rest, clock::monotonic()) {
                Ok(()) => return Ok(()),
                Err(back) if patience > 0 && !self.stop.is_cancelled() => {
                    rest = back;
                    patience -= 1;
                    std::thread::sleep(LOOK_PERIOD);
                }
                Err(_) => return Err("the queue stays full".to_owned()),
            }
        }
    }

    fn read(&self, sending: &Sending, shards: &ShardSet, from: i64, to: i64) -> Result<Vec<Item>, String> {
        let named = Matcher::new(MatchOp::NotEqual, "__name__", "").expect("no expression");
        let request = SelectRequest {
            matchers: vec![named.clone()],
            start: Timestamp(from),
            end: Timestamp(to),
            hints: SelectHints::default(),
        };
        let selected =
            sending.ingest.db().select(&[request], &Budget::unlimited()).map_err(|error| error.to_string())?;
        let mut items = Vec::new();
        for columns in selected.into_iter().flat_map(|selection| selection.series) {
            if shards.contains(shard_of(&columns.labels))
                && let Some(series) = self.shaped(&columns.labels, sending)
            {
                self.append(&series, columns, &mut items);
            }
        }
        if self.config.send_exemplars {
            for found in sending.ingest.db().head().exemplars(&[vec![named]], from, to) {
                if shards.contains(shard_of(&found.labels))
                    && let Some(series) = self.shaped(&found.labels, sending)
                {
                    let item = |exemplar: Exemplar| Item {
                        series: Arc::clone(&series),
                        at: exemplar.timestamp.ms(),
                        start: 0,
                        value: Value::Exemplar(exemplar),
                        may_repeat: true,
                    };
                    items.extend(found.exemplars.into_iter().map(item));
                }
            }
        }
        Ok(items)
    }

    fn append(&self, series: &Arc<OutSeries>, columns: SeriesColumns, items: &mut Vec<Item>) {
        let item = |at, start, value| Item { series: Arc::clone(series), at, start, value, may_repeat: true };
        for (index, (at, value)) in columns.timestamps.iter().zip(&columns.values).enumerate() {
            let start = columns.start_timestamps.get(index).copied().unwrap_or(0);
            items.push(item(*at, start, Value::Float(*value)));
        }
        if self.config.send_native_histograms || self.config.protobuf_message == WriteMessage::V2 {
            for point in columns.histograms {
                let value = Value::Histogram(HistogramValue::Float(point.value));
                items.push(item(point.timestamp, point.start, value));
            }
        }
    }

    /// A batch's samples as they are sent.
    fn items(&self, batch: &Batch, sending: &Sending) -> Vec<Item> {
        let mut items = Vec::with_capacity(batch.series.len());
        let mut own_times = batch.timestamps.iter().peekable();
        let mut starts = batch.start_timestamps.iter().peekable();
        let mut known = self.series.lock();
        if known.len() > CACHE_MAX {
            known.clear();
        }
        let mut shaped = |series: SeriesRef| -> Option<Arc<OutSeries>> {
            if let Some(found) = known.get(&series) {
                return found.clone();
            }
            let made = sending.ingest.db().labels(series).and_then(|labels| self.shaped(&labels, sending));
            known.insert(series, made.clone());
            made
        };
        let item = |series, at, start, value| Item { series, at, start, value, may_repeat: false };
        let mut dropped = 0;
        for (index, (series, value)) in batch.series.iter().zip(&batch.values).enumerate() {
            let at =
                own_times.next_if(|(place, _)| *place as usize == index).map_or(batch.slot.ms(), |(_, at)| at.ms());
            let start = starts.next_if(|(place, _)| *place as usize == index).map_or(0, |(_, at)| at.ms());
            match shaped(*series) {
                Some(series) => items.push(item(series, at, start, Value::Float(*value))),
                None => dropped += 1,
            }
        }
        if self.config.send_native_histograms || self.config.protobuf_message == WriteMessage::V2 {
            for sample in &batch.histograms {
                if let Some(series) = shaped(sample.series) {
                    let (at, start) = (sample.timestamp.ms(), sample.start.ms());
                    items.push(item(series, at, start, Value::Histogram(sample.value.clone())));
                }
            }
        }
        if self.config.send_exemplars {
            for (series, exemplar) in &batch.exemplars {
                if let Some(series) = shaped(*series) {
                    items.push(item(series, exemplar.timestamp.ms(), 0, Value::Exemplar(exemplar.clone())));
                }
            }
        }
        self.sender.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        items
    }

    /// With external labels, relabelled; none when rules drop it.
    fn shaped(&self, labels: &Labels, sending: &Sending) -> Option<Arc<OutSeries>> {
        let mut builder = labels.to_builder();
        for (name, value) in self.external_labels.iter().filter(|(name, _)| labels.get(name).is_none()) {
            builder.set(name, value);
        }
        let shaped = relabel::apply(&self.config.write_relabel_configs, builder)?.build();
        let metadata = (self.config.protobuf_message == WriteMessage::V2)
            .then(|| sending.ingest.db().head().metadata_of(labels.metric_name().unwrap_or_default()))
            .flatten();
        (!shaped.is_empty()).then(|| Arc::new(OutSeries::new(shaped, metadata)))
    }

    /// Says the families' metadata every now and then, where the protocol has no better place.
    async fn tell_metadata(self: Arc<Self>, sending: Arc<Sending>) {
        if !self.config.metadata_config.send {
            return;
        }
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(self.config.metadata_config.send_interval.max(LOOK_PERIOD)) => {}
            }
            if self.sender.message() != WriteMessage::V1 {
                continue;
            }
            let mut families: std::collections::BTreeMap<String, Metadata> = std::collections::BTreeMap::new();
            sending.scraping.look(|_, status| families.extend(status.metadata.iter().cloned()));
            let families: Vec<_> = families.into_iter().collect();
            self.sender.send_metadata(&families).await;
        }
    }
}
