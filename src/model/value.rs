//! Float samples: the two NaNs, and how Go prints a float.

/// The bits of the NaN that says "this series ended here".
///
/// Source: prometheus `model/value.StaleNaN`.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The bits of the NaN that calculations and expositions give.
pub const NORMAL_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;

/// The staleness marker.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// The ordinary NaN.
pub fn normal_nan() -> f64 {
    f64::from_bits(NORMAL_NAN_BITS)
}

/// Whether a value is the staleness marker; no other NaN is.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// Prints a float as Prometheus' API does: shortest form that reads back, never an exponent, `NaN`, `+Inf`, `-Inf`.
///
/// Source: Go `strconv.FormatFloat(v, 'f', -1, 64)`.
pub fn format_float(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        format!("{value}")
    }
}

/// Prints a float as Go's `%g` and `%v` and as `le` labels do: shortest form, an exponent below 1e-4 and from 1e6 on.
///
/// Source: Go `strconv.FormatFloat(v, 'g', -1, 64)`, where "the shortest possible" counts as a precision of 6 when it
/// is decided whether to print an exponent.
pub fn format_float_g(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() {
        return format_float(value);
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').expect("`{:e}` always prints an exponent");
    if (1e-4..1e6).contains(&magnitude) {
        return format_float(value);
    }
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_go_does() {
        for (value, f, g) in [
            (1.0, "1", "1"),
            (0.1, "0.1", "0.1"),
            (1e21, "1000000000000000000000", "1e+21"),
            (1e6, "1000000", "1e+06"),
            (123_456_789.0, "123456789", "1.23456789e+08"),
            (999_999.5, "999999.5", "999999.5"),
            (1e-5, "0.00001", "1e-05"),
            (f64::INFINITY, "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf"),
            (f64::NAN, "NaN", "NaN"),
            (-0.0, "-0", "-0"),
        ] {
            assert_eq!(format_float(value), f);
            assert_eq!(format_float_g(value), g);
        }
    }
}
