//! Names: from OpenTelemetry's dots and units to Prometheus' underscores and suffixes.
//!
//! Source: prometheus/otlptranslator `metric_namer.go`, `label_namer.go`, `unit_namer.go`.

use promesh_config::prometheus::OtlpConfig;

use crate::message::{Data, Metric};

/// How names are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// Signs that classic names cannot have become underscores.
    pub escapes: bool,
    /// Units and types are added.
    pub suffixes: bool,
}

impl Strategy {
    /// By its name in the configuration; unknown ones were refused there.
    pub fn of(config: &OtlpConfig) -> Strategy {
        match config.translation_strategy.as_str() {
            "NoUTF8EscapingWithSuffixes" => Strategy { escapes: false, suffixes: true },
            "UnderscoreEscapingWithoutSuffixes" => Strategy { escapes: true, suffixes: false },
            "NoTranslation" => Strategy { escapes: false, suffixes: false },
            _ => Strategy { escapes: true, suffixes: true },
        }
    }
}

fn unit_name(unit: &str) -> &str {
    match unit {
        "d" => "days",
        "h" => "hours",
        "min" => "minutes",
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "GiBy" => "gibibytes",
        "TiBy" => "tibibytes",
        "KBy" => "kilobytes",
        "MBy" => "megabytes",
        "GBy" => "gigabytes",
        "TBy" => "terabytes",
        "m" => "meters",
        "V" => "volts",
        "A" => "amperes",
        "J" => "joules",
        "W" => "watts",
        "g" => "grams",
        "Cel" => "celsius",
        "Hz" => "hertz",
        "1" => "",
        "%" => "percent",
        other => other,
    }
}

fn per_unit_name(unit: &str) -> &str {
    match unit {
        "s" => "second",
        "m" => "minute",
        "h" => "hour",
        "d" => "day",
        "w" => "week",
        "mo" => "month",
        "y" => "year",
        other => other,
    }
}

/// The words of a unit: what is counted, and per what.
fn unit_words(unit: &str) -> (String, String) {
    let (main, per) = match unit.split_once('/') {
        Some((main, per)) => (main.trim(), per.trim()),
        None => (unit.trim(), ""),
    };
    // `{request}` is a note, not a unit.
    let noted = |text: &str| text.contains(['{', '}']);
    let main = if noted(main) { String::new() } else { unit_name(main).to_owned() };
    let per = if per.is_empty() || noted(per) { String::new() } else { format!("per_{}", per_unit_name(per)) };
    (main, per)
}

fn clean(unit: &str) -> String {
    let words = unit.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != ':').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_")
}

/// Whether the values only rise.
fn is_counter(metric: &Metric) -> bool {
    matches!(&metric.data, Data::Sum { monotonic: true, .. })
}

/// A metric's name.
pub fn metric(metric: &Metric, strategy: Strategy) -> String {
    let name = match strategy {
        Strategy { escapes: true, suffixes: true } => escaped_with_suffixes(metric),
        Strategy { escapes: false, suffixes: true } => with_suffixes(metric),
        Strategy { escapes: true, suffixes: false } => {
            let is_valid = |sign: char| sign.is_ascii_alphanumeric() || sign == ':' || sign == '_';
            metric.name.split(|sign| !is_valid(sign)).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("_")
        }
        Strategy { escapes: false, suffixes: false } => return metric.name.clone(),
    };
    if strategy.escapes && name.starts_with(|first: char| first.is_ascii_digit()) { format!("_{name}") } else { name }
}

fn escaped_with_suffixes(metric: &Metric) -> String {
    let split = |sign: char| !sign.is_ascii_alphanumeric() && sign != ':';
    let mut words: Vec<String> = metric.name.split(split).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let (main, per) = unit_words(&metric.unit);
    let (main, per) = (clean(&main), clean(&per));
    if !main.is_empty() && !words.contains(&main) {
        words.push(main);
    }
    if let Some(last) = per.strip_prefix("per_").filter(|last| !words.iter().any(|word| word == last)) {
        words.push("per".to_owned());
        words.push(last.to_owned());
    }
    if is_counter(metric) {
        words.retain(|word| word != "total");
        words.push("total".to_owned());
    }
    if metric.unit.trim() == "1" && matches!(metric.data, Data::Gauge(_)) {
        words.retain(|word| word != "ratio");
        words.push("ratio".to_owned());
    }
    words.join("_")
}

