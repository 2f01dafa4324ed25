//! Receivers that page people, file tickets, send mail or call a program. Field names and defaults are upstream's.
//!
//! Source: alertmanager config/notifiers.go, notify/*/config.go.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_model::Secret;

use super::values::{AnyValue, GoDuration, HostPort, SecretTemplateUrl};
use crate::http::{HttpClientConfig, HttpUrl, TlsConfig};
use crate::section;
use crate::yaml::{FilePath, Kind, Node, Reader, Show, Yaml, read_section, show_section};
use promesh_model::labels::quoted;

section! {
    /// A program that takes JSON by HTTP.
    pub struct WebhookConfig "webhook_config" => check_webhook {
        /// Whether the end of an alert is told too.
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        /// Where to; may be a template.
        pub url: SecretTemplateUrl,
        pub url_file: FilePath,
        /// Alerts in one message; 0 for all.
        pub max_alerts: u64,
        /// Of one attempt; 0 for the default.
        pub timeout: GoDuration,
        /// A body of the user's own, its texts templates.
        pub payload: AnyValue,
    }
}

fn check_webhook(webhook: &mut WebhookConfig, node: &Node, reader: &mut Reader<'_>) {
    one_of(("url", !webhook.url.0.is_empty()), ("url_file", !webhook.url_file.is_empty()), node, reader);
}

/// Exactly one of two fields.
fn one_of(first: (&str, bool), second: (&str, bool), node: &Node, reader: &mut Reader<'_>) {
    if !first.1 && !second.1 {
        reader.problem(node.at, format!("one of {} or {} must be configured", first.0, second.0));
    }
    at_most_one(first, second, node, reader);
}

/// Not both of two fields.
fn at_most_one(first: (&str, bool), second: (&str, bool), node: &Node, reader: &mut Reader<'_>) {
    if first.1 && second.1 {
        let at = node.at_key(second.0);
        reader.problem(at, format!("at most one of {} & {} must be configured", first.0, second.0));
    }
}

section! {
    /// Mail.
    pub struct EmailConfig "email_config" => check_email {
        pub send_resolved: bool = false,
        pub to: String,
        pub from: String,
        pub hello: String,
        pub smarthost: HostPort,
        pub auth_username: String,
        pub auth_password: Secret,
        pub auth_password_file: FilePath,
        pub auth_secret: Secret,
        pub auth_secret_file: FilePath,
        pub auth_identity: String,
        pub headers: BTreeMap<String, String>,
        pub html: String = "{{ template \"email.default.html\" . }}".to_owned(),
        pub text: String,
        pub require_tls: Option<bool>,
        pub tls_config: Option<TlsConfig>,
        pub force_implicit_tls: Option<bool>,
        pub threading: Threading,
    }
}

section! {
    /// Whether mails of one group are one conversation.
    pub struct Threading "threading" {
        pub enabled: bool,
        /// `none` or `daily`.
        pub thread_by_date: String,
    }
}

fn check_email(email: &mut EmailConfig, node: &Node, reader: &mut Reader<'_>) {
    if email.to.is_empty() {
        reader.problem(node.at, "missing to address in email config");
    }
    let mut headers = BTreeMap::new();
    for (name, value) in std::mem::take(&mut email.headers) {
        let name = canonical_header(&name);
        if headers.insert(name.clone(), value).is_some() {
            let at = node.at_key("headers");
            reader.problem(at, format!("duplicate header {} in email config", quoted(&name)));
        }
    }
    email.headers = headers;
    if email.threading.enabled {
        for name in ["References", "In-Reply-To"] {
            if email.headers.contains_key(name) {
                let at = node.at_key("headers");
                let text = format!("conflicting configuration: threading.enabled conflicts with custom {name} header");
                reader.problem(at, text);
            }
        }
        if !matches!(email.threading.thread_by_date.as_str(), "none" | "daily") {
            let at = node.at_key("threading");
            reader.problem(at, "threading.thread_by_date must be either 'none' or 'daily'");
        }
    }
}

fn canonical_header(name: &str) -> String {
    let part = |part: &str| {
        let mut chars = part.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(chars.map(|c| c.to_ascii_lowercase())).collect::<String>()
    };
    name.split('-').map(part).collect::<Vec<_>>().join("-")
}

