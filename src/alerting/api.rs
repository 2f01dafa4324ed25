//! What `/api/v2` takes and gives: upstream's JSON. What the mind shows in it is in [`crate::views`].
//!
//! Source: alertmanager api/v2/openapi.yaml, api/v2/api.go.

use std::collections::BTreeMap;

use promesh_config::alertmanager::matchers::{MatcherMode, is_label_name, parse_one};
use promesh_model::labels::quoted;
use promesh_model::regexp::Regexp;
use promesh_model::{Labels, MatchOp, Matcher, Timestamp};
use serde::{Deserialize, Serialize, Serializer};

use crate::alert::PostedAlert;
use crate::silence::{SilenceBody, SilenceId};

/// An instant with exactly three decimals, as upstream's API prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiTime(pub Timestamp);

impl Serialize for ApiTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let seconds = Timestamp(self.0.ms().div_euclid(1000) * 1000).to_string();
        serializer.collect_str(&format_args!("{}.{:03}Z", seconds.trim_end_matches('Z'), self.0.ms().rem_euclid(1000)))
    }
}

/// A receiver's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReceiverView {
    /// What it is called by besides; in the list of receivers only.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The name.
    pub name: String,
}

/// Where an alert stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertStatus {
    /// Fingerprints of alerts.
    pub inhibited_by: Vec<String>,
    /// Time intervals.
    pub muted_by: Vec<String>,
    /// Silences.
    pub silenced_by: Vec<String>,
    /// `active` or `suppressed`.
    pub state: &'static str,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GettableAlert {
    /// For people.
    pub annotations: Labels,
    /// When it will be taken for ended.
    pub ends_at: ApiTime,
    /// Upstream's hash of its labels.
    pub fingerprint: String,
    /// Who is told.
    pub receivers: Vec<ReceiverView>,
    /// Since when.
    pub starts_at: ApiTime,
    /// Where it stands.
    pub status: AlertStatus,
    /// When it was last heard of.
    pub updated_at: ApiTime,
    /// Where it came from.
    #[serde(rename = "generatorURL", skip_serializing_if = "String::is_empty")]
    pub generator_url: String,
    /// Its labels.
    pub labels: Labels,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertGroupView {
    /// Its alerts.
    pub alerts: Vec<GettableAlert>,
    /// What they have in common.
    pub labels: Labels,
    /// Who is told.
    pub receiver: ReceiverView,
    /// Labels that the route adds.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub route_labels: Labels,
}

/// Which alerts are asked for.
#[derive(Clone, Debug)]
pub struct AlertFilter {
    /// Those that are neither silenced nor inhibited.
    pub active: bool,
    /// Silenced ones.
    pub silenced: bool,
    /// Inhibited ones.
    pub inhibited: bool,
    /// Those whose route is muted; for groups only.
    pub muted: bool,
    /// All must match.
    pub matchers: Vec<Matcher>,
    /// Anchored; the names of receivers.
    pub receiver: Option<Regexp>,
}

impl Default for AlertFilter {
    fn default() -> AlertFilter {
        AlertFilter { active: true, silenced: true, inhibited: true, muted: true, matchers: Vec::new(), receiver: None }
    }
}

impl AlertFilter {
    /// Reads the parameters of a request; unknown ones are left out, as upstream does.
    ///
    /// # Errors
    /// A text for a 400 answer.
    pub fn parse<'a>(
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
        mode: MatcherMode,
    ) -> Result<AlertFilter, String> {
        let mut filter = AlertFilter::default();
        for (name, value) in parameters {
            let flag = || is_true(value);
            match name {
                "active" => filter.active = flag(),
                "silenced" => filter.silenced = flag(),
                "inhibited" => filter.inhibited = flag(),
                "muted" => filter.muted = flag(),
                "filter" => filter.matchers.push(parse_one(value, mode)?),
                "receiver" => {
                    let regexp = Regexp::within_lines(value);
                    filter.receiver = Some(regexp.map_err(|e| format!("failed to parse receiver param: {e}"))?);
                }
                _ => {}
            }
        }
        Ok(filter)
    }

    pub(crate) fn wants(&self, alert: &GettableAlert) -> bool {
        let status = &alert.status;
        let matched = self.matchers.iter().all(|matcher| matcher.matches_labels(&alert.labels));
        let receiver = self.receiver.as_ref();
        matched
            && (self.active || status.state != "active")
            && (self.silenced || status.silenced_by.is_empty())
            && (self.inhibited || status.inhibited_by.is_empty())
            && (self.muted || status.muted_by.is_empty())
            && receiver.is_none_or(|regexp| alert.receivers.iter().any(|receiver| regexp.matches(&receiver.name)))
    }
}

