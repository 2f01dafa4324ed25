//! OpenMetrics text, 0.0.1 and 1.0.0: one blank between parts, exemplars, units, an end that must be there.
//!
//! What Prometheus accepts is accepted: rules about whole families (order, ranges of values) are not checked here.
//!
//! Source: OpenMetrics 1.0.0; prometheus `model/textparse/openmetricslex.l`, `openmetricsparse.go`.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;
use promesh_model::ingest::Exemplar;
use promesh_model::labels::METRIC_NAME;
use promesh_model::{Labels, Timestamp};

use crate::text::{name_end, quoted_end};
use crate::{
    Event, LABELS_MAX, ParseError, Parser, RawLabels, Sample, SeriesKey, normalize_bound, parse_float, unescape,
};

type Pairs = Vec<(Range<usize>, Range<usize>)>;

/// Reads OpenMetrics text.
#[derive(Debug)]
pub struct OpenMetricsParser<'a> {
    input: &'a [u8],
    at: usize,
    done: bool,
    kind: &'static str,
    name: Range<usize>,
    pairs: Pairs,
    exemplar: Option<RawExemplar>,
    exemplar_pairs: Pairs,
}

#[derive(Clone, Copy, Debug)]
struct RawExemplar {
    value: f64,
    timestamp: Option<i64>,
}

const UNSET: Range<usize> = usize::MAX..usize::MAX;

impl<'a> OpenMetricsParser<'a> {
    /// A parser of a whole exposition.
    pub fn new(input: &'a [u8]) -> OpenMetricsParser<'a> {
        OpenMetricsParser {
            input,
            at: 0,
            done: false,
            kind: "unknown",
            name: UNSET,
            pairs: Vec::new(),
            exemplar: None,
            exemplar_pairs: Vec::new(),
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    fn error(&self, start: usize, message: impl Into<String>) -> ParseError {
        ParseError::at(self.input, start, message)
    }

    fn text(&self, range: Range<usize>, start: usize) -> Result<&'a str, ParseError> {
        std::str::from_utf8(&self.input[range]).map_err(|_| self.error(start, "invalid UTF-8"))
    }

    /// A line that begins with `#`. `None`: the end.
    fn meta_line(&mut self) -> Result<Option<Event<'a>>, ParseError> {
        let start = self.at;
        let rest = &self.input[start..];
        if let Some(after) = rest.strip_prefix(b"# EOF") {
            if !matches!(after, b"" | b"\n") {
                return Err(self.error(start, "unexpected data after # EOF"));
            }
            self.done = true;
            return Ok(None);
        }
        let word = rest.get(..7).unwrap_or_default();
        if !matches!(word, b"# HELP " | b"# TYPE " | b"# UNIT ") {
            return Err(self.error(start, "expected a valid start token"));
        }
        let (family, name_end) = self.meta_name(start + 7, start)?;
        let Some(length) = memchr(b'\n', &self.input[name_end..]) else {
            return Err(self.error(start, "expected text and a line end after metric name"));
        };
        let line_end = name_end + length;
        if self.input[name_end] != b' ' {
            return Err(self.error(start, "expected text after metric name"));
        }
        let text = self.text(name_end + 1..line_end, start)?;
        self.at = line_end + 1;
        Ok(Some(match word[2] {
            b'H' => Event::Help { family, text: unescape(text, true) },
            b'T' => {
                self.kind = kind_of(text).ok_or_else(|| self.error(start, format!("invalid metric type {text:?}")))?;
                Event::Type { family, kind: self.kind }
            }
            _ => {
                let before_unit = family.strip_suffix(text).and_then(|before| before.strip_suffix('_'));
                if !text.is_empty() && before_unit.is_none() {
                    return Err(self.error(start, format!("unit {text:?} not a suffix of metric {family:?}")));
                }
                Event::Unit { family, unit: Cow::Borrowed(text) }
            }
        }))
    }

    fn meta_name(&self, at: usize, start: usize) -> Result<(Cow<'a, str>, usize), ParseError> {
        if self.input.get(at) == Some(&b'"') {
            let close = quoted_end(self.input, at).ok_or_else(|| self.error(start, "expected metric name"))?;
            return Ok((unescape(self.text(at + 1..close, start)?, true), close + 1));
        }
        let end = name_end(self.input, at, true);
        if end == at {
            return Err(self.error(start, "expected metric name after HELP, TYPE or UNIT"));
        }
        Ok((Cow::Borrowed(self.text(at..end, start)?), end))
    }

    fn series(&mut self, hint: Option<SeriesKey>) -> Result<Event<'a>, ParseError> {
        let start = self.at;
        self.exemplar = None;
        if let Some(key) = hint
            && self.input.get(start + key.bytes as usize) == Some(&b' ')
            && key.is_prefix_of(&self.input[start..])
        {
            self.at = start + key.bytes as usize;
            return self.suffix(start, key, true);
        }
        self.pairs.clear();
        self.name = UNSET;
        let end = name_end(self.input, start, true);
        if end > start {
            self.name = start..end;
            self.at = end;
        }
        if self.peek() == Some(b'{') {
            let mut pairs = std::mem::take(&mut self.pairs);
            let read = self.braces(start, &mut pairs, false);
            self.pairs = pairs;
            read?;
        } else if end == start {
            return Err(self.error(start, "expected a valid start token"));
        }
        if self.name == UNSET {
            return Err(self.error(start, "metric name not set"));
        }
        let key = SeriesKey::of(&self.input[start..self.at]);
        self.suffix(start, key, false)
    }

