//! One target's scrapes.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use promesh_client::{HttpClient, Request, read_body};
use promesh_model::ingest::{Batch, HistogramSample, IngestError, Metadata, SeriesIndex, SeriesRef};
use promesh_model::labels::METRIC_NAME;
use promesh_model::time::Clock;
use promesh_model::{Labels, Now, Timestamp};
use promesh_textparse::{
    CustomBucketsParser, Event, HistogramOptions, OpenMetricsParser, Parser, ProtobufParser, RawLabels, Sample,
    SeriesKey, TextParser, limit_resolution, schema_of_factor,
};

use crate::cache::{Line, LineCache};
use crate::negotiate::{Format, accept_header};
use crate::target::Target;
use crate::{labels, negotiate};

/// What all loops share.
#[derive(Clone, Debug, Default)]
pub struct ScrapeOptions {
    /// Bodies are read into these.
    pub buffers: Buffers,
    /// Labels that every series of every target gets: none in Prometheus.
    pub extra_metrics: bool,
}

/// Buffers for bodies: fresh memory costs more than parsing what is in it, so it is used again.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// How many are kept, and how large one may be to be kept.
    const KEPT_MAX: usize = 64;
    const KEPT_BYTES_MAX: usize = 8 << 20;

    fn take(&self) -> Vec<u8> {
        self.0.lock().pop().unwrap_or_default()
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut kept = self.0.lock();
        if kept.len() < Self::KEPT_MAX && buffer.capacity() <= Self::KEPT_BYTES_MAX {
            kept.push(buffer);
        }
    }
}

/// What one scrape gave.
#[derive(Clone, Debug, Default)]
pub struct ScrapeResult {
    /// The samples: the target's, then the synthetic ones. Only the latter when the scrape failed.
    pub batch: Batch,
    /// Where the synthetic series (`up`, `scrape_*`) begin in `batch.series`.
    pub synthetic_from: usize,
    /// Why it failed.
    pub failed: Option<String>,
    /// When it began.
    pub began: Now,
    /// How long it took.
    pub duration: Duration,
    /// The body's length, undone of gzip.
    pub body_bytes: usize,
    /// What came over the wire of it.
    pub wire_bytes: usize,
    /// Samples in the exposition.
    pub samples_scraped: usize,
    /// Samples after the rules.
    pub samples_kept: usize,
    /// Series that the scrape before did not have.
    pub series_added: usize,
    /// Samples left out because another of the same scrape has the same series and instant.
    pub samples_repeated: usize,
    /// Whether series with instants of their own become stale too when they vanish.
    pub track_timestamps_staleness: bool,
}

/// Scrapes one target and remembers its lines.
#[derive(Debug)]
pub struct ScrapeLoop {
    target: Target,
    client: HttpClient,
    options: ScrapeOptions,
    accept: HeaderValue,
    cache: LineCache,
    synthetic: Vec<(&'static str, Option<SeriesRef>)>,
    metadata: Vec<(String, Metadata)>,
}

/// Without a limit of the user's a body may have this many bytes: enough for 4 million lines, not for an endless one.
const BODY_BYTES_MAX: usize = 512 << 20;

impl ScrapeLoop {
    /// A loop for a target. `client` is the job's: its targets share connections and settings.
    pub fn new(target: Target, client: HttpClient, options: ScrapeOptions) -> ScrapeLoop {
        let accept = HeaderValue::from_str(&accept_header(&target.job)).expect("made of constant parts");
        let mut names = vec![
            "up",
            "scrape_duration_seconds",
            "scrape_samples_scraped",
            "scrape_samples_post_metric_relabeling",
            "scrape_series_added",
        ];
        if options.extra_metrics || target.job.extra_metrics() {
            names.extend(["scrape_timeout_seconds", "scrape_sample_limit", "scrape_body_size_bytes"]);
        }
        let synthetic = names.into_iter().map(|name| (name, None)).collect();
        ScrapeLoop { target, client, options, accept, cache: LineCache::default(), synthetic, metadata: Vec::new() }
    }

    /// What it scrapes.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Type, help and unit of the families that the last successful scrape had, in its order.
    pub fn metadata(&self) -> &[(String, Metadata)] {
        &self.metadata
    }

    /// How many lines are remembered.
    pub fn lines(&self) -> usize {
        self.cache.len()
    }

    /// Storage refused series as unknown: they are resolved again in the next scrape.
    pub fn forget(&mut self, unknown: &[SeriesRef]) {
        self.cache.forget(|series| unknown.contains(&series));
        for (_, series) in &mut self.synthetic {
            if series.is_some_and(|series| unknown.contains(&series)) {
                *series = None;
            }
        }
    }