/// What go-openapi takes for true; everything else is false.
fn is_true(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    matches!(text.as_str(), "true" | "1" | "yes" | "ok" | "y" | "on" | "selected" | "checked" | "t" | "enabled")
}

/// An alert as a client posts it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PostableAlert {
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339.
    #[serde(default)]
    pub starts_at: Option<String>,
    /// RFC 3339.
    #[serde(default)]
    pub ends_at: Option<String>,
    /// Where it came from.
    #[serde(default, rename = "generatorURL")]
    pub generator_url: String,
}

/// Reads the body of `POST /api/v2/alerts`: good alerts, and what is wrong with the others.
///
/// # Errors
/// When the body is no list of alerts, or an instant in it is none.
pub fn parse_alerts(body: &[u8], mode: MatcherMode) -> Result<(Vec<PostedAlert>, Vec<String>), String> {
    let posted: Vec<PostableAlert> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for alert in posted {
        let instants = (instant(alert.starts_at.as_deref())?, instant(alert.ends_at.as_deref())?);
        match read_alert(&alert, instants, mode) {
            Ok(alert) => good.push(alert),
            Err(reason) => bad.push(reason),
        }
    }
    Ok((good, bad))
}

fn read_alert(
    alert: &PostableAlert,
    (starts_at, ends_at): (Option<Timestamp>, Option<Timestamp>),
    mode: MatcherMode,
) -> Result<PostedAlert, String> {
    let labels: Labels = alert.labels.iter().collect();
    if labels.is_empty() {
        return Err("at least one label pair required".to_owned());
    }
    for (names, what) in [(&alert.labels, "label set"), (&alert.annotations, "annotations")] {
        if let Some(name) = names.keys().find(|name| !is_label_name(name, mode)) {
            return Err(format!("invalid {what}: invalid name {}", quoted(name)));
        }
    }
    if let (Some(starts), Some(ends)) = (starts_at, ends_at)
        && ends < starts
    {
        return Err("start time must be before end time".to_owned());
    }
    Ok(PostedAlert {
        labels,
        annotations: alert.annotations.iter().collect(),
        starts_at,
        ends_at,
        generator_url: alert.generator_url.clone(),
        own_rule: false,
        evaluated_at: None,
    })
}

/// An RFC 3339 instant; Go's zero time is none.
fn instant(text: Option<&str>) -> Result<Option<Timestamp>, String> {
    let Some(text) = text.filter(|text| !text.is_empty() && !text.starts_with("0001-01-01T00:00:00")) else {
        return Ok(None);
    };
    parse_rfc3339(text).map(Some).ok_or_else(|| format!("invalid date-time {text:?}"))
}

/// Reads an RFC 3339 instant.
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let digits = |from: usize, count: usize| -> Option<i64> {
        let part = text.get(from..from + count)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let bytes = text.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, sign)| bytes.get(*at) != Some(sign)) || !matches!(bytes.get(10)?, b'T' | b't' | b' ')
    {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 2)?, digits(8, 2)?);
    let (hour, minute, second) = (digits(11, 2)?, digits(14, 2)?, digits(17, 2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut ms = 0;
    if bytes.get(at) == Some(&b'.') {
        let count = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let fraction: String = text[at + 1..=at + count].chars().chain("000".chars()).take(3).collect();
        ms = fraction.parse().ok()?;
        at += 1 + count;
    }
    let offset = match bytes.get(at)? {
        b'Z' | b'z' if bytes.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == at + 6 && bytes[at + 3] == b':' => {
            let seconds = digits(at + 1, 2)? * 3600 + digits(at + 4, 2)? * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let days = days_from_civil(year, month, day);
    Some(Timestamp((days * 86_400 + hour * 3600 + minute * 60 + second - offset) * 1000 + ms))
}

/// Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// A matcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MatcherView {
    /// Whether it must match; it must, unless said otherwise.
    #[serde(default = "yes")]
    pub is_equal: bool,
    /// Whether it is an expression.
    pub is_regex: bool,
    /// The label.
    pub name: String,
    /// The value or expression.
    pub value: String,
}

fn yes() -> bool {
    true
}

impl MatcherView {
    pub(crate) fn of(matcher: &Matcher) -> MatcherView {
        MatcherView {
            name: matcher.name.clone(),
            value: matcher.value.clone(),
            is_regex: matches!(matcher.op, MatchOp::Regex | MatchOp::NotRegex),
            is_equal: !matcher.op.is_negative(),
        }
    }

    fn to_matcher(&self) -> Result<Matcher, String> {
        let op = match (self.is_equal, self.is_regex) {
            (true, false) => MatchOp::Equal,
            (false, false) => MatchOp::NotEqual,
            (true, true) => MatchOp::Regex,
            (false, true) => MatchOp::NotRegex,
        };
        Matcher::within_lines(op, &*self.name, &*self.value)
            .map_err(|error| format!("invalid regular expression {:?}: {error}", self.value))
    }
}

/// A silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GettableSilence {
    /// Its name.
    pub id: String,
    /// Where it stands.
    pub status: SilenceStatus,
    /// When it was written.
    pub updated_at: ApiTime,
    /// Further facts.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub annotations: Labels,
    /// Why.
    pub comment: String,
    /// Who wants it.
    pub created_by: String,
    /// Until when.
    pub ends_at: ApiTime,
    /// What it silences.
    pub matchers: Vec<MatcherView>,
    /// From when.
    pub starts_at: ApiTime,
}

/// Where a silence stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SilenceStatus {
    /// `pending`, `active` or `expired`.
    pub state: &'static str,
}

