//! Means and squared distances of instants and values, which merge: what deviations and least-squares lines are made of.
//!
//! Merging keeps distances from means, never sums of squares, so that nothing cancels.
//!
//! Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.

use super::{Floats, Window, Windows};

/// Moments of some samples; instants in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    count: f64,
    time: f64,
    value: f64,
    /// Sums of squared and multiplied distances from the means.
    time_time: f64,
    time_value: f64,
    value_value: f64,
}

impl Moments {
    fn of(time: f64, value: f64) -> Moments {
        Moments { count: 1.0, time, value, ..Moments::default() }
    }

    fn merge(self, other: Moments) -> Moments {
        if self.count == 0.0 {
            return other;
        }
        if other.count == 0.0 {
            return self;
        }
        let count = self.count + other.count;
        let (time, value) = (other.time - self.time, other.value - self.value);
        let share = other.count / count;
        let weight = self.count * share;
        Moments {
            count,
            time: self.time + time * share,
            value: self.value + value * share,
            time_time: self.time_time + other.time_time + time * time * weight,
            time_value: self.time_value + other.time_value + time * value * weight,
            value_value: self.value_value + other.value_value + value * value * weight,
        }
    }

    pub fn variance(&self) -> f64 {
        self.value_value / self.count
    }

    /// The slope of the least-squares line, per second.
    pub fn slope(&self) -> f64 {
        self.time_value / self.time_time
    }

    /// The value of the least-squares line at an instant.
    pub fn value_at(&self, time: f64) -> f64 {
        self.value + self.slope() * (time - self.time)
    }

    /// Visits the moments of each window; instants are counted from the series' first.
    pub fn slide(
        windows: &Windows,
        Floats { times, values }: Floats<'_>,
        ends: &mut Vec<Moments>,
        mut result: impl FnMut(&Window, &Moments),
    ) -> u64 {
        let single = |at: usize| Moments::of((times[at] - times[0]) as f64 / 1000.0, values[at]);
        // Moments from each sample up to the last turn, and of what came after it.
        ends.clear();
        ends.resize(values.len(), Moments::default());
        let (mut turn, mut merged, mut newer) = (0, 0, Moments::default());
        windows.visit(times, |window| {
            let (low, high) = (window.low, window.high);
            if low >= turn {
                turn = high;
                let mut sum = Moments::default();
                for at in (low..high).rev() {
                    sum = single(at).merge(sum);
                    ends[at] = sum;
                }
                (newer, merged) = (Moments::default(), high);
            }
            for at in merged..high {
                newer = newer.merge(single(at));
            }
            merged = high;
            result(&window, &ends[low].merge(newer));
        })
    }
}