    /// Scrapes for a slot. Never fails: what goes wrong is in the result, with `up` = 0.
    pub async fn scrape(&mut self, slot: Timestamp, index: &dyn SeriesIndex, clock: &dyn Clock) -> ScrapeResult {
        let began = clock.now();
        let mut body = self.options.buffers.take();
        let fetched = self.fetch(&mut body).await;
        let duration = clock.now().monotonic.since(began.monotonic);
        let mut result = ScrapeResult {
            began,
            duration,
            body_bytes: body.len(),
            track_timestamps_staleness: self.target.job.track_timestamps_staleness,
            ..ScrapeResult::default()
        };
        result.batch.slot = slot;
        let parsed = match fetched {
            Ok((format, wire_bytes)) => {
                result.wire_bytes = wire_bytes;
                self.read(format, &body, index, &mut result)
            }
            Err(why) => {
                result.body_bytes = 0;
                Err(why)
            }
        };
        self.options.buffers.give(body);
        if let Err(why) = parsed {
            self.cache.abandon();
            result.batch = Batch { slot, ..Batch::default() };
            result.failed = Some(why);
        }
        self.add_synthetic(index, &mut result);
        result
    }

    /// The body of the target's answer, its format and how many bytes came over the wire.
    async fn fetch(&self, body: &mut Vec<u8>) -> Result<(Format, usize), String> {
        let mut request = Request::get(self.target.url.clone());
        let headers = &mut request.headers;
        headers.insert(header::ACCEPT, self.accept.clone());
        let encoding = if self.target.job.enable_compression { "gzip" } else { "identity" };
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(encoding));
        let seconds = self.target.timeout.as_secs_f64().to_string();
        headers
            .insert("x-prometheus-scrape-timeout-seconds", HeaderValue::from_str(&seconds).map_err(|e| e.to_string())?);
        let limit = match self.target.job.body_size_limit.bytes() {
            0 => BODY_BYTES_MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let whole = async {
            let response = self.client.send(request, self.target.timeout).await.map_err(|error| error.to_string())?;
            if response.status != StatusCode::OK {
                return Err(format!("server returned HTTP status {}", response.status));
            }
            let content_type = response.headers.get(header::CONTENT_TYPE);
            let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
            let read = read_body(response.body, &response.headers, limit, body).await;
            let wire_bytes = read.map_err(|error| error.to_string())?;
            let fallback = self.target.job.fallback_scrape_protocol.as_ref();
            Ok((negotiate::format_of(&content_type, fallback)?, wire_bytes))
        };
        match tokio::time::timeout(self.target.timeout, whole).await {
            Ok(fetched) => fetched,
            Err(_) => {
                let url = promesh_client::redacted(&self.target.url);
                Err(format!("Get \"{url}\": context deadline exceeded"))
            }
        }
    }

    fn read(
        &mut self,
        format: Format,
        body: &[u8],
        index: &dyn SeriesIndex,
        result: &mut ScrapeResult,
    ) -> Result<(), String> {
        let options = HistogramOptions {
            native: self.target.native_histograms,
            classic_too: self.target.classic_histograms_too,
            to_custom_buckets: self.target.to_custom_buckets,
        };
        let mut parser: Box<dyn Parser + '_> = match format {
            Format::Text => Box::new(TextParser::new(body)),
            Format::OpenMetrics => Box::new(OpenMetricsParser::new(body)),
            Format::Protobuf => Box::new(ProtobufParser::new(body, options)),
        };
        if options.to_custom_buckets && format != Format::Protobuf {
            parser = Box::new(CustomBucketsParser::new(parser, options.classic_too));
        }
        self.cache.begin();
        let mut reading = Reading {
            target: &self.target,
            cache: &mut self.cache,
            index,
            raw: RawLabels::default(),
            metadata: Vec::new(),
            resolved_any: false,
        };
        reading.batch_capacity(result);
        reading.run(parser.as_mut(), result)?;
        if reading.resolved_any || !result.batch.timestamps.is_empty() {
            reading.drop_repeated(result);
        }
        let metadata = reading.metadata;
        self.cache.finish();
        self.note_metadata(metadata, &mut result.batch);
        Ok(())
    }

    /// Only what changed since the last scrape goes to storage.
    fn note_metadata(&mut self, metadata: Vec<(String, Metadata)>, batch: &mut Batch) {
        if metadata == self.metadata {
            return;
        }
        let changed = metadata.iter().filter(|entry| !self.metadata.contains(entry));
        batch.metadata.extend(changed.cloned());
        self.metadata = metadata;
    }

