//! Prometheus' text format, 0.0.4 and 1.0.0 (the latter only adds quoted names, which are read in both).
//!
//! Source: prometheus `model/textparse/promlex.l`, `promparse.go`; the exposition format's page.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;
use promesh_model::labels::METRIC_NAME;

use crate::{
    Event, LABELS_MAX, ParseError, Parser, RawLabels, Sample, SeriesKey, normalize_bound, parse_float, unescape,
};

/// Reads text 0.0.4 and 1.0.0.
#[derive(Debug)]
pub struct TextParser<'a> {
    input: &'a [u8],
    at: usize,
    /// The type of the family that is being read, for `le` and `quantile`.
    kind: &'static str,
    /// Of the last series: its name, without quotes, and its labels' names and values likewise.
    name: Range<usize>,
    pairs: Vec<(Range<usize>, Range<usize>)>,
}

const UNSET: Range<usize> = usize::MAX..usize::MAX;

impl<'a> TextParser<'a> {
    /// A parser of a whole exposition.
    pub fn new(input: &'a [u8]) -> TextParser<'a> {
        TextParser { input, at: 0, kind: "unknown", name: UNSET, pairs: Vec::new() }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    #[inline]
    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    fn error(&self, start: usize, message: impl Into<String>) -> ParseError {
        ParseError::at(self.input, start, message)
    }

    fn text(&self, range: Range<usize>, start: usize) -> Result<&'a str, ParseError> {
        let bytes = &self.input[range];
        std::str::from_utf8(bytes).map_err(|_| self.error(start, "invalid UTF-8"))
    }

    /// `#` was seen. Comments give nothing.
    fn meta_line(&mut self) -> Result<Option<Event<'a>>, ParseError> {
        let start = self.at;
        let line_end = memchr(b'\n', &self.input[start..]).map_or(self.input.len(), |length| start + length);
        self.at = line_end;
        let line = &self.input[start + 1..line_end];
        let body = line.trim_ascii_start();
        if body.len() == line.len() {
            return Ok(None);
        }
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let is_help = body.starts_with(b"HELP") && body.get(4).is_some_and(blank);
        let is_type = body.starts_with(b"TYPE") && body.get(4).is_some_and(blank);
        if !is_help && !is_type {
            return Ok(None);
        }
        let mut at = line_end - body.len() + 4;
        while matches!(self.input.get(at), Some(b' ' | b'\t')) && at < line_end {
            at += 1;
        }
        let (family, mut at) = self.meta_name(at, line_end, start)?;
        // One blank belongs to the format, any other to the text.
        if at < line_end && blank(&self.input[at]) {
            at += 1;
        } else if at < line_end {
            return Err(self.error(start, "expected text after metric name"));
        }
        let text = self.text(at..line_end, start)?;
        if is_help {
            return Ok(Some(Event::Help { family, text: unescape(text, false) }));
        }
        let kind = match text {
            "counter" => "counter",
            "gauge" => "gauge",
            "histogram" => "histogram",
            "summary" => "summary",
            "untyped" => "unknown",
            other => return Err(self.error(start, format!("invalid metric type {other:?}"))),
        };
        self.kind = kind;
        Ok(Some(Event::Type { family, kind }))
    }

    fn meta_name(&self, at: usize, line_end: usize, start: usize) -> Result<(Cow<'a, str>, usize), ParseError> {
        if self.input.get(at) == Some(&b'"') && at < line_end {
            let close = quoted_end(&self.input[..line_end], at)
                .ok_or_else(|| self.error(start, "expected metric name: a quote is not closed"))?;
            let text = self.text(at + 1..close, start)?;
            return Ok((unescape(text, true), close + 1));
        }
        let end = name_end(&self.input[..line_end], at, true);
        if end == at {
            return Err(self.error(start, "expected metric name after HELP or TYPE"));
        }
        Ok((Cow::Borrowed(self.text(at..end, start)?), end))
    }

