//! Buckets of native histograms as expositions bring them: checked, without empty ones, merged to a lower resolution.

use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Histogram, Span};
use promesh_model::ingest::HistogramValue;
use std::sync::Arc;

/// A count of either kind.
trait Count: Copy + Default + PartialEq + std::ops::AddAssign {}
impl Count for i64 {}
impl Count for f64 {}

/// Whether spans describe as many buckets as there are counts. Anything else must not be expanded.
pub(crate) fn spans_fit(spans: &[Span], counts: usize) -> bool {
    spans.iter().map(|span| u64::from(span.length)).sum::<u64>() == counts as u64
}

/// The buckets that are not empty, by rising index.
fn expand<C: Count>(spans: &[Span], counts: impl Iterator<Item = C>) -> Vec<(i32, C)> {
    let mut index = 0i32;
    let indices = spans.iter().enumerate().flat_map(|(position, span)| {
        index = if position == 0 { span.offset } else { index.saturating_add(span.offset) };
        let first = index;
        index = index.saturating_add_unsigned(span.length);
        (0..span.length).map(move |step| first.saturating_add_unsigned(step))
    });
    indices.zip(counts).filter(|(_, count)| *count != C::default()).collect()
}

/// Spans and counts of buckets by rising index; gaps of at most `empty_max` are filled with empty buckets.
fn rebuild<C: Count>(buckets: &[(i32, C)], empty_max: i64) -> (Vec<Span>, Vec<C>) {
    let mut spans: Vec<Span> = Vec::new();
    let mut counts = Vec::with_capacity(buckets.len());
    let mut end = 0i64;
    for (index, count) in buckets {
        let gap = i64::from(*index) - end;
        match spans.last_mut() {
            Some(span) if gap <= empty_max => {
                counts.extend(std::iter::repeat_n(C::default(), gap as usize));
                span.length += gap as u32 + 1;
            }
            _ => spans.push(Span { offset: gap as i32, length: 1 }),
        }
        counts.push(*count);
        end = i64::from(*index) + 1;
    }
    (spans, counts)
}

/// Merges neighbours: bucket `i` of a schema lies in bucket ⌈i / 2^steps⌉ of a schema that many steps lower.
fn merge<C: Count>(buckets: Vec<(i32, C)>, steps: u32) -> Vec<(i32, C)> {
    let mut merged: Vec<(i32, C)> = Vec::with_capacity(buckets.len());
    for (index, count) in buckets {
        let index = ((i64::from(index) - 1) >> steps.min(62)) as i32 + 1;
        match merged.last_mut() {
            Some((last, sum)) if *last == index => *sum += count,
            _ => merged.push((index, count)),
        }
    }
    merged
}

fn absolute(deltas: &[i64]) -> impl Iterator<Item = i64> + '_ {
    deltas.iter().scan(0i64, |count, delta| {
        *count = count.wrapping_add(*delta);
        Some(*count)
    })
}

fn deltas(counts: &[i64]) -> Vec<i64> {
    let mut before = 0i64;
    counts.iter().map(|count| count.wrapping_sub(std::mem::replace(&mut before, *count))).collect()
}

/// Cuts out empty buckets where more than `empty_max` of them stand together, and lowers the resolution by `steps`.
fn recast(histogram: &mut HistogramValue, steps: u32, empty_max: i64) {
    match histogram {
        HistogramValue::Integer(histogram) => {
            let h = Arc::make_mut(histogram);
            h.schema -= steps as i32;
            for (spans, counts) in
                [(&mut h.positive_spans, &mut h.positive_buckets), (&mut h.negative_spans, &mut h.negative_buckets)]
            {
                let buckets = merge_if(expand(spans, absolute(counts)), steps);
                let (new_spans, new_counts) = rebuild(&buckets, empty_max);
                *spans = new_spans;
                *counts = deltas(&new_counts);
            }
        }
        HistogramValue::Float(histogram) => {
            let h = Arc::make_mut(histogram);
            h.schema -= steps as i32;
            for (spans, counts) in
                [(&mut h.positive_spans, &mut h.positive_buckets), (&mut h.negative_spans, &mut h.negative_buckets)]
            {
                let buckets = merge_if(expand(spans, counts.iter().copied()), steps);
                (*spans, *counts) = rebuild(&buckets, empty_max);
            }
        }
    }
}