section! {
    /// PagerDuty, events API version 1 (service key) or 2 (routing key).
    pub struct PagerdutyConfig "pagerduty_config" => check_pagerduty {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub service_key: Secret,
        pub service_key_file: FilePath,
        pub routing_key: Secret,
        pub routing_key_file: FilePath,
        pub url: Option<HttpUrl>,
        pub client: String = "{{ template \"pagerduty.default.client\" . }}".to_owned(),
        pub client_url: String = "{{ template \"pagerduty.default.clientURL\" . }}".to_owned(),
        pub description: String = "{{ template \"pagerduty.default.description\" .}}".to_owned(),
        pub details: BTreeMap<String, AnyValue>,
        pub images: Vec<PagerdutyImage>,
        pub links: Vec<PagerdutyLink>,
        pub source: String,
        pub severity: String,
        pub class: String,
        pub component: String,
        pub group: String,
        pub timeout: GoDuration,
    }
}

section! {
    /// A picture of an incident.
    pub struct PagerdutyImage "pagerduty_image" {
        pub src: String,
        pub alt: String,
        pub href: String,
    }
}

section! {
    /// A link of an incident.
    pub struct PagerdutyLink "pagerduty_link" {
        pub href: String,
        pub text: String,
    }
}

const PAGERDUTY_DETAILS: [(&str, &str); 4] = [
    ("firing", "{{ .Alerts.Firing | toJson }}"),
    ("resolved", "{{ .Alerts.Resolved | toJson }}"),
    ("num_firing", "{{ .Alerts.Firing | len }}"),
    ("num_resolved", "{{ .Alerts.Resolved | len }}"),
];

fn check_pagerduty(pagerduty: &mut PagerdutyConfig, node: &Node, reader: &mut Reader<'_>) {
    let (routing, routing_file) = (!pagerduty.routing_key.is_empty(), !pagerduty.routing_key_file.is_empty());
    let (service, service_file) = (!pagerduty.service_key.is_empty(), !pagerduty.service_key_file.is_empty());
    if !(routing || routing_file || service || service_file) {
        reader.problem(node.at, "missing service or routing key in PagerDuty config");
    }
    at_most_one(("routing_key", routing), ("routing_key_file", routing_file), node, reader);
    at_most_one(("service_key", service), ("service_key_file", service_file), node, reader);
    if pagerduty.source.is_empty() {
        pagerduty.source.clone_from(&pagerduty.client);
    }
    for (name, text) in PAGERDUTY_DETAILS {
        pagerduty.details.entry(name.to_owned()).or_insert_with(|| AnyValue(Some(Node::text(text))));
    }
}

section! {
    /// Opsgenie.
    pub struct OpsgenieConfig "opsgenie_config" => check_opsgenie {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub api_key: Secret,
        pub api_key_file: FilePath,
        pub api_url: Option<HttpUrl>,
        pub message: String = "{{ template \"opsgenie.default.message\" . }}".to_owned(),
        pub description: String = "{{ template \"opsgenie.default.description\" . }}".to_owned(),
        pub source: String = "{{ template \"opsgenie.default.source\" . }}".to_owned(),
        pub details: BTreeMap<String, String>,
        pub entity: String,
        pub responders: Vec<OpsgenieResponder>,
        pub actions: String,
        pub tags: String,
        pub note: String,
        pub priority: String,
        pub update_alerts: bool,
    }
}

section! {
    /// Who is to act.
    pub struct OpsgenieResponder "opsgenie_responder" => check_responder {
        pub id: String,
        pub name: String,
        pub username: String,
        /// `team`, `teams`, `user`, `escalation` or `schedule`; may be a template.
        pub r#type: String,
    }
}

fn check_responder(responder: &mut OpsgenieResponder, node: &Node, reader: &mut Reader<'_>) {
    if responder.id.is_empty() && responder.username.is_empty() && responder.name.is_empty() {
        reader.problem(node.at, "opsGenieConfig responder has to have at least one of id, username or name specified");
    }
    let kind = responder.r#type.to_lowercase();
    let known = matches!(kind.as_str(), "team" | "teams" | "user" | "escalation" | "schedule");
    if !known && !kind.contains("{{") {
        reader.problem(
            node.at_key("type"),
            "opsGenieConfig responder type does not match valid options ^(team|teams|user|escalation|schedule)$",
        );
    }
}

fn check_opsgenie(opsgenie: &mut OpsgenieConfig, node: &Node, reader: &mut Reader<'_>) {
    let (key, file) = (!opsgenie.api_key.is_empty(), !opsgenie.api_key_file.is_empty());
    at_most_one(("api_key", key), ("api_key_file", file), node, reader);
}

