//! Remarks for people on how a query was answered: warnings and infos, each with the place in the query.
//!
//! One remark stands for all that say the same, whatever place they came from; the last place is shown. Texts are
//! upstream's (prometheus `util/annotations`).

use std::collections::BTreeMap;

use promesh_model::Timestamp;
use promesh_model::labels::quoted;
use promesh_model::value::format_float_g;

use crate::parser::Span;

/// What a histogram was combined for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Addition,
    Subtraction,
    Aggregation,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Addition => "addition",
            Operation::Subtraction => "subtraction",
            Operation::Aggregation => "aggregation",
        }
    }
}

/// A remark.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Note {
    InvalidQuantile(f64),
    InvalidRatio(f64, f64),
    BadBucketLabel(String, String),
    MixedFloatsHistograms(String),
    MixedFloatsHistogramsAggregation,
    MixedClassicNative(String),
    NotCounter(String),
    NotGauge(String),
    MixedExponentialCustom(String),
    IncompatibleBucketLayout(&'static str),
    SortInRange,
    ResetCollision(Operation),
    StartTimeOverlap(String),
    PossibleNonCounter(String),
    PossibleNonCounterLabel(String, String),
    ForcedMonotonicity { metric: String, at: i64, bucket_min: f64, bucket_max: f64, diff_max: f64 },
    IncompatibleTypes(&'static str, &'static str, &'static str),
    IgnoredInAggregation(&'static str),
    IgnoredInMixedRange(String),
    QuantileNan(String),
    QuantileSkewed(String),
    FractionNan(String),
    BoundsReconciled(Operation),
}

fn with_metric(text: &str, metric: &str) -> String {
    if metric.is_empty() { text.to_owned() } else { format!("{text} for metric name {}", quoted(metric)) }
}

impl Note {
    fn is_warning(&self) -> bool {
        use Note::{
            BadBucketLabel, IncompatibleBucketLayout, InvalidQuantile, InvalidRatio, MixedClassicNative,
            MixedExponentialCustom, MixedFloatsHistograms, MixedFloatsHistogramsAggregation, NotCounter, NotGauge,
            ResetCollision, SortInRange, StartTimeOverlap,
        };
        matches!(
            self,
            InvalidQuantile(_)
                | InvalidRatio(..)
                | BadBucketLabel(..)
                | MixedFloatsHistograms(_)
                | MixedFloatsHistogramsAggregation
                | MixedClassicNative(_)
                | NotCounter(_)
                | NotGauge(_)
                | MixedExponentialCustom(_)
                | IncompatibleBucketLayout(_)
                | SortInRange
                | ResetCollision(_)
                | StartTimeOverlap(_)
        )
    }

    fn text(&self) -> String {
        match self {
            Note::InvalidQuantile(q) => {
                format!("quantile value should be between 0 and 1, got {}", format_float_g(*q))
            }
            Note::InvalidRatio(ratio, capped) => format!(
                "ratio value should be between -1 and 1, got {}, capping to {}",
                format_float_g(*ratio),
                format_float_g(*capped)
            ),
            Note::BadBucketLabel(metric, label) => {
                let text = format!("bucket label \"le\" is missing or has a malformed value of {}", quoted(label));
                with_metric(&text, metric)
            }
            Note::MixedFloatsHistograms(metric) => {
                format!("encountered a mix of histograms and floats for metric name {}", quoted(metric))
            }
            Note::MixedFloatsHistogramsAggregation => {
                "encountered a mix of histograms and floats for aggregation".to_owned()
            }
            Note::MixedClassicNative(metric) => {
                with_metric("vector contains a mix of classic and native histograms", metric)
            }
            Note::NotCounter(metric) => format!("this native histogram metric is not a counter: {}", quoted(metric)),
            Note::NotGauge(metric) => format!("this native histogram metric is not a gauge: {}", quoted(metric)),
            Note::MixedExponentialCustom(metric) => format!(
                "vector contains a mix of histograms with exponential and custom buckets schemas for metric name {}",
                quoted(metric)
            ),
            Note::IncompatibleBucketLayout(op) => {
                format!("incompatible bucket layout encountered for binary operator {op}")
            }
            Note::SortInRange => {
                "sort is ineffective for range queries since results are always ordered by labels".to_owned()
            }
            Note::ResetCollision(operation) => {
                format!("conflicting counter resets during histogram {}", operation.as_str())
            }
            Note::StartTimeOverlap(metric) => format!(
                "sample has start time that overlaps with previous sample timestamp for metric {}",
                quoted(metric)
            ),
            Note::PossibleNonCounter(metric) => format!(
                "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {}",
                quoted(metric)
            ),
            Note::PossibleNonCounterLabel(metric, label) => format!(
                "metric might not be a counter, __type__ label is not set to \"counter\" or \"histogram\", got {}: {}",
                quoted(label),
                quoted(metric)
            ),
            Note::ForcedMonotonicity { metric, .. } => with_metric(
                "input to histogram_quantile needed to be fixed for monotonicity (see \
                 https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)",
                metric,
            ),
            Note::IncompatibleTypes(left, op, right) => {
                format!("incompatible sample types encountered for binary operator \"{op}\": {left} {op} {right}")
            }
            Note::IgnoredInAggregation(what) => format!("ignored histogram in {what} aggregation"),
            Note::IgnoredInMixedRange(metric) => format!(
                "ignored histograms in a range containing both floats and histograms for metric name {}",
                quoted(metric)
            ),
            Note::QuantileNan(metric) => {
                with_metric("input to histogram_quantile has NaN observations, result is NaN", metric)
            }
            Note::QuantileSkewed(metric) => {
                with_metric("input to histogram_quantile has NaN observations, result is skewed higher", metric)
            }
            Note::FractionNan(metric) => with_metric(
                "input to histogram_fraction has NaN observations, which are excluded from all fractions",
                metric,
            ),
            Note::BoundsReconciled(operation) => {
                format!("mismatched custom buckets were reconciled during {}", operation.as_str())
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    span: Span,
    note: Note,
    count: usize,
    first: i64,
    last: i64,
}

/// The remarks on one query.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    entries: BTreeMap<String, Entry>,
    storage: Vec<String>,
}

impl Annotations {
    /// Takes a remark.
    pub(crate) fn add(&mut self, span: Span, note: Note) {
        let (first, last) = match note {
            Note::ForcedMonotonicity { at, .. } => (at, at),
            _ => (0, 0),
        };
        let key = note.text();
        let Some(entry) = self.entries.get_mut(&key) else {
            self.entries.insert(key, Entry { span, note, count: 1, first, last });
            return;
        };
        entry.span = span;
        entry.count += 1;
        entry.first = entry.first.min(first);
        entry.last = entry.last.max(last);
        if let (
            Note::ForcedMonotonicity { bucket_min, bucket_max, diff_max, .. },
            Note::ForcedMonotonicity { bucket_min: low, bucket_max: high, diff_max: diff, .. },
        ) = (&mut entry.note, note)
        {
            *bucket_min = bucket_min.min(low);
            *bucket_max = bucket_max.max(high);
            *diff_max = diff_max.max(diff);
        }
    }

    /// Takes the remarks on a part of the query as those on the same text further on.
    pub(crate) fn add_again(&mut self, part: &Annotations, on: Span, now: Span) {
        let moved = |at: usize| (at + now.start).saturating_sub(on.start);
        for entry in part.entries.values() {
            let span = Span { start: moved(entry.span.start), end: moved(entry.span.end) };
            let same = self.entries.get(&entry.note.text()).map_or(0, |known| known.count);
            self.add(span, entry.note.clone());
            if let Some(known) = self.entries.get_mut(&entry.note.text()) {
                let first = known.count == 1;
                known.first = if first { entry.first } else { known.first.min(entry.first) };
                known.last = known.last.max(entry.last);
                known.count = same + entry.count;
            }
        }
        part.storage.iter().for_each(|warning| self.add_storage(warning));
    }

    /// Takes a warning of storage, which has no place in the query.
    pub(crate) fn add_storage(&mut self, warning: &str) {
        if !self.storage.iter().any(|known| known == warning) {
            self.storage.push(warning.to_owned());
        }
    }

    /// Warnings and infos as texts, sorted.
    pub fn texts(&self, query: &str) -> (Vec<String>, Vec<String>) {
        let mut warnings = self.storage.clone();
        let mut infos = Vec::new();
        for (text, entry) in &self.entries {
            let position = entry.span.position(query);
            let kind = if entry.note.is_warning() { "warning" } else { "info" };
            let detail = match &entry.note {
                Note::ForcedMonotonicity { bucket_min, bucket_max, diff_max, .. } => format!(
                    ", from buckets {} to {}, with a max diff of {}, over {} samples from {} to {}",
                    format_float_g(*bucket_min),
                    format_float_g(*bucket_max),
                    two_digits(*diff_max),
                    entry.count,
                    Timestamp(entry.first.div_euclid(1000) * 1000),
                    Timestamp(entry.last.div_euclid(1000) * 1000),
                ),
                Note::StartTimeOverlap(_) if entry.count > 1 => format!(" ({} occurrences)", entry.count),
                _ => String::new(),
            };
            let full = format!("PromQL {kind}: {text}{detail} ({position})");
            if entry.note.is_warning() { warnings.push(full) } else { infos.push(full) }
        }
        (warnings, infos)
    }
}

/// Go's `%.2g`.
fn two_digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format_float_g(value);
    }
    let text = format!("{value:.1e}");
    let rounded: f64 = text.parse().unwrap_or(value);
    let exponent: i32 = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if (-4..2).contains(&exponent) {
        return promesh_model::value::format_float(rounded);
    }
    let (mantissa, _) = text.split_once('e').expect("`{:e}` always prints an exponent");
    let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// At most so many texts; what is left out is counted in one more, as the HTTP API does with 10.
pub fn capped(texts: Vec<String>, max: usize, kind: &str) -> Vec<String> {
    let left_out = texts.len().saturating_sub(max);
    let mut texts = texts;
    texts.truncate(max);
    if left_out > 0 {
        texts.push(format!("{left_out} more {kind} annotations omitted"));
    }
    texts
}
