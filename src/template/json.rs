//! Go's `encoding/json` of values: keys sorted, `<`, `>` and `&` escaped.

use crate::value::Value;

/// Encodes a value.
///
/// # Errors
/// Go's text for numbers that JSON has not.
pub fn encode(value: &Value) -> Result<String, String> {
    let mut out = String::new();
    push(&mut out, value)?;
    Ok(out)
}

fn push(out: &mut String, value: &Value) -> Result<(), String> {
    match value {
        Value::Nil => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) | Value::Duration(value) => out.push_str(&value.to_string()),
        Value::Uint(value) => out.push_str(&value.to_string()),
        Value::Float(value) if !value.is_finite() => {
            return Err(format!("json: unsupported value: {}", crate::print::float_g(*value, None)));
        }
        Value::Float(value) => push_float(out, *value),
        Value::Text(text) | Value::Safe(_, text) => push_text(out, text),
        Value::Time(time) => push_text(out, &time.rfc3339()),
        Value::List(list) => {
            out.push('[');
            for (index, item) in list.items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                push(out, item)?;
            }
            out.push(']');
        }
        Value::Map(map) if map.is_nil => out.push_str("null"),
        Value::Map(map) => push_object(out, map.entries.iter().map(|(key, item)| (key.as_ref(), item)))?,
        Value::Struct(record) => push_object(out, record.fields.iter().map(|(_, name, item)| (*name, item)))?,
    }
    Ok(())
}

fn push_object<'a>(out: &mut String, entries: impl Iterator<Item = (&'a str, &'a Value)>) -> Result<(), String> {
    out.push('{');
    for (index, (name, item)) in entries.enumerate() {
        out.push_str(if index > 0 { "," } else { "" });
        push_text(out, name);
        out.push(':');
        push(out, item)?;
    }
    out.push('}');
    Ok(())
}

fn push_float(out: &mut String, value: f64) {
    let magnitude = value.abs();
    if value == 0.0 || (1e-6..1e21).contains(&magnitude) {
        out.push_str(&format!("{value}"));
    } else {
        let text = format!("{value:e}");
        out.push_str(&text.replace('e', if magnitude >= 1.0 { "e+" } else { "e" }));
    }
}

/// Appends a JSON string, escaped as Go does.
pub fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}
