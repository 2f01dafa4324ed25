//! Alertmanager's functions for notification templates.
//!
//! Source: alertmanager template/template.go `DefaultFuncs`.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use promesh_model::zone::Zone;

use crate::clock::{self, Time};
use crate::common::{humanize_duration, matches, replace_all, title};
use crate::functions::{Body, Function, fixed, shared, text, variadic};
use crate::value::{ListKind, Safe, Type, Value};

const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, PAD);

/// The table.
pub const FUNCTIONS: &[Function] = &[
    fixed("toUpper", &[Type::Text], |a| Ok(Value::text(text(&a[0]).to_uppercase()))),
    fixed("toLower", &[Type::Text], |a| Ok(Value::text(text(&a[0]).to_lowercase()))),
    fixed("title", &[Type::Text], |a| Ok(Value::text(title(text(&a[0]), true)))),
    fixed("trimSpace", &[Type::Text], |a| Ok(Value::text(text(&a[0]).trim()))),
    fixed("join", &[Type::Text, Type::Strings], |a| {
        let Value::List(list) = &a[1] else { unreachable!("checked against the parameter's type") };
        let items: Vec<_> = list.items.iter().map(|item| item.as_text().unwrap_or_default()).collect();
        Ok(Value::text(items.join(text(&a[0]))))
    }),
    fixed("match", &[Type::Text, Type::Text], matches),
    fixed("safeHtml", &[Type::Text], |a| Ok(Value::Safe(Safe::Html, shared(&a[0])))),
    fixed("safeUrl", &[Type::Text], |a| Ok(Value::Safe(Safe::Url, shared(&a[0])))),
    fixed("urlUnescape", &[Type::Text], |a| query_unescape(text(&a[0])).map(Value::text)),
    fixed("reReplaceAll", &[Type::Text, Type::Text, Type::Text], replace_all),
    variadic("stringSlice", &[Type::Text], |a| Ok(Value::list(ListKind::Strings, a.to_vec()))),
    Function { name: "routeLabels", parameters: &[Type::Text], variadic: false, body: Body::RouteLabels },
    fixed("date", &[Type::Text, Type::Time], |a| Ok(Value::text(time(&a[1]).format(text(&a[0]))))),
    fixed("tz", &[Type::Text, Type::Time], |a| {
        let zone = Zone::named(text(&a[0])).map_err(|error| error.to_string())?;
        Ok(Value::Time(time(&a[1]).with_zone(zone)))
    }),
    Function {
        name: "now",
        parameters: &[],
        variadic: false,
        body: Body::Environment(|environment, _| Ok(Value::Time(Time::from(environment.now)))),
    },
    Function {
        name: "since",
        parameters: &[Type::Time],
        variadic: false,
        body: Body::Environment(|environment, a| {
            let span = Time::from(environment.now).unix_nanos() - time(&a[0]).unix_nanos();
            Ok(Value::Duration(i64::try_from(span).unwrap_or(if span < 0 { i64::MIN } else { i64::MAX })))
        }),
    },
    fixed("humanizeDuration", &[Type::Any], humanize_duration),
    fixed("toDate", &[Type::Text, Type::Text], |a| {
        Ok(Value::Time(clock::parse(text(&a[0]), text(&a[1])).unwrap_or_else(|_| Time::zero())))
    }),
    fixed("mustToDate", &[Type::Text, Type::Text], |a| clock::parse(text(&a[0]), text(&a[1])).map(Value::Time)),
    fixed("toJson", &[Type::Any], |a| Ok(Value::text(crate::json::encode(&a[0])?))),
    fixed("base64encode", &[Type::Text], |a| Ok(Value::text(URL_SAFE.encode(text(&a[0]))))),
    fixed("base64decode", &[Type::Text], |a| {
        let bytes = URL_SAFE.decode(text(&a[0])).map_err(|error| format!("illegal base64 data: {error}"))?;
        Ok(Value::text(String::from_utf8_lossy(&bytes)))
    }),
    variadic("list", &[Type::Any], |a| Ok(Value::list(ListKind::Any, a.to_vec()))),
    variadic("append", &[Type::Anys, Type::Any], |a| {
        let Value::List(list) = &a[0] else { unreachable!("checked against the parameter's type") };
        Ok(Value::list(ListKind::Any, list.items.iter().chain(&a[1..]).cloned().collect()))
    }),
    variadic("dict", &[Type::Any], |a| {
        if !a.len().is_multiple_of(2) {
            return Err("dict requires an even number of arguments".to_owned());
        }
        let entries: Option<Vec<_>> =
            a.chunks(2).map(|pair| pair[0].as_text().map(|key| (key.into(), pair[1].clone()))).collect();
        entries.map(crate::exec::any_map).ok_or_else(|| "dict keys must be strings".to_owned())
    }),
];

fn time(value: &Value) -> &Time {
    match value {
        Value::Time(time) => time,
        _ => unreachable!("arguments are checked against the parameters"),
    }
}

/// Go's `url.QueryUnescape`.
fn query_unescape(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = text.get(at + 1..at + 3).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let Some(digits) = digits else {
                    let end = text.len().min(at + 3);
                    let shown = promesh_model::labels::quoted(&String::from_utf8_lossy(&bytes[at..end]));
                    return Err(format!("invalid URL escape {shown}"));
                };
                out.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
                at += 2;
            }
            byte => out.push(byte),
        }
        at += 1;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}
