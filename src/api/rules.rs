//! `/rules` with its filters and pages, `/alerts`.

use axum::extract::State;
use axum::response::Response;
use promesh_model::Matcher;
use serde_json::{Value, json};

use crate::backend::{Rule, RuleGroup, RuleKind};
use crate::error::ApiError;
use crate::form::{Form, parse_bool};
use crate::json::go_number;
use crate::respond::success;
use crate::router::Api;
use crate::targets::all_match;

pub(crate) async fn alerts(State(api): State<Api>) -> Response {
    let groups = api.backend.rule_groups().await;
    let alerts: Vec<_> = groups
        .iter()
        .flat_map(|group| &group.rules)
        .filter_map(|rule| match &rule.kind {
            RuleKind::Alerting { alerts, .. } => Some(alerts),
            RuleKind::Recording => None,
        })
        .flatten()
        .collect();
    success(&json!({"alerts": alerts}))
}

/// What of the rules is asked for.
struct Filter<'a> {
    form: &'a Form,
    matcher_sets: Vec<Vec<Matcher>>,
    alerting: bool,
    recording: bool,
    exclude_alerts: bool,
}

impl<'a> Filter<'a> {
    fn new(form: &'a Form) -> Result<Filter<'a>, ApiError> {
        form.check()?;
        let matcher_sets = form.matcher_sets().map_err(ApiError::bad_data)?;
        let kind = form.in_address("type").to_lowercase();
        if !matches!(kind.as_str(), "" | "alert" | "record") {
            return Err(ApiError::parameter("type", format!("not supported value {kind:?}")));
        }
        let exclude_alerts = match form.in_address("exclude_alerts").to_lowercase().as_str() {
            "" => false,
            text => parse_bool(text).map_err(|error| {
                ApiError::parameter("exclude_alerts", format!("error converting exclude_alerts: {error}"))
            })?,
        };
        let (alerting, recording) = (kind != "record", kind != "alert");
        Ok(Filter { form, matcher_sets, alerting, recording, exclude_alerts })
    }

    /// Whether a parameter that lists names is absent or has this one.
    fn lists(&self, parameter: &str, name: &str) -> bool {
        let mut names = self.form.all(parameter).peekable();
        names.peek().is_none() || names.any(|candidate| candidate == name)
    }

    fn takes(&self, rule: &Rule) -> bool {
        let kind = match rule.kind {
            RuleKind::Alerting { .. } => self.alerting,
            RuleKind::Recording => self.recording,
        };
        let matches = self.matcher_sets.is_empty() || self.matcher_sets.iter().any(|set| all_match(set, &rule.labels));
        kind && matches && self.lists("rule_name[]", &rule.name)
    }

    fn show(&self, group: &RuleGroup) -> Option<Value> {
        if !self.lists("rule_group[]", &group.name) || !self.lists("file[]", &group.file) {
            return None;
        }
        let rules: Vec<_> =
            group.rules.iter().filter(|rule| self.takes(rule)).map(|rule| show(rule, self.exclude_alerts)).collect();
        (!rules.is_empty()).then(|| {
            json!({"name": group.name, "file": group.file, "rules": rules, "interval": go_number(group.interval),
                   "limit": group.limit, "evaluationTime": go_number(group.evaluation_time),
                   "lastEvaluation": group.last_evaluation})
        })
    }
}

fn show(rule: &Rule, exclude_alerts: bool) -> Value {
    let mut shown = json!({});
    if let RuleKind::Alerting { state, .. } = &rule.kind {
        shown["state"] = state.as_str().into();
    }
    shown["name"] = rule.name.as_str().into();
    shown["query"] = rule.query.as_str().into();
    if let RuleKind::Alerting { duration, keep_firing_for, annotations, alerts, .. } = &rule.kind {
        shown["duration"] = go_number(*duration);
        shown["keepFiringFor"] = go_number(*keep_firing_for);
        shown["labels"] = json!(rule.labels);
        shown["annotations"] = json!(annotations);
        shown["alerts"] = if exclude_alerts { Value::Null } else { json!(alerts) };
    } else if !rule.labels.is_empty() {
        shown["labels"] = json!(rule.labels);
    }
    shown["health"] = rule.health.as_str().into();
    if !rule.last_error.is_empty() {
        shown["lastError"] = rule.last_error.as_str().into();
    }
    shown["evaluationTime"] = rule.evaluation_time.into();
    shown["lastEvaluation"] = rule.last_evaluation.as_str().into();
    shown["type"] = if matches!(rule.kind, RuleKind::Recording) { "recording".into() } else { "alerting".into() };
    shown
}

pub(crate) async fn rules(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let filter = Filter::new(&form)?;
    let limit = page_size(&form)?;
    let token = form.in_address("group_next_token");
    let groups = api.backend.rule_groups().await;
    let first = match (limit, token) {
        (Some(_), token) if !token.is_empty() => {
            groups.iter().position(|group| page_token(group) == token).ok_or_else(|| {
                let why = format!("invalid group_next_token '{token}'. were rule groups changed?");
                ApiError::parameter("group_next_token", why)
            })?
        }
        _ => 0,
    };
    let mut shown = Vec::new();
    let mut next = None;
    for group in &groups[first..] {
        let Some(group_shown) = filter.show(group) else { continue };
        if limit.is_some_and(|limit| shown.len() == limit) {
            next = Some(page_token(group));
            break;
        }
        shown.push(group_shown);
    }
    let mut data = json!({"groups": shown});
    if let Some(next) = next {
        data["groupNextToken"] = next.into();
    }
    Ok(success(&data))
}

fn page_size(form: &Form) -> Result<Option<usize>, ApiError> {
    let text = form.in_address("group_limit");
    if text.is_empty() {
        if form.in_address("group_next_token").is_empty() {
            return Ok(None);
        }
        let why = "group_limit needs to be present in order to paginate over the groups";
        return Err(ApiError::parameter("group_next_token", why));
    }
    let limit = text.parse::<i32>().map_err(|error| {
        let range = matches!(error.kind(), std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow);
        let why = if range { "value out of range" } else { "invalid syntax" };
        let text = promesh_model::labels::quoted(text);
        let why = format!("group_limit needs to be a valid number: strconv.ParseInt: parsing {text}: {why}");
        ApiError::parameter("group_limit", why)
    })?;
    match usize::try_from(limit) {
        Ok(limit) if limit > 0 => Ok(Some(limit)),
        _ => Err(ApiError::parameter("group_limit", "group_limit needs to be greater than 0")),
    }
}

/// What names a group as the first of the next page: opaque to clients, the same on every peer.
fn page_token(group: &RuleGroup) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(format!("{};{}", group.file, group.name).as_bytes()))
}
