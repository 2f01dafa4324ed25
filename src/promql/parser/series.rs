//! Series descriptions of the `.test` language: `name{labels} 1+2x3 _ stale {{schema:1 buckets:[1 2]}}x4`.

use std::sync::Arc;

use promesh_model::labels::METRIC_NAME;
use promesh_model::value::stale_nan;
use promesh_model::{CounterReset, FloatHistogram, Labels, LabelsBuilder};

use super::ast::{BinaryOp, Span};
use super::grammar::{Parsed, Parser};
use super::modifiers::repetition;
use super::token::Kind;

/// The most values that one description may make.
const VALUES_MAX: usize = 1_000_000;

/// The keys of a histogram in braces.
pub(super) const DESCRIPTORS: [&str; 11] = [
    "sum",
    "count",
    "schema",
    "offset",
    "n_offset",
    "buckets",
    "n_buckets",
    "z_bucket",
    "z_bucket_w",
    "custom_values",
    "counter_reset_hint",
];

/// The counter reset hint of this name.
pub(super) fn reset_hint(name: &str) -> Option<CounterReset> {
    Some(match name {
        "unknown" => CounterReset::Unknown,
        "reset" => CounterReset::Reset,
        "not_reset" => CounterReset::NotReset,
        "gauge" => CounterReset::Gauge,
        _ => return None,
    })
}

/// One value of a described series.
#[derive(Clone, Debug, PartialEq)]
pub enum SeriesValue {
    /// `_`: no sample.
    Omitted,
    /// A number, perhaps the staleness marker.
    Float(f64),
    /// A histogram.
    Histogram {
        /// Its value.
        value: Arc<FloatHistogram>,
        /// Whether the counter reset hint was written: then it is to be compared too.
        hint_given: bool,
    },
}

/// A described series.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesDescription {
    /// Its labels.
    pub labels: Labels,
    /// Its values, one a step.
    pub values: Vec<SeriesValue>,
}

const VALUES: &str = "series values";

