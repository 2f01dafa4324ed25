//! WeChat Work: a token first, then the message.
//!
//! Source: alertmanager notify/wechat; <https://developer.work.weixin.qq.com/document/path/90236>.

use std::collections::BTreeMap;

use http::{HeaderMap, Method, StatusCode};
use promesh_client::Gate;
use promesh_config::alertmanager::WechatConfig;
use serde_json::{Value, json};

use crate::call::{self, Call, CallError, secret_of};
use crate::message::Message;
use crate::talk::Talk;

/// The token has expired; the next attempt takes a new one.
const TOKEN_EXPIRED: i64 = 42_001;

/// Tells.
pub async fn deliver(
    config: &WechatConfig,
    message: &Message<'_>,
    talk: &Talk<'_>,
    lease: Gate,
) -> Result<BTreeMap<String, String>, CallError> {
    let refused = |why: String| CallError::Refused { why };
    let secret = secret_of(&config.api_secret, &config.api_secret_file).await.map_err(refused)?;
    let base = config.api_url.as_ref().map(|url| url.url().clone()).ok_or_else(|| refused("no api_url".to_owned()))?;
    let mut url = base.join("gettoken").map_err(|error| refused(error.to_string()))?;
    let corp = message.text(&config.corp_id);
    url.query_pairs_mut().append_pair("corpid", &corp).append_pair("corpsecret", &message.text(&secret));
    let mut ask = Call::text(url, "application/json", String::new());
    ask.method = Method::GET;
    let answer = talk.say(ask, None, token).await?;
    let Some(token) = answer.get("token") else {
        return Err(refused(format!("invalid APISecret for CorpID: {corp}")));
    };
    let mut url = base.join("message/send").map_err(|error| refused(error.to_string()))?;
    url.query_pairs_mut().append_pair("access_token", token);
    talk.say(Call::json(url, &body(config, message)), Some(lease), check).await
}

fn body(config: &WechatConfig, message: &Message<'_>) -> Value {
    let content = json!({"content": message.text(&config.message)});
    let empty = json!({"content": ""});
    let kind = message.text(&config.message_type);
    let (text, markdown) = if kind == "markdown" { (empty, content) } else { (content, empty) };
    let mut body = json!({"text": text, "msgtype": kind, "safe": "0", "markdown": markdown});
    let targets = [
        ("touser", &config.to_user),
        ("toparty", &config.to_party),
        ("totag", &config.to_tag),
        ("agentid", &config.agent_id),
    ];
    for (name, text) in targets {
        let text = message.text(text);
        if !text.is_empty() {
            body[name] = json!(text);
        }
    }
    body
}

fn token(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<BTreeMap<String, String>, CallError> {
    call::check(status, headers, body)?;
    let answer: Value = serde_json::from_slice(body)
        .map_err(|_| CallError::Refused { why: format!("the token's answer is no JSON{}", call::told(body)) })?;
    let token = answer["access_token"].as_str().filter(|token| !token.is_empty());
    Ok(token.map(|token| ("token".to_owned(), token.to_owned())).into_iter().collect())
}

/// WeChat answers 200 also to what it does not take.
fn check(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<BTreeMap<String, String>, CallError> {
    if status != StatusCode::OK {
        let why = format!("unexpected status code {}{}", status.as_u16(), call::told(body));
        return Err(CallError::Retry { after: call::retry_after(headers), why });
    }
    let Ok(answer) = serde_json::from_slice::<Value>(body) else {
        return Err(CallError::Retry { after: None, why: format!("the answer is no JSON{}", call::told(body)) });
    };
    let why = answer["errmsg"].as_str().unwrap_or("unknown").to_owned();
    match answer["errcode"].as_i64().unwrap_or(0) {
        0 => Ok(BTreeMap::new()),
        TOKEN_EXPIRED => Err(CallError::Retry { after: None, why }),
        _ => Err(CallError::Refused { why }),
    }
}