    fn series(&mut self, hint: Option<SeriesKey>) -> Result<Event<'a>, ParseError> {
        let start = self.at;
        if let Some(key) = hint
            && matches!(self.input.get(start + key.bytes as usize), Some(b' ' | b'\t'))
            && key.is_prefix_of(&self.input[start..])
        {
            self.at = start + key.bytes as usize;
            return self.suffix(start, key, true);
        }
        self.pairs.clear();
        self.name = UNSET;
        let name_end = name_end(self.input, start, true);
        if name_end > start {
            self.name = start..name_end;
            self.at = name_end;
            self.skip_blanks();
            if self.peek() == Some(b'{') {
                self.braces(start)?;
            } else {
                self.at = name_end;
            }
        } else if self.peek() == Some(b'{') {
            self.braces(start)?;
        } else {
            return Err(self.error(start, "expected a valid start token"));
        }
        if self.name == UNSET {
            return Err(self.error(start, "metric name not set"));
        }
        let key = SeriesKey::of(&self.input[start..self.at]);
        self.suffix(start, key, false)
    }

    /// From `{` to behind `}`.
    fn braces(&mut self, start: usize) -> Result<(), ParseError> {
        self.at += 1;
        loop {
            self.skip_blanks();
            let name = match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'"') => {
                    let quoted = self.quoted(start, "label name")?;
                    self.skip_blanks();
                    if matches!(self.peek(), Some(b',' | b'}')) {
                        if self.name != UNSET {
                            return Err(self.error(start, "metric name already set"));
                        }
                        self.text(quoted.clone(), start)?;
                        self.name = quoted;
                        if self.peek() == Some(b',') {
                            self.at += 1;
                        }
                        continue;
                    }
                    self.text(quoted.clone(), start)?;
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
            self.skip_blanks();
            if self.peek() != Some(b'=') {
                return Err(self.error(start, "expected equal"));
            }
            self.at += 1;
            self.skip_blanks();
            if self.peek() != Some(b'"') {
                return Err(self.error(start, "expected label value"));
            }
            let value = self.quoted(start, "label value")?;
            if std::str::from_utf8(&self.input[value.clone()]).is_err() {
                return Err(self.error(start, "invalid UTF-8 label value"));
            }
            if self.pairs.len() == LABELS_MAX {
                return Err(self.error(start, format!("more than {LABELS_MAX} labels")));
            }
            self.pairs.push((name, value));
            self.skip_blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {}
                // Upstream reads `{a="b" c="d"}` too; its own comment doubts that this was meant, scrapes rely on it.
                _ => {}
            }
        }
    }

    /// What stands between the quote here and the next that is not escaped.
    fn quoted(&mut self, start: usize, what: &str) -> Result<Range<usize>, ParseError> {
        let open = self.at;
        let close = quoted_end(self.input, open).ok_or_else(|| self.error(start, format!("expected {what}")))?;
        self.at = close + 1;
        Ok(open + 1..close)
    }

    /// Value, timestamp and end of the line.
    fn suffix(&mut self, start: usize, key: SeriesKey, as_hinted: bool) -> Result<Event<'a>, ParseError> {
        self.skip_blanks();
        let token = self.token();
        let value = parse_float(token).ok_or_else(|| {
            let shown = String::from_utf8_lossy(token).into_owned();
            self.error(start, format!("expected value after metric, got {shown:?}"))
        })?;
        self.skip_blanks();
        let timestamp = match self.peek() {
            None | Some(b'\n') => None,
            Some(b'0'..=b'9') => {
                let token = self.token();
                Some(parse_integer(token).ok_or_else(|| self.error(start, "invalid timestamp"))?)
            }
            _ => return Err(self.error(start, "expected timestamp or new record")),
        };
        self.skip_blanks();
        if !matches!(self.peek(), None | Some(b'\n')) {
            return Err(self.error(start, "expected next entry after timestamp"));
        }
        Ok(Event::Sample(Sample { key, as_hinted, value, timestamp, start: None }))
    }

    #[inline]
    fn token(&mut self) -> &'a [u8] {
        let from = self.at;
        while !matches!(self.peek(), None | Some(b' ' | b'\t' | b'\n' | b'{')) {
            self.at += 1;
        }
        &self.input[from..self.at]
    }
}

impl Parser for TextParser<'_> {
    fn next(&mut self, hint: Option<SeriesKey>) -> Result<Option<Event<'_>>, ParseError> {
        loop {
            match self.peek() {
                None => return Ok(None),
                Some(b'\n' | b' ' | b'\t') => self.at += 1,
                Some(b'#') => {
                    if let Some(event) = self.meta_line()? {
                        return Ok(Some(event));
                    }
                }
                Some(_) => return self.series(hint).map(Some),
            }
        }
    }

    fn labels(&self, labels: &mut RawLabels) {
        labels.0.clear();
        let text = |range: &Range<usize>| String::from_utf8_lossy(&self.input[range.clone()]);
        let name = text(&self.name);
        labels.0.push((METRIC_NAME.to_owned(), unescape(&name, true).into_owned()));
        for (name, value) in &self.pairs {
            let name = unescape(&text(name), true).into_owned();
            let value = unescape(&text(value), true).into_owned();
            let value = normalize_bound(self.kind, &name, &value).unwrap_or(value);
            labels.0.push((name, value));
        }
    }
}

/// Where a name ends that begins at `at`; `at` itself when none does.
#[inline]
pub(crate) fn name_end(input: &[u8], at: usize, colons: bool) -> usize {
    let is_start = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || (colons && byte == b':');
    let mut end = at;
    while let Some(&byte) = input.get(end) {
        if is_start(byte) || (end > at && byte.is_ascii_digit()) {
            end += 1;
        } else {
            break;
        }
    }
    end
}

/// Where the quote that opens at `open` closes. Quotes may hold line ends.
#[inline]
pub(crate) fn quoted_end(input: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', input.get(at..)?)?;
        if input[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Digits only, at most 2^63 − 1.
pub(crate) fn parse_integer(bytes: &[u8]) -> Option<i64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0i64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}
