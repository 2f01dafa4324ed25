//! Go's `fmt`: `%v` of every value, and the verbs of `printf`.

use promesh_model::labels::quoted;

use crate::clock::duration_text;
use crate::value::{ListKind, MapKind, Value};

/// Prints a value at the top of an action: `%v`, with `<no value>` for none.
pub fn top(value: &Value) -> String {
    match value {
        Value::Nil => "<no value>".to_owned(),
        other => plain(other),
    }
}

/// Go's `%v`.
pub fn plain(value: &Value) -> String {
    let mut out = String::new();
    push(&mut out, value);
    out
}

fn push(out: &mut String, value: &Value) {
    match value {
        Value::Nil => out.push_str("<nil>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::Uint(value) => out.push_str(&value.to_string()),
        Value::Float(value) => out.push_str(&float_g(*value, None)),
        Value::Text(text) | Value::Safe(_, text) => out.push_str(text),
        Value::Time(time) => out.push_str(&time.text()),
        Value::Duration(nanos) => out.push_str(&duration_text(*nanos)),
        Value::List(list) if list.kind == ListKind::Pairs => {
            for (index, pair) in list.items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                push_pair(out, pair);
            }
        }
        Value::List(list) => {
            out.push('[');
            for (index, item) in list.items.iter().enumerate() {
                out.push_str(if index > 0 { " " } else { "" });
                push(out, item);
            }
            out.push(']');
        }
        Value::Map(map) if map.kind == MapKind::Kv => push(out, &crate::methods::sorted_pairs(map)),
        Value::Map(map) => {
            out.push_str("map[");
            for (index, (key, item)) in map.entries.iter().enumerate() {
                out.push_str(if index > 0 { " " } else { "" });
                out.push_str(key);
                out.push(':');
                push(out, item);
            }
            out.push(']');
        }
        Value::Struct(record) => match &record.display {
            Some(display) => out.push_str(display),
            None => {
                out.push_str(if record.type_name.starts_with('*') { "&{" } else { "{" });
                for (index, (_, _, item)) in record.fields.iter().enumerate() {
                    out.push_str(if index > 0 { " " } else { "" });
                    push(out, item);
                }
                out.push('}');
            }
        },
    }
}

fn push_pair(out: &mut String, pair: &Value) {
    if let Value::Struct(record) = pair {
        for (index, (_, _, part)) in record.fields.iter().enumerate() {
            out.push_str(if index > 0 { "=" } else { "" });
            push(out, part);
        }
    }
}

/// Go's `%g`: the shortest form, or so many significant digits; an exponent below 1e-4 and from the precision on, where
/// the shortest form counts as six digits: 1000000 prints as 1e+06.
pub fn float_g(value: f64, precision: Option<usize>) -> String {
    if !value.is_finite() {
        return non_finite(value);
    }
    let scientific = match precision {
        None => format!("{value:e}"),
        Some(digits) => format!("{value:.*e}", digits.max(1) - 1),
    };
    let (mantissa, exponent) = scientific.split_once('e').expect("`{:e}` always prints an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_end_matches('0');
    let significant = digits.len().max(1);
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    let threshold = match precision {
        None => 6,
        Some(wanted) => {
            let wanted = wanted.max(1) as i32;
            if wanted > significant as i32 && significant as i32 > exponent { significant as i32 } else { wanted }
        }
    };
    if exponent < -4 || exponent >= threshold {
        let rest = if significant > 1 { format!(".{}", &digits[1..]) } else { String::new() };
        let first = digits.chars().next().unwrap_or('0');
        let exponent_sign = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{first}{rest}e{exponent_sign}{:02}", exponent.abs());
    }
    let decimals = usize::try_from(significant as i32 - 1 - exponent).unwrap_or(0);
    format!("{value:.decimals$}")
}

fn non_finite(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value > 0.0 {
        "+Inf".to_owned()
    } else {
        "-Inf".to_owned()
    }
}

/// Go's `print`: operands side by side, a space between two where neither is a string.
pub fn sprint(values: &[Value]) -> String {
    let mut out = String::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 && !is_string(value) && !is_string(&values[index - 1]) {
            out.push(' ');
        }
        push(&mut out, value);
    }
    out
}

