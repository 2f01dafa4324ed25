//! Pushover, VictorOps, incident.io.
//!
//! Source: alertmanager notify/pushover, victorops, incidentio.

use promesh_config::alertmanager::{IncidentioConfig, PushoverConfig, VictoropsConfig};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use crate::call::{Call, secret_of, url_of};
use crate::message::{Message, truncated};
use crate::webhook;

/// Where Pushover takes messages.
const PUSHOVER: &str = "https://api.pushover.net/1/messages.json";

/// Pushover: a form.
pub async fn pushover(config: &PushoverConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let token = message.text(&secret_of(&config.token, &config.token_file).await?);
    let user = message.text(&secret_of(&config.user_key, &config.user_key_file).await?);
    let text = if config.html { message.html(&config.message) } else { message.text(&config.message) };
    let text = truncated(&text, 1024);
    let text = if text.trim().is_empty() { "(no details)" } else { text.trim() };
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("token", &token).append_pair("user", &user);
    form.append_pair("title", &truncated(&message.text(&config.title), 250));
    if config.html {
        form.append_pair("html", "1");
    }
    if config.monospace {
        form.append_pair("monospace", "1");
    }
    form.append_pair("message", text);
    form.append_pair("url", &truncated(&message.text(&config.url), 512));
    form.append_pair("url_title", &message.text(&config.url_title));
    form.append_pair("priority", &message.text(&config.priority));
    form.append_pair("retry", &config.retry.0.as_secs().to_string());
    form.append_pair("expire", &config.expire.0.as_secs().to_string());
    form.append_pair("device", &message.text(&config.device));
    form.append_pair("sound", &message.text(&config.sound));
    if !config.ttl.0.is_zero() {
        form.append_pair("ttl", &config.ttl.0.as_secs().to_string());
    }
    Ok(vec![Call::text(url_of(PUSHOVER)?, "application/x-www-form-urlencoded", form.finish())])
}

/// VictorOps: the key and the routing key stand in the path.
pub async fn victorops(config: &VictoropsConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let key = secret_of(&config.api_key, &config.api_key_file).await?;
    let base = config.api_url.as_ref().ok_or("no VictorOps URL")?.url();
    let path = format!("{key}/{}", message.text(&config.routing_key));
    let url = base.join(&path).map_err(|_| "the VictorOps URL does not take this routing key".to_owned())?;
    let kind = if message.is_firing() { message.text(&config.message_type) } else { "RECOVERY".to_owned() };
    let mut body: Map<String, Value> =
        config.custom_fields.iter().map(|(name, value)| (name.clone(), json!(message.text(value)))).collect();
    body.insert("message_type".to_owned(), json!(kind));
    body.insert("entity_id".to_owned(), json!(message.key_hash()));
    body.insert("entity_display_name".to_owned(), json!(message.text(&config.entity_display_name)));
    body.insert("monitoring_tool".to_owned(), json!(message.text(&config.monitoring_tool)));
    body.insert("state_message".to_owned(), json!(truncated(&message.text(&config.state_message), 20_480)));
    Ok(vec![Call::json(url, &Value::Object(body))])
}

/// The longest message that incident.io takes.
const INCIDENTIO_BYTES_MAX: usize = 512 << 10;

/// incident.io: Alertmanager's own message in a version of its own. One that is longer than the service takes keeps its first alert.
pub async fn incidentio(config: &IncidentioConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let url = match &config.url {
        Some(url) => url.url().clone(),
        None => url_of(&secret_of(&promesh_model::Secret::default(), &config.url_file).await?)?,
    };
    let (mut body, left_out) = webhook::body("1", config.max_alerts, message);
    if body.len() > INCIDENTIO_BYTES_MAX {
        body = webhook::body_of("1", 1, left_out, message);
    }
    let mut call = Call::text(url, "application/json", body);
    let token = secret_of(&config.alert_source_token, &config.alert_source_token_file).await?;
    if !token.is_empty() {
        call.headers.push(("authorization", format!("Bearer {token}")));
    }
    Ok(vec![call])
}