    /// From `{` to behind `}`.
    fn braces(&mut self, start: usize, pairs: &mut Pairs, of_exemplar: bool) -> Result<(), ParseError> {
        self.at += 1;
        loop {
            let name = match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'"') => {
                    let quoted = self.quoted(start, "label name", of_exemplar)?;
                    if matches!(self.peek(), Some(b',' | b'}')) {
                        if of_exemplar {
                            return Err(self.error(start, "expected label name"));
                        }
                        if self.name != UNSET {
                            return Err(self.error(start, "metric name already set"));
                        }
                        self.name = quoted;
                        self.at += usize::from(self.peek() == Some(b','));
                        continue;
                    }
                    quoted
                }
                _ => {
                    let end = name_end(self.input, self.at, false);
                    if end == self.at {
                        return Err(self.error(start, "expected label name"));
                    }
                    let name = self.at..end;
                    self.at = end;
                    name
                }
            };
            if self.peek() != Some(b'=') {
                return Err(self.error(start, "expected equal"));
            }
            self.at += 1;
            if self.peek() != Some(b'"') {
                return Err(self.error(start, "expected label value"));
            }
            let value = self.quoted(start, "label value", true)?;
            if pairs.len() == LABELS_MAX {
                return Err(self.error(start, format!("more than {LABELS_MAX} labels")));
            }
            pairs.push((name, value));
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {}
                _ => return Err(self.error(start, "expected comma or brace close")),
            }
        }
    }

    /// What stands between the quote here and the next that is not escaped.
    fn quoted(&mut self, start: usize, what: &str, one_line: bool) -> Result<Range<usize>, ParseError> {
        let open = self.at;
        let close = quoted_end(self.input, open).ok_or_else(|| self.error(start, format!("expected {what}")))?;
        let inner = &self.input[open + 1..close];
        if one_line && memchr(b'\n', inner).is_some() {
            return Err(self.error(start, format!("expected {what}")));
        }
        if std::str::from_utf8(inner).is_err() {
            return Err(self.error(start, format!("invalid UTF-8 {what}")));
        }
        self.at = close + 1;
        Ok(open + 1..close)
    }

    /// Value, timestamp, exemplar and end of the line.
    fn suffix(&mut self, start: usize, key: SeriesKey, as_hinted: bool) -> Result<Event<'a>, ParseError> {
        let value = self.number(start, "metric")?;
        let mut timestamp = None;
        if self.peek() == Some(b' ') && !self.input[self.at..].starts_with(b" # {") {
            timestamp = Some(self.instant(start)?);
        }
        if self.input[self.at..].starts_with(b" # {") {
            self.at += 3;
            let mut pairs = std::mem::take(&mut self.exemplar_pairs);
            pairs.clear();
            let read = self.braces(start, &mut pairs, true);
            self.exemplar_pairs = pairs;
            read?;
            let value = self.number(start, "exemplar labels")?;
            let own = if self.peek() == Some(b' ') { Some(self.instant(start)?) } else { None };
            self.exemplar = Some(RawExemplar { value, timestamp: own });
        }
        match self.peek() {
            Some(b'\n') => self.at += 1,
            None => return Err(self.error(start, "data does not end with # EOF")),
            _ => return Err(self.error(start, "expected next entry after timestamp")),
        }
        Ok(Event::Sample(Sample { key, as_hinted, value, timestamp, start: None }))
    }

    /// A blank and a number.
    fn number(&mut self, start: usize, after: &str) -> Result<f64, ParseError> {
        if self.peek() != Some(b' ') {
            return Err(self.error(start, format!("expected value after {after}")));
        }
        self.at += 1;
        let token = self.token();
        parse_float(token).ok_or_else(|| {
            let shown = String::from_utf8_lossy(token).into_owned();
            self.error(start, format!("expected value after {after}, got {shown:?}"))
        })
    }

    /// A blank and seconds, as milliseconds.
    fn instant(&mut self, start: usize) -> Result<i64, ParseError> {
        self.at += 1;
        let seconds = parse_float(self.token()).filter(|seconds| seconds.is_finite());
        // The cast saturates, so no number is too large.
        seconds.map(|seconds| (seconds * 1000.0) as i64).ok_or_else(|| self.error(start, "invalid timestamp"))
    }

    #[inline]
    fn token(&mut self) -> &'a [u8] {
        let from = self.at;
        while !matches!(self.peek(), None | Some(b' ' | b'\n')) {
            self.at += 1;
        }
        &self.input[from..self.at]
    }

    fn plain(&self, range: &Range<usize>) -> String {
        unescape(&String::from_utf8_lossy(&self.input[range.clone()]), true).into_owned()
    }
}

