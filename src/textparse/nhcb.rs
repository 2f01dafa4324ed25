//! Classic histograms of text formats as native ones with custom buckets.
//!
//! Lines of one histogram stand together; when the next histogram or family begins, the collected one is given. The
//! classic lines are given too only if asked for.
//!
//! Source: prometheus `model/textparse/nhcbparse.go`.

use std::borrow::Cow;
use std::collections::VecDeque;

use promesh_model::ingest::Exemplar;
use xxhash_rust::xxh3::Xxh3;

use crate::buckets::Classic;
use crate::{Event, HistogramSample, ParseError, Parser, RawLabels, Sample, SeriesKey, parse_float};

/// Wraps a parser of a text format.
pub struct CustomBucketsParser<'a> {
    inner: Box<dyn Parser + 'a>,
    classic_too: bool,
    /// The histogram family that is being read.
    family: Option<String>,
    open: Option<Open>,
    given: Option<Open>,
    /// What came after a histogram that is given first.
    waiting: Option<Event<'static>>,
    inner_at_end: bool,
    raw: RawLabels,
}

#[derive(Default)]
struct Open {
    labels: RawLabels,
    classic: Classic,
    exemplars: VecDeque<(Exemplar, bool)>,
    timestamp: Option<i64>,
    start: Option<i64>,
}

/// A line of the family.
#[derive(Clone, Copy)]
enum Part {
    Bucket(f64),
    Sum,
    Count,
}

impl<'a> CustomBucketsParser<'a> {
    /// Converts what `inner` reads.
    pub fn new(inner: Box<dyn Parser + 'a>, classic_too: bool) -> CustomBucketsParser<'a> {
        CustomBucketsParser {
            inner,
            classic_too,
            family: None,
            open: None,
            given: None,
            waiting: None,
            inner_at_end: false,
            raw: RawLabels::default(),
        }
    }

    /// The part that the last sample of `inner` is, if it belongs to the family; `raw` then holds its labels without
    /// `le` and suffix.
    fn part(&mut self) -> Option<Part> {
        let family = self.family.as_deref()?;
        self.inner.labels(&mut self.raw);
        let (_, name) = self.raw.0.first_mut()?;
        let part = match name.strip_prefix(family)? {
            "_sum" => Part::Sum,
            "_count" => Part::Count,
            "_bucket" => Part::Bucket(f64::NAN),
            _ => return None,
        };
        name.truncate(family.len());
        if !matches!(part, Part::Bucket(_)) {
            return Some(part);
        }
        let position = self.raw.0.iter().position(|(name, _)| name == "le")?;
        let (_, bound) = self.raw.0.remove(position);
        parse_float(bound.as_bytes()).map(Part::Bucket)
    }

    /// Whether the last sample of `inner`, which is no part, says when a histogram of the family was created.
    fn is_created(&self) -> bool {
        let name = self.raw.0.first().map(|(_, name)| name.as_str());
        name.zip(self.family.as_deref()).is_some_and(|(name, family)| name.strip_prefix(family) == Some("_created"))
    }

    fn collect(&mut self, part: Part, sample: &Sample) {
        let raw = &self.raw;
        let open = self.open.get_or_insert_with(|| Open { labels: raw.clone(), ..Open::default() });
        match part {
            Part::Sum => open.classic.set_sum(sample.value),
            Part::Count => open.classic.set_count(sample.value),
            Part::Bucket(bound) => open.classic.add_bucket(bound, sample.value),
        }
        open.timestamp = sample.timestamp.or(open.timestamp);
        open.start = sample.start.or(open.start);
        if !self.classic_too {
            while let Some(exemplar) = self.inner.exemplar() {
                open.exemplars.push_back(exemplar);
            }
        }
    }

    /// The collected histogram, if it makes sense.
    fn close(&mut self) -> Option<Event<'static>> {
        let mut open = self.open.take()?;
        let value = std::mem::take(&mut open.classic).convert().ok()?;
        let mut hasher = Xxh3::new();
        for text in open.labels.0.iter().flat_map(|(name, value)| [name, value]) {
            hasher.update(text.as_bytes());
            hasher.update(&[0xff]);
        }
        // No text line has this key by its length.
        let key = SeriesKey { hash: hasher.digest(), bytes: u32::MAX };
        let event = HistogramSample { key, value, timestamp: open.timestamp, start: open.start };
        self.given = Some(open);
        Some(Event::Histogram(event))
    }