fn is_string(value: &Value) -> bool {
    matches!(value, Value::Text(_) | Value::Safe(..))
}

/// Go's `println`: operands with spaces between and a newline.
pub fn sprintln(values: &[Value]) -> String {
    let mut out = values.iter().map(plain).collect::<Vec<_>>().join(" ");
    out.push('\n');
    out
}

#[derive(Default)]
struct Flags {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// The widest a `printf` field may be.
const WIDTH_MAX: usize = 10_000;

/// Go's `printf`.
pub fn sprintf(format: &str, values: &[Value]) -> String {
    let mut out = String::with_capacity(format.len() + 16);
    let mut rest = format;
    let mut next = 0;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let (flags, verb, after) = directive(&rest[at + 1..], values, &mut next);
        rest = after;
        match (verb, values.get(next)) {
            (None, _) => out.push_str("%!(NOVERB)"),
            (Some('%'), _) => out.push('%'),
            (Some(verb), None) => out.push_str(&format!("%!{verb}(MISSING)")),
            (Some(verb), Some(value)) => {
                next += 1;
                let body = verb_text(verb, &flags, value);
                out.push_str(&padded(body, &flags, value));
            }
        }
    }
    out.push_str(rest);
    if next < values.len() {
        let extra: Vec<_> = values[next..].iter().map(|v| format!("{}={}", v.type_name(), plain(v))).collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn directive<'a>(text: &'a str, values: &[Value], next: &mut usize) -> (Flags, Option<char>, &'a str) {
    let mut flags = Flags::default();
    let mut rest = text;
    loop {
        match rest.as_bytes().first() {
            Some(b'-') => flags.minus = true,
            Some(b'+') => flags.plus = true,
            Some(b'#') => flags.sharp = true,
            Some(b' ') => flags.space = true,
            Some(b'0') => flags.zero = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    (flags.width, rest) = figure(rest, values, next);
    if let Some(after) = rest.strip_prefix('.') {
        (flags.precision, rest) = figure(after, values, next);
        flags.precision = flags.precision.or(Some(0));
    }
    let verb = rest.chars().next();
    (flags, verb, &rest[verb.map_or(0, char::len_utf8)..])
}

fn figure<'a>(text: &'a str, values: &[Value], next: &mut usize) -> (Option<usize>, &'a str) {
    if let Some(rest) = text.strip_prefix('*') {
        let given = match values.get(*next) {
            Some(Value::Int(value)) => usize::try_from(*value).ok().map(|value| value.min(WIDTH_MAX)),
            _ => None,
        };
        *next += 1;
        return (given, rest);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse::<usize>().ok().map(|value| value.min(WIDTH_MAX));
    (number, &text[digits..])
}

fn padded(body: String, flags: &Flags, value: &Value) -> String {
    let missing = flags.width.unwrap_or(0).saturating_sub(body.chars().count());
    if missing == 0 {
        return body;
    }
    let numeric = matches!(value, Value::Int(_) | Value::Uint(_) | Value::Float(_));
    if flags.minus {
        format!("{body}{}", " ".repeat(missing))
    } else if flags.zero && numeric {
        let (sign, digits) = match body.as_bytes().first() {
            Some(b'-' | b'+') => body.split_at(1),
            _ => ("", body.as_str()),
        };
        format!("{sign}{}{digits}", "0".repeat(missing))
    } else {
        format!("{}{body}", " ".repeat(missing))
    }
}

fn verb_text(verb: char, flags: &Flags, value: &Value) -> String {
    let signed = |text: String| {
        if text.starts_with(['-', '+']) {
            text
        } else if flags.plus {
            format!("+{text}")
        } else if flags.space {
            format!(" {text}")
        } else {
            text
        }
    };
    let integer = match value {
        Value::Int(value) | Value::Duration(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        _ => None,
    };
    match (verb, value) {
        ('v', Value::Float(float)) => signed(float_g(*float, flags.precision)),
        ('v', _) if flags.sharp => sharp(value),
        ('v', _) => plain(value),
        ('T', _) => value.type_name().to_owned(),
        ('t', Value::Bool(value)) => value.to_string(),
        ('s', Value::Text(_) | Value::Safe(..) | Value::Time(_) | Value::Duration(_)) => {
            truncated(&plain(value), flags)
        }
        ('s', Value::List(_) | Value::Map(_) | Value::Struct(_)) => plain(value),
        ('q', Value::Text(_) | Value::Safe(..) | Value::Time(_)) => quoted(&truncated(&plain(value), flags)),
        ('q', Value::List(list)) => {
            let items: Vec<_> = list.items.iter().map(|item| verb_text('q', flags, item)).collect();
            format!("[{}]", items.join(" "))
        }
        ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('f' | 'F', Value::Float(float)) if float.is_finite() => {
            signed(format!("{float:.*}", flags.precision.unwrap_or(6)))
        }
        ('e' | 'E', Value::Float(float)) if float.is_finite() => signed(exponent(*float, flags.precision, verb)),
        ('g' | 'G', Value::Float(float)) => signed(float_g(*float, flags.precision)),
        ('f' | 'F' | 'e' | 'E', Value::Float(float)) => non_finite(*float),
        _ => {
            integer.and_then(|integer| integer_text(verb, integer).map(signed)).unwrap_or_else(|| bad_verb(verb, value))
        }
    }
}

fn integer_text(verb: char, value: i128) -> Option<String> {
    let sign = if value < 0 { "-" } else { "" };
    let magnitude = value.unsigned_abs();
    Some(match verb {
        'd' => value.to_string(),
        'b' => format!("{sign}{magnitude:b}"),
        'o' => format!("{sign}{magnitude:o}"),
        'x' => format!("{sign}{magnitude:x}"),
        'X' => format!("{sign}{magnitude:X}"),
        'c' => u32::try_from(value).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string(),
        'q' => format!("'{}'", u32::try_from(value).ok().and_then(char::from_u32).unwrap_or('\u{fffd}')),
        'U' => format!("U+{magnitude:04X}"),
        _ => return None,
    })
}

fn bad_verb(verb: char, value: &Value) -> String {
    match value {
        Value::Nil => format!("%!{verb}(<nil>)"),
        _ => format!("%!{verb}({}={})", value.type_name(), plain(value)),
    }
}

fn exponent(value: f64, precision: Option<usize>, verb: char) -> String {
    let text = format!("{value:.*e}", precision.unwrap_or(6));
    let (mantissa, power) = text.split_once('e').expect("`{:e}` always prints an exponent");
    let (sign, digits) = power.strip_prefix('-').map_or(('+', power), |digits| ('-', digits));
    format!("{mantissa}{verb}{sign}{digits:0>2}")
}

fn truncated(text: &str, flags: &Flags) -> String {
    match flags.precision {
        Some(characters) => text.chars().take(characters).collect(),
        None => text.to_owned(),
    }
}

fn sharp(value: &Value) -> String {
    match value {
        Value::Text(text) => quoted(text),
        Value::List(list) => {
            let items: Vec<_> = list.items.iter().map(sharp).collect();
            format!("{}{{{}}}", list.kind.type_name(), items.join(", "))
        }
        Value::Map(map) => {
            let items: Vec<_> = map.entries.iter().map(|(k, v)| format!("{}:{}", quoted(k), sharp(v))).collect();
            format!("{}{{{}}}", map.kind.type_name(), items.join(", "))
        }
        other => plain(other),
    }
}
