//! Opsgenie: an alert is created under the group's hash, and closed by it.
//!
//! Source: alertmanager notify/opsgenie; <https://docs.opsgenie.com/docs/alert-api>.

use http::Method;
use promesh_config::alertmanager::OpsgenieConfig;
use serde_json::{Map, Value, json};
use url::Url;

use crate::call::{Call, secret_of};
use crate::message::{Message, truncated};

/// Opsgenie's limit for messages.
const MESSAGE_CHARS_MAX: usize = 130;

/// What to send.
pub async fn calls(config: &OpsgenieConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let key = message.text(&secret_of(&config.api_key, &config.api_key_file).await?);
    let base = config.api_url.as_ref().ok_or("no Opsgenie URL")?.url();
    let alias = message.key_hash();
    let mut calls = if message.is_firing() {
        create(config, message, base, &alias)?
    } else {
        let mut url = join(base, &format!("v2/alerts/{alias}/close"))?;
        url.set_query(Some("identifierType=alias"));
        vec![Call::json(url, &json!({ "source": message.text(&config.source) }))]
    };
    for call in &mut calls {
        call.headers.push(("authorization", format!("GenieKey {}", key.trim())));
    }
    Ok(calls)
}

fn join(base: &Url, path: &str) -> Result<Url, String> {
    base.join(path).map_err(|error| error.to_string())
}

fn create(config: &OpsgenieConfig, message: &Message<'_>, base: &Url, alias: &str) -> Result<Vec<Call>, String> {
    let text = truncated(&message.text(&config.message), MESSAGE_CHARS_MAX);
    let description = message.text(&config.description);
    let mut details: Map<String, Value> =
        message.data.common().0.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    details.extend(config.details.iter().map(|(name, value)| (name.clone(), json!(message.text(value)))));
    let mut body = Map::new();
    body.insert("alias".to_owned(), json!(alias));
    body.insert("message".to_owned(), json!(text));
    put(&mut body, "description", description.clone());
    body.insert("details".to_owned(), Value::Object(details));
    body.insert("source".to_owned(), json!(message.text(&config.source)));
    put_list(&mut body, "responders", responders(config, message));
    put_list(&mut body, "tags", split(&message.text(&config.tags)).map(Value::String).collect());
    put(&mut body, "note", message.text(&config.note));
    put(&mut body, "priority", message.text(&config.priority));
    put(&mut body, "entity", message.text(&config.entity));
    put_list(&mut body, "actions", split(&message.text(&config.actions)).map(Value::String).collect());
    let mut calls = vec![Call::json(join(base, "v2/alerts")?, &Value::Object(body))];
    if config.update_alerts {
        for (field, text) in [("message", text), ("description", description)] {
            let mut url = join(base, &format!("v2/alerts/{alias}/{field}"))?;
            url.set_query(Some("identifierType=alias"));
            let body = if text.is_empty() { json!({}) } else { json!({ field: text }) };
            calls.push(Call { method: Method::PUT, ..Call::json(url, &body) });
        }
    }
    Ok(calls)
}

fn put(body: &mut Map<String, Value>, name: &str, text: String) {
    if !text.is_empty() {
        body.insert(name.to_owned(), Value::String(text));
    }
}

fn put_list(body: &mut Map<String, Value>, name: &str, items: Vec<Value>) {
    if !items.is_empty() {
        body.insert(name.to_owned(), Value::Array(items));
    }
}

fn split(text: &str) -> impl Iterator<Item = String> {
    text.trim().split(',').filter(|part| !part.is_empty()).map(str::to_owned)
}

fn responders(config: &OpsgenieConfig, message: &Message<'_>) -> Vec<Value> {
    let mut out = Vec::new();
    for responder in &config.responders {
        let kind = message.text(&responder.r#type);
        let name = message.text(&responder.name);
        if kind == "teams" {
            out.extend(split(&name).map(|team| json!({ "name": team, "type": "team" })));
            continue;
        }
        let mut one = Map::new();
        put(&mut one, "id", message.text(&responder.id));
        put(&mut one, "name", name);
        put(&mut one, "username", message.text(&responder.username));
        if !one.is_empty() {
            one.insert("type".to_owned(), json!(kind));
            out.push(Value::Object(one));
        }
    }
    out
}
