//! A bit stream, and how values lie in it.
//!
//! A value is coded against the one before it: `0` unchanged; `10` both whole numbers, the difference in one of four
//! widths; `11` anything else, the significant bits of the exclusive or.
//!
//! In the later form ([`BitWriter::push_scaled`]) `110` is a decimal fraction: seconds of CPU time move by hundredths, and
//! as multiples of a hundredth they differ by a few bits where their exclusive or has fifty; `111` is anything else.

use super::FramingError;

/// Widths of whole-number differences, by their two-bit class.
const DELTA_BITS: [u32; 4] = [4, 9, 17, 56];
/// Whole numbers up to here are exact in a float, and so is their difference.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Powers of ten that fractions are multiples of, by their two-bit number: hundredths, then what `/proc` counts in.
const SCALES: [f64; 4] = [1e2, 1e3, 1e6, 1e9];
/// Widths of differences of multiples.
const SCALED_BITS: [u32; 4] = [8, 14, 22, 40];

#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    pending_bits: u32,
}

impl BitWriter {
    pub(super) fn with_capacity(bytes: usize) -> BitWriter {
        BitWriter { bytes: Vec::with_capacity(bytes), pending: 0, pending_bits: 0 }
    }

    /// Appends the lowest `count` (at most 56) bits.
    fn push(&mut self, value: u64, count: u32) {
        debug_assert!(count <= 56 && (value >> count) == 0, "value fits its width");
        self.pending |= value << self.pending_bits;
        self.pending_bits += count;
        while self.pending_bits >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
    }

    /// What both forms say in the fewest bits: the same value again, or one of few whole steps away. Whether it was that.
    fn push_whole(&mut self, difference: u64, value: f64, previous: f64) -> bool {
        if difference == 0 {
            self.push(0, 1);
            return true;
        }
        let Some(delta) = whole_delta(value, previous) else { return false };
        let zigzag = ((delta << 1) ^ (delta >> 63)) as u64;
        let class = DELTA_BITS.iter().position(|&bits| zigzag >> bits == 0).expect("2^54 fits 56 bits");
        self.push(0b01 | (class as u64) << 2, 4);
        self.push(zigzag, DELTA_BITS[class]);
        true
    }

    fn push_significant(&mut self, bits: u64, count: u32) {
        if count > 32 {
            self.push(bits & 0xffff_ffff, 32);
            self.push(bits >> 32, count - 32);
        } else {
            self.push(bits, count);
        }
    }

    /// The earlier form, which is only read any more.
    #[cfg(test)]
    pub(super) fn push_value(&mut self, value: f64, previous: f64) {
        let difference = value.to_bits() ^ previous.to_bits();
        if self.push_whole(difference, value, previous) {
            return;
        }
        let leading = difference.leading_zeros().min(31);
        let trailing = difference.trailing_zeros();
        let significant = 64 - leading - trailing;
        self.push(0b11 | u64::from(leading) << 2 | u64::from(significant - 1) << 7, 13);
        self.push_significant(difference >> trailing, significant);
    }

    /// As [`BitWriter::push_value`], in the later form.
    pub(super) fn push_scaled(&mut self, value: f64, previous: f64) {
        let difference = value.to_bits() ^ previous.to_bits();
        if self.push_whole(difference, value, previous) {
            return;
        }
        let leading = difference.leading_zeros().min(31);
        let trailing = difference.trailing_zeros();
        let significant = 64 - leading - trailing;
        if let Some((scale, zigzag)) = scaled_delta(value, previous)
            && let Some(class) = SCALED_BITS.iter().position(|&bits| zigzag >> bits == 0)
            && 7 + SCALED_BITS[class] < 14 + significant
        {
            self.push(0b011 | (scale as u64) << 3 | (class as u64) << 5, 7);
            self.push(zigzag, SCALED_BITS[class]);
            return;
        }
        self.push(0b111 | u64::from(leading) << 3 | u64::from(significant - 1) << 8, 14);
        self.push_significant(difference >> trailing, significant);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.pending_bits > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

/// The difference of two whole numbers that a float holds exactly; `None` for anything else, −0 included.
fn whole_delta(value: f64, previous: f64) -> Option<i64> {
    let whole = |v: f64| v.abs() < WHOLE_MAX && (v as i64) as f64 == v && v.to_bits() != (-0.0f64).to_bits();
    (whole(value) && whole(previous)).then(|| value as i64 - previous as i64)
}

/// The nearest multiple of 1/scale, in those; both ends compute it alike, and only exact results are used.
fn multiple(value: f64, scale: f64) -> Option<i64> {
    let scaled = value * scale;
    (scaled.abs() < WHOLE_MAX).then(|| (scaled + 0.5f64.copysign(scaled)) as i64)
}

/// Which scale makes a value an exact multiple, and the difference of the multiples in zigzag.
fn scaled_delta(value: f64, previous: f64) -> Option<(usize, u64)> {
    for (index, &scale) in SCALES.iter().enumerate() {
        let number = multiple(value, scale)?;
        if (number as f64 / scale).to_bits() == value.to_bits() {
            let delta = number - multiple(previous, scale)?;
            return Some((index, ((delta << 1) ^ (delta >> 63)) as u64));
        }
    }
    None
}

pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    pending: u64,
    pending_bits: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { bytes, pending: 0, pending_bits: 0 }
    }

