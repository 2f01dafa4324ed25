//! Dropping the observations above or below a value: PromQL's `</` and `>/`.
//!
//! Buckets are kept, dropped or cut; the sum is estimated anew from the middles of what is left.
//!
//! Source: prometheus `FloatHistogram.TrimBuckets`.

use super::{Bucket, FloatHistogram};

/// Which observations to keep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Below,
    Above,
}

impl FloatHistogram {
    /// Keeps the observations below a value.
    pub fn trim_above(&mut self, value: f64) {
        self.trim(value, Keep::Below);
    }

    /// Keeps the observations above a value.
    pub fn trim_below(&mut self, value: f64) {
        self.trim(value, Keep::Above);
    }

    fn trim(&mut self, value: f64, keep: Keep) {
        let custom = self.is_custom();
        let mut left = Left::default();
        let positive: Vec<Bucket> = self.positive().collect();
        let negative: Vec<Bucket> = self.negative().collect();
        let has_positive = positive.iter().any(|bucket| bucket.count != 0.0);
        let has_negative = negative.iter().any(|bucket| bucket.count != 0.0);
        for (buckets, counts, is_positive) in
            [(positive, &mut self.positive_buckets, true), (negative, &mut self.negative_buckets, false)]
        {
            for (bucket, count) in buckets.into_iter().zip(counts).filter(|(bucket, _)| bucket.count != 0.0) {
                let (kept, middle) = keep_of(&bucket, value, keep, is_positive, custom);
                left.take(kept, middle);
                if kept != *count {
                    *count = kept;
                    left.trimmed = true;
                }
            }
        }
        if self.zero_count > 0.0 {
            let (kept, middle) = keep_of_zero(&self.zero_bucket(), value, keep, has_negative, has_positive);
            left.take(kept, middle);
            if kept != self.zero_count {
                self.zero_count = kept;
                left.trimmed = true;
            }
        }
        if left.trimmed {
            self.count = left.count;
            self.sum = left.sum;
            self.compact(0);
        }
    }
}

#[derive(Default)]
struct Left {
    count: f64,
    sum: f64,
    trimmed: bool,
}

impl Left {
    fn take(&mut self, count: f64, middle: f64) {
        self.count += count;
        self.sum += middle * count;
    }
}

/// How many observations of a bucket stay, and around which value.
fn keep_of(bucket: &Bucket, value: f64, keep: Keep, positive: bool, custom: bool) -> (f64, f64) {
    let (whole, cut) = match keep {
        Keep::Below => (bucket.upper <= value, bucket.lower < value),
        Keep::Above => (bucket.lower >= value, bucket.upper > value),
    };
    if whole {
        return (bucket.count, middle(bucket.lower, bucket.upper, positive, custom));
    }
    if !cut {
        return (0.0, 0.0);
    }
    if bucket.lower == f64::NEG_INFINITY || bucket.upper == f64::INFINITY {
        return keep_of_infinite(bucket, value, keep);
    }
    let below = if value <= bucket.lower {
        0.0
    } else if value >= bucket.upper {
        bucket.count
    } else {
        bucket.count * bucket.fraction_below(value, custom)
    };
    match keep {
        Keep::Below => (below, middle(bucket.lower, value, positive, custom)),
        Keep::Above => (bucket.count - below, middle(value, bucket.upper, positive, custom)),
    }
}

/// A bucket without end has no known distribution: it stays whole or goes whole, except that one from −Inf to a
/// positive bound is taken to begin at zero.
fn keep_of_infinite(bucket: &Bucket, value: f64, keep: Keep) -> (f64, f64) {
    let finite = |bound: f64| if bound.is_infinite() { 0.0 } else { bound };
    let Bucket { lower, upper, count, .. } = *bucket;
    if lower == f64::NEG_INFINITY {
        return match keep {
            Keep::Below if value >= upper => (count, 0.0),
            Keep::Below if value > 0.0 && upper > 0.0 && upper != f64::INFINITY => (count * value / upper, value / 2.0),
            Keep::Below if upper <= 0.0 => (count, value),
            Keep::Above if value <= lower => (count, 0.0),
            Keep::Above if value >= 0.0 && upper > value && upper != f64::INFINITY => {
                (count * (1.0 - value / upper), (value + upper) / 2.0)
            }
            _ => (0.0, finite(upper)),
        };
    }
    match keep {
        Keep::Above if value >= lower => (count, value),
        _ => (0.0, finite(lower)),
    }
}

fn keep_of_zero(zero: &Bucket, value: f64, keep: Keep, has_negative: bool, has_positive: bool) -> (f64, f64) {
    let (mut lower, mut upper) = (zero.lower, zero.upper);
    if has_negative && !has_positive {
        upper = 0.0;
    }
    if has_positive && !has_negative {
        lower = 0.0;
    }
    let whole = (zero.count, (lower + upper) / 2.0);
    match keep {
        Keep::Below if value <= lower => (0.0, 0.0),
        Keep::Below if value >= upper => whole,
        Keep::Below => (zero.count * ((value - lower) / (upper - lower)), (lower + value) / 2.0),
        Keep::Above if value <= lower => whole,
        Keep::Above if value >= upper => (0.0, 0.0),
        Keep::Above => (zero.count * ((upper - value) / (upper - lower)), (value + upper) / 2.0),
    }
}

/// The value that stands for the observations between two bounds: the geometric mean for exponential buckets.
fn middle(lower: f64, upper: f64, positive: bool, linear: bool) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        (false, false) if linear => (lower + upper) / 2.0,
        (false, false) => {
            let mean = (lower * upper).abs().sqrt();
            if positive { mean } else { -mean }
        }
    }
}