/// A silence as a client posts it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PostableSilence {
    /// The one to change.
    #[serde(default)]
    pub id: Option<String>,
    /// What it silences.
    pub matchers: Vec<MatcherView>,
    /// RFC 3339.
    pub starts_at: String,
    /// RFC 3339.
    pub ends_at: String,
    /// Who wants it.
    pub created_by: String,
    /// Why.
    pub comment: String,
    /// Further facts.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// Reads the body of `POST /api/v2/silences`.
///
/// # Errors
/// A text for a 400 answer.
pub fn parse_silence(body: &[u8]) -> Result<(Option<SilenceId>, SilenceBody), String> {
    let posted: PostableSilence = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let id = match posted.id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(id.parse::<SilenceId>().map_err(|error| format!("invalid silence id: {error}"))?),
        None => None,
    };
    let matcher = |(index, view): (usize, &MatcherView)| {
        let named = |error| format!("invalid silence: invalid label matcher {index} in set 0: {error}");
        view.to_matcher().map_err(named)
    };
    let matchers = posted.matchers.iter().enumerate().map(matcher).collect::<Result<Vec<_>, _>>()?;
    let at = |text: &str| parse_rfc3339(text).ok_or_else(|| format!("invalid date-time {text:?}"));
    let body = SilenceBody {
        matcher_sets: vec![matchers],
        starts_at: at(&posted.starts_at)?,
        ends_at: at(&posted.ends_at)?,
        updated_at: Timestamp(0),
        created_by: posted.created_by,
        comment: posted.comment,
        annotations: posted.annotations.iter().collect(),
    };
    Ok((id, body))
}

/// What runs.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionInfo {
    /// The version.
    pub version: String,
    /// The commit.
    pub revision: String,
    /// The branch.
    pub branch: String,
    /// Who built it.
    pub build_user: String,
    /// When.
    pub build_date: String,
    /// By what.
    pub go_version: String,
}

/// The configuration.
#[derive(Clone, Debug, Serialize)]
pub struct ConfigView {
    /// As text, secrets masked.
    pub original: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_and_printed() {
        for (text, ms) in [
            ("2024-01-01T08:15:30Z", 1_704_096_930_000),
            ("2024-01-01T09:15:30.25+01:00", 1_704_096_930_250),
            ("1970-01-01T00:00:00.000Z", 0),
        ] {
            assert_eq!(parse_rfc3339(text), Some(Timestamp(ms)), "{text}");
        }
        for text in [
            "",
            "2024-01-01",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01T00:00:00+0100",
            "é024-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
        assert_eq!(
            serde_json::to_string(&ApiTime(Timestamp(1_704_096_930_250))).unwrap(),
            "\"2024-01-01T08:15:30.250Z\""
        );
    }

    #[test]
    fn bodies_are_checked() {
        let body = br#"[{"labels":{"a":"b"},"startsAt":"2024-01-01T00:00:00Z"},{"labels":{}},
            {"labels":{"a":"b"},"startsAt":"2024-01-01T00:00:01Z","endsAt":"2024-01-01T00:00:00Z"}]"#;
        let (good, bad) = parse_alerts(body, MatcherMode::default()).unwrap();
        assert_eq!((good.len(), bad.len()), (1, 2));
        assert_eq!(bad, ["at least one label pair required", "start time must be before end time"]);
        let silence = br#"{"matchers":[{"name":"a","value":"b","isRegex":false}],"startsAt":"2024-01-01T00:00:00Z",
            "endsAt":"2024-01-02T00:00:00Z","createdBy":"x","comment":"y"}"#;
        let (id, body) = parse_silence(silence).unwrap();
        assert_eq!((id, body.check(MatcherMode::default())), (None, Ok(())));
        assert!(parse_silence(b"{}").is_err());
        assert!(!AlertFilter::parse([("active", "maybe")], MatcherMode::default()).unwrap().active);
    }
}
