//! Lines to commands.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram};
use promesh_model::labels::METRIC_NAME;
use promesh_model::{Labels, Span, Timestamp, duration};
use regex::Regex;

use super::{Failure, MemoryStorage};
use crate::parser::{self, ParseOptions, SeriesDescription, SeriesValue};

#[derive(Clone, Debug)]
pub(super) enum Command {
    Clear,
    Load(Load),
    Eval(Box<Eval>),
}

/// `load <step>` and its series.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub line: usize,
    step: Duration,
    /// Whether classic histograms are loaded as custom-bucket ones too.
    with_custom_buckets: bool,
    /// Series with, perhaps, the offsets of their start timestamps in ms.
    series: Vec<(SeriesDescription, Option<Vec<Option<i64>>>)>,
}

/// When a query is evaluated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mode {
    Instant { at: Timestamp },
    Range { start: Timestamp, end: Timestamp, step: Duration },
}

/// What is expected of annotations or of an error.
#[derive(Clone, Debug)]
pub(super) enum Text {
    Any,
    Exact(String),
    Pattern(Regex),
}

impl Text {
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Text::Any => true,
            Text::Exact(exact) => exact == text,
            Text::Pattern(pattern) => pattern.is_match(text),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Expectations {
    pub fail: Option<Text>,
    pub ordered: bool,
    pub warn: Vec<Text>,
    pub info: Vec<Text>,
    pub no_warn: bool,
    pub no_info: bool,
    pub string: Option<String>,
    pub scalar: Option<f64>,
    pub series: Vec<SeriesDescription>,
    /// The steps of the expected range vector.
    pub matrix: Option<(Timestamp, Timestamp, Duration)>,
}

/// `eval …` and what is expected of it.
#[derive(Clone, Debug)]
pub(super) struct Eval {
    pub line: usize,
    pub query: String,
    pub mode: Mode,
    pub expected: Expectations,
    /// Whether it makes no sense as a range query.
    pub instant_only: bool,
}

impl Eval {
    pub fn expects_failure(&self) -> bool {
        self.expected.fail.is_some()
    }

    pub fn is_ordered(&self) -> bool {
        self.expected.ordered
    }
}

/// The commands of a script.
pub(super) fn commands(text: &str, options: &ParseOptions) -> Result<Vec<Command>, Failure> {
    let lines: Vec<&str> =
        text.lines().map(str::trim).map(|line| if line.starts_with('#') { "" } else { line }).collect();
    let mut reader = Reader { lines, at: 0, options };
    let mut commands = Vec::new();
    while let Some(line) = reader.lines.get(reader.at).copied() {
        if line.is_empty() {
            reader.at += 1;
            continue;
        }
        let number = reader.at + 1;
        let command = reader.command(line).map_err(|message| Failure { line: number.max(reader.at), message })?;
        commands.push(command);
    }
    Ok(commands)
}

struct Reader<'a> {
    lines: Vec<&'a str>,
    at: usize,
    options: &'a ParseOptions,
}

fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn span(text: &str, what: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| format!("invalid {what} definition {text:?}: {error}"))
}

impl<'a> Reader<'a> {
    fn command(&mut self, line: &str) -> Result<Command, String> {
        let (name, rest) = word(line);
        match name.to_ascii_lowercase().as_str() {
            "clear" => {
                self.at += 1;
                Ok(Command::Clear)
            }
            "load" | "load_with_nhcb" => self.load(rest, name.ends_with("nhcb")),
            "eval" | "eval_fail" | "eval_warn" | "eval_info" | "eval_ordered" => {
                let suffix = name.strip_prefix("eval").unwrap_or("").trim_start_matches('_');
                self.eval(suffix, rest)
            }
            _ => Err(format!("invalid command {line:?}")),
        }
    }

