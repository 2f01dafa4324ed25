//! One exposition on its way into a batch.

use promesh_model::Timestamp;
use promesh_model::ingest::{Batch, HistogramSample, IngestError, Metadata, SeriesIndex, SeriesRef};
use promesh_textparse::{Event, Parser, RawLabels, Sample, SeriesKey, limit_resolution, schema_of_factor};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cache::{Line, LineCache};
use crate::labels;
use crate::scrape_loop::ScrapeResult;
use crate::target::Target;

/// One exposition being read.
pub(crate) struct Reading<'a> {
    target: &'a Target,
    cache: &'a mut LineCache,
    index: &'a dyn SeriesIndex,
    raw: RawLabels,
    resolved_any: bool,
    metadata_digest: u64,
}

/// How far after its slot the instant may be that a sample bears: one from the far future would keep all that come after
/// it out of the head. 10 min, as in Prometheus.
const AHEAD_MAX_MS: i64 = 10 * 60 * 1000;

fn is_ahead(at: Timestamp, result: &mut ScrapeResult) -> bool {
    let is_ahead = at.ms() > result.batch.slot.ms().saturating_add(AHEAD_MAX_MS);
    result.samples_ahead += usize::from(is_ahead);
    is_ahead
}

impl<'a> Reading<'a> {
    pub(crate) fn new(target: &'a Target, cache: &'a mut LineCache, index: &'a dyn SeriesIndex) -> Reading<'a> {
        Reading { target, cache, index, raw: RawLabels::default(), resolved_any: false, metadata_digest: 1 }
    }

    /// Reads all of it. Returns the digest of its metadata.
    ///
    /// # Errors
    /// Why the scrape fails as a whole.
    pub(crate) fn run(mut self, parser: &mut dyn Parser, result: &mut ScrapeResult) -> Result<u64, String> {
        // Room for the samples that came last time and the synthetic ones: no growing on the way.
        let lines = self.cache.len() + 8;
        result.batch.series.reserve_exact(lines);
        result.batch.values.reserve_exact(lines);
        self.read(parser, result)?;
        let sample_limit = self.target.job.sample_limit;
        if sample_limit > 0 && result.samples_kept > sample_limit {
            return Err("sample limit exceeded".to_owned());
        }
        if self.resolved_any || !result.batch.timestamps.is_empty() {
            self.drop_repeated(result);
        }
        Ok(self.metadata_digest)
    }

    fn read(&mut self, parser: &mut dyn Parser, result: &mut ScrapeResult) -> Result<(), String> {
        loop {
            let hint = self.cache.hint();
            match parser.next(hint).map_err(|error| error.to_string())? {
                None => return Ok(()),
                Some(Event::Sample(sample)) => {
                    result.samples_scraped += 1;
                    let line = self.line_of(&sample, parser, result)?;
                    self.keep(sample, line, result);
                    if let Line::Series(series) = line {
                        self.keep_exemplars(series, sample.timestamp, parser, result);
                    }
                }
                Some(Event::Histogram(histogram)) => {
                    result.samples_scraped += 1;
                    self.keep_histogram(histogram, parser, result)?;
                }
                Some(Event::Type { family, kind }) => self.digest(&family, kind),
                Some(Event::Help { family, text }) => self.digest(&family, &text),
                Some(Event::Unit { family, unit }) => self.digest(&family, &unit),
            }
        }
    }

    #[inline]
    fn digest(&mut self, family: &str, text: &str) {
        let digest = xxh3_64_with_seed(family.as_bytes(), self.metadata_digest);
        self.metadata_digest = xxh3_64_with_seed(text.as_bytes(), digest);
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
        if own.is_some_and(|at| is_ahead(at, result)) {
            return Ok(());
        }
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
        let own = sample.timestamp.filter(|_| self.target.job.honor_timestamps).map(Timestamp);
        if own.is_some_and(|at| is_ahead(at, result)) {
            return;
        }
        let position = result.batch.series.len() as u32;
        result.samples_kept += 1;
        result.batch.series.push(series);
        result.batch.values.push(sample.value);
        if let Some(at) = own {
            result.batch.timestamps.push((position, at));
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

/// Type, help and unit of the families, in the exposition's order.
pub(crate) fn metadata_of(parser: &mut dyn Parser) -> Result<Vec<(String, Metadata)>, String> {
    let mut families: Vec<(String, Metadata)> = Vec::new();
    // The lines of a family stand together.
    let mut of = |family: &str, change: &mut dyn FnMut(&mut Metadata)| {
        if families.last().is_none_or(|(last, _)| last != family) {
            let metadata = Metadata { kind: "unknown".to_owned(), ..Metadata::default() };
            families.push((family.to_owned(), metadata));
        }
        change(&mut families.last_mut().expect("there is one now").1);
    };
    while let Some(event) = parser.next(None).map_err(|error| error.to_string())? {
        match event {
            Event::Type { family, kind } => of(&family, &mut |metadata| kind.clone_into(&mut metadata.kind)),
            Event::Help { family, text } => of(&family, &mut |metadata| text.as_ref().clone_into(&mut metadata.help)),
            Event::Unit { family, unit } => of(&family, &mut |metadata| unit.as_ref().clone_into(&mut metadata.unit)),
            Event::Sample(_) | Event::Histogram(_) => {}
        }
    }
    Ok(families)
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