fn merge_if<C: Count>(buckets: Vec<(i32, C)>, steps: u32) -> Vec<(i32, C)> {
    if steps == 0 { buckets } else { merge(buckets, steps) }
}

/// Cuts out empty buckets where more than `empty_max` of them stand together.
pub(crate) fn compact(histogram: &mut HistogramValue, empty_max: i64) {
    recast(histogram, 0, empty_max);
}

fn schema_and_buckets(histogram: &HistogramValue) -> (i32, usize) {
    match histogram {
        HistogramValue::Integer(h) => (h.schema, h.positive_buckets.len() + h.negative_buckets.len()),
        HistogramValue::Float(h) => (h.schema, h.positive_buckets.len() + h.negative_buckets.len()),
    }
}

/// The lowest schema of exponential buckets.
const SCHEMA_MIN: i32 = -4;

/// Lowers a histogram's resolution until it has at most `buckets_max` buckets (zero: any number) and at most
/// `schema_max`. False when even the lowest resolution has too many.
///
/// Source: prometheus `scrape/target.go`, `bucketLimitAppender`, `maxSchemaAppender`.
pub fn limit_resolution(histogram: &mut HistogramValue, buckets_max: usize, schema_max: i32) -> bool {
    let (schema, mut buckets) = schema_and_buckets(histogram);
    if schema == CUSTOM_BUCKETS_SCHEMA {
        return buckets_max == 0 || buckets <= buckets_max;
    }
    if schema > schema_max {
        recast(histogram, schema.abs_diff(schema_max), 0);
    }
    loop {
        let schema;
        (schema, buckets) = schema_and_buckets(histogram);
        if buckets_max == 0 || buckets <= buckets_max {
            return true;
        }
        if schema <= SCHEMA_MIN {
            return false;
        }
        recast(histogram, 1, 0);
    }
}

/// The highest schema whose buckets grow by at least `factor`.
///
/// Source: prometheus `scrape.pickSchema`.
pub fn schema_of_factor(factor: f64) -> i32 {
    const SCHEMA_MAX: i32 = 8;
    if factor <= 1.0 {
        return SCHEMA_MAX;
    }
    let schema = (-factor.log2().log2()).floor();
    (schema as i32).clamp(SCHEMA_MIN, SCHEMA_MAX)
}

/// A classic histogram being collected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Classic {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

impl Classic {
    pub(crate) fn set_count(&mut self, count: f64) {
        self.count = Some(count);
    }

    pub(crate) fn set_sum(&mut self, sum: f64) {
        self.sum = sum;
    }

    pub(crate) fn add_bucket(&mut self, bound: f64, count: f64) {
        self.buckets.push((bound, count));
    }