section! {
    /// VictorOps.
    pub struct VictoropsConfig "victorops_config" => check_victorops {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub api_key: Secret,
        pub api_key_file: FilePath,
        pub api_url: Option<HttpUrl>,
        pub routing_key: String,
        pub message_type: String = "CRITICAL".to_owned(),
        pub state_message: String = "{{ template \"victorops.default.state_message\" . }}".to_owned(),
        pub entity_display_name: String = "{{ template \"victorops.default.entity_display_name\" . }}".to_owned(),
        pub monitoring_tool: String = "{{ template \"victorops.default.monitoring_tool\" . }}".to_owned(),
        pub custom_fields: BTreeMap<String, String>,
    }
}

fn check_victorops(victorops: &mut VictoropsConfig, node: &Node, reader: &mut Reader<'_>) {
    if victorops.routing_key.is_empty() {
        reader.problem(node.at, "missing Routing key in VictorOps config");
    }
    let (key, file) = (!victorops.api_key.is_empty(), !victorops.api_key_file.is_empty());
    at_most_one(("api_key", key), ("api_key_file", file), node, reader);
    let fixed = [
        "routing_key",
        "message_type",
        "state_message",
        "entity_display_name",
        "monitoring_tool",
        "entity_id",
        "entity_state",
    ];
    for name in fixed.into_iter().filter(|name| victorops.custom_fields.contains_key(*name)) {
        let at = node.get("custom_fields").map_or(node.at, |fields| fields.at_key(name));
        reader.problem(at, format!("victorOps config contains custom field {name} which cannot be used as it conflicts with the fixed/static fields"));
    }
}

section! {
    /// Pushover.
    pub struct PushoverConfig "pushover_config" => check_pushover {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub user_key: Secret,
        pub user_key_file: FilePath,
        pub token: Secret,
        pub token_file: FilePath,
        pub title: String = "{{ template \"pushover.default.title\" . }}".to_owned(),
        pub message: String = "{{ template \"pushover.default.message\" . }}".to_owned(),
        pub url: String = "{{ template \"pushover.default.url\" . }}".to_owned(),
        pub url_title: String,
        pub device: String,
        pub sound: String,
        pub priority: String = "{{ if eq .Status \"firing\" }}2{{ else }}0{{ end }}".to_owned(),
        pub retry: GoDuration = GoDuration::seconds(60),
        pub expire: GoDuration = GoDuration::seconds(3600),
        pub ttl: GoDuration,
        pub html: bool,
        pub monospace: bool,
    }
}

fn check_pushover(pushover: &mut PushoverConfig, node: &Node, reader: &mut Reader<'_>) {
    let (user, user_file) = (!pushover.user_key.is_empty(), !pushover.user_key_file.is_empty());
    one_of(("user_key", user), ("user_key_file", user_file), node, reader);
    one_of(("token", !pushover.token.is_empty()), ("token_file", !pushover.token_file.is_empty()), node, reader);
    at_most_one(("monospace", pushover.monospace), ("html", pushover.html), node, reader);
}

section! {
    /// Amazon SNS.
    pub struct SnsConfig "sns_config" => check_sns {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub api_url: String,
        pub sigv4: SigV4,
        pub topic_arn: String,
        pub phone_number: String,
        pub target_arn: String,
        pub subject: String = "{{ template \"sns.default.subject\" . }}".to_owned(),
        pub message: String = "{{ template \"sns.default.message\" . }}".to_owned(),
        pub attributes: BTreeMap<String, String>,
        pub use_aws_http_client: bool,
    }
}

section! {
    /// Keys of Amazon's signature version 4.
    pub struct SigV4 "sigv4" {
        pub region: String,
        pub access_key: String,
        pub secret_key: Secret,
        pub profile: String,
        pub role_arn: String,
        pub external_id: String,
        pub use_fips_sts_endpoint: bool,
        pub service_name: String,
    }
}

