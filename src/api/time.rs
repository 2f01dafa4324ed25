//! Instants and spans as the API's parameters write them.

use std::time::Duration;

use promesh_model::labels::quoted;
use promesh_model::{Timestamp, duration};

use crate::error::ApiError;
use crate::form::Form;

/// Go's earliest and latest times as Prometheus prints them; clients send them back.
const MIN_TIME: &str = "-292273086-05-16T16:47:06Z";
const MAX_TIME: &str = "292277025-08-18T07:12:54.999999999Z";

/// An instant: Unix seconds, or RFC 3339.
///
/// # Errors
/// With upstream's text.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    if let Some(seconds) = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite()) {
        let ms = (seconds.trunc() * 1000.0) as i64;
        return Ok(Timestamp(ms.saturating_add((seconds.fract() * 1000.0).round() as i64)));
    }
    match text {
        MIN_TIME => Ok(Timestamp::MIN),
        MAX_TIME => Ok(Timestamp::MAX),
        _ => parse_rfc3339(text).ok_or_else(|| format!("cannot parse {} to a valid timestamp", quoted(text))),
    }
}

/// A span: seconds, or Prometheus' form; in nanoseconds, may be negative.
///
/// # Errors
/// With upstream's texts.
pub(crate) fn parse_span(text: &str) -> Result<i64, String> {
    // Go's numbers end where a float's do; only `inf` spelt out is one beyond.
    let is_number = |seconds: &f64| seconds.is_finite() || !text.bytes().any(|byte| byte.is_ascii_digit());
    if let Some(seconds) = text.parse::<f64>().ok().filter(is_number) {
        let nanoseconds = seconds * 1e9;
        if nanoseconds.is_nan() || nanoseconds.abs() > i64::MAX as f64 {
            return Err(format!("cannot parse {} to a valid duration. It overflows int64", quoted(text)));
        }
        return Ok(nanoseconds as i64);
    }
    match duration::parse(text) {
        Ok(span) => Ok(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)),
        Err(_) => Err(format!("cannot parse {} to a valid duration", quoted(text))),
    }
}

impl Form {
    /// An instant that may be absent.
    pub fn time_or(&self, name: &str, default: Timestamp) -> Result<Timestamp, ApiError> {
        match self.get(name) {
            "" => Ok(default),
            text => parse_time(text)
                .map_err(|error| ApiError::parameter(name, format!("invalid time value for '{name}': {error}"))),
        }
    }

    /// An instant that must be there.
    pub fn time(&self, name: &str) -> Result<Timestamp, ApiError> {
        parse_time(self.get(name)).map_err(|error| ApiError::parameter(name, error))
    }

    /// `timeout`, if it is there; not negative.
    pub fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        match self.get("timeout") {
            "" => Ok(None),
            text => {
                let span = parse_span(text).map_err(|error| ApiError::parameter("timeout", error))?;
                Ok(Some(Duration::from_nanos(u64::try_from(span).unwrap_or(0))))
            }
        }
    }
}

fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, clock) = text.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let zone = clock.find(['Z', '+', '-'])?;
    let (clock, zone) = clock.split_at(zone);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let fits = (1..=12).contains(&month) && day >= 1 && day <= days_in(year, month);
    if !fits || hour > 23 || minute > 59 || second > 59 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    Some(Timestamp(seconds * 1000 + ms))
}

/// The offset of a zone in seconds: `Z` or `±hh:mm`.
fn offset(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("Z", "") => return Some(0),
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let [hours, minutes] = numbers(rest, ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn numbers<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (number, width) in found.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| part.len() == width && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// The day number of a date, counted from 1970-01-01.
///
/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn instants_are_seconds_or_rfc_3339() {
        for (text, ms) in [
            ("0", 0),
            ("1700000000.1234", 1_700_000_000_123),
            ("-1.5", -1500),
            ("1e3", 1_000_000),
            ("2000-01-01T00:00:00Z", 946_684_800_000),
            ("2015-06-03T13:21:58.555Z", 1_433_337_718_555),
            ("2015-06-03T14:21:58.5+01:00", 1_433_337_718_500),
            ("2024-02-29T00:00:00.123456789-23:59", 1_709_164_800_123 + (23 * 60 + 59) * 60_000),
        ] {
            assert_eq!(parse_time(text), Ok(Timestamp(ms)), "{text}");
        }
        assert_eq!(parse_time(MIN_TIME), Ok(Timestamp::MIN));
        assert_eq!(parse_time(MAX_TIME), Ok(Timestamp::MAX));
        for text in ["", "abc", "1e400", "NaN", "2015-06-03", "2015-13-03T13:21:58Z", "2015-02-29T00:00:00Z", "30s"] {
            assert_eq!(parse_time(text), Err(format!("cannot parse {text:?} to a valid timestamp")));
        }
    }

    #[test]
    fn spans_are_seconds_or_durations() {
        for (text, ns) in [("1", 1_000_000_000), ("0.5", 500_000_000), ("-1", -1_000_000_000), ("5m", 300_000_000_000)]
        {
            assert_eq!(parse_span(text), Ok(ns), "{text}");
        }
        assert_eq!(parse_span("x").unwrap_err(), "cannot parse \"x\" to a valid duration");
        assert!(parse_span("1e400").unwrap_err().ends_with("to a valid duration"));
        assert!(parse_span("99999999999999999999").unwrap_err().ends_with("It overflows int64"));
    }

    proptest! {
        #[test]
        fn printed_instants_are_read_back(ms in -62_135_596_800_000i64..253_402_300_799_999) {
            prop_assert_eq!(parse_rfc3339(&Timestamp(ms).to_string()), Some(Timestamp(ms)));
        }
    }
}