    /// The next line of the present command; an empty one ends it.
    fn next_line(&mut self) -> Option<&'a str> {
        let line = self.lines.get(self.at).copied().filter(|line| !line.is_empty())?;
        self.at += 1;
        Some(line)
    }

    fn load(&mut self, step: &str, with_custom_buckets: bool) -> Result<Command, String> {
        let line = self.at + 1;
        let step = span(step, "step")?;
        self.at += 1;
        let mut series = Vec::new();
        let mut starts: Option<(Labels, Vec<Option<i64>>)> = None;
        while let Some(text) = self.next_line() {
            let (first, rest) = word(text);
            if let Some(metric) = first.strip_suffix("@st") {
                if starts.is_some() {
                    return Err("@st line has no following sample line".to_owned());
                }
                let labels = self.series(&format!("{metric} _"))?.labels;
                starts = Some((labels, start_offsets(rest)?));
                continue;
            }
            let description = self.series(text)?;
            let starts = match starts.take() {
                None => None,
                Some((labels, _)) if labels != description.labels => {
                    return Err("@st metric does not match the following sample line metric".to_owned());
                }
                Some((_, offsets)) if offsets.len() != description.values.len() => {
                    return Err(format!(
                        "@st line has {} values but sample line has {}",
                        offsets.len(),
                        description.values.len()
                    ));
                }
                Some((_, offsets)) => Some(offsets),
            };
            series.push((description, starts));
        }
        if starts.is_some() {
            return Err("@st line has no following sample line".to_owned());
        }
        Ok(Command::Load(Load { line, step, with_custom_buckets, series }))
    }

    fn series(&self, text: &str) -> Result<SeriesDescription, String> {
        parser::parse_series(text).map_err(|errors| {
            let error = &errors.0[0];
            format!("{}:{}: parse error: {}", self.at, error.span.start + 1, error.message)
        })
    }

    fn eval(&mut self, suffix: &str, rest: &str) -> Result<Command, String> {
        const HELP: &str = "invalid evaluation command: eval instant at <time> <query>, or eval range from <time> to \
                            <time> step <duration> <query>";
        let line = self.at + 1;
        self.at += 1;
        let (kind, rest) = word(rest);
        let mut rest = rest;
        let mut after = |keyword: &str| {
            let (found, tail) = word(rest);
            let (value, tail) = word(tail);
            rest = tail;
            if found == keyword { Ok(value.to_owned()) } else { Err(HELP.to_owned()) }
        };
        let instant = |text: &str, what: &str| span(text, what).map(|span| Timestamp(0).after(span));
        let mode = match kind {
            "instant" => Mode::Instant { at: instant(&after("at")?, "timestamp")? },
            "range" => {
                let (start, end) =
                    (instant(&after("from")?, "start timestamp")?, instant(&after("to")?, "end timestamp")?);
                let step = span(&after("step")?, "step")?;
                if end < start {
                    return Err("invalid test definition, end timestamp is before start timestamp".to_owned());
                }
                Mode::Range { start, end, step }
            }
            _ => return Err(HELP.to_owned()),
        };
        let query = rest.to_owned();
        parser::parse(&query, self.options).map_err(|errors| errors.to_string()).or_else(|error| {
            // Failures of parsing are failures of the script, unless one is what is expected.
            if suffix == "fail" {
                Ok(parser::Expr::String(parser::StringLiteral { value: String::new(), span: parser::Span::default() }))
            } else {
                Err(error)
            }
        })?;
        let mut expected = Expectations::default();
        match suffix {
            "fail" => expected.fail = Some(Text::Any),
            "ordered" => expected.ordered = true,
            "warn" => expected.warn.push(Text::Any),
            "info" => expected.info.push(Text::Any),
            _ => {}
        }
        let mut eval = Eval { line, query, mode, expected, instant_only: false };
        while let Some(text) = self.next_line() {
            if self.expectation(&mut eval, text)? {
                break;
            }
        }
        Ok(Command::Eval(Box::new(eval)))
    }

    /// Takes one line of expectations; true when it is the last.
    fn expectation(&mut self, eval: &mut Eval, text: &str) -> Result<bool, String> {
        let expected = &mut eval.expected;
        if expected.fail.is_some() {
            if let Some(message) = text.strip_prefix("expected_fail_message") {
                expected.fail = Some(Text::Exact(message.trim().to_owned()));
                return Ok(true);
            }
            if let Some(pattern) = text.strip_prefix("expected_fail_regexp") {
                expected.fail = Some(Text::Pattern(regex(pattern.trim())?));
                return Ok(true);
            }
        }
        if let Some(rest) = text.strip_prefix("expect range vector") {
            eval.instant_only = true;
            expected.matrix = Some(range_vector(rest)?);
        } else if let Some(rest) = text.strip_prefix("expect string") {
            eval.instant_only = true;
            expected.string = Some(quoted_string(rest.trim())?);
        } else if let Some(rest) = text.strip_prefix("expect ") {
            annotation(expected, rest.trim())?;
        } else if let Ok(value) = parser::parse_number(text) {
            expected.scalar = Some(value);
            return Ok(true);
        } else {
            let description = self.series(text)?;
            let single = matches!(eval.mode, Mode::Instant { .. }) && expected.matrix.is_none();
            if single && description.values.len() > 1 {
                return Err("expecting multiple values in instant evaluation not allowed. consider using 'expect \
                            range vector' directive to enable a range vector result for an instant query"
                    .to_owned());
            }
            expected.series.push(description);
        }
        Ok(false)
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|_| format!("invalid regex {pattern}"))
}

