//! What Prometheus' and Alertmanager's functions share.

use regex::Regex;

use promesh_model::labels::quoted;

use crate::clock::Time;
use crate::functions::text;
use crate::print::float_g;
use crate::value::Value;

/// The largest program a template's regular expression may compile to.
const PROGRAM_BYTES_MAX: usize = 1 << 20;

/// A number from what templates call one: a number, a text that reads as a float, a duration in seconds.
///
/// # Errors
/// Go's text when it is none.
pub fn to_float(value: &Value) -> Result<f64, String> {
    match value {
        Value::Float(value) => Ok(*value),
        Value::Int(value) => Ok(*value as f64),
        Value::Uint(value) => Ok(*value as f64),
        Value::Duration(nanos) => Ok(*nanos as f64 / 1e9),
        Value::Text(text) => parse_float(text),
        other => Err(format!("can't convert {} to float", other.type_name())),
    }
}

fn parse_float(text: &str) -> Result<f64, String> {
    let plain = text.replace('_', "");
    let name = plain.trim_start_matches(['+', '-']);
    let word = matches!(name.to_ascii_lowercase().as_str(), "inf" | "infinity" | "nan");
    let numeric = word || name.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    match plain.parse::<f64>() {
        Ok(value) if numeric => Ok(value),
        _ => Err(format!("strconv.ParseFloat: parsing {}: invalid syntax", quoted(text))),
    }
}

/// `%.4g`
pub fn four(value: f64) -> String {
    float_g(value, Some(4))
}

/// `1d 2h 3m 4s`, or `123.5ms` below a second.
///
/// Source: prometheus/common helpers/templates `HumanizeDuration`.
pub fn humanize_duration(arguments: &[Value]) -> Result<Value, String> {
    let mut value = to_float(&arguments[0])?;
    if !value.is_finite() {
        return Ok(Value::text(four(value)));
    }
    if value == 0.0 {
        return Ok(Value::text("0s"));
    }
    if value.abs() >= 1.0 {
        let sign = if value < 0.0 { "-" } else { "" };
        value = value.abs();
        let whole = value as i64;
        let (days, hours, minutes, seconds) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
        let text = if days != 0 {
            format!("{sign}{days}d {hours}h {minutes}m {seconds}s")
        } else if hours != 0 {
            format!("{sign}{hours}h {minutes}m {seconds}s")
        } else if minutes != 0 {
            format!("{sign}{minutes}m {seconds}s")
        } else {
            format!("{sign}{}s", four(value))
        };
        return Ok(Value::text(text));
    }
    let mut prefix = "";
    for next in ["m", "u", "n", "p", "f", "a", "z", "y"] {
        if value.abs() >= 1.0 {
            break;
        }
        prefix = next;
        value *= 1000.0;
    }
    Ok(Value::text(format!("{}{prefix}s", four(value))))
}

/// An instant from seconds since the epoch.
///
/// # Errors
/// When nanoseconds since the epoch do not fit 64 bits.
pub fn float_to_time(seconds: f64) -> Result<Time, String> {
    if !seconds.is_finite() {
        return Err("value is NaN or Inf".to_owned());
    }
    let nanos = seconds * 1e9;
    if nanos > i64::MAX as f64 || nanos < i64::MIN as f64 {
        let shown = float_g(seconds, None);
        return Err(format!("{shown} cannot be represented as a nanoseconds timestamp since it overflows int64"));
    }
    // Prometheus' instants have milliseconds.
    Ok(Time::from_unix_nanos(i128::from(nanos as i64).div_euclid(1_000_000) * 1_000_000))
}

/// Compiles an unanchored expression.
fn regex(pattern: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(pattern).size_limit(PROGRAM_BYTES_MAX).build().map_err(|error| {
        let cause = error.to_string();
        let cause = cause.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("error parsing regexp: {cause}: `{pattern}`")
    })
}

/// `match PATTERN TEXT`: whether the expression matches anywhere.
pub fn matches(arguments: &[Value]) -> Result<Value, String> {
    Ok(Value::Bool(regex(text(&arguments[0]))?.is_match(text(&arguments[1]))))
}

/// `reReplaceAll PATTERN REPLACEMENT TEXT`
pub fn replace_all(arguments: &[Value]) -> Result<Value, String> {
    let pattern = text(&arguments[0]);
    let regex = regex(pattern).map_err(|cause| format!("regexp: Compile({}): {cause}", quoted(pattern)))?;
    Ok(Value::text(regex.replace_all(text(&arguments[2]), text(&arguments[1]))))
}

/// Each word's first letter in title case; the others in lower case if `lower`.
pub fn title(text: &str, lower: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        let letter = c.is_alphanumeric() || (inside && matches!(c, '\'' | '’' | '_'));
        match (inside && letter, letter) {
            (false, true) => out.extend(c.to_uppercase()),
            (true, _) if lower => out.extend(c.to_lowercase()),
            _ => out.push(c),
        }
        inside = letter;
    }
    out
}