    fn add_synthetic(&mut self, index: &dyn SeriesIndex, result: &mut ScrapeResult) {
        result.synthetic_from = result.batch.series.len();
        let up = if result.failed.is_none() { 1.0 } else { 0.0 };
        for (name, series) in &mut self.synthetic {
            let value = match *name {
                "up" => up,
                "scrape_duration_seconds" => result.duration.as_secs_f64(),
                "scrape_samples_scraped" => result.samples_scraped as f64,
                "scrape_samples_post_metric_relabeling" => result.samples_kept as f64,
                "scrape_series_added" => result.series_added as f64,
                "scrape_timeout_seconds" => self.target.timeout.as_secs_f64(),
                "scrape_sample_limit" => self.target.job.sample_limit as f64,
                _ => result.body_bytes as f64,
            };
            let resolved = match series {
                Some(series) => Ok(*series),
                None => index.resolve(&synthetic_labels(name, &self.target.labels)),
            };
            match resolved {
                Ok(number) => {
                    *series = Some(number);
                    result.batch.series.push(number);
                    result.batch.values.push(value);
                }
                Err(error) => {
                    result.failed.get_or_insert_with(|| error.to_string());
                }
            }
        }
    }
}

fn synthetic_labels(name: &str, target: &Labels) -> Labels {
    let mut labels = target.to_builder();
    labels.set(METRIC_NAME, name);
    labels.build()
}

/// One exposition being read.
struct Reading<'a> {
    target: &'a Target,
    cache: &'a mut LineCache,
    index: &'a dyn SeriesIndex,
    raw: RawLabels,
    metadata: Vec<(String, Metadata)>,
    resolved_any: bool,
}

