//! Where buckets begin and end.

use std::sync::LazyLock;

use super::CUSTOM_BUCKETS_SCHEMA;

/// Whether a schema is that of custom bucket bounds.
pub fn is_custom(schema: i32) -> bool {
    schema == CUSTOM_BUCKETS_SCHEMA
}

/// Whether a schema is one of the exponential ones, −4 … 8.
pub fn is_exponential(schema: i32) -> bool {
    (-4..=8).contains(&schema)
}

/// 2^(i/256) / 2 for i = 0 … 255: the bounds of schema 8 between a half and one. Lower schemas use every 2nd, 4th ….
///
/// Computed by double-double multiplication, so that every machine gets the same values, which a platform's `exp2` would
/// not promise.
static BOUNDS: LazyLock<[f64; 256]> = LazyLock::new(|| {
    // 2^(1/256) by eight square roots, each refined by one Newton step.
    let mut root = (2.0, 0.0);
    for _ in 0..8 {
        root = dd_sqrt(root);
    }
    let mut bounds = [0.5; 256];
    let mut next = (0.5, 0.0);
    for (bound, below) in bounds.iter_mut().zip(BELOW_EXACT) {
        let units = if *below == b'+' { -1.0 } else { f64::from(below - b'0') };
        *bound = next.0 + next.1 - units * f64::EPSILON / 2.0;
        next = dd_mul(next, root);
    }
    bounds
});

/// By how many units in the last place upstream's table lies below the exact bounds; `+` is one above.
///
/// Bounds are printed by the API and in labels, and compared by people: so they have to be upstream's to the last bit.
const BELOW_EXACT: &[u8; 256] = b"00000010001000000012001111111111001000100111001100110+1100110011\
      0000001111221021001000100001000000010+00102200110111001010221111\
      1010112211211011111111212122212200110010112210221122101121221121\
      1132112122322232222222333344324311211222213311222132112222432233";

/// An unevaluated sum of two floats with twice the precision of one.
type DoubleDouble = (f64, f64);

fn quick_two_sum(a: f64, b: f64) -> DoubleDouble {
    let sum = a + b;
    (sum, b - (sum - a))
}

fn dd_mul(a: DoubleDouble, b: DoubleDouble) -> DoubleDouble {
    let product = a.0 * b.0;
    let error = a.0.mul_add(b.0, -product);
    quick_two_sum(product, error + (a.0 * b.1 + a.1 * b.0))
}

fn dd_sqrt(a: DoubleDouble) -> DoubleDouble {
    let estimate = a.0.sqrt();
    let square = dd_mul((estimate, 0.0), (estimate, 0.0));
    let rest = (a.0 - square.0) - square.1 + a.1;
    quick_two_sum(estimate, rest / (2.0 * estimate))
}

/// mantissa · 2^exponent without losing the small ones.
fn ldexp(mantissa: f64, exponent: i32) -> f64 {
    let half = exponent / 2;
    mantissa * 2f64.powi(half) * 2f64.powi(exponent - half)
}

/// The upper bound (by magnitude) of the bucket with this index; its lower bound is that of the index before.
///
/// For custom buckets the index counts into `custom_values`; beyond them lies +Inf, before them −Inf.
///
/// Source: prometheus `model/histogram.getBound`.
pub fn bound(index: i32, schema: i32, custom_values: &[f64]) -> f64 {
    if is_custom(schema) {
        return match usize::try_from(index) {
            Err(_) => f64::NEG_INFINITY,
            Ok(index) => custom_values.get(index).copied().unwrap_or(f64::INFINITY),
        };
    }
    exponential_bound(index, schema)
}

pub(super) fn exponential_bound(index: i32, schema: i32) -> f64 {
    let index = i64::from(index);
    let (mantissa, exponent) = if schema < 0 {
        (1.0, index << (-schema).min(16))
    } else {
        let bits = schema.min(8);
        let part = index & ((1 << bits) - 1);
        (BOUNDS[(part << (8 - bits)) as usize], (index >> bits) + 1)
    };
    // The last bucket before +Inf ends at the largest float.
    if (schema < 0 && exponent == 1024) || (schema >= 0 && mantissa == 0.5 && exponent == 1025) {
        return f64::MAX;
    }
    ldexp(mantissa, exponent.clamp(-3000, 3000) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers_of_two_and_their_roots() {
        for (index, schema, expected) in [
            (-1, -1, 0.25),
            (0, 0, 1.0),
            (2, 0, 4.0),
            (1, 2, 1.189_207_115_002_721),
            (3, 2, 1.681_792_830_507_428_8),
            (-5, 3, 0.648_419_777_325_504_8),
            (512, -1, f64::MAX),
            (513, -1, f64::INFINITY),
            (1024, 0, f64::MAX),
            (1025, 0, f64::INFINITY),
            (i32::MIN, 8, 0.0),
            (i32::MAX, -4, f64::INFINITY),
        ] {
            assert_eq!(exponential_bound(index, schema), expected, "{index} in schema {schema}");
        }
        assert_eq!(bound(-1, CUSTOM_BUCKETS_SCHEMA, &[1.0]), f64::NEG_INFINITY);
        assert_eq!(bound(1, CUSTOM_BUCKETS_SCHEMA, &[1.0]), f64::INFINITY);
    }

    #[test]
    fn bounds_are_the_machines_exponential_but_for_the_last_bits() {
        for (index, bound) in BOUNDS.iter().enumerate() {
            let expected = (index as f64 / 256.0 - 1.0).exp2();
            assert!((bound - expected).abs() <= 2.5 * f64::EPSILON, "{index}: {bound} and {expected}");
        }
    }
}
