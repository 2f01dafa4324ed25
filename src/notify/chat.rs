//! Chats that take one JSON message.
//!
//! Source: alertmanager notify/discord, msteams, msteamsv2, telegram, webex, mattermost, rocketchat.

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode};
use promesh_config::alertmanager::{
    DiscordConfig, MattermostAttachment, MattermostConfig, MattermostField, MattermostPriority, MsTeamsConfig,
    MsTeamsV2Config, RocketchatConfig, TelegramConfig, WebexConfig,
};
use promesh_model::Secret;
use serde_json::{Map, Value, json};

use crate::call::{self, Call, CallError, secret_of, url_of};
use crate::message::{Message, truncated};

fn put(body: &mut Map<String, Value>, name: &str, text: String) {
    if !text.is_empty() {
        body.insert(name.to_owned(), Value::String(text));
    }
}

/// Discord: one embed.
pub async fn discord(config: &DiscordConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let url = url_of(&secret_of(&config.webhook_url.0, &config.webhook_url_file).await?)?;
    let color = if message.is_firing() { 0x99_2d22 } else { 0x2e_cc71 };
    let mut body = Map::new();
    body.insert("content".to_owned(), json!(truncated(&message.text(&config.content), 2000)));
    let embed = json!({
        "title": truncated(&message.text(&config.title), 256),
        "description": truncated(&message.text(&config.message), 4096),
        "color": color,
    });
    body.insert("embeds".to_owned(), json!([embed]));
    put(&mut body, "username", config.username.clone());
    if url::Url::parse(&config.avatar_url).is_ok() {
        put(&mut body, "avatar_url", config.avatar_url.clone());
    }
    Ok(vec![Call::json(url, &Value::Object(body))])
}

/// Microsoft Teams by a connector.
pub async fn msteams(config: &MsTeamsConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let url = url_of(&secret_of(&config.webhook_url.0, &config.webhook_url_file).await?)?;
    let body = json!({
        "@context": "http://schema.org/extensions",
        "type": "MessageCard",
        "title": message.text(&config.title),
        "summary": message.text(&config.summary),
        "text": message.text(&config.text),
        "themeColor": if message.is_firing() { "8C1A1A" } else { "2DC72D" },
    });
    Ok(vec![Call::json(url, &body)])
}

/// Microsoft Teams by a workflow: an adaptive card.
pub async fn msteamsv2(config: &MsTeamsV2Config, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let url = url_of(&secret_of(&config.webhook_url.0, &config.webhook_url_file).await?)?;
    let title = json!({
        "type": "TextBlock",
        "text": message.text(&config.title),
        "weight": "Bolder",
        "size": "Medium",
        "wrap": true,
        "style": "heading",
        "color": if message.is_firing() { "Attention" } else { "Good" },
    });
    let text = json!({ "type": "TextBlock", "text": message.text(&config.text), "wrap": true });
    let card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.2",
        "body": [title, text],
        "msteams": { "width": "full" },
    });
    let attachment = json!({
        "contentType": "application/vnd.microsoft.card.adaptive",
        "contentUrl": null,
        "content": card,
    });
    Ok(vec![Call::json(url, &json!({ "type": "message", "attachments": [attachment] }))])
}

/// Telegram's limit for messages.
const TELEGRAM_CHARS_MAX: usize = 4096;

/// Telegram: `sendMessage`.
pub async fn telegram(config: &TelegramConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let token = secret_of(&config.bot_token, &config.bot_token_file).await?;
    let chat = match config.chat_id {
        0 => secret_of(&Secret::default(), &config.chat_id_file).await?,
        id => id.to_string(),
    };
    let base = config.api_url.as_ref().ok_or("no Telegram URL")?.url();
    let url = url_of(&format!("{}/bot{token}/sendMessage", base.as_str().trim_end_matches('/')))?;
    let text = if config.parse_mode == "HTML" {
        // A cut through a tag would be refused.
        let text = message.html(&config.message);
        let too_long = text.chars().count() > TELEGRAM_CHARS_MAX;
        if too_long { "The alert's text is longer than Telegram takes: check its template.".to_owned() } else { text }
    } else {
        truncated(&message.text(&config.message), TELEGRAM_CHARS_MAX)
    };
    let mut body = Map::new();
    body.insert("chat_id".to_owned(), json!(chat));
    body.insert("text".to_owned(), json!(text));
    // Texts, as upstream's client sends every parameter.
    body.insert("disable_web_page_preview".to_owned(), json!("true"));
    if config.disable_notifications {
        body.insert("disable_notification".to_owned(), json!("true"));
    }
    if config.message_thread_id != 0 {
        body.insert("message_thread_id".to_owned(), json!(config.message_thread_id.to_string()));
    }
    put(&mut body, "parse_mode", config.parse_mode.clone());
    Ok(vec![Call::json(url, &Value::Object(body))])
}

