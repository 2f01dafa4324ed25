//! Jira: one issue a group, found again by a label, updated, reopened and resolved.
//!
//! Source: alertmanager notify/jira; <https://developer.atlassian.com/cloud/jira/platform/rest/v2/>.

use std::collections::BTreeMap;

use http::{HeaderMap, Method, StatusCode};
use promesh_client::Gate;
use promesh_config::alertmanager::JiraConfig;
use promesh_config::yaml::Node;
use serde_json::{Map, Value, json};
use url::Url;

use crate::call::{self, Call, CallError};
use crate::message::{Message, truncated};
use crate::talk::Talk;
use crate::webhook;

const SUMMARY_CHARS_MAX: usize = 255;
const DESCRIPTION_CHARS_MAX: usize = 32_767;

/// An issue that stands for the group.
struct Issue {
    key: String,
    done: bool,
}

/// Tells.
pub async fn deliver(
    config: &JiraConfig,
    message: &Message<'_>,
    talk: &Talk<'_>,
    lease: Gate,
) -> Result<BTreeMap<String, String>, CallError> {
    let base = config.api_url.as_ref().map(|url| url.url().clone());
    let base = base.ok_or_else(|| CallError::Refused { why: "no api_url".to_owned() })?;
    let (url, search) = search(config, message, &base)?;
    let found = talk.say(with_language(Call::json(url, &search)), None, first_issue).await?;
    let issue = found.get("key").map(|key| Issue { key: key.clone(), done: found.contains_key("done") });
    let firing = message.is_firing();
    let Some(issue) = issue else {
        if firing {
            let call = Call::json(join(&base, &["issue"])?, &body(config, message, &base, true)?);
            talk.say(with_language(call), Some(lease), call::check).await?;
        }
        // What ended before anybody wrote it down needs no issue.
        return Ok(BTreeMap::new());
    };
    let mut call = Call::json(join(&base, &["issue", &issue.key])?, &body(config, message, &base, false)?);
    call.method = Method::PUT;
    talk.say(with_language(call), Some(lease), call::check).await?;
    let wanted = match (firing, issue.done) {
        (true, true) => &config.reopen_transition,
        (false, false) => &config.resolve_transition,
        _ => return Ok(BTreeMap::new()),
    };
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    transition(&base, &issue, wanted, talk).await?;
    Ok(BTreeMap::new())
}

async fn transition(base: &Url, issue: &Issue, wanted: &str, talk: &Talk<'_>) -> Result<(), CallError> {
    let url = join(base, &["issue", &issue.key, "transitions"])?;
    let mut list = Call::text(url.clone(), "application/json", String::new());
    list.method = Method::GET;
    let known = talk.say(with_language(list), None, transitions).await?;
    let Some(id) = known.get(wanted) else {
        return Err(CallError::Refused { why: format!("can't find transition {wanted} for issue {}", issue.key) });
    };
    let call = Call::json(url, &json!({"transition": {"id": id}}));
    talk.say(with_language(call), None, call::check).await.map(drop)
}

fn with_language(mut call: Call) -> Call {
    // Names of transitions come in the language that is asked for.
    call.headers.push(("accept-language", "en".to_owned()));
    call
}

fn join(base: &Url, parts: &[&str]) -> Result<Url, CallError> {
    let mut url = base.clone();
    match url.path_segments_mut() {
        Ok(mut path) => drop(path.pop_if_empty().extend(parts)),
        Err(()) => return Err(CallError::Refused { why: "api_url cannot be a base".to_owned() }),
    }
    Ok(url)
}