fn check_sns(sns: &mut SnsConfig, node: &Node, reader: &mut Reader<'_>) {
    let absent = [&sns.target_arn, &sns.topic_arn, &sns.phone_number].map(|target| target.is_empty());
    // Upstream's own expression, which lets all three pass too.
    if (absent[0] != absent[1]) != absent[2] {
        reader.problem(node.at, "must provide either a Target ARN, Topic ARN, or Phone Number for SNS config");
    }
    if sns.use_aws_http_client {
        let message = "use_aws_http_client has no effect: requests are made as http_config says";
        reader.remark(node.at_key("use_aws_http_client"), message);
    }
    let keys = node.get("sigv4").unwrap_or(node);
    for (name, given) in [
        ("role_arn", !sns.sigv4.role_arn.is_empty()),
        ("external_id", !sns.sigv4.external_id.is_empty()),
        ("profile", !sns.sigv4.profile.is_empty()),
    ] {
        if given {
            let message = format!("{name} of sigv4 is not built: no notification will go out by this receiver");
            reader.remark(keys.at_key(name), message);
        }
    }
    if sns.sigv4.use_fips_sts_endpoint {
        let message = "use_fips_sts_endpoint of sigv4 has no effect: no role is asked for at an STS endpoint";
        reader.remark(keys.at_key("use_fips_sts_endpoint"), message);
    }
    // A half pair of keys cannot sign anything.
    if sns.sigv4.access_key.is_empty() != sns.sigv4.secret_key.is_empty() {
        let at = node.at_key("sigv4");
        reader.problem(
            at,
            "must provide a AWS SigV4 Access key and Secret Key if credentials are specified in the SigV4 config",
        );
    }
}

section! {
    /// Jira.
    pub struct JiraConfig "jira_config" => check_jira {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub api_url: Option<HttpUrl>,
        pub api_type: String = "auto".to_owned(),
        pub project: String,
        pub summary: JiraField = JiraField::of("{{ template \"jira.default.summary\" . }}"),
        pub description: JiraField = JiraField::of("{{ template \"jira.default.description\" . }}"),
        pub labels: Vec<String>,
        pub priority: String = "{{ template \"jira.default.priority\" . }}".to_owned(),
        pub issue_type: String,
        pub reopen_transition: String,
        pub resolve_transition: String,
        pub wont_fix_resolution: String,
        pub reopen_duration: Duration,
        pub fields: BTreeMap<String, AnyValue>,
    }
}

section! {
    /// A field of an issue, in its long form.
    pub struct JiraFieldSection "jira_field" {
        pub template: String,
        pub enable_update: Option<bool>,
    }
}

/// A field of an issue: a text, or a text with a switch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JiraField(pub JiraFieldSection);

impl JiraField {
    fn of(template: &str) -> JiraField {
        JiraField(JiraFieldSection { template: template.to_owned(), enable_update: None })
    }
}

impl Yaml for JiraField {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        match &node.kind {
            Kind::Scalar { text, .. } => JiraField::of(text),
            _ => JiraField(read_section(node, reader)),
        }
    }
    fn show(&self, show: Show) -> Node {
        match self.0.enable_update {
            None => Node::text(&*self.0.template),
            Some(_) => show_section(&self.0, show),
        }
    }
    fn is_zero(&self) -> bool {
        *self == JiraField::default()
    }
}

fn check_jira(jira: &mut JiraConfig, node: &Node, reader: &mut Reader<'_>) {
    if jira.project.is_empty() {
        reader.problem(node.at, "missing project in jira_config");
    }
    if jira.issue_type.is_empty() {
        reader.problem(node.at, "missing issue_type in jira_config");
    }
    if !matches!(jira.api_type.as_str(), "auto" | "cloud" | "datacenter") {
        let at = node.at_key("api_type");
        reader.problem(at, "unknown api_type on jira_config, must be auto, cloud or datacenter");
    }
}

section! {
    /// incident.io.
    pub struct IncidentioConfig "incidentio_config" => check_incidentio {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub url: Option<HttpUrl>,
        pub url_file: FilePath,
        pub alert_source_token: Secret,
        pub alert_source_token_file: FilePath,
        pub max_alerts: u64,
        pub timeout: GoDuration,
    }
}

fn check_incidentio(incident: &mut IncidentioConfig, node: &Node, reader: &mut Reader<'_>) {
    one_of(("url", incident.url.is_some()), ("url_file", !incident.url_file.is_empty()), node, reader);
    let (token, file) = (!incident.alert_source_token.is_empty(), !incident.alert_source_token_file.is_empty());
    at_most_one(("alert_source_token", token), ("alert_source_token_file", file), node, reader);
    let authorized = incident.http_config.as_ref().is_some_and(|http| http.authorization.is_some());
    if authorized && (token || file) {
        let at = node.at_key("alert_source_token");
        reader.problem(
            at,
            "cannot specify alert_source_token or alert_source_token_file when using http_config.authorization",
        );
    }
    if !authorized && !token && !file {
        reader.problem(node.at, "at least one of alert_source_token, alert_source_token_file or http_config.authorization must be configured");
    }
}