    fn step(&mut self, hint: Option<SeriesKey>) -> Result<Step, ParseError> {
        // Lines of a histogram family are read whole: their labels say which histogram they belong to.
        let hint = if self.family.is_some() { None } else { hint };
        let event = match self.inner.next(hint)? {
            None => {
                self.inner_at_end = true;
                return Ok(Step::Boundary(None));
            }
            Some(event) => owned(event),
        };
        match event {
            Event::Type { family, kind } => {
                let family = family.into_owned();
                let new = self.family.as_deref() != Some(&family);
                // Gauge histograms stay as they are: upstream converts them from protobuf only.
                let converted = (kind == "histogram").then(|| family.clone());
                let event = Event::Type { family: Cow::Owned(family), kind };
                if !new {
                    return Ok(Step::Give(event));
                }
                Ok(Step::Family(converted, event))
            }
            Event::Sample(sample) if !sample.as_hinted && self.family.is_some() => match self.part() {
                // Some libraries say when a histogram was created between its sum and its buckets.
                None if self.is_created() => Ok(Step::Give(event)),
                None => Ok(Step::Boundary(Some(event))),
                Some(part) => Ok(Step::Part(part, sample)),
            },
            Event::Sample(_) | Event::Histogram(_) => Ok(Step::Boundary(Some(event))),
            Event::Help { ref family, .. } | Event::Unit { ref family, .. }
                if self.family.as_deref() != Some(family) =>
            {
                Ok(Step::Boundary(Some(event)))
            }
            other => Ok(Step::Give(other)),
        }
    }
}

enum Step {
    /// Does not end a histogram.
    Give(Event<'static>),
    /// Ends one.
    Boundary(Option<Event<'static>>),
    /// Ends one, and another family begins.
    Family(Option<String>, Event<'static>),
    Part(Part, Sample),
}

fn owned(event: Event<'_>) -> Event<'static> {
    let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
    match event {
        Event::Sample(sample) => Event::Sample(sample),
        Event::Histogram(histogram) => Event::Histogram(histogram),
        Event::Type { family, kind } => Event::Type { family: own(family), kind },
        Event::Help { family, text } => Event::Help { family: own(family), text: own(text) },
        Event::Unit { family, unit } => Event::Unit { family: own(family), unit: own(unit) },
    }
}

impl Parser for CustomBucketsParser<'_> {
    fn next(&mut self, hint: Option<SeriesKey>) -> Result<Option<Event<'_>>, ParseError> {
        self.given = None;
        if let Some(event) = self.waiting.take() {
            return Ok(Some(event));
        }
        if self.inner_at_end {
            return Ok(None);
        }
        loop {
            let next = match self.step(hint)? {
                Step::Give(event) => return Ok(Some(event)),
                Step::Boundary(event) => event,
                Step::Family(family, event) => {
                    let closed = self.close();
                    self.family = family;
                    if closed.is_some() {
                        self.waiting = Some(event);
                        return Ok(closed);
                    }
                    return Ok(Some(event));
                }
                Step::Part(part, sample) => {
                    let same = self.open.as_ref().is_none_or(|open| open.labels == self.raw);
                    let closed = if same { None } else { self.close() };
                    self.collect(part, &sample);
                    match (closed, self.classic_too) {
                        (Some(closed), true) => {
                            self.waiting = Some(Event::Sample(sample));
                            return Ok(Some(closed));
                        }
                        (Some(closed), false) => return Ok(Some(closed)),
                        (None, true) => return Ok(Some(Event::Sample(sample))),
                        (None, false) => continue,
                    }
                }
            };
            let closed = self.close();
            if closed.is_some() {
                self.waiting = next;
                return Ok(closed);
            }
            return Ok(next);
        }
    }

    fn labels(&self, labels: &mut RawLabels) {
        match &self.given {
            Some(open) => labels.0.clone_from(&open.labels.0),
            None => self.inner.labels(labels),
        }
    }

    fn exemplar(&mut self) -> Option<(Exemplar, bool)> {
        match &mut self.given {
            Some(open) => open.exemplars.pop_front(),
            None => self.inner.exemplar(),
        }
    }
}