impl Reading<'_> {
    /// Room for the samples that came last time and the synthetic ones: no growing on the way.
    fn batch_capacity(&self, result: &mut ScrapeResult) {
        let lines = self.cache.len() + 8;
        result.batch.series.reserve_exact(lines);
        result.batch.values.reserve_exact(lines);
    }

    fn run(&mut self, parser: &mut dyn Parser, result: &mut ScrapeResult) -> Result<(), String> {
        let sample_limit = self.target.job.sample_limit;
        loop {
            let hint = self.cache.hint();
            let sample = match parser.next(hint).map_err(|error| error.to_string())? {
                None => break,
                Some(Event::Sample(sample)) => sample,
                Some(Event::Histogram(histogram)) => {
                    result.samples_scraped += 1;
                    self.keep_histogram(histogram, parser, result)?;
                    continue;
                }
                Some(event) => {
                    self.note(event);
                    continue;
                }
            };
            result.samples_scraped += 1;
            let line = self.line_of(&sample, parser, result)?;
            self.keep(sample, line, result);
            if let Line::Series(series) = line {
                self.keep_exemplars(series, sample.timestamp, parser, result);
            }
        }
        if sample_limit > 0 && result.samples_kept > sample_limit {
            return Err("sample limit exceeded".to_owned());
        }
        Ok(())
    }

    #[inline]
    fn line_of(&mut self, sample: &Sample, parser: &dyn Parser, result: &mut ScrapeResult) -> Result<Line, String> {
        if sample.as_hinted {
            return Ok(self.cache.take_hinted());
        }
        if let Some(line) = self.cache.take(sample.key) {
            return Ok(line);
        }
        self.resolve(sample.key, Line::Series, parser, result)
    }

    /// A line that was not there before: its labels become those of a series.
    fn resolve(
        &mut self,
        key: SeriesKey,
        line: fn(SeriesRef) -> Line,
        parser: &dyn Parser,
        result: &mut ScrapeResult,
    ) -> Result<Line, String> {
        parser.labels(&mut self.raw);
        let line = match labels::of_series(&self.raw, &self.target.labels, &self.target.job)? {
            None => Line::Dropped,
            Some(labels) => match self.index.resolve(&labels) {
                Ok(series) => {
                    self.resolved_any = true;
                    result.series_added += 1;
                    line(series)
                }
                // One series that storage refuses does not cost the others.
                Err(IngestError::InvalidLabels(_)) => Line::Dropped,
                Err(error) => return Err(error.to_string()),
            },
        };
        self.cache.add(key, line);
        Ok(line)
    }

    fn keep_histogram(
        &mut self,
        mut histogram: promesh_textparse::HistogramSample,
        parser: &mut dyn Parser,
        result: &mut ScrapeResult,
    ) -> Result<(), String> {
        let line = match self.cache.take(histogram.key) {
            Some(line) => line,
            None => self.resolve(histogram.key, Line::Histogram, parser, result)?,
        };
        let Line::Histogram(series) = line else { return Ok(()) };
        let job = &self.target.job;
        let schema_max = schema_of_factor(job.native_histogram_min_bucket_factor);
        if !limit_resolution(&mut histogram.value, job.native_histogram_bucket_limit, schema_max) {
            return Err("histogram bucket limit exceeded".to_owned());
        }
        result.samples_kept += 1;
        let own = histogram.timestamp.filter(|_| job.honor_timestamps).map(Timestamp);
        self.keep_exemplars(series, histogram.timestamp, parser, result);
        result.batch.histograms.push(HistogramSample {
            series,
            timestamp: own.unwrap_or(result.batch.slot),
            value: histogram.value,
            start: Timestamp(histogram.start.unwrap_or(0)),
        });
        Ok(())
    }

    #[inline]
    fn keep(&mut self, sample: Sample, line: Line, result: &mut ScrapeResult) {
        let series = match line {
            Line::Series(series) => series,
            // A line of text cannot have the key of a histogram.
            Line::Dropped | Line::Histogram(_) => return,
            Line::Repeated(_) => {
                result.samples_kept += 1;
                result.samples_repeated += 1;
                return;
            }
        };
        let position = result.batch.series.len() as u32;
        result.samples_kept += 1;
        result.batch.series.push(series);
        result.batch.values.push(sample.value);
        if self.target.job.honor_timestamps
            && let Some(timestamp) = sample.timestamp
        {
            result.batch.timestamps.push((position, Timestamp(timestamp)));
        }
        if let Some(start) = sample.start {
            result.batch.start_timestamps.push((position, Timestamp(start)));
        }
    }

    /// An exemplar without an instant has its sample's.
    #[inline]
    fn keep_exemplars(
        &self,
        series: SeriesRef,
        timestamp: Option<i64>,
        parser: &mut dyn Parser,
        result: &mut ScrapeResult,
    ) {
        while let Some((mut exemplar, has_instant)) = parser.exemplar() {
            if !has_instant {
                let own = timestamp.filter(|_| self.target.job.honor_timestamps);
                exemplar.timestamp = own.map_or(result.batch.slot, Timestamp);
            }
            result.batch.exemplars.push((series, exemplar));
        }
    }

    fn note(&mut self, event: Event<'_>) {
        match event {
            Event::Type { family, kind } => kind.clone_into(&mut self.family(&family).kind),
            Event::Help { family, text } => self.family(&family).help = text.into_owned(),
            Event::Unit { family, unit } => self.family(&family).unit = unit.into_owned(),
            Event::Sample(_) | Event::Histogram(_) => {}
        }
    }

    /// The family's entry: its lines stand together.
    fn family(&mut self, family: &str) -> &mut Metadata {
        if self.metadata.last().is_none_or(|(last, _)| last != family) {
            let metadata = Metadata { kind: "unknown".to_owned(), ..Metadata::default() };
            self.metadata.push((family.to_owned(), metadata));
        }
        &mut self.metadata.last_mut().expect("there is one now").1
    }

    /// Leaves out all but the first sample of a series and instant. Such lines are marked, so that this needs to run
    /// only when there are new ones.
    fn drop_repeated(&mut self, result: &mut ScrapeResult) {
        let batch = &mut result.batch;
        let mut own = vec![None; batch.series.len()];
        for (position, timestamp) in &batch.timestamps {
            own[*position as usize] = Some(*timestamp);
        }
        let mut order: Vec<u32> = (0..batch.series.len() as u32).collect();
        let key = |position: u32| (batch.series[position as usize], own[position as usize]);
        order.sort_by_key(|position| (key(*position), *position));
        let mut repeated = vec![false; batch.series.len()];
        for pair in order.windows(2) {
            repeated[pair[1] as usize] = key(pair[0]) == key(pair[1]);
        }
        if !repeated.contains(&true) {
            return;
        }
        // With instants of its own a series may come often, and not always repeat: only the others are marked.
        self.cache.mark_repeated(|place| repeated[place] && own[place].is_none());
        remove_positions(batch, &repeated);
        result.samples_repeated += repeated.iter().filter(|repeated| **repeated).count();
    }
}

fn remove_positions(batch: &mut Batch, removed: &[bool]) {
    let mut new_position = Vec::with_capacity(removed.len());
    let mut kept = 0u32;
    for removed in removed {
        new_position.push(kept);
        kept += u32::from(!removed);
    }
    let mut position = 0;
    batch.series.retain(|_| {
        position += 1;
        !removed[position - 1]
    });
    position = 0;
    batch.values.retain(|_| {
        position += 1;
        !removed[position - 1]
    });
    for list in [&mut batch.timestamps, &mut batch.start_timestamps] {
        list.retain(|(position, _)| !removed[*position as usize]);
        for (position, _) in list {
            *position = new_position[*position as usize];
        }
    }
}
