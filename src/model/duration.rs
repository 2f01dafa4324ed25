//! Spans as people write them: Prometheus' `1h30m` and Go's `1.5s`.

use std::time::Duration;

use thiserror::Error;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// Nothing there.
    #[error("empty duration string")]
    Empty,
    /// Not `[0-9]+unit` in falling order of units.
    #[error("not a valid duration string: {0:?}")]
    Invalid(String),
    /// A unit that is none of `y w d h m s ms`.
    #[error("unknown unit {0:?} in duration {1:?}")]
    UnknownUnit(String, String),
    /// More than 2^63 − 1 nanoseconds.
    #[error("duration out of range")]
    OutOfRange,
}

const UNITS_MS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Parses Prometheus' durations: `1y2w3d4h5m6s7ms`, each unit at most once and in this order, or a bare `0`.
///
/// # Errors
/// As [`DurationError`] says; the texts are upstream's.
///
/// Source: prometheus/common `model.ParseDuration`.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    match text {
        "" => return Err(DurationError::Empty),
        "0" => return Ok(Duration::ZERO),
        _ => {}
    }
    let invalid = || DurationError::Invalid(text.to_owned());
    let mut rest = text;
    let mut next_unit = 0;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if digits == 0 || unit.is_empty() {
            return Err(invalid());
        }
        let position = UNITS_MS
            .iter()
            .position(|(name, _)| *name == unit)
            .ok_or_else(|| DurationError::UnknownUnit(unit.to_owned(), text.to_owned()))?;
        if position < next_unit {
            return Err(invalid());
        }
        let count: u64 = number.parse().map_err(|_| DurationError::OutOfRange)?;
        let ms = count.checked_mul(UNITS_MS[position].1).ok_or(DurationError::OutOfRange)?;
        total_ms = total_ms.checked_add(ms).ok_or(DurationError::OutOfRange)?;
        next_unit = position + 1;
        rest = tail;
    }
    if total_ms > i64::MAX as u64 / 1_000_000 {
        return Err(DurationError::OutOfRange);
    }
    Ok(Duration::from_millis(total_ms))
}

/// Prints a span as Prometheus does: the largest units that divide it, years and weeks only when nothing is left over.
///
/// Source: prometheus/common `Duration.String`.
pub fn format(span: Duration) -> String {
    let mut ms = span.as_millis() as u64;
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, unit_ms) in UNITS_MS {
        let exact_only = matches!(unit, "y" | "w");
        if exact_only && !ms.is_multiple_of(unit_ms) {
            continue;
        }
        let count = ms / unit_ms;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            ms -= count * unit_ms;
        }
    }
    text
}

/// Parses Go's `time.ParseDuration`: decimal numbers with units `ns us µs ms s m h`, signs allowed; the result in
/// nanoseconds.
///
/// # Errors
/// `Invalid` for any other text, `OutOfRange` past 2^63 − 1 nanoseconds.
pub fn parse_go(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let unit_ns = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(invalid()),
        };
        total += number * unit_ns;
        rest = tail;
    }
    if total > i64::MAX as f64 {
        return Err(DurationError::OutOfRange);
    }
    Ok(if negative { -(total.round() as i64) } else { total.round() as i64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_durations_round_trip() {
        for (text, ms, printed) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("324ms", 324, "324ms"),
            ("5m", 300_000, "5m"),
            ("4d1h", 349_200_000, "4d1h"),
            ("14d", 1_209_600_000, "2w"),
            ("15d", 1_296_000_000, "15d"),
            ("3w2d1h", 1_990_800_000, "23d1h"),
            ("10y", 315_360_000_000, "10y"),
        ] {
            let span = parse(text).expect(text);
            assert_eq!(span.as_millis(), ms, "{text}");
            assert_eq!(format(span), printed, "{text}");
        }
    }

    #[test]
    fn nonsense_is_no_duration() {
        for text in ["", "1", "1y1m1d", "-1w", "1.5d", "d", "1s1s", "294y"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn go_durations() {
        for (text, ns) in [("1.5s", 1_500_000_000), ("-1h2m", -3_720_000_000_000), ("300ms", 300_000_000), ("0", 0)] {
            assert_eq!(parse_go(text), Ok(ns), "{text}");
        }
        assert!(parse_go("1d").is_err());
    }
}
