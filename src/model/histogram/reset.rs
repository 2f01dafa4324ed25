//! Counter resets.

use super::buckets::{Half, Side};
use super::{CounterReset, FloatHistogram};

impl FloatHistogram {
    /// Whether the counter was reset between `previous` and this one: a count fell, a populated bucket went away, or
    /// the layout changed in a way that only a new start explains. A hint decides without comparing.
    ///
    /// Source: prometheus `FloatHistogram.DetectReset`.
    pub fn detect_reset(&self, previous: &FloatHistogram) -> bool {
        match self.counter_reset {
            CounterReset::Reset => return true,
            CounterReset::NotReset => return false,
            CounterReset::Unknown | CounterReset::Gauge => {}
        }
        if self.count < previous.count {
            return true;
        }
        if self.is_custom() {
            if !previous.is_custom() {
                return true;
            }
            if self.custom_values != previous.custom_values {
                return self.fell_in_common_bounds(previous);
            }
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        if !self.is_custom() {
            let (previous_zero, threshold) = previous.zero_count_within(self.zero_threshold);
            // Unequal when a populated bucket would have been cut.
            if threshold != self.zero_threshold || self.zero_count < previous_zero {
                return true;
            }
        }
        [Half::Positive, Half::Negative].into_iter().any(|half| {
            let before = previous.half_from(half, self.zero_threshold, self.schema);
            fell(&self.half_from(half, self.zero_threshold, self.schema), &before)
        })
    }

    /// Compares the counts between bounds that both have.
    fn fell_in_common_bounds(&self, previous: &FloatHistogram) -> bool {
        let ours: Vec<(f64, f64)> = self.positive().map(|bucket| (bucket.upper, bucket.count)).collect();
        let theirs: Vec<(f64, f64)> = previous.positive().map(|bucket| (bucket.upper, bucket.count)).collect();
        let common = self.custom_values.iter().filter(|bound| previous.custom_values.contains(bound)).copied();
        let (mut at_ours, mut at_theirs) = (0, 0);
        let sum_to = |buckets: &[(f64, f64)], at: &mut usize, bound: f64| {
            let start = *at;
            *at += buckets[start..].iter().take_while(|(upper, _)| *upper <= bound).count();
            buckets[start..*at].iter().map(|(_, count)| count).sum::<f64>()
        };
        common
            .chain([f64::INFINITY])
            .any(|bound| sum_to(&ours, &mut at_ours, bound) < sum_to(&theirs, &mut at_theirs, bound))
    }
}

/// Whether any populated bucket before is gone or smaller now.
fn fell(now: &Side, before: &Side) -> bool {
    let mut at = 0;
    before.iter().any(|(index, count)| {
        while now.get(at).is_some_and(|(candidate, _)| candidate < index) {
            at += 1;
        }
        match now.get(at) {
            Some((candidate, present)) if candidate == index => present < count,
            _ => *count != 0.0,
        }
    })
}