/// The query for the group's issue, and where it is asked.
fn search(config: &JiraConfig, message: &Message<'_>, base: &Url) -> Result<(Url, Value), CallError> {
    let mut jql = String::new();
    if !config.wont_fix_resolution.is_empty() {
        jql.push_str(&format!("resolution != {} and ", quoted(&message.text(&config.wont_fix_resolution))));
    }
    let minutes = config.reopen_duration.as_secs() / 60;
    if message.is_firing() && !config.reopen_transition.is_empty() && minutes > 0 {
        jql.push_str(&format!("(resolutiondate is EMPTY OR resolutiondate >= -{minutes}m) and "));
    } else {
        jql.push_str("statusCategory != Done and ");
    }
    let (project, label) = (message.text(&config.project), label(message));
    jql.push_str(&format!(
        "project={} and labels={} order by status ASC,resolutiondate DESC",
        quoted(&project),
        quoted(&label)
    ));
    let cloud = config.api_type == "cloud"
        || config.api_type == "auto" && base.host_str().is_some_and(|host| host.ends_with("atlassian.net"));
    let url = if cloud {
        let url = join(base, &["search", "jql"])?;
        let path = url.path().replacen("/2", "/3", 1);
        let mut url = url;
        url.set_path(&path);
        url
    } else {
        join(base, &["search"])?
    };
    Ok((url, json!({"jql": jql, "maxResults": 2, "fields": ["status"]})))
}

/// A text in JQL's quotes.
fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn label(message: &Message<'_>) -> String {
    format!("ALERT{{{}}}", message.key_hash())
}

fn body(config: &JiraConfig, message: &Message<'_>, base: &Url, new: bool) -> Result<Value, CallError> {
    let mut fields: Map<String, Value> = Map::new();
    for (name, value) in &config.fields {
        let value = value.0.as_ref().map_or(Value::Null, |node: &Node| webhook::rendered(node, message));
        fields.insert(name.clone(), value);
    }
    fields.insert("project".to_owned(), json!({"key": message.text(&config.project)}));
    fields.insert("issuetype".to_owned(), json!({"name": message.text(&config.issue_type)}));
    let updates = |switch: Option<bool>| new || switch.unwrap_or(true);
    if updates(config.summary.0.enable_update) {
        let summary = truncated(&message.text(&config.summary.0.template), SUMMARY_CHARS_MAX);
        fields.insert("summary".to_owned(), json!(summary));
    }
    if updates(config.description.0.enable_update) {
        let text = truncated(&message.text(&config.description.0.template), DESCRIPTION_CHARS_MAX);
        fields.insert("description".to_owned(), description(&text, base)?);
    }
    let mut labels: Vec<String> = config.labels.iter().map(|label| message.text(label)).collect();
    labels.push(label(message));
    labels.sort_unstable();
    fields.insert("labels".to_owned(), json!(labels));
    let priority = message.text(&config.priority);
    if !priority.is_empty() {
        fields.insert("priority".to_owned(), json!({"name": priority}));
    }
    Ok(json!({"fields": fields}))
}

/// Version 3 of the API takes documents, not texts.
fn description(text: &str, base: &Url) -> Result<Value, CallError> {
    if !base.path().trim_end_matches('/').ends_with("/3") {
        return Ok(json!(text));
    }
    if let Ok(document @ Value::Object(_)) = serde_json::from_str(text) {
        return Ok(document);
    }
    // A text that is no document stands in one.
    let paragraph = json!({"type": "paragraph", "content": [{"type": "text", "text": text}]});
    Ok(json!({"version": 1, "type": "doc", "content": if text.is_empty() { json!([]) } else { json!([paragraph]) }}))
}

fn parsed(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Value, CallError> {
    call::check(status, headers, body)?;
    serde_json::from_slice(body)
        .map_err(|_| CallError::Refused { why: format!("the answer is no JSON{}", call::told(body)) })
}

fn first_issue(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<BTreeMap<String, String>, CallError> {
    let answer = parsed(status, headers, body)?;
    let mut data = BTreeMap::new();
    let issue = &answer["issues"][0];
    if let Some(key) = issue["key"].as_str() {
        data.insert("key".to_owned(), key.to_owned());
        if issue["fields"]["status"]["statusCategory"]["key"] == "done" {
            data.insert("done".to_owned(), String::new());
        }
    }
    Ok(data)
}

/// Ids of transitions by name.
fn transitions(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<BTreeMap<String, String>, CallError> {
    let answer = parsed(status, headers, body)?;
    let list = answer["transitions"].as_array().cloned().unwrap_or_default();
    let pair = |one: &Value| Some((one["name"].as_str()?.to_owned(), one["id"].as_str()?.to_owned()));
    Ok(list.iter().filter_map(pair).collect())
}