fn kind_of(text: &str) -> Option<&'static str> {
    ["counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset", "unknown"]
        .into_iter()
        .find(|kind| *kind == text)
}

impl Parser for OpenMetricsParser<'_> {
    fn next(&mut self, hint: Option<SeriesKey>) -> Result<Option<Event<'_>>, ParseError> {
        if self.done {
            return Ok(None);
        }
        match self.peek() {
            None => Err(self.error(self.at, "data does not end with # EOF")),
            Some(b'#') => self.meta_line(),
            Some(_) => self.series(hint).map(Some),
        }
    }

    fn labels(&self, labels: &mut RawLabels) {
        labels.0.clear();
        labels.0.push((METRIC_NAME.to_owned(), self.plain(&self.name)));
        for (name, value) in &self.pairs {
            let (name, value) = (self.plain(name), self.plain(value));
            let value = normalize_bound(self.kind, &name, &value).unwrap_or(value);
            labels.0.push((name, value));
        }
    }

    fn exemplar(&mut self) -> Option<(Exemplar, bool)> {
        let raw = self.exemplar.take()?;
        let pairs = self.exemplar_pairs.iter().map(|(name, value)| (self.plain(name), self.plain(value)));
        let exemplar = Exemplar {
            labels: Labels::from_pairs(pairs),
            value: raw.value,
            timestamp: Timestamp(raw.timestamp.unwrap_or(0)),
        };
        Some((exemplar, raw.timestamp.is_some()))
    }
}