fn annotation(expected: &mut Expectations, rest: &str) -> Result<(), String> {
    let (mode, rest) = word(rest);
    let text = match rest.split_once(':') {
        None if rest.is_empty() => Text::Any,
        Some(("msg", message)) => Text::Exact(message.trim().to_owned()),
        Some(("regex", pattern)) => Text::Pattern(regex(pattern.trim())?),
        _ => {
            return Err("invalid expect statement, must match `expect <type> <match_type>: <string>` format".to_owned());
        }
    };
    match mode {
        "fail" if expected.fail.is_some() => {
            return Err("invalid expect lines, multiple expect fail lines are not allowed".to_owned());
        }
        "fail" => expected.fail = Some(text),
        "ordered" => expected.ordered = true,
        "warn" => expected.warn.push(text),
        "info" => expected.info.push(text),
        "no_warn" => expected.no_warn = true,
        "no_info" => expected.no_info = true,
        _ => return Err(format!("invalid expected error/annotation type {mode}")),
    }
    if expected.no_info && !expected.info.is_empty() {
        return Err("invalid expect lines, info and no_info cannot be used together".to_owned());
    }
    if expected.no_warn && !expected.warn.is_empty() {
        return Err("invalid expect lines, warn and no_warn cannot be used together".to_owned());
    }
    Ok(())
}

fn range_vector(rest: &str) -> Result<(Timestamp, Timestamp, Duration), String> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let ["from", from, "to", to, "step", step] = words[..] else {
        return Err(format!("invalid range vector definition {rest:?}"));
    };
    let at = |text, what| span(text, what).map(|span| Timestamp(0).after(span));
    Ok((at(from, "start timestamp")?, at(to, "end timestamp")?, span(step, "step")?))
}

fn quoted_string(text: &str) -> Result<String, String> {
    match parser::parse(text, &ParseOptions::default()) {
        Ok(parser::Expr::String(literal)) => Ok(literal.value),
        _ => Err("expected string literal not valid - check that the string is correctly quoted".to_owned()),
    }
}

/// Offsets of start timestamps, each from its sample: `_`, `_x3`, `-1m`, `-1mx3`, `-1m+10sx3`.
fn start_offsets(text: &str) -> Result<Vec<Option<i64>>, String> {
    let mut offsets = Vec::new();
    for item in text.split_whitespace() {
        let bad = || format!("invalid ST item {item:?}");
        if let Some(rest) = item.strip_prefix('_') {
            let count = match rest.strip_prefix('x') {
                None if rest.is_empty() => 1,
                Some(count) => count.parse::<usize>().map_err(|_| bad())?,
                None => return Err(bad()),
            };
            offsets.extend(std::iter::repeat_n(None, count.min(1_000_000)));
            continue;
        }
        let (values, times) = item.split_once('x').unwrap_or((item, ""));
        let signed = values.get(1..).and_then(|tail| tail.find(['+', '-']).map(|at| at + 1));
        let (base, step) = signed.map_or((values, "0s"), |at| values.split_at(at));
        let (base, step) = (signed_ms(base).ok_or_else(bad)?, signed_ms(step).ok_or_else(bad)?);
        let count = if item.contains('x') { times.parse::<i64>().map_err(|_| bad())? } else { 0 };
        offsets.extend((0..=count.min(1_000_000)).map(|index| Some(base + index * step)));
    }
    Ok(offsets)
}

