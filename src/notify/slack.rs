//! Slack: one attachment, by an incoming webhook or a bot's token; later news may change the first message.
//!
//! Source: alertmanager notify/slack; <https://api.slack.com/reference/messaging/attachments>.

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode, header};
use promesh_config::alertmanager::SlackConfig;
use serde_json::{Map, Value, json};

use crate::call::{self, Call, CallError, secret_of, url_of};
use crate::message::{Message, truncated};

/// Slack's limit for titles.
const TITLE_CHARS_MAX: usize = 1024;
/// Where a message is changed.
const UPDATE: &str = "https://slack.com/api/chat.update";

/// What to send.
pub async fn calls(config: &SlackConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let url = secret_of(&config.api_url.0, &config.api_url_file).await?;
    let mut body = Map::new();
    put(&mut body, "channel", message.text(&config.channel));
    put(&mut body, "username", message.text(&config.username));
    put(&mut body, "icon_emoji", message.text(&config.icon_emoji));
    put(&mut body, "icon_url", message.text(&config.icon_url));
    if config.link_names {
        body.insert("link_names".to_owned(), Value::Bool(true));
    }
    put(&mut body, "text", message.text(&config.message_text));
    body.insert("attachments".to_owned(), json!([attachment(config, message)]));
    let sent = &message.notification.data;
    let url = match (config.update_message, sent.get("threadTs"), sent.get("channelId")) {
        (true, Some(thread), Some(channel)) => {
            body.insert("ts".to_owned(), json!(thread));
            body.insert("channel".to_owned(), json!(channel));
            url_of(UPDATE)?
        }
        _ => url_of(&url)?,
    };
    Ok(vec![Call::json(url, &Value::Object(body))])
}

fn put(body: &mut Map<String, Value>, name: &str, text: String) {
    if !text.is_empty() {
        body.insert(name.to_owned(), Value::String(text));
    }
}

fn attachment(config: &SlackConfig, message: &Message<'_>) -> Value {
    let mut out = Map::new();
    put(&mut out, "title", truncated(&message.text(&config.title), TITLE_CHARS_MAX));
    put(&mut out, "title_link", message.text(&config.title_link));
    put(&mut out, "pretext", message.text(&config.pretext));
    out.insert("text".to_owned(), json!(message.text(&config.text)));
    out.insert("fallback".to_owned(), json!(message.text(&config.fallback)));
    out.insert("callback_id".to_owned(), json!(message.text(&config.callback_id)));
    let fields = config.fields.iter().map(|field| {
        json!({
            "title": message.text(&field.title),
            "value": message.text(&field.value),
            "short": field.short.unwrap_or(config.short_fields),
        })
    });
    let fields: Vec<Value> = fields.collect();
    if !fields.is_empty() {
        out.insert("fields".to_owned(), Value::Array(fields));
    }
    let actions: Vec<Value> = config.actions.iter().map(|action| self::action(action, message)).collect();
    if !actions.is_empty() {
        out.insert("actions".to_owned(), Value::Array(actions));
    }
    put(&mut out, "image_url", message.text(&config.image_url));
    put(&mut out, "thumb_url", message.text(&config.thumb_url));
    out.insert("footer".to_owned(), json!(message.text(&config.footer)));
    put(&mut out, "color", message.text(&config.color));
    let markdown =
        if config.mrkdwn_in.is_empty() { json!(["fallback", "pretext", "text"]) } else { json!(config.mrkdwn_in) };
    out.insert("mrkdwn_in".to_owned(), markdown);
    Value::Object(out)
}

fn action(action: &promesh_config::alertmanager::SlackAction, message: &Message<'_>) -> Value {
    let mut out = Map::new();
    put(&mut out, "type", message.text(&action.r#type));
    put(&mut out, "text", message.text(&action.text));
    put(&mut out, "url", message.text(&action.url));
    put(&mut out, "style", message.text(&action.style));
    put(&mut out, "name", message.text(&action.name));
    put(&mut out, "value", message.text(&action.value));
    if let Some(confirm) = &action.confirm {
        let mut asks = Map::new();
        put(&mut asks, "text", message.text(&confirm.text));
        put(&mut asks, "title", message.text(&confirm.title));
        put(&mut asks, "ok_text", message.text(&confirm.ok_text));
        put(&mut asks, "dismiss_text", message.text(&confirm.dismiss_text));
        out.insert("confirm".to_owned(), Value::Object(asks));
    }
    Value::Object(out)
}

/// Slack answers 200 also to what it does not take.
///
/// # Errors
/// `Refused` with Slack's reason; `Retry` where its limits or outages ask for it.
pub fn check(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<BTreeMap<String, String>, CallError> {
    call::check(status, headers, body)?;
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/json"));
    if !is_json {
        let taken = body == b"ok";
        let why = format!("received an error response from Slack{}", call::told(body));
        return if taken { Ok(BTreeMap::new()) } else { Err(CallError::Refused { why }) };
    }
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return Err(CallError::Retry {
            after: None,
            why: format!("could not unmarshal JSON response{}", call::told(body)),
        });
    };
    if answer["ok"] != true {
        let reason = answer["error"].as_str().unwrap_or("unknown").to_owned();
        let passes =
            matches!(reason.as_str(), "ratelimited" | "rate_limited" | "service_unavailable" | "internal_error");
        let why = format!("error response from Slack: {reason}");
        return Err(if passes {
            CallError::Retry { after: call::retry_after(headers), why }
        } else {
            CallError::Refused { why }
        });
    }
    let mut data = BTreeMap::new();
    if let (Some(thread), Some(channel)) = (answer["ts"].as_str(), answer["channel"].as_str()) {
        data.insert("threadTs".to_owned(), thread.to_owned());
        data.insert("channelId".to_owned(), channel.to_owned());
    }
    Ok(data)
}
