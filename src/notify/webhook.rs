//! Any program that takes JSON: Alertmanager's message, version "4", or a body of the user's own.

use promesh_config::alertmanager::WebhookConfig;
use promesh_config::yaml::{self, Kind, Node};
use promesh_template::json;
use serde_json::{Map, Value};

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
        None => body(config.max_alerts, message),
    };
    let mut call = Call::text(url, "application/json", body);
    call.headers.push((IDEMPOTENCY_KEY, message.notification.idempotency_key.clone()));
    if message.notification.degraded {
        call.headers.push((DEGRADED, "true".to_owned()));
    }
    Ok(vec![call])
}

/// Alertmanager's message.
pub fn body(alerts_max: u64, message: &Message<'_>) -> String {
    let most = usize::try_from(alerts_max).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
    let mut data = message.data.clone();
    let left_out = data.alerts.len().saturating_sub(most);
    data.alerts.truncate(most);
    let encoded = json::encode(&data.to_value()).expect("labels, texts and times have JSON");
    let mut out = encoded.strip_suffix('}').expect("a record is an object").to_owned();
    out.push_str(",\"version\":\"4\",\"groupKey\":");
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

/// An unquoted scalar: a bool, a number, nothing, or a text.
fn scalar(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" | "~" | "" => Value::Null,
        _ if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            serde_json::from_str::<serde_json::Number>(text)
                .map_or_else(|_| Value::String(text.to_owned()), Value::Number)
        }
        _ => Value::String(text.to_owned()),
    }
}
