//! Prometheus' functions for rule annotations and consoles.
//!
//! Source: prometheus template/template.go; docs/configuration/template_reference.md.

use std::net::IpAddr;
use std::sync::Arc;

use promesh_model::duration;

use crate::builtin::query_escape;
use crate::common::{float_to_time, four, humanize_duration, matches, replace_all, title, to_float};
use crate::functions::{Body, Environment, Function, fixed, shared, text};
use crate::methods::field;
use crate::value::{List, ListKind, MapKind, Safe, Type, Value};

const fn with(
    name: &'static str,
    parameters: &'static [Type],
    call: fn(&Environment<'_>, &[Value]) -> Result<Value, String>,
) -> Function {
    Function { name, parameters, variadic: false, body: Body::Environment(call) }
}

/// The table.
pub const FUNCTIONS: &[Function] = &[
    with("query", &[Type::Text], query),
    fixed("first", &[Type::QueryResult], |a| match &a[0] {
        Value::List(list) if !list.items.is_empty() => Ok(list.items[0].clone()),
        _ => Err("first() called on vector with no elements".to_owned()),
    }),
    fixed("label", &[Type::Text, Type::Sample], |a| Ok(sample_label(&a[1], text(&a[0])))),
    fixed("value", &[Type::Sample], |a| Ok(sample_field(&a[0], "Value"))),
    fixed("strvalue", &[Type::Sample], |a| Ok(sample_label(&a[0], "__value__"))),
    Function { name: "args", parameters: &[Type::Any], variadic: true, body: Body::Plain(args) },
    fixed("reReplaceAll", &[Type::Text, Type::Text, Type::Text], replace_all),
    fixed("safeHtml", &[Type::Text], |a| Ok(Value::Safe(Safe::Html, shared(&a[0])))),
    fixed("match", &[Type::Text, Type::Text], matches),
    fixed("title", &[Type::Text], |a| Ok(Value::text(title(text(&a[0]), false)))),
    fixed("toUpper", &[Type::Text], |a| Ok(Value::text(text(&a[0]).to_uppercase()))),
    fixed("toLower", &[Type::Text], |a| Ok(Value::text(text(&a[0]).to_lowercase()))),
    fixed("graphLink", &[Type::Text], |a| Ok(Value::text(expression_link(text(&a[0]), 0)))),
    fixed("tableLink", &[Type::Text], |a| Ok(Value::text(expression_link(text(&a[0]), 1)))),
    fixed("sortByLabel", &[Type::Text, Type::QueryResult], |a| Ok(sort_by_label(&a[1], text(&a[0])))),
    fixed("stripPort", &[Type::Text], |a| {
        let whole = text(&a[0]);
        Ok(Value::text(split_host_port(whole).map_or(whole, |(host, _)| host)))
    }),
    fixed("stripDomain", &[Type::Text], |a| Ok(Value::text(strip_domain(text(&a[0]))))),
    fixed("humanize", &[Type::Any], |a| {
        humanize(&a[0], 1000.0, &["k", "M", "G", "T", "P", "E", "Z", "Y"], &["m", "u", "n", "p", "f", "a", "z", "y"])
    }),
    fixed("humanize1024", &[Type::Any], |a| {
        humanize(&a[0], 1024.0, &["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"], &[])
    }),
    fixed("humanizeDuration", &[Type::Any], humanize_duration),
    fixed("humanizePercentage", &[Type::Any], |a| {
        to_float(&a[0]).map(|value| Value::text(format!("{}%", four(value * 100.0))))
    }),
    fixed("humanizeTimestamp", &[Type::Any], |a| {
        let value = to_float(&a[0])?;
        if !value.is_finite() {
            return Ok(Value::text(four(value)));
        }
        float_to_time(value).map(|time| Value::text(time.text()))
    }),
    fixed("toTime", &[Type::Any], |a| float_to_time(to_float(&a[0])?).map(Value::Time)),
    fixed("toDuration", &[Type::Any], |a| to_float(&a[0]).map(|seconds| Value::Duration((seconds * 1e9) as i64))),
    with("now", &[], |environment, _| Ok(Value::Float(environment.now.as_secs_f64()))),
    with("pathPrefix", &[], |environment, _| Ok(Value::text(path_of(environment.external_url)))),
    with("externalURL", &[], |environment, _| Ok(Value::text(environment.external_url))),
    fixed("parseDuration", &[Type::Text], |a| parse_duration(text(&a[0])).map(Value::Float)),
    fixed("urlQueryEscape", &[Type::Text], |a| Ok(Value::text(query_escape(text(&a[0]))))),
    Function { name: "tmpl", parameters: &[Type::Text, Type::Any], variadic: false, body: Body::Template },
];

fn query(environment: &Environment<'_>, arguments: &[Value]) -> Result<Value, String> {
    let ask = environment.query.ok_or("no query engine here")?;
    let samples = ask(text(&arguments[0]))?;
    let items = samples.into_iter().map(|sample| {
        let labels = Value::map(MapKind::Strings, sample.labels.iter());
        Value::record("*template.sample", vec![("Labels", "Labels", labels), ("Value", "Value", sample.value)])
    });
    Ok(Value::list(ListKind::QueryResult, items.collect()))
}

fn sample_field(sample: &Value, name: &str) -> Value {
    match sample {
        Value::Struct(record) => field(record, name).cloned().unwrap_or(Value::Nil),
        _ => Value::Nil,
    }
}

fn sample_label(sample: &Value, name: &str) -> Value {
    match sample_field(sample, "Labels") {
        Value::Map(map) => map.entries.get(name).cloned().unwrap_or_else(|| Value::text("")),
        _ => Value::text(""),
    }
}

fn args(arguments: &[Value]) -> Result<Value, String> {
    let entries = arguments.iter().enumerate().map(|(index, value)| (Arc::from(format!("arg{index}")), value.clone()));
    Ok(crate::exec::any_map(entries))
}

fn sort_by_label(result: &Value, name: &str) -> Value {
    let Value::List(list) = result else { return result.clone() };
    let mut items = list.items.clone();
    items.sort_by_cached_key(|sample| shared(&sample_label(sample, name)));
    Value::List(Arc::new(List { kind: list.kind, items }))
}

/// A link to the expression browser.
///
/// Source: prometheus util/strutil `GraphLinkForExpression`, `TableLinkForExpression`.
fn expression_link(expression: &str, tab: u8) -> String {
    format!("/graph?g0.expr={}&g0.tab={tab}", query_escape(expression))
}

/// Host and port of `host:port` and `[host]:port`.
fn split_host_port(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']')?;
            (!inner.contains(['[', ']'])).then_some((inner, port))
        }
        None => (!host.contains([':', '[', ']'])).then_some((host, port)),
    }
}

