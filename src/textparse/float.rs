//! Numbers as Go reads and writes them.

/// Powers of ten that a double holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Reads a float: decimal, `Inf`, `+Inf`, `-Inf`, `NaN`, in any case. `None` for anything else, hexadecimal included.
#[inline]
pub fn parse_float(bytes: &[u8]) -> Option<f64> {
    parse_short(bytes).or_else(|| parse_any(bytes))
}

/// The common case: at most 15 digits, perhaps a sign and a point. Mantissa and power are exact, so one division is
/// correctly rounded (Clinger's fast path).
#[inline]
fn parse_short(bytes: &[u8]) -> Option<f64> {
    let (negative, digits) = match bytes.first()? {
        b'-' => (true, &bytes[1..]),
        _ => (false, bytes),
    };
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let mut mantissa = 0u64;
    let mut fraction_digits = None;
    for (index, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => mantissa = mantissa * 10 + u64::from(byte - b'0'),
            b'.' if fraction_digits.is_none() => fraction_digits = Some(digits.len() - index - 1),
            _ => return None,
        }
    }
    if fraction_digits.is_some() && digits.len() == 1 {
        return None;
    }
    if mantissa >= 1 << 53 {
        return None;
    }
    let value = mantissa as f64 / EXACT_POWERS[fraction_digits.unwrap_or(0)];
    Some(if negative { -value } else { value })
}

#[cold]
fn parse_any(bytes: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value: f64 = text.parse().ok()?;
    if !value.is_nan() {
        return Some(value);
    }
    // The ordinary NaN, never the staleness marker; Go knows no sign before it.
    text.eq_ignore_ascii_case("nan").then_some(f64::NAN)
}

/// `strconv.FormatFloat(number, 'g', -1, 64)`: shortest digits, an exponent below 1e-4 and from 1e21 on.
pub(crate) fn format_go_g(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        let text = format!("{number:e}");
        let (mantissa, exponent) = text.split_once('e').expect("the exponent form has an exponent");
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn floats_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("1", Some(1.0)),
            ("-0.25", Some(-0.25)),
            ("+Inf", Some(f64::INFINITY)),
            ("-inf", Some(f64::NEG_INFINITY)),
            ("1e-7", Some(1e-7)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            (".", None),
            ("-", None),
            ("", None),
            ("0x1p-2", None),
            ("1_000", None),
            ("+nan", None),
            ("9007199254740993", Some(9007199254740992.0)),
        ] {
            assert_eq!(parse_float(text.as_bytes()), expected, "{text}");
        }
        assert!(parse_float(b"NaN").is_some_and(f64::is_nan));
    }

    #[test]
    fn floats_print_as_go_prints_them() {
        for (number, text) in [(0.0001, "0.0001"), (0.00001, "1e-05"), (1e21, "1e+21"), (123456789.5, "123456789.5")] {
            assert_eq!(format_go_g(number), text);
        }
    }

    proptest! {
        #[test]
        fn the_fast_path_agrees_with_the_slow_one(text in "-?[0-9]{0,12}\\.?[0-9]{0,8}") {
            if let Some(fast) = parse_short(text.as_bytes()) {
                prop_assert_eq!(fast.to_bits(), text.parse::<f64>().unwrap().to_bits());
            }
        }
    }
}