fn with_suffixes(metric: &Metric) -> String {
    let (main, per) = unit_words(&metric.unit);
    let mut name = metric.name.clone();
    let trimmed = |name: &str, suffix: &str| {
        let trimmed = name.strip_suffix(suffix).filter(|rest| rest.ends_with(['_', '.']));
        trimmed.map_or_else(|| name.to_owned(), |rest| rest[..rest.len() - 1].to_owned())
    };
    if is_counter(metric) {
        name = trimmed(&name, "total");
    }
    let is_ratio = metric.unit.trim() == "1" && matches!(metric.data, Data::Gauge(_));
    if is_ratio {
        name = trimmed(&name, "ratio");
    }
    if !per.is_empty() {
        name = trimmed(&name, &per);
    }
    if !main.is_empty() && !name.ends_with(&main) {
        name = format!("{name}_{main}");
    }
    if !per.is_empty() {
        name = format!("{name}_{per}");
    }
    if is_ratio {
        name.push_str("_ratio");
    }
    if is_counter(metric) {
        name.push_str("_total");
    }
    name
}

/// A label's name.
pub fn label(name: &str, strategy: Strategy, config: &OtlpConfig) -> String {
    if !strategy.escapes {
        return name.to_owned();
    }
    let mut out = String::with_capacity(name.len());
    for sign in name.chars() {
        let sign = if sign.is_ascii_alphanumeric() || sign == '_' { sign } else { '_' };
        if sign == '_' && out.ends_with('_') && !config.label_name_preserve_multiple_underscores {
            continue;
        }
        out.push(sign);
    }
    if out.starts_with(|first: char| first.is_ascii_digit()) {
        return format!("key_{out}");
    }
    if config.label_name_underscore_sanitization && out.starts_with('_') && !out.starts_with("__") {
        return format!("key{out}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, unit: &str, kind: &str, expected: [&str; 4]) {
        let data = match kind {
            "counter" => Data::Sum { points: Vec::new(), temporality: Default::default(), monotonic: true },
            "gauge" => Data::Gauge(Vec::new()),
            _ => Data::Nothing,
        };
        let measured = Metric { name: name.to_owned(), unit: unit.to_owned(), data, ..Metric::default() };
        let strategies = [(true, true), (false, true), (true, false), (false, false)];
        let found = strategies.map(|(escapes, suffixes)| metric(&measured, Strategy { escapes, suffixes }));
        assert_eq!(found.each_ref().map(String::as_str), expected, "{name} {unit} {kind}");
    }

    /// Cases of upstream's `metric_namer_test.go`.
    #[test]
    fn names_are_translated_as_upstream_does() {
        check(
            "system.filesystem.usage",
            "By",
            "gauge",
            [
                "system_filesystem_usage_bytes",
                "system.filesystem.usage_bytes",
                "system_filesystem_usage",
                "system.filesystem.usage",
            ],
        );
        check(
            "system.io",
            "foo/bar",
            "gauge",
            ["system_io_foo_per_bar", "system.io_foo_per_bar", "system_io", "system.io"],
        );
        check(
            "http.requests",
            "{request}",
            "counter",
            ["http_requests_total", "http.requests_total", "http_requests", "http.requests"],
        );
        check(
            "broken_metric_speed",
            "km/h",
            "gauge",
            [
                "broken_metric_speed_km_per_hour",
                "broken_metric_speed_km_per_hour",
                "broken_metric_speed",
                "broken_metric_speed",
            ],
        );
        check(
            "redis.hit_rate",
            "1",
            "gauge",
            ["redis_hit_rate_ratio", "redis.hit_rate_ratio", "redis_hit_rate", "redis.hit_rate"],
        );
        check(
            "envoy__rule_engine_zlib_buf_error",
            "",
            "counter",
            [
                "envoy_rule_engine_zlib_buf_error_total",
                "envoy__rule_engine_zlib_buf_error_total",
                "envoy__rule_engine_zlib_buf_error",
                "envoy__rule_engine_zlib_buf_error",
            ],
        );
        check("1st.total", "s", "counter", ["_1st_seconds_total", "1st_seconds_total", "_1st_total", "1st.total"]);
        check(
            "network.bytes.total",
            "By",
            "counter",
            ["network_bytes_total", "network.bytes_total", "network_bytes_total", "network.bytes.total"],
        );
    }

    #[test]
    fn label_names_are_translated_as_upstream_does() {
        let config = OtlpConfig::default();
        let of = |name: &str| label(name, Strategy { escapes: true, suffixes: true }, &config);
        assert_eq!(
            ["service.name", "0day", "_private", "__private", "a..b", "ok"].map(of),
            ["service_name", "key_0day", "key_private", "__private", "a__b", "ok"]
        );
        assert_eq!(label("a.b", Strategy { escapes: false, suffixes: true }, &config), "a.b");
    }
}