fn strip_domain(whole: &str) -> String {
    let (host, port) = split_host_port(whole).unwrap_or((whole, ""));
    if host.parse::<IpAddr>().is_ok() {
        return whole.to_owned();
    }
    let short = host.split('.').next().unwrap_or(host);
    match port {
        "" => short.to_owned(),
        port if short.contains(':') => format!("[{short}]:{port}"),
        port => format!("{short}:{port}"),
    }
}

fn humanize(value: &Value, base: f64, large: &[&str], small: &[&str]) -> Result<Value, String> {
    let mut value = to_float(value)?;
    if value == 0.0 || !value.is_finite() || (small.is_empty() && value.abs() <= 1.0) {
        return Ok(Value::text(four(value)));
    }
    let mut prefix = "";
    if value.abs() >= 1.0 {
        for next in large {
            if value.abs() < base {
                break;
            }
            prefix = next;
            value /= base;
        }
    } else {
        for next in small {
            if value.abs() >= 1.0 {
                break;
            }
            prefix = next;
            value *= base;
        }
    }
    Ok(Value::text(format!("{}{prefix}", four(value))))
}

/// The path of a URL.
fn path_of(url: &str) -> &str {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = after_scheme.find('/').map_or("", |slash| &after_scheme[slash..]);
    path.split(['?', '#']).next().unwrap_or("")
}

fn parse_duration(text: &str) -> Result<f64, String> {
    let (sign, span) = text.strip_prefix('-').map_or((1.0, text), |span| (-1.0, span));
    duration::parse(span).map(|span| sign * span.as_secs_f64()).map_err(|error| error.to_string())
}