fn signed_ms(text: &str) -> Option<i64> {
    let (sign, text) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    duration::parse(text).ok().map(|span| sign * span.as_millis() as i64)
}

impl Load {
    /// Appends the series.
    pub fn apply(&self, storage: &mut MemoryStorage) -> Result<(), String> {
        let step = self.step.as_millis() as i64;
        for (series, starts) in &self.series {
            for (index, value) in series.values.iter().enumerate() {
                let at = step * index as i64;
                let start = starts.as_ref().and_then(|starts| starts[index]).map_or(0, |offset| at + offset);
                match value {
                    SeriesValue::Omitted => {}
                    SeriesValue::Float(value) => storage.append(&series.labels, at, start, *value),
                    SeriesValue::Histogram { value, .. } => {
                        storage.append_histogram(&series.labels, at, start, value);
                    }
                }
            }
        }
        if self.with_custom_buckets { self.apply_custom_buckets(storage) } else { Ok(()) }
    }

    /// Makes histograms with custom buckets of classic ones.
    ///
    /// Source: prometheus `util/convertnhcb`.
    fn apply_custom_buckets(&self, storage: &mut MemoryStorage) -> Result<(), String> {
        let mut found: BTreeMap<Labels, BTreeMap<i64, Classic>> = BTreeMap::new();
        let step = self.step.as_millis() as i64;
        for (series, _) in &self.series {
            let name = series.labels.value(METRIC_NAME);
            let Some((base, part)) = name.rsplit_once('_') else { continue };
            if !matches!(part, "bucket" | "count" | "sum") {
                continue;
            }
            let mut labels = series.labels.to_builder();
            labels.set(METRIC_NAME, base).remove("le");
            let bound = if part == "bucket" {
                match parser::parse_number(series.labels.value("le").trim_start_matches('+')) {
                    Ok(bound) if !bound.is_nan() => Some(bound),
                    _ => continue,
                }
            } else {
                None
            };
            let times = found.entry(labels.build()).or_default();
            for (index, value) in series.values.iter().enumerate() {
                let SeriesValue::Float(value) = value else { continue };
                let classic = times.entry(step * index as i64).or_default();
                match (bound, part) {
                    (Some(bound), _) => classic.buckets.push((bound, *value)),
                    (None, "count") => classic.count = Some(*value),
                    _ => classic.sum = *value,
                }
            }
        }
        for (labels, times) in found {
            for (at, classic) in times {
                storage.append_histogram(&labels, at, 0, &classic.convert()?);
            }
        }
        Ok(())
    }
}

/// A classic histogram at one instant.
#[derive(Default)]
struct Classic {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

impl Classic {
    fn convert(mut self) -> Result<FloatHistogram, String> {
        self.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.buckets.dedup_by_key(|bucket| bucket.0);
        let last = self.buckets.last().copied();
        let count = self.count.or(last.map(|(_, count)| count)).unwrap_or(0.0);
        if last.is_none_or(|(bound, _)| bound != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        if self.buckets.windows(2).any(|pair| pair[1].1 < pair[0].1) {
            return Err("count is not cumulative".to_owned());
        }
        if self.buckets.last().is_some_and(|(_, total)| *total != count) {
            return Err("count mismatch".to_owned());
        }
        let length = u32::try_from(self.buckets.len()).map_err(|_| "too many buckets".to_owned())?;
        let mut before = 0.0;
        let mut histogram = FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count,
            sum: self.sum,
            positive_spans: vec![Span { offset: 0, length }],
            custom_values: self.buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect(),
            positive_buckets: self
                .buckets
                .iter()
                .map(|(_, total)| {
                    let count = total - before;
                    before = *total;
                    count
                })
                .collect(),
            ..FloatHistogram::default()
        };
        histogram.compact(0);
        Ok(histogram)
    }
}
