//! One target's scrapes.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use promesh_client::{HttpClient, Request, read_body};
use promesh_model::ingest::{Batch, Metadata, SeriesIndex, SeriesRef};
use promesh_model::labels::METRIC_NAME;
use promesh_model::time::Clock;
use promesh_model::{Labels, Now, Timestamp};
use promesh_textparse::{CustomBucketsParser, HistogramOptions, OpenMetricsParser, Parser, ProtobufParser, TextParser};

use crate::cache::LineCache;
use crate::negotiate::{self, Format, accept_header};
use crate::reading::{self, Reading};
use crate::target::Target;

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
    /// Samples left out because the instant they bear is further ahead than a clock may be wrong.
    pub samples_ahead: usize,
    /// Whether series with instants of their own become stale too when they vanish.
    pub track_timestamps_staleness: bool,
}

/// A target's answer, still to be read.
#[derive(Debug)]
pub struct Fetched {
    began: Now,
    duration: Duration,
    body: Vec<u8>,
    /// The body's format and how many bytes came over the wire, or why there is none.
    outcome: Result<(Format, usize), String>,
}

impl Fetched {
    /// How many bytes there are to read, undone of gzip.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }
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
    /// Of the metadata's lines: as long as it is the same they need not be read.
    metadata_digest: u64,
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
        ScrapeLoop {
            target,
            client,
            options,
            accept,
            cache: LineCache::default(),
            synthetic,
            metadata: Vec::new(),
            metadata_digest: 0,
        }
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
        let fetched = self.fetch(clock).await;
        self.read_fetched(slot, fetched, index)
    }

    /// The first half of a scrape: asks the target.
    pub async fn fetch(&self, clock: &dyn Clock) -> Fetched {
        let began = clock.now();
        let mut body = self.options.buffers.take();
        let outcome = self.ask(&mut body).await;
        Fetched { began, duration: clock.now().monotonic.since(began.monotonic), body, outcome }
    }

    /// The other half: reads what the target answered. It takes the longer the longer the answer is, and waits for nothing.
    pub fn read_fetched(&mut self, slot: Timestamp, fetched: Fetched, index: &dyn SeriesIndex) -> ScrapeResult {
        let Fetched { began, duration, body, outcome } = fetched;
        let result = self.result(slot, (began, duration), outcome, &body, index);
        self.options.buffers.give(body);
        result
    }

    /// What a slot is when this process itself is the target: `body` in text format.
    pub fn read_body(
        &mut self,
        slot: Timestamp,
        body: &[u8],
        index: &dyn SeriesIndex,
        clock: &dyn Clock,
    ) -> ScrapeResult {
        self.result(slot, (clock.now(), Duration::ZERO), Ok((Format::Text, 0)), body, index)
    }

    fn result(
        &mut self,
        slot: Timestamp,
        (began, duration): (Now, Duration),
        outcome: Result<(Format, usize), String>,
        body: &[u8],
        index: &dyn SeriesIndex,
    ) -> ScrapeResult {
        let mut result = ScrapeResult {
            began,
            duration,
            body_bytes: body.len(),
            track_timestamps_staleness: self.target.job.track_timestamps_staleness,
            ..ScrapeResult::default()
        };
        result.batch.slot = slot;
        let parsed = match outcome {
            Ok((format, wire_bytes)) => {
                result.wire_bytes = wire_bytes;
                self.read(format, body, index, &mut result)
            }
            Err(why) => {
                result.body_bytes = 0;
                Err(why)
            }
        };
        if let Err(why) = parsed {
            self.cache.abandon();
            result.batch = Batch { slot, ..Batch::default() };
            result.failed = Some(why);
        }
        self.add_synthetic(index, &mut result);
        result
    }

    /// What a slot is when the target must not be asked: a scrape that failed at once, for this reason.
    pub fn refuse(&mut self, slot: Timestamp, why: &str, index: &dyn SeriesIndex, clock: &dyn Clock) -> ScrapeResult {
        self.cache.abandon();
        let mut result = ScrapeResult {
            began: clock.now(),
            failed: Some(why.to_owned()),
            track_timestamps_staleness: self.target.job.track_timestamps_staleness,
            batch: Batch { slot, ..Batch::default() },
            ..ScrapeResult::default()
        };
        self.add_synthetic(index, &mut result);
        result
    }

    /// The body of the target's answer, its format and how many bytes came over the wire.
    async fn ask(&self, body: &mut Vec<u8>) -> Result<(Format, usize), String> {
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
            if body.is_empty() {
                // Nothing to say is no failure, in whatever format.
                return Ok((Format::Text, wire_bytes));
            }
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
        let mut parser = self.parser(format, body);
        self.cache.begin();
        let digest = Reading::new(&self.target, &mut self.cache, index).run(parser.as_mut(), result)?;
        drop(parser);
        self.cache.finish();
        if digest != self.metadata_digest {
            self.metadata_digest = digest;
            self.read_metadata(format, body, &mut result.batch)?;
        }
        Ok(())
    }

    fn parser<'b>(&self, format: Format, body: &'b [u8]) -> Box<dyn Parser + 'b> {
        let options = HistogramOptions {
            native: self.target.native_histograms,
            classic_too: self.target.classic_histograms_too,
            to_custom_buckets: self.target.to_custom_buckets,
        };
        let parser: Box<dyn Parser + 'b> = match format {
            Format::Text => Box::new(TextParser::new(body)),
            Format::OpenMetrics => Box::new(OpenMetricsParser::new(body)),
            Format::Protobuf => return Box::new(ProtobufParser::new(body, options)),
        };
        if options.to_custom_buckets { Box::new(CustomBucketsParser::new(parser, options.classic_too)) } else { parser }
    }

    /// Reads an exposition again for its metadata, as it is not what it was. What changed goes to storage.
    fn read_metadata(&mut self, format: Format, body: &[u8], batch: &mut Batch) -> Result<(), String> {
        let fresh = reading::metadata_of(self.parser(format, body).as_mut())?;
        let before: HashMap<&str, &Metadata> =
            self.metadata.iter().map(|(family, metadata)| (family.as_str(), metadata)).collect();
        let changed = fresh.iter().filter(|(family, metadata)| before.get(family.as_str()) != Some(&metadata));
        batch.metadata.extend(changed.cloned());
        drop(before);
        self.metadata = fresh;
        Ok(())
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
