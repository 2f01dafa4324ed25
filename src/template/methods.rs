//! Methods that templates may call on data.

use promesh_model::time::civil_from_days;

use crate::clock::{Time, days_from_civil, duration_text};
use crate::value::{List, ListKind, Map, MapKind, Struct, Type, Value};

/// A method: what it takes and what it does with its receiver.
pub struct Method {
    /// Types of its parameters.
    pub parameters: &'static [Type],
    /// The call.
    pub call: fn(&Value, &[Value]) -> Result<Value, String>,
}

macro_rules! method {
    ([$($parameter:ident),*], $call:expr) => {
        Some(Method { parameters: &[$(Type::$parameter),*], call: $call })
    };
}

/// The method of a value's type by its name.
pub fn find(receiver: &Value, name: &str) -> Option<Method> {
    match receiver {
        Value::Map(map) if map.kind == MapKind::Kv => kv(name),
        Value::List(list) => match list.kind {
            ListKind::Pairs => pairs(name),
            ListKind::NamedStrings => strings(name),
            ListKind::Alerts => alerts(name),
            _ => None,
        },
        Value::Time(_) => time(name),
        Value::Duration(_) => duration(name),
        Value::Struct(record) if record.display.is_some() && name == "String" => {
            method!([], |v, _| Ok(Value::text(crate::print::plain(v))))
        }
        _ => None,
    }
}

fn kv(name: &str) -> Option<Method> {
    match name {
        "SortedPairs" => method!([], |v, _| Ok(sorted_pairs(map_of(v)))),
        "Remove" => method!([Strings], |v, arguments| Ok(remove(map_of(v), &arguments[0]))),
        "Names" => method!([], |v, _| Ok(column(&sorted_pairs(map_of(v)), 0))),
        "Values" => method!([], |v, _| Ok(column(&sorted_pairs(map_of(v)), 1))),
        "String" => method!([], |v, _| Ok(Value::text(crate::print::plain(v)))),
        _ => None,
    }
}

fn map_of(value: &Value) -> &Map {
    match value {
        Value::Map(map) => map,
        _ => unreachable!("the method was found by the map's type"),
    }
}

/// The pairs of a map: `alertname` first, the rest by name.
pub fn sorted_pairs(map: &Map) -> Value {
    let first = map.entries.get_key_value("alertname");
    let rest = map.entries.iter().filter(|(key, _)| key.as_ref() != "alertname");
    let pair = |(key, value): (&std::sync::Arc<str>, &Value)| {
        Value::record(
            "template.Pair",
            vec![("Name", "Name", Value::Text(key.clone())), ("Value", "Value", value.clone())],
        )
    };
    Value::list(ListKind::Pairs, first.into_iter().chain(rest).map(pair).collect())
}