impl Parser<'_> {
    /// A whole description.
    pub fn series(&mut self) -> Parsed<SeriesDescription> {
        let labels = self.metric()?;
        let mut values = Vec::new();
        while self.take(Kind::Space).is_some() {
            if !matches!(self.kind(), Kind::Space | Kind::End) {
                self.series_item(&mut values)?;
            }
        }
        if self.kind() != Kind::End {
            return Err(self.unexpected(VALUES, ""));
        }
        Ok(SeriesDescription { labels, values })
    }

    fn metric(&mut self) -> Parsed<Labels> {
        let mut labels = LabelsBuilder::default();
        if !matches!(self.kind(), Kind::LeftBrace | Kind::Space | Kind::End | Kind::Error) {
            let name = self.advance().text;
            labels.set(METRIC_NAME, &name);
        }
        if self.take(Kind::LeftBrace).is_some() {
            self.label_set(&mut labels)?;
        }
        Ok(labels.build())
    }

    fn label_set(&mut self, labels: &mut LabelsBuilder) -> Parsed<()> {
        const CONTEXT: &str = "label set";
        while self.take(Kind::RightBrace).is_none() {
            let token = self.token().clone();
            let name = match token.kind {
                Kind::Identifier => token.text.clone(),
                Kind::String => self.unquote(&token),
                _ => return Err(self.unexpected(CONTEXT, "identifier or \"}\"")),
            };
            self.advance();
            if self.take(Kind::Equal).is_some() {
                let value = self.expect(Kind::String, CONTEXT, "string")?;
                let value = self.unquote(&value);
                labels.set(&name, &value);
            } else if token.kind == Kind::String {
                labels.set(METRIC_NAME, &name);
            } else {
                return Err(self.unexpected(CONTEXT, "\"=\""));
            }
            if self.kind() != Kind::RightBrace {
                self.expect(Kind::Comma, CONTEXT, "\",\" or \"}\"")?;
            }
        }
        Ok(())
    }

    fn series_item(&mut self, values: &mut Vec<SeriesValue>) -> Parsed<()> {
        match self.kind() {
            Kind::Blank => {
                self.advance();
                let count = self.times()?.unwrap_or(1);
                self.extend(values, count, |_| Ok(SeriesValue::Omitted))
            }
            Kind::OpenHistogram => self.histogram_item(values),
            _ => self.float_item(values),
        }
    }

    fn float_item(&mut self, values: &mut Vec<SeriesValue>) -> Parsed<()> {
        let first = self.series_number()?;
        let mut step = 0.0;
        if matches!(self.kind(), Kind::Operator(BinaryOp::Add | BinaryOp::Sub)) {
            step = self.series_number()?;
            if self.kind() != Kind::Times {
                return Err(self.unexpected(VALUES, ""));
            }
        }
        // A repetition counts the steps after the first value.
        let count = self.times()?.map_or(1, |times| times.saturating_add(1));
        let mut next = first;
        self.extend(values, count, |_| {
            let value = next;
            next += step;
            Ok(SeriesValue::Float(value))
        })
    }

    fn series_number(&mut self) -> Parsed<f64> {
        let token = self.token().clone();
        if token.kind == Kind::Identifier {
            if token.text != "stale" {
                return Err(self.unexpected(VALUES, "number or \"stale\""));
            }
            self.advance();
            return Ok(stale_nan());
        }
        let sign = self.sign();
        if !matches!(self.kind(), Kind::Number | Kind::Duration) {
            return Err(self.unexpected(VALUES, ""));
        }
        Ok(sign * self.number_literal()?.value)
    }

    fn times(&mut self) -> Parsed<Option<u64>> {
        if self.take(Kind::Times).is_none() {
            return Ok(None);
        }
        let token = self.expect(Kind::Number, VALUES, "")?;
        let count = repetition(&token.text).unwrap_or_else(|message| {
            self.error(token.span, message);
            0
        });
        Ok(Some(count))
    }

    fn extend(
        &mut self,
        values: &mut Vec<SeriesValue>,
        count: u64,
        mut value: impl FnMut(usize) -> Result<SeriesValue, String>,
    ) -> Parsed<()> {
        let room = VALUES_MAX.saturating_sub(values.len()) as u64;
        if count > room {
            let span = self.previous().span;
            self.error(span, format!("a series description makes more than {VALUES_MAX} values"));
            return Err(super::grammar::Stop);
        }
        for index in 0..count as usize {
            match value(index) {
                Ok(value) => values.push(value),
                Err(message) => {
                    let span = self.previous().span;
                    self.error(span, message);
                    return Err(super::grammar::Stop);
                }
            }
        }
        Ok(())
    }

    fn histogram_item(&mut self, values: &mut Vec<SeriesValue>) -> Parsed<()> {
        let (base, mut hint_given) = self.histogram()?;
        let Kind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) = self.kind() else {
            let count = self.times()?.map_or(1, |times| times.saturating_add(1));
            let value = SeriesValue::Histogram { value: Arc::new(base), hint_given };
            return self.extend(values, count, |_| Ok(value.clone()));
        };
        self.advance();
        let step;
        (step, hint_given) = self.histogram()?;
        if self.kind() != Kind::Times {
            return Err(self.unexpected(VALUES, ""));
        }
        let count = self.times()?.map_or(1, |times| times.saturating_add(1));
        let mut next = base;
        self.extend(values, count, |index| {
            if index > 0 {
                if next.schema > step.schema {
                    return Err(format!(
                        "error combining histograms: cannot merge from schema {} to {}",
                        step.schema, next.schema
                    ));
                }
                let combined = if op == BinaryOp::Add { next.add(&step) } else { next.sub(&step) };
                combined.map_err(|error| error.to_string())?;
            }
            Ok(SeriesValue::Histogram { value: Arc::new(next.clone()), hint_given })
        })
    }

    /// `{{key:value key:value}}`: the histogram, and whether its counter reset hint was written.
    fn histogram(&mut self) -> Parsed<(FloatHistogram, bool)> {
        self.expect(Kind::OpenHistogram, VALUES, "")?;
        let mut parts = HistogramParts::default();
        let mut seen: Vec<String> = Vec::new();
        if self.take(Kind::Space).is_some() {
            self.expect(Kind::CloseHistogram, VALUES, "")?;
            return Ok(parts.build());
        }
        while self.take(Kind::CloseHistogram).is_none() {
            if self.kind() != Kind::Descriptor {
                const EXPECTED: &str = "histogram description key, e.g. buckets:[5 10 7]";
                return Err(self.unexpected("histogram description", EXPECTED));
            }
            let key = self.advance().text.to_ascii_lowercase();
            self.expect(Kind::Colon, VALUES, "")?;
            if seen.contains(&key) {
                self.error(Span::default(), format!("duplicate key \"{key}\" in histogram"));
            }
            self.histogram_part(&key, &mut parts)?;
            seen.push(key);
            self.take(Kind::Space);
        }
        Ok(parts.build())
    }

    fn histogram_part(&mut self, key: &str, parts: &mut HistogramParts) -> Parsed<()> {
        let histogram = &mut parts.histogram;
        match key {
            "schema" => histogram.schema = self.whole()? as i32,
            "offset" => parts.offset = self.whole()? as i32,
            "n_offset" => parts.negative_offset = self.whole()? as i32,
            "sum" => histogram.sum = self.plain_number()?,
            "count" => histogram.count = self.plain_number()?,
            "z_bucket" => histogram.zero_count = self.plain_number()?,
            "z_bucket_w" => histogram.zero_threshold = self.plain_number()?,
            "buckets" => histogram.positive_buckets = self.numbers()?,
            "n_buckets" => histogram.negative_buckets = self.numbers()?,
            "custom_values" => histogram.custom_values = self.numbers()?.into(),
            _ => {
                let hint = self.expect(Kind::ResetHint, VALUES, "")?;
                histogram.counter_reset = reset_hint(&hint.text.to_ascii_lowercase()).unwrap_or_default();
                parts.hint_given = true;
            }
        }
        Ok(())
    }

    fn plain_number(&mut self) -> Parsed<f64> {
        let sign = self.sign();
        if !matches!(self.kind(), Kind::Number | Kind::Duration) {
            return Err(self.unexpected(VALUES, ""));
        }
        Ok(sign * self.number_literal()?.value)
    }

    fn whole(&mut self) -> Parsed<i64> {
        let sign = self.sign();
        let token = self.expect(Kind::Number, VALUES, "")?;
        let whole = repetition(&token.text).unwrap_or_else(|message| {
            self.error(token.span, message);
            0
        });
        Ok(sign as i64 * i64::try_from(whole).unwrap_or(i64::MAX))
    }

    fn numbers(&mut self) -> Parsed<Vec<f64>> {
        self.expect(Kind::LeftBracket, VALUES, "")?;
        let mut numbers = vec![self.plain_number()?];
        while self.take(Kind::RightBracket).is_none() {
            self.expect(Kind::Space, VALUES, "")?;
            if self.kind() != Kind::RightBracket {
                numbers.push(self.plain_number()?);
            }
        }
        Ok(numbers)
    }
}

#[derive(Default)]
struct HistogramParts {
    histogram: FloatHistogram,
    offset: i32,
    negative_offset: i32,
    hint_given: bool,
}

impl HistogramParts {
    fn build(self) -> (FloatHistogram, bool) {
        let mut histogram = self.histogram;
        let span = |offset: i32, buckets: &[f64]| {
            let length = u32::try_from(buckets.len()).unwrap_or(u32::MAX);
            (length > 0).then_some(promesh_model::Span { offset, length }).into_iter().collect()
        };
        histogram.positive_spans = span(self.offset, &histogram.positive_buckets);
        histogram.negative_spans = span(self.negative_offset, &histogram.negative_buckets);
        (histogram, self.hint_given)
    }
}
