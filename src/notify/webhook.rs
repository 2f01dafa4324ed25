//! Any program that takes JSON: Alertmanager's message, version "4", or a body of the user's own.

use promesh_config::alertmanager::WebhookConfig;
use promesh_config::yaml::{self, Kind, Node, Plain};
use promesh_template::json;
use serde_json::{Map, Number, Value};

use crate::call::{Call, secret_of, url_of};
use crate::message::Message;

/// Header that names the message: the same for every attempt and every peer, so that a receiver can drop repeats.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Header of messages that were sent without a majority of the electorate.
pub const DEGRADED: &str = "x-promesh-degraded";

/// What to send.
pub async fn calls(config: &WebhookConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let written = secret_of(&config.url.0, &config.url_file).await?;
    let url = url_of(message.text(&written).trim())?;
    let body = match &config.payload.0 {
        Some(payload) => rendered(payload, message).to_string(),
        None => body("4", config.max_alerts, message).0,
    };
    let mut call = Call::text(url, "application/json", body);
    call.headers.push((IDEMPOTENCY_KEY, message.notification.idempotency_key.clone()));
    if message.notification.degraded {
        call.headers.push((DEGRADED, "true".to_owned()));
    }
    Ok(vec![call])
}

/// Alertmanager's message with at most so many alerts, 0 for all; and how many that leaves out.
pub fn body(version: &str, alerts_max: u64, message: &Message<'_>) -> (String, usize) {
    let most = usize::try_from(alerts_max).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
    let left_out = message.data.alerts.len().saturating_sub(most);
    (body_of(version, most, left_out, message), left_out)
}

/// Alertmanager's message with so many alerts, whatever it says of those left out.
pub fn body_of(version: &str, most: usize, left_out: usize, message: &Message<'_>) -> String {
    let mut data = message.data.clone();
    data.alerts.truncate(most);
    let encoded = json::encode(&data.to_value()).expect("labels, texts and times have JSON");
    let mut out = encoded.strip_suffix('}').expect("a record is an object").to_owned();
    out.push_str(&format!(",\"version\":\"{version}\",\"groupKey\":"));
    json::push_text(&mut out, &message.notification.key.group_key);
    out.push_str(&format!(",\"truncatedAlerts\":{left_out}}}\n"));
    out
}

/// A tree of the user's own with its texts rendered. A text that renders to a list, map, number or bool becomes one.
///
/// Source: alertmanager template/template.go `DeepCopyWithTemplate`.
pub fn rendered(node: &Node, message: &Message<'_>) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::List(items) => items.iter().map(|item| rendered(item, message)).collect(),
        Kind::Map(entries) => {
            let entry = |(key, item): &(yaml::Key, Node)| (message.text(&key.text), rendered(item, message));
            Value::Object(entries.iter().map(entry).collect::<Map<_, _>>())
        }
        Kind::Scalar { text, plain: true } if !text.contains("{{") => scalar(text),
        Kind::Scalar { text, .. } => {
            let text = message.text(text);
            match yaml::parse("payload", text.as_bytes()) {
                Ok(parsed) => match structured(&parsed) {
                    Value::String(_) => Value::String(text),
                    Value::Null if !text.is_empty() && text != "null" => Value::String(text),
                    value => value,
                },
                Err(_) => Value::String(text),
            }
        }
    }
}

/// A rendered tree as it is: it is not rendered again.
fn structured(node: &Node) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::List(items) => items.iter().map(structured).collect(),
        Kind::Map(entries) => {
            Value::Object(entries.iter().map(|(key, item)| (key.text.clone(), structured(item))).collect())
        }
        Kind::Scalar { text, plain: true } => scalar(text),
        Kind::Scalar { text, .. } => Value::String(text.clone()),
    }
}

/// An unquoted scalar. YAML's infinities have no JSON; they stay texts, as do numbers that JSON's readers would not take.
fn scalar(text: &str) -> Value {
    let number = match yaml::resolve(text) {
        Plain::Null => return Value::Null,
        Plain::Bool(value) => return Value::Bool(value),
        Plain::Int(value) => {
            i64::try_from(value).map(Number::from).or_else(|_| u64::try_from(value).map(Number::from)).ok()
        }
        Plain::Float(value) => Number::from_f64(value),
        Plain::Text => None,
    };
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unquoted_scalars_are_what_yaml_1_1_says() {
        for (text, expected) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("~", Value::Null),
            ("0x1F", json!(31)),
            ("010", json!(8)),
            ("1_000", json!(1000)),
            ("-5", json!(-5)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("1.50", json!(1.5)),
            (".5", json!(0.5)),
            ("1e3", json!(1000.0)),
            (".inf", json!(".inf")),
            ("-inf", json!("-inf")),
            ("1.2.3", json!("1.2.3")),
            ("2024-01-02", json!("2024-01-02")),
            ("yes please", json!("yes please")),
        ] {
            assert_eq!(scalar(text), expected, "{text}");
        }
    }
}
