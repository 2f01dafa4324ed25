//! PagerDuty: events API version 2 by routing key, version 1 by service key.
//!
//! Source: alertmanager notify/pagerduty; <https://developer.pagerduty.com/docs/events-api-v2/trigger-events/>.

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode};
use promesh_config::alertmanager::PagerdutyConfig;
use serde_json::{Map, Value, json};

use crate::call::{self, Call, CallError, secret_of, url_of};
use crate::message::{Message, truncated};
use crate::webhook::rendered;

/// The longest event that PagerDuty takes.
const EVENT_BYTES_MAX: usize = 512_000;
/// PagerDuty's limits for descriptions, version 1 and 2.
const DESCRIPTION_CHARS_MAX: [usize; 2] = [1024, 1024];
/// Where events of version 1 go.
const VERSION_1: &str = "https://events.pagerduty.com/generic/2010-04-15/create_event.json";

/// What to send.
pub async fn calls(config: &PagerdutyConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let action = if message.is_firing() { "trigger" } else { "resolve" };
    let details: Map<String, Value> = config
        .details
        .iter()
        .map(|(name, value)| (name.clone(), value.0.as_ref().map_or(Value::Null, |node| rendered(node, message))))
        .collect();
    let version_1 = config.routing_key.is_empty() && config.routing_key_file.is_empty();
    let (url, event) = if version_1 {
        (url_of(VERSION_1)?, event_1(config, message, action, details).await?)
    } else {
        let url = config.url.as_ref().ok_or("no PagerDuty URL")?.url().clone();
        (url, event_2(config, message, action, details).await?)
    };
    Ok(vec![Call::json(url, &event)])
}

fn put(event: &mut Map<String, Value>, name: &str, text: String) {
    if !text.is_empty() {
        event.insert(name.to_owned(), Value::String(text));
    }
}

/// What stands in place of details that make the event too long.
fn too_long() -> Value {
    json!({ "error": "Custom details have been removed because the original event exceeds the maximum size of 512KB" })
}

async fn event_1(
    config: &PagerdutyConfig,
    message: &Message<'_>,
    action: &str,
    details: Map<String, Value>,
) -> Result<Value, String> {
    let key = message.text(&secret_of(&config.service_key, &config.service_key_file).await?);
    if key.is_empty() {
        return Err("service key cannot be empty".to_owned());
    }
    let mut event = Map::new();
    put(&mut event, "service_key", key);
    put(&mut event, "incident_key", message.key_hash());
    put(&mut event, "event_type", action.to_owned());
    put(&mut event, "description", truncated(&message.text(&config.description), DESCRIPTION_CHARS_MAX[0]));
    if action == "trigger" {
        put(&mut event, "client", message.text(&config.client));
        put(&mut event, "client_url", message.text(&config.client_url));
    }
    event.insert("details".to_owned(), Value::Object(details));
    let mut event = Value::Object(event);
    if event.to_string().len() > EVENT_BYTES_MAX {
        event["details"] = too_long();
    }
    Ok(event)
}

async fn event_2(
    config: &PagerdutyConfig,
    message: &Message<'_>,
    action: &str,
    details: Map<String, Value>,
) -> Result<Value, String> {
    let key = message.text(&secret_of(&config.routing_key, &config.routing_key_file).await?);
    if key.is_empty() {
        return Err("routing key cannot be empty".to_owned());
    }
    let severity = if config.severity.is_empty() { "error" } else { &config.severity };
    let mut payload = Map::new();
    payload
        .insert("summary".to_owned(), json!(truncated(&message.text(&config.description), DESCRIPTION_CHARS_MAX[1])));
    payload.insert("source".to_owned(), json!(message.text(&config.source)));
    payload.insert("severity".to_owned(), json!(message.text(severity)));
    put(&mut payload, "class", message.text(&config.class));
    put(&mut payload, "component", message.text(&config.component));
    put(&mut payload, "group", message.text(&config.group));
    payload.insert("custom_details".to_owned(), Value::Object(details));
    let mut event = Map::new();
    put(&mut event, "routing_key", key);
    put(&mut event, "dedup_key", message.key_hash());
    put(&mut event, "event_action", action.to_owned());
    event.insert("payload".to_owned(), Value::Object(payload));
    put(&mut event, "client", message.text(&config.client));
    put(&mut event, "client_url", message.text(&config.client_url));
    let images = config.images.iter().map(|image| {
        json!({ "src": message.text(&image.src), "alt": message.text(&image.alt), "href": message.text(&image.href) })
    });
    let images: Vec<Value> = images.filter(|image| image["src"] != "").collect();
    if !images.is_empty() {
        event.insert("images".to_owned(), Value::Array(images));
    }
    let links =
        config.links.iter().map(|link| json!({ "href": message.text(&link.href), "text": message.text(&link.text) }));
    let links: Vec<Value> = links.filter(|link| link["href"] != "").collect();
    if !links.is_empty() {
        event.insert("links".to_owned(), Value::Array(links));
    }
    let mut event = Value::Object(event);
    if event.to_string().len() > EVENT_BYTES_MAX {
        event["payload"]["custom_details"] = too_long();
    }
    Ok(event)
}

/// PagerDuty says 403 when it is asked too often.
///
/// # Errors
/// As [`call::check`], and `Retry` for 403.
pub fn check(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<BTreeMap<String, String>, CallError> {
    match call::check(status, headers, body) {
        Err(CallError::Refused { why }) if status == StatusCode::FORBIDDEN => {
            Err(CallError::Retry { after: call::retry_after(headers), why })
        }
        other => other,
    }
}