    /// As a native histogram with custom buckets.
    ///
    /// # Errors
    /// What contradicts itself: then there is no such histogram.
    ///
    /// Source: prometheus `util/convertnhcb`.
    pub(crate) fn convert(mut self) -> Result<HistogramValue, &'static str> {
        if self.buckets.iter().any(|(bound, _)| bound.is_nan()) {
            return Err("bucket upper bound is NaN");
        }
        if self.count.is_some_and(|count| count < 0.0) {
            return Err("count must be non-negative");
        }
        // Equal bounds: the first one counts.
        self.buckets.sort_by(|left, right| left.0.total_cmp(&right.0));
        self.buckets.dedup_by(|later, first| later.0 == first.0);
        let counts = std::iter::once(0.0).chain(self.buckets.iter().map(|(_, count)| *count));
        if counts
            .clone()
            .zip(self.buckets.iter())
            .any(|(before, (_, count))| before.is_nan() || count.is_nan() || *count < before)
        {
            return Err("count is not cumulative");
        }
        let highest = self.buckets.last().map_or(0.0, |(_, count)| *count);
        let count = self.count.unwrap_or(highest);
        if self.buckets.last().is_none_or(|(bound, _)| *bound != f64::INFINITY) {
            if count < highest {
                return Err("count mismatch");
            }
            self.buckets.push((f64::INFINITY, count));
        } else if count != highest {
            return Err("count mismatch");
        }
        let bounds: Arc<[f64]> = self.buckets[..self.buckets.len() - 1].iter().map(|(bound, _)| *bound).collect();
        let spans = vec![Span { offset: 0, length: self.buckets.len() as u32 }];
        let mut before = 0.0;
        let each: Vec<f64> =
            self.buckets.iter().map(|(_, count)| count - std::mem::replace(&mut before, *count)).collect();
        let whole = |value: f64| value.fract() == 0.0 && value.abs() < 9e18;
        let integer = whole(count) && self.buckets.iter().all(|(_, count)| whole(*count));
        let mut value = if integer {
            let each: Vec<i64> = each.iter().map(|count| *count as i64).collect();
            HistogramValue::Integer(Arc::new(Histogram {
                schema: CUSTOM_BUCKETS_SCHEMA,
                count: count as u64,
                sum: self.sum,
                positive_spans: spans,
                positive_buckets: deltas(&each),
                custom_values: bounds,
                ..Histogram::default()
            }))
        } else {
            HistogramValue::Float(Arc::new(FloatHistogram {
                schema: CUSTOM_BUCKETS_SCHEMA,
                count,
                sum: self.sum,
                positive_spans: spans,
                positive_buckets: each,
                custom_values: bounds,
                ..FloatHistogram::default()
            }))
        };
        compact(&mut value, if integer { 2 } else { 0 });
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classic(buckets: &[(f64, f64)], count: Option<f64>) -> Classic {
        Classic { buckets: buckets.to_vec(), count, sum: 1.0 }
    }

    #[test]
    fn classic_histograms_become_custom_buckets() {
        let HistogramValue::Integer(h) =
            classic(&[(1.0, 2.0), (2.0, 5.0), (f64::INFINITY, 9.0)], None).convert().unwrap()
        else {
            panic!("whole counts")
        };
        assert_eq!((h.count, &h.positive_buckets[..], &h.custom_values[..]), (9, &[2, 1, 1][..], &[1.0, 2.0][..]));
        let HistogramValue::Float(h) = classic(&[(1.0, 0.5)], Some(1.0)).convert().unwrap() else { panic!("halves") };
        assert_eq!((h.count, &h.positive_buckets[..]), (1.0, &[0.5, 0.5][..]));
        assert!(classic(&[(1.0, 2.0), (2.0, 1.0)], None).convert().is_err());
        assert!(classic(&[(1.0, 2.0)], Some(1.0)).convert().is_err());
        assert!(classic(&[(f64::NAN, 2.0)], None).convert().is_err());
    }

    #[test]
    fn resolution_falls_until_the_buckets_are_few_enough() {
        let mut value = HistogramValue::Integer(Arc::new(Histogram {
            schema: 3,
            count: 6,
            positive_spans: vec![Span { offset: 1, length: 2 }, Span { offset: 5, length: 2 }],
            positive_buckets: vec![1, 0, 1, -1],
            ..Histogram::default()
        }));
        assert!(limit_resolution(&mut value, 2, 8));
        let HistogramValue::Integer(h) = &value else { panic!("still integer") };
        // Buckets 1, 2, 8, 9 → 1, 4, 5 → 1, 2, 3 → 1, 2.
        assert_eq!(
            (h.schema, &h.positive_spans[..], &h.positive_buckets[..]),
            (0, &[Span { offset: 1, length: 2 }][..], &[4, -3][..])
        );
    }

    #[test]
    fn factors_give_schemas_as_upstream() {
        for (factor, schema) in [(65536.0, -4), (4.0, -1), (2.0, 0), (1.1, 2), (1.04, 4), (1.002, 8), (0.0, 8)] {
            assert_eq!(schema_of_factor(factor), schema, "{factor}");
        }
    }
}