/// Telegram says in the body how long to wait.
///
/// # Errors
/// As [`call::check`].
pub fn check_telegram(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<BTreeMap<String, String>, CallError> {
    call::check(status, headers, body).map_err(|error| match error {
        CallError::Retry { after, why } => {
            let answer = serde_json::from_slice::<Value>(body).unwrap_or_default();
            let asked = answer["parameters"]["retry_after"].as_u64().map(std::time::Duration::from_secs);
            CallError::Retry { after: asked.or(after), why }
        }
        other => other,
    })
}

/// Webex: Markdown into a room.
pub async fn webex(config: &WebexConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let url = config.api_url.as_ref().ok_or("no Webex URL")?.url().clone();
    let mut text = message.text(&config.message);
    // Webex counts bytes.
    let mut most = text.len().min(7439);
    while !text.is_char_boundary(most) {
        most -= 1;
    }
    text.truncate(most);
    Ok(vec![Call::json(url, &json!({ "markdown": text, "roomId": message.text(&config.room_id) }))])
}

/// Mattermost: one attachment of the receiver's own fields, or those that it lists.
pub async fn mattermost(config: &MattermostConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let url = url_of(&secret_of(&config.webhook_url.0, &config.webhook_url_file).await?)?;
    let text = |text: &str| message.text(text);
    let mut body = Map::new();
    put(&mut body, "channel", text(&config.channel));
    put(&mut body, "username", text(&config.username));
    put(&mut body, "icon_url", text(&config.icon_url));
    put(&mut body, "icon_emoji", text(&config.icon_emoji));
    put(&mut body, "type", text(&config.r#type));
    if let Some(props) = config.props.as_ref().filter(|props| !props.card.is_empty()) {
        body.insert("props".to_owned(), json!({ "card": text(&props.card) }));
    }
    if let Some(priority) = config.priority.as_ref().filter(|priority| !priority.priority.is_empty()) {
        body.insert("priority".to_owned(), mattermost_priority(priority, message));
    }
    if !config.attachments.is_empty() {
        put(&mut body, "text", truncated(&text(&config.text), MATTERMOST_CHARS_MAX));
    }
    let own = MattermostAttachment {
        fallback: config.fallback.clone(),
        color: config.color.clone(),
        pretext: config.pretext.clone(),
        text: config.text.clone(),
        author_name: config.author_name.clone(),
        author_link: config.author_link.clone(),
        author_icon: config.author_icon.clone(),
        title: config.title.clone(),
        title_link: config.title_link.clone(),
        fields: config.fields.clone(),
        thumb_url: config.thumb_url.clone(),
        footer: config.footer.clone(),
        footer_icon: config.footer_icon.clone(),
        image_url: config.image_url.clone(),
    };
    let listed = if config.attachments.is_empty() { std::slice::from_ref(&own) } else { &config.attachments[..] };
    let attachments: Vec<Value> = listed.iter().map(|one| mattermost_attachment(one, message)).collect();
    body.insert("attachments".to_owned(), Value::Array(attachments));
    Ok(vec![Call::json(url, &Value::Object(body))])
}

/// The longest text that Mattermost takes, in characters.
const MATTERMOST_CHARS_MAX: usize = 16_383;

/// A priority that Mattermost knows, with those wishes that it grants to such: others would make it refuse the message.
fn mattermost_priority(priority: &MattermostPriority, message: &Message<'_>) -> Value {
    let named = message.text(&priority.priority).to_lowercase();
    let level = if matches!(named.as_str(), "urgent" | "important") { named } else { "standard".to_owned() };
    let mut out = Map::new();
    if priority.requested_ack && level != "standard" {
        out.insert("requested_ack".to_owned(), Value::Bool(true));
    }
    if priority.persistent_notifications && level == "urgent" {
        out.insert("persistent_notifications".to_owned(), Value::Bool(true));
    }
    out.insert("priority".to_owned(), Value::String(level));
    Value::Object(out)
}

fn mattermost_attachment(config: &MattermostAttachment, message: &Message<'_>) -> Value {
    let mut out = Map::new();
    let fields = [
        ("fallback", &config.fallback),
        ("color", &config.color),
        ("pretext", &config.pretext),
        ("text", &config.text),
        ("author_name", &config.author_name),
        ("author_link", &config.author_link),
        ("author_icon", &config.author_icon),
        ("title", &config.title),
        ("title_link", &config.title_link),
        ("thumb_url", &config.thumb_url),
        ("footer", &config.footer),
        ("footer_icon", &config.footer_icon),
        ("image_url", &config.image_url),
    ];
    for (name, value) in fields {
        put(&mut out, name, message.text(value));
    }
    let field = |field: &MattermostField| {
        let mut out = Map::new();
        put(&mut out, "title", message.text(&field.title));
        put(&mut out, "value", message.text(&field.value));
        if let Some(short) = field.short {
            out.insert("short".to_owned(), Value::Bool(short));
        }
        Value::Object(out)
    };
    let fields: Vec<Value> = config.fields.iter().map(field).collect();
    if !fields.is_empty() {
        out.insert("fields".to_owned(), Value::Array(fields));
    }
    Value::Object(out)
}

/// Rocket.Chat: `chat.postMessage` with one attachment.
pub async fn rocketchat(config: &RocketchatConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let base = config.api_url.as_ref().ok_or("no Rocket.Chat URL")?.url();
    let url = base.join("api/v1/chat.postMessage").map_err(|error| error.to_string())?;
    let none = Secret::default();
    let token = secret_of(config.token.as_ref().unwrap_or(&none), &config.token_file).await?;
    let token_id = secret_of(config.token_id.as_ref().unwrap_or(&none), &config.token_id_file).await?;
    let text = |text: &str| message.text(text);
    let mut attachment = Map::new();
    put(&mut attachment, "title", truncated(&text(&config.title), 1024));
    put(&mut attachment, "title_link", text(&config.title_link));
    put(&mut attachment, "text", text(&config.text));
    put(&mut attachment, "image_url", text(&config.image_url));
    put(&mut attachment, "thumb_url", text(&config.thumb_url));
    put(&mut attachment, "color", text(&config.color));
    let fields = config.fields.iter().map(|field| {
        json!({
            "short": field.short.unwrap_or(config.short_fields),
            "title": text(&field.title),
            "value": text(&field.value),
        })
    });
    let fields: Vec<Value> = fields.collect();
    if !fields.is_empty() {
        attachment.insert("fields".to_owned(), Value::Array(fields));
    }
    let actions = config.actions.iter().map(|action| {
        // Upstream sends these four, and its two switches as they are not.
        let (kind, shown, url, msg) = (text(&action.r#type), text(&action.text), text(&action.url), text(&action.msg));
        let mut out = Map::new();
        put(&mut out, "type", kind);
        put(&mut out, "text", shown);
        put(&mut out, "url", url);
        out.insert("is_webview".to_owned(), Value::Bool(false));
        put(&mut out, "msg", msg);
        out.insert("msg_in_chat_window".to_owned(), Value::Bool(false));
        Value::Object(out)
    });
    let actions: Vec<Value> = actions.collect();
    if !actions.is_empty() {
        attachment.insert("actions".to_owned(), Value::Array(actions));
    }
    let mut body = Map::new();
    put(&mut body, "channel", text(&config.channel));
    put(&mut body, "emoji", text(&config.emoji));
    put(&mut body, "avatar", text(&config.icon_url));
    body.insert("attachments".to_owned(), json!([attachment]));
    let mut call = Call::json(url, &Value::Object(body));
    call.headers.push(("x-auth-token", token));
    call.headers.push(("x-user-id", token_id));
    Ok(vec![call])
}

/// Rocket.Chat answers 200 also to what it does not take.
///
/// # Errors
/// As [`call::check`], and `Refused` with its reason.
pub fn check_rocketchat(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<BTreeMap<String, String>, CallError> {
    call::check(status, headers, body)?;
    match serde_json::from_slice::<Value>(body) {
        Ok(answer) if answer["success"] == false => {
            let why = format!("error response from Rocket.Chat: {}", answer["error"].as_str().unwrap_or("unknown"));
            Err(CallError::Refused { why })
        }
        _ => Ok(BTreeMap::new()),
    }
}