    fn take(&mut self, count: u32) -> Result<u64, FramingError> {
        while self.pending_bits < count {
            let (&byte, rest) = self.bytes.split_first().ok_or(FramingError::Malformed("values end early"))?;
            self.bytes = rest;
            self.pending |= u64::from(byte) << self.pending_bits;
            self.pending_bits += 8;
        }
        let value = self.pending & ((1u64 << count) - 1);
        self.pending >>= count;
        self.pending_bits -= count;
        Ok(value)
    }

    /// What [`BitWriter::push_whole`] wrote, if it was that.
    fn take_whole(&mut self, previous: f64) -> Result<Option<f64>, FramingError> {
        if self.take(1)? == 0 {
            return Ok(Some(previous));
        }
        if self.take(1)? == 0 {
            let class = self.take(2)? as usize;
            return Ok(Some((previous as i64).wrapping_add(self.take_zigzag(DELTA_BITS[class])?) as f64));
        }
        Ok(None)
    }

    pub(super) fn take_value(&mut self, previous: f64) -> Result<f64, FramingError> {
        if let Some(value) = self.take_whole(previous)? {
            return Ok(value);
        }
        self.take_difference(previous)
    }

    /// What [`BitWriter::push_scaled`] wrote.
    pub(super) fn take_scaled(&mut self, previous: f64) -> Result<f64, FramingError> {
        if let Some(value) = self.take_whole(previous)? {
            return Ok(value);
        }
        if self.take(1)? == 1 {
            return self.take_difference(previous);
        }
        let scale = SCALES[self.take(2)? as usize];
        let class = self.take(2)? as usize;
        let delta = self.take_zigzag(SCALED_BITS[class])?;
        let base = multiple(previous, scale).ok_or(FramingError::Malformed("a multiple of nothing"))?;
        Ok(base.wrapping_add(delta) as f64 / scale)
    }

    fn take_zigzag(&mut self, bits: u32) -> Result<i64, FramingError> {
        let zigzag = self.take(bits)?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    fn take_difference(&mut self, previous: f64) -> Result<f64, FramingError> {
        let leading = self.take(5)? as u32;
        let significant = self.take(6)? as u32 + 1;
        let trailing = 64u32.checked_sub(leading + significant).ok_or(FramingError::Malformed("value too wide"))?;
        let bits = if significant > 32 {
            self.take(32)? | self.take(significant - 32)? << 32
        } else {
            self.take(significant)?
        };
        Ok(f64::from_bits(previous.to_bits() ^ bits << trailing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(values: &[f64]) {
        let mut writer = BitWriter::default();
        let mut previous = 0.0;
        for &value in values {
            writer.push_value(value, previous);
            previous = value;
        }
        let bytes = writer.finish();
        let mut reader = BitReader::new(&bytes);
        let mut previous = 0.0;
        for &value in values {
            previous = reader.take_value(previous).unwrap();
            assert_eq!(previous.to_bits(), value.to_bits());
        }
        let (mut writer, mut previous) = (BitWriter::default(), 0.0);
        for &value in values {
            writer.push_scaled(value, previous);
            previous = value;
        }
        let bytes = writer.finish();
        let (mut reader, mut previous) = (BitReader::new(&bytes), 0.0);
        for &value in values {
            previous = reader.take_scaled(previous).unwrap();
            assert_eq!(previous.to_bits(), value.to_bits());
        }
    }

    #[test]
    fn hundredths_of_seconds_cost_two_bytes() {
        let mut writer = BitWriter::default();
        for step in 0..100 {
            writer.push_scaled(f64::from(123_456 + step * 97) / 100.0, f64::from(123_456 + (step - 1) * 97) / 100.0);
        }
        assert_eq!(writer.finish().len(), 100 * 15usize.div_ceil(8) - 12);
    }

    proptest! {
        #[test]
        fn any_values_come_back(values in prop::collection::vec(any::<f64>(), 0..60)) { check(&values); }

        #[test]
        fn any_bits_come_back(values in prop::collection::vec(any::<u64>(), 0..60)) {
            check(&values.into_iter().map(f64::from_bits).collect::<Vec<_>>());
        }

        #[test]
        fn counters_come_back(steps in prop::collection::vec(-5_000i64..1_000_000_000_000, 0..60)) {
            let mut total = 0;
            check(&steps.iter().map(|s| { total += s; total as f64 }).collect::<Vec<_>>());
        }

        #[test]
        fn fractions_come_back(
            values in prop::collection::vec((any::<i64>(), 0u32..60, 0usize..5), 0..60),
        ) {
            let value = |&(number, shift, scale): &(i64, u32, usize)| (number >> shift) as f64 / [1.0, 1e2, 1e3, 1e6, 1e9][scale];
            check(&values.iter().map(value).collect::<Vec<_>>());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut reader = BitReader::new(&bytes);
            while reader.take_value(1.5).is_ok() {}
            let mut reader = BitReader::new(&bytes);
            let mut previous = 1.5;
            while let Ok(value) = reader.take_scaled(previous) {
                previous = value;
            }
        }
    }

    #[test]
    fn edges_come_back() {
        check(&[0.0, -0.0, 0.0, WHOLE_MAX, -WHOLE_MAX, WHOLE_MAX - 1.0, 1.0 - WHOLE_MAX, f64::MIN_POSITIVE, 1e308]);
        check(&[promesh_model::value::stale_nan(), f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0]);
    }
}
