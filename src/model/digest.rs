//! Digests of samples: what two peers compare to learn whether they hold the same, without sending it.
//!
//! A digest is a count and a sum, so that it does not depend on the order in which samples are met, and the digest of
//! a whole is the sum of the digests of its parts. It is over samples, not bytes: chunks may be cut anywhere.
//!
//! The hashes are alike on every machine and in every release: they go on the wire.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::FloatHistogram;
use crate::labels::Labels;
use crate::value::{is_stale, stale_nan};

/// How many samples there are, and the sum modulo 2¹²⁸ of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleDigest {
    /// How many.
    pub count: u64,
    /// The sum of the hashes of (labels, instant, value).
    pub sum: u128,
}

impl SampleDigest {
    /// Takes another digest in: the samples of both must not overlap.
    pub fn add(&mut self, other: SampleDigest) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Takes the samples of one series, in any order, each instant once.
#[derive(Clone, Copy, Debug)]
pub struct SeriesDigester {
    labels: u128,
    digest: SampleDigest,
}

impl SeriesDigester {
    /// For the series with these labels.
    pub fn new(labels: &Labels) -> SeriesDigester {
        SeriesDigester { labels: labels.stable_hash(), digest: SampleDigest::default() }
    }

    /// Takes a float, with all its bits: NaNs differ.
    pub fn push_float(&mut self, at: i64, value: f64) {
        let mut bytes = [0u8; 32];
        bytes[..16].copy_from_slice(&self.labels.to_le_bytes());
        bytes[16..24].copy_from_slice(&at.to_le_bytes());
        bytes[24..].copy_from_slice(&value.to_bits().to_le_bytes());
        self.take(xxh3_128(&bytes));
    }

    /// Takes a histogram: by which buckets count what, however its spans are cut and whether its counts were whole
    /// numbers or floats; without the reset hint, which depends on what stood before.
    pub fn push_histogram(&mut self, at: i64, value: &FloatHistogram) {
        let mut hasher = Xxh3::new();
        hasher.update(&self.labels.to_le_bytes());
        hasher.update(&at.to_le_bytes());
        // No float has 33 bytes: a histogram never looks like one.
        hasher.update(b"h");
        if is_stale(value.sum) {
            hasher.update(&stale_nan().to_bits().to_le_bytes());
            self.take(hasher.digest128());
            return;
        }
        hasher.update(&value.schema.to_le_bytes());
        for number in [value.zero_threshold, value.zero_count, value.count, value.sum] {
            hasher.update(&number.to_bits().to_le_bytes());
        }
        for (mark, spans, buckets) in [
            (b"+", &value.positive_spans, &value.positive_buckets),
            (b"-", &value.negative_spans, &value.negative_buckets),
        ] {
            hasher.update(mark);
            let mut index = 0i64;
            let mut counts = buckets.iter();
            for span in spans {
                index += i64::from(span.offset);
                for count in counts.by_ref().take(span.length as usize) {
                    if *count != 0.0 {
                        hasher.update(&index.to_le_bytes());
                        hasher.update(&count.to_bits().to_le_bytes());
                    }
                    index += 1;
                }
            }
        }
        hasher.update(b"c");
        for bound in value.custom_values.iter() {
            hasher.update(&bound.to_bits().to_le_bytes());
        }
        self.take(hasher.digest128());
    }

    fn take(&mut self, hash: u128) {
        self.digest.add(SampleDigest { count: 1, sum: hash });
    }

    /// The digest of what was taken.
    pub fn digest(&self) -> SampleDigest {
        self.digest
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{CounterReset, Span};

    fn labels(instance: &str) -> Labels {
        Labels::from_pairs([("__name__", "up"), ("instance", instance)])
    }

    fn histogram(spans: &[(i32, u32)], buckets: &[f64]) -> FloatHistogram {
        FloatHistogram {
            counter_reset: CounterReset::Unknown,
            schema: 3,
            zero_threshold: 0.0,
            zero_count: 1.0,
            count: 6.0,
            sum: 2.5,
            positive_spans: spans.iter().map(|&(offset, length)| Span { offset, length }).collect(),
            negative_spans: Vec::new(),
            positive_buckets: buckets.to_vec(),
            negative_buckets: Vec::new(),
            custom_values: Arc::from([]),
        }
    }

    fn of_histogram(value: &FloatHistogram) -> SampleDigest {
        let mut digester = SeriesDigester::new(&labels("a"));
        digester.push_histogram(7, value);
        digester.digest()
    }

    /// A changed figure here makes every peer of an older release copy everything: use another message kind instead.
    #[test]
    fn digests_are_golden() {
        let mut digester = SeriesDigester::new(&labels("a"));
        digester.push_float(1_700_000_000_000, 1.5);
        let float = digester.digest();
        let whole = of_histogram(&histogram(&[(1, 2), (3, 1)], &[1.0, 2.0, 3.0]));
        expect_test::expect!["5a3659d7cf9c425fb84cf77aac0129fd 836c9f06e9956d2e278db508da39c66d"]
            .assert_eq(&format!("{:032x} {:032x}", float.sum, whole.sum));
    }

    #[test]
    fn spans_may_be_cut_anywhere_and_hints_do_not_count() {
        let plain = histogram(&[(1, 2), (3, 1)], &[1.0, 2.0, 3.0]);
        let cut = histogram(&[(0, 0), (1, 1), (0, 1), (2, 2)], &[1.0, 2.0, 0.0, 3.0]);
        let hinted = FloatHistogram { counter_reset: CounterReset::Reset, ..plain.clone() };
        let moved = histogram(&[(1, 2), (2, 1)], &[1.0, 2.0, 3.0]);
        assert_eq!(of_histogram(&plain), of_histogram(&cut));
        assert_eq!(of_histogram(&plain), of_histogram(&hinted));
        assert_ne!(of_histogram(&plain), of_histogram(&moved));
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_every_sample_does(
            samples in prop::collection::btree_map(any::<i64>(), any::<u64>(), 1..20),
            other in any::<u64>(),
        ) {
            let digest = |samples: &mut dyn Iterator<Item = (i64, u64)>| {
                let mut digester = SeriesDigester::new(&labels("a"));
                samples.for_each(|(at, bits)| digester.push_float(at, f64::from_bits(bits)));
                digester.digest()
            };
            let forward = digest(&mut samples.iter().map(|(at, bits)| (*at, *bits)));
            prop_assert_eq!(forward, digest(&mut samples.iter().rev().map(|(at, bits)| (*at, *bits))));
            let mut halves = digest(&mut samples.iter().take(5).map(|(at, bits)| (*at, *bits)));
            halves.add(digest(&mut samples.iter().skip(5).map(|(at, bits)| (*at, *bits))));
            prop_assert_eq!(forward, halves);
            let (first, bits) = samples.iter().next().expect("one at least");
            if *bits != other {
                let mut changed = samples.clone();
                changed.insert(*first, other);
                prop_assert_ne!(forward, digest(&mut changed.into_iter()));
            }
        }
    }
}
