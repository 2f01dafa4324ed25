//! Go's own functions: comparison, indexing, printing, escaping.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::functions::{Body, Function, fixed, variadic};
use crate::html::{escape_html, escape_js};
use crate::print::{plain, sprint, sprintf, sprintln};
use crate::value::{List, Type, Value};

/// Source: text/template, "Functions".
pub const FUNCTIONS: &[Function] = &[
    Function { name: "and", parameters: &[Type::Any, Type::Any], variadic: true, body: Body::And },
    Function { name: "or", parameters: &[Type::Any, Type::Any], variadic: true, body: Body::Or },
    fixed("not", &[Type::Any], |a| Ok(Value::Bool(!a[0].is_true()))),
    fixed("len", &[Type::Any], |a| length(&a[0]).map(|n| Value::Int(n as i64))),
    variadic("index", &[Type::Any, Type::Any], |a| a[1..].iter().try_fold(a[0].clone(), |item, key| index(&item, key))),
    variadic("slice", &[Type::Any, Type::Any], slice),
    variadic("print", &[Type::Any], |a| Ok(Value::text(sprint(a)))),
    variadic("println", &[Type::Any], |a| Ok(Value::text(sprintln(a)))),
    variadic("printf", &[Type::Text, Type::Any], |a| Ok(Value::text(sprintf(crate::functions::text(&a[0]), &a[1..])))),
    variadic("html", &[Type::Any], |a| Ok(Value::text(escape_html(&joined(a))))),
    variadic("js", &[Type::Any], |a| Ok(Value::text(escape_js(&joined(a))))),
    variadic("urlquery", &[Type::Any], |a| Ok(Value::text(query_escape(&joined(a))))),
    fixed("call", &[Type::Any], |a| Err(format!("non-function of type {}", a[0].type_name()))),
    variadic("eq", &[Type::Any, Type::Any], |a| {
        if a.len() < 2 {
            return Err("missing argument for comparison".to_owned());
        }
        for other in &a[1..] {
            if equal(&a[0], other)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }),
    fixed("ne", &[Type::Any, Type::Any], |a| equal(&a[0], &a[1]).map(|equal| Value::Bool(!equal))),
    fixed("lt", &[Type::Any, Type::Any], |a| Ok(Value::Bool(order(&a[0], &a[1])? == Some(Ordering::Less)))),
    fixed("le", &[Type::Any, Type::Any], |a| Ok(Value::Bool(order(&a[0], &a[1])?.is_some_and(Ordering::is_le)))),
    fixed("gt", &[Type::Any, Type::Any], |a| Ok(Value::Bool(order(&a[0], &a[1])? == Some(Ordering::Greater)))),
    fixed("ge", &[Type::Any, Type::Any], |a| Ok(Value::Bool(order(&a[0], &a[1])?.is_some_and(Ordering::is_ge)))),
];

fn joined(arguments: &[Value]) -> String {
    match arguments {
        [Value::Text(text)] => text.to_string(),
        [only] => crate::print::top(only),
        many => sprint(many),
    }
}

fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::Text(text) | Value::Safe(_, text) => Ok(text.len()),
        Value::List(list) => Ok(list.items.len()),
        Value::Map(map) => Ok(map.entries.len()),
        Value::Nil => Err("len of nil pointer".to_owned()),
        other => Err(format!("len of type {}", other.type_name())),
    }
}

fn index(item: &Value, key: &Value) -> Result<Value, String> {
    let position = |length: usize| match key {
        Value::Int(at) if *at < 0 || *at as u64 >= length as u64 => Err(format!("index out of range: {at}")),
        Value::Int(at) => Ok(*at as usize),
        Value::Uint(at) if *at >= length as u64 => Err(format!("index out of range: {at}")),
        Value::Uint(at) => Ok(*at as usize),
        Value::Nil => Err("cannot index slice/array with nil".to_owned()),
        other => Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    match item {
        Value::Nil => Err("index of untyped nil".to_owned()),
        Value::List(list) => Ok(list.items[position(list.items.len())?].clone()),
        Value::Text(text) => Ok(Value::Int(i64::from(text.as_bytes()[position(text.len())?]))),
        Value::Map(map) => match key {
            Value::Text(key) => Ok(map.entries.get(key).cloned().unwrap_or_else(|| map.kind.zero())),
            other => Err(format!("value has type {}; should be string", other.type_name())),
        },
        other => Err(format!("can't index item of type {}", other.type_name())),
    }
}

fn slice(arguments: &[Value]) -> Result<Value, String> {
    let item = &arguments[0];
    let length = match item {
        Value::Text(text) => text.len(),
        Value::List(list) => list.items.len(),
        Value::Nil => return Err("slice of untyped nil".to_owned()),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    if arguments.len() > 4 {
        return Err(format!("too many slice indexes: {}", arguments.len() - 1));
    }
    if arguments.len() == 4 && matches!(item, Value::Text(_)) {
        return Err("cannot 3-index slice a string".to_owned());
    }
    let bound = |at: usize, default: usize| match arguments.get(at) {
        None => Ok(default),
        Some(Value::Int(value)) if *value < 0 || *value as u64 > length as u64 => {
            Err(format!("index out of range: {value}"))
        }
        Some(Value::Int(value)) => Ok(*value as usize),
        Some(other) => Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    let (from, to) = (bound(1, 0)?, bound(2, length)?);
    bound(3, length)?;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match item {
        Value::Text(text) => Value::text(String::from_utf8_lossy(&text.as_bytes()[from..to])),
        Value::List(list) => Value::List(Arc::new(List { kind: list.kind, items: list.items[from..to].to_vec() })),
        _ => unreachable!("lengths are known of texts and lists only"),
    })
}

const INVALID: &str = "invalid type for comparison";
const INCOMPATIBLE: &str = "incompatible types for comparison";

fn equal(left: &Value, right: &Value) -> Result<bool, String> {
    Ok(match (left, right) {
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a) | Value::Duration(a), Value::Int(b) | Value::Duration(b)) => a == b,
        (Value::Uint(a), Value::Uint(b)) => a == b,
        (Value::Int(a), Value::Uint(b)) | (Value::Uint(b), Value::Int(a)) => i128::from(*a) == i128::from(*b),
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Text(a) | Value::Safe(_, a), Value::Text(b) | Value::Safe(_, b)) => a == b,
        (Value::Time(a), Value::Time(b)) => a.unix_nanos() == b.unix_nanos(),
        (Value::Nil, Value::Nil) => true,
        (Value::Nil, Value::List(_) | Value::Struct(_)) | (Value::List(_) | Value::Struct(_), Value::Nil) => false,
        (Value::Nil, Value::Map(map)) | (Value::Map(map), Value::Nil) => map.is_nil,
        (Value::List(_) | Value::Map(_), _) | (_, Value::List(_) | Value::Map(_)) => {
            return Err(format!("non-comparable type {}: {}", plain(left), left.type_name()));
        }
        _ => return Err(INCOMPATIBLE.to_owned()),
    })
}

fn order(left: &Value, right: &Value) -> Result<Option<Ordering>, String> {
    Ok(match (left, right) {
        (Value::Int(a) | Value::Duration(a), Value::Int(b) | Value::Duration(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (a, b) if is_basic(a) && is_basic(b) => return Err(INCOMPATIBLE.to_owned()),
        _ => return Err(INVALID.to_owned()),
    })
}

fn is_basic(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::Text(_))
}

/// Go's `url.QueryEscape`: everything but letters, digits and `-_.~` as `%XX`, a space as `+`.
pub fn query_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