fn remove(map: &Map, names: &Value) -> Value {
    let Value::List(names) = names else { unreachable!("checked against the parameter's type") };
    let gone = |key: &str| names.items.iter().any(|name| name.as_text() == Some(key));
    let entries = map.entries.iter().filter(|(key, _)| !gone(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    Value::Map(std::sync::Arc::new(Map { kind: MapKind::Kv, is_nil: false, entries }))
}

fn column(pairs: &Value, index: usize) -> Value {
    let Value::List(list) = pairs else { unreachable!("pairs are a list") };
    let part = |pair: &Value| match pair {
        Value::Struct(record) => record.fields[index].2.clone(),
        _ => Value::Nil,
    };
    Value::list(ListKind::NamedStrings, list.items.iter().map(part).collect())
}

fn pairs(name: &str) -> Option<Method> {
    match name {
        "Names" => method!([], |v, _| Ok(column(v, 0))),
        "Values" => method!([], |v, _| Ok(column(v, 1))),
        "String" => method!([], |v, _| Ok(Value::text(crate::print::plain(v)))),
        _ => None,
    }
}

fn strings(name: &str) -> Option<Method> {
    match name {
        "Join" => method!([Text], |v, arguments| {
            let Value::List(list) = v else { unreachable!("the method was found by the list's type") };
            let items: Vec<_> = list.items.iter().map(|item| item.as_text().unwrap_or_default()).collect();
            Ok(Value::text(items.join(arguments[0].as_text().unwrap_or_default())))
        }),
        _ => None,
    }
}

fn alerts(name: &str) -> Option<Method> {
    match name {
        "Firing" => method!([], |v, _| Ok(with_status(v, "firing"))),
        "Resolved" => method!([], |v, _| Ok(with_status(v, "resolved"))),
        _ => None,
    }
}

fn with_status(alerts: &Value, status: &str) -> Value {
    let Value::List(list) = alerts else { unreachable!("the method was found by the list's type") };
    let has = |alert: &&Value| match alert {
        Value::Struct(record) => record.fields.first().is_some_and(|(_, _, value)| value.as_text() == Some(status)),
        _ => false,
    };
    let items = list.items.iter().filter(has).cloned().collect();
    Value::List(std::sync::Arc::new(List { kind: ListKind::AlertSlice, items }))
}

fn time_of(value: &Value) -> &Time {
    match value {
        Value::Time(time) => time,
        _ => unreachable!("the method was found by the type, arguments are checked"),
    }
}

fn int_of(value: &Value) -> i64 {
    match value {
        Value::Int(value) | Value::Duration(value) => *value,
        _ => unreachable!("arguments are checked against the parameters"),
    }
}

fn clamp(nanos: i128) -> i64 {
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

fn time(name: &str) -> Option<Method> {
    match name {
        "Format" => method!([Text], |v, arguments| {
            Ok(Value::text(time_of(v).format(arguments[0].as_text().unwrap_or_default())))
        }),
        "String" => method!([], |v, _| Ok(Value::text(time_of(v).text()))),
        "Unix" => method!([], |v, _| Ok(Value::Int(time_of(v).seconds))),
        "UnixMilli" => method!([], |v, _| Ok(Value::Int(clamp(time_of(v).unix_nanos().div_euclid(1_000_000))))),
        "UnixMicro" => method!([], |v, _| Ok(Value::Int(clamp(time_of(v).unix_nanos().div_euclid(1000))))),
        "UnixNano" => method!([], |v, _| Ok(Value::Int(clamp(time_of(v).unix_nanos())))),
        "Add" => method!([Duration], |v, arguments| Ok(Value::Time(time_of(v).plus(int_of(&arguments[0]))))),
        "Sub" => method!([Time], |v, arguments| {
            Ok(Value::Duration(clamp(time_of(v).unix_nanos() - time_of(&arguments[0]).unix_nanos())))
        }),
        "AddDate" => method!([Int, Int, Int], |v, a| {
            Ok(Value::Time(add_date(time_of(v), int_of(&a[0]), int_of(&a[1]), int_of(&a[2]))))
        }),
        "After" => method!([Time], |v, a| Ok(Value::Bool(time_of(v).unix_nanos() > time_of(&a[0]).unix_nanos()))),
        "Before" => method!([Time], |v, a| Ok(Value::Bool(time_of(v).unix_nanos() < time_of(&a[0]).unix_nanos()))),
        "Equal" => method!([Time], |v, a| Ok(Value::Bool(time_of(v).unix_nanos() == time_of(&a[0]).unix_nanos()))),
        "IsZero" => method!([], |v, _| Ok(Value::Bool(time_of(v).is_zero()))),
        // A peer has no zone of its own: local time is UTC.
        "UTC" | "Local" => method!([], |v, _| Ok(Value::Time(time_of(v).with_zone(promesh_model::zone::Zone::utc())))),
        "Year" => method!([], |v, _| Ok(Value::Int(time_of(v).civil().year))),
        "Month" => method!([], |v, _| Ok(Value::opaque("time.Month", time_of(v).format("January")))),
        "Day" => method!([], |v, _| Ok(Value::Int(i64::from(time_of(v).civil().day)))),
        "Hour" => method!([], |v, _| Ok(Value::Int(i64::from(time_of(v).civil().hour)))),
        "Minute" => method!([], |v, _| Ok(Value::Int(i64::from(time_of(v).civil().minute)))),
        "Second" => method!([], |v, _| Ok(Value::Int(i64::from(time_of(v).civil().second)))),
        "Nanosecond" => method!([], |v, _| Ok(Value::Int(i64::from(time_of(v).nanos)))),
        "YearDay" => method!([], |v, _| Ok(Value::Int(i64::from(time_of(v).civil().year_day)))),
        "Weekday" => method!([], |v, _| Ok(Value::opaque("time.Weekday", time_of(v).format("Monday")))),
        _ => None,
    }
}

fn add_date(time: &Time, years: i64, months: i64, days: i64) -> Time {
    let day_number = (time.seconds).div_euclid(86_400);
    let (year, month, day) = civil_from_days(day_number);
    let bounded = |value: i64| value.clamp(-100_000, 100_000);
    let moved =
        days_from_civil(year + bounded(years), i64::from(month) + bounded(months), i64::from(day) + bounded(days));
    Time { seconds: time.seconds + (moved - day_number) * 86_400, ..time.clone() }
}

fn duration(name: &str) -> Option<Method> {
    match name {
        "String" => method!([], |v, _| Ok(Value::text(duration_text(int_of(v))))),
        "Seconds" => method!([], |v, _| Ok(Value::Float(int_of(v) as f64 / 1e9))),
        "Minutes" => method!([], |v, _| Ok(Value::Float(int_of(v) as f64 / 60e9))),
        "Hours" => method!([], |v, _| Ok(Value::Float(int_of(v) as f64 / 3600e9))),
        "Milliseconds" => method!([], |v, _| Ok(Value::Int(int_of(v) / 1_000_000))),
        "Microseconds" => method!([], |v, _| Ok(Value::Int(int_of(v) / 1000))),
        "Nanoseconds" => method!([], |v, _| Ok(Value::Int(int_of(v)))),
        "Abs" => method!([], |v, _| Ok(Value::Duration(int_of(v).saturating_abs()))),
        "Truncate" => method!([Duration], |v, a| Ok(Value::Duration(truncate(int_of(v), int_of(&a[0]))))),
        "Round" => method!([Duration], |v, a| Ok(Value::Duration(round(int_of(v), int_of(&a[0]))))),
        _ => None,
    }
}

fn truncate(nanos: i64, unit: i64) -> i64 {
    if unit <= 0 { nanos } else { nanos - nanos % unit }
}

fn round(nanos: i64, unit: i64) -> i64 {
    if unit <= 0 {
        return nanos;
    }
    let rest = (nanos % unit).unsigned_abs();
    let down = truncate(nanos, unit);
    if rest < unit.unsigned_abs() - rest { down } else { down.saturating_add(unit * nanos.signum()) }
}

/// A struct's field.
pub fn field<'a>(record: &'a Struct, name: &str) -> Option<&'a Value> {
    record.fields.iter().find(|(field, _, _)| *field == name).map(|(_, _, value)| value)
}
