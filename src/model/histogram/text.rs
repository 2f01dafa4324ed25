//! Histograms as text.

use std::fmt;

use super::{Bucket, CounterReset, FloatHistogram};
use crate::value::format_float_g;

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = if self.lower_inclusive { '[' } else { '(' };
        let close = if self.upper_inclusive { ']' } else { ')' };
        let [lower, upper, count] = [self.lower, self.upper, self.count].map(format_float_g);
        write!(f, "{open}{lower},{upper}{close}:{count}")
    }
}

/// `{count:…, sum:…, (1,2]:3}`, the populated buckets upwards.
impl fmt::Display for FloatHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", format_float_g(self.count), format_float_g(self.sum))?;
        let mut negative: Vec<Bucket> = self.negative().filter(|bucket| bucket.count != 0.0).collect();
        negative.reverse();
        let zero = (self.zero_count != 0.0).then(|| self.zero_bucket());
        for bucket in negative.into_iter().chain(zero).chain(self.positive().filter(|bucket| bucket.count != 0.0)) {
            write!(f, ", {bucket}")?;
        }
        f.write_str("}")
    }
}

impl FloatHistogram {
    /// As the `.test` language writes it: `{{schema:1 count:3 sum:2 buckets:[1 2]}}`.
    ///
    /// Source: prometheus `FloatHistogram.TestExpression`.
    pub fn test_expression(&self) -> String {
        // Everything in one span, unless the gap between buckets is absurd.
        const GAP_MAX: usize = 1 << 12;
        let mut tidy = self.clone();
        tidy.compact(GAP_MAX);
        let mut parts = Vec::new();
        if tidy.schema != 0 {
            parts.push(format!("schema:{}", tidy.schema));
        }
        for (key, value) in [
            ("count", tidy.count),
            ("sum", tidy.sum),
            ("z_bucket", tidy.zero_count),
            ("z_bucket_w", tidy.zero_threshold),
        ] {
            if value != 0.0 {
                parts.push(format!("{key}:{}", format_float_g(value)));
            }
        }
        if tidy.is_custom() {
            parts.push(format!("custom_values:[{}]", joined(&tidy.custom_values)));
        }
        match tidy.counter_reset {
            CounterReset::Unknown => {}
            CounterReset::Reset => parts.push("counter_reset_hint:reset".to_owned()),
            CounterReset::NotReset => parts.push("counter_reset_hint:not_reset".to_owned()),
            CounterReset::Gauge => parts.push("counter_reset_hint:gauge".to_owned()),
        }
        for (offset_key, key, spans, buckets) in [
            ("offset", "buckets", &tidy.positive_spans, &tidy.positive_buckets),
            ("n_offset", "n_buckets", &tidy.negative_spans, &tidy.negative_buckets),
        ] {
            if let Some(span) = spans.first().filter(|span| span.offset != 0) {
                parts.push(format!("{offset_key}:{}", span.offset));
            }
            if !buckets.is_empty() {
                parts.push(format!("{key}:[{}]", joined(buckets)));
            }
        }
        format!("{{{{{}}}}}", parts.join(" "))
    }
}

fn joined(numbers: &[f64]) -> String {
    numbers.iter().map(|number| format_float_g(*number)).collect::<Vec<_>>().join(" ")
}
