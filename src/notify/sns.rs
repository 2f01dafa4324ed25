//! Amazon SNS: one `Publish` to a topic, a phone or an endpoint.
//!
//! Source: alertmanager notify/sns; <https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>.

use std::collections::BTreeMap;

use promesh_client::Request;
use promesh_client::aws::{self, AwsKey};
use promesh_config::alertmanager::SnsConfig;
use promesh_model::Secret;
use url::form_urlencoded;

use crate::call::{Call, url_of};
use crate::message::{Message, truncated};

/// SNS takes no longer message to a topic or endpoint.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Nor a longer one to a phone.
const SMS_CHARS_MAX: usize = 1600;
const FORM: &str = "application/x-www-form-urlencoded";

/// What to send.
pub async fn calls(config: &SnsConfig, message: &Message<'_>) -> Result<Vec<Call>, String> {
    let keys = &config.sigv4;
    for (name, given) in [("profile", &keys.profile), ("role_arn", &keys.role_arn), ("external_id", &keys.external_id)]
    {
        if !given.is_empty() {
            return Err(format!(
                "sigv4.{name} is not built: give access_key and secret_key, or the environment's keys"
            ));
        }
    }
    let key = credentials(config)?;
    let url = endpoint(config, message)?;
    let region = region_of(config)?;
    let service = if keys.service_name.is_empty() { "sns" } else { &keys.service_name };
    let mut call = Call::text(url.clone(), FORM, form(config, message));
    let mut request = Request::post(url, FORM, call.body.clone());
    aws::sign(&mut request, &key, (&region, service), message.notification.now)?;
    for name in ["x-amz-date", "x-amz-security-token", "authorization"] {
        let value = request.headers.get(name).and_then(|value| value.to_str().ok());
        call.headers.extend(value.map(|value| (name, value.to_owned())));
    }
    Ok(vec![call])
}

/// The configured keys, or the environment's.
fn credentials(config: &SnsConfig) -> Result<AwsKey, String> {
    let keys = &config.sigv4;
    if !keys.access_key.is_empty() {
        return Ok(AwsKey { id: keys.access_key.clone(), secret: keys.secret_key.clone(), token: Secret::default() });
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => Ok(AwsKey {
            id,
            secret: Secret::new(secret),
            token: variable("AWS_SESSION_TOKEN").map(Secret::new).unwrap_or_default(),
        }),
        _ => Err("no keys: set sigv4.access_key and sigv4.secret_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY \
                  in the environment"
            .to_owned()),
    }
}

fn region_of(config: &SnsConfig) -> Result<String, String> {
    if !config.sigv4.region.is_empty() {
        return Ok(config.sigv4.region.clone());
    }
    let region = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| std::env::var(name).ok());
    region.filter(|region| !region.is_empty()).ok_or_else(|| "no region: set sigv4.region".to_owned())
}

fn endpoint(config: &SnsConfig, message: &Message<'_>) -> Result<url::Url, String> {
    let given = message.text(&config.api_url);
    if !given.is_empty() {
        return url_of(&given);
    }
    let region = region_of(config)?;
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    url_of(&format!("https://sns.{region}.{domain}/"))
}

fn form(config: &SnsConfig, message: &Message<'_>) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", "Publish").append_pair("Version", "2010-03-31");
    let mut sms = false;
    if !config.topic_arn.is_empty() {
        let topic = message.text(&config.topic_arn);
        form.append_pair("TopicArn", &topic);
        if topic.ends_with(".fifo") {
            // The message's own name: by the group's, as upstream has it, an end within five minutes would be dropped.
            form.append_pair("MessageDeduplicationId", &message.notification.idempotency_key);
            form.append_pair("MessageGroupId", &message.key_hash());
        }
    }
    if !config.phone_number.is_empty() {
        form.append_pair("PhoneNumber", &message.text(&config.phone_number));
        sms = true;
    }
    if !config.target_arn.is_empty() {
        form.append_pair("TargetArn", &message.text(&config.target_arn));
    }
    let whole = message.text(&config.message);
    let text = if sms { truncated(&whole, SMS_CHARS_MAX) } else { truncated_bytes(&whole, MESSAGE_BYTES_MAX) };
    let mut attributes: BTreeMap<String, String> =
        config.attributes.iter().map(|(name, value)| (message.text(name), message.text(value))).collect();
    if text != whole {
        attributes.insert("truncated".to_owned(), "true".to_owned());
    }
    form.append_pair("Message", &text);
    if !config.subject.is_empty() {
        form.append_pair("Subject", &message.text(&config.subject));
    }
    for (at, (name, value)) in attributes.iter().enumerate() {
        let entry = format!("MessageAttributes.entry.{}", at + 1);
        form.append_pair(&format!("{entry}.Name"), name);
        form.append_pair(&format!("{entry}.Value.DataType"), "String");
        form.append_pair(&format!("{entry}.Value.StringValue"), value);
    }
    form.finish()
}

fn truncated_bytes(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max - '…'.len_utf8()).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}
