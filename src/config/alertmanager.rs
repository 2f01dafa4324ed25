//! `alertmanager.yml`: all of Alertmanager 0.34, strict, every problem with its place.
//!
//! After [`load`] nothing is left that only means "the global one": receivers carry their own HTTP settings, URLs and
//! keys. Source: alertmanager config/config.go.

pub mod chat;
pub mod interval;
pub mod matchers;
pub mod page;
pub mod route;
pub mod values;

#[cfg(test)]
mod fuzz;
mod inherit;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use promesh_model::Secret;

pub use chat::*;
pub use interval::{NamedInterval, TimeInterval};
pub use matchers::{MatcherMode, Matchers};
pub use page::*;
pub use route::{InhibitRule, Route};
pub use values::{AnyValue, GoDuration, HostPort, SecretTemplateUrl, SecretUrl};

use crate::http::{HttpClientConfig, HttpUrl, TlsConfig};
use crate::prometheus::TracingConfig;
use crate::section;
use crate::yaml::{self, ConfigErrors, FilePath, Node, Problem, Reader, Show, Yaml};

section! {
    /// The file.
    pub struct AlertmanagerConfig "config" => inherit::check_config {
        pub global: Global = Global::default(),
        pub route: Option<Route>,
        pub inhibit_rules: Vec<InhibitRule>,
        pub receivers: Vec<Receiver>,
        /// Patterns of template files.
        pub templates: Vec<FilePath>,
        /// Old form of `time_intervals`.
        pub mute_time_intervals: Vec<NamedInterval>,
        pub time_intervals: Vec<NamedInterval>,
        /// Where traces go, unless the configuration of scraping says so.
        pub tracing: Option<TracingConfig>,
        /// An experiment of Alertmanager's.
        pub event_recorder: AnyValue,
    }
}

section! {
    /// What receivers have when they say nothing.
    pub struct Global "global" => inherit::check_global {
        /// After so long without news an alert that names no end is over.
        pub resolve_timeout: Duration = Duration::from_secs(300),
        pub http_config: HttpClientConfig = HttpClientConfig::default(),
        pub jira_api_url: Option<HttpUrl>,
        pub smtp_from: String,
        pub smtp_hello: String = "localhost".to_owned(),
        pub smtp_smarthost: HostPort,
        pub smtp_auth_username: String,
        pub smtp_auth_password: Secret,
        pub smtp_auth_password_file: FilePath,
        pub smtp_auth_secret: Secret,
        pub smtp_auth_secret_file: FilePath,
        pub smtp_auth_identity: String,
        pub smtp_require_tls: bool = true,
        pub smtp_tls_config: TlsConfig,
        pub smtp_force_implicit_tls: Option<bool>,
        pub slack_api_url: SecretUrl,
        pub slack_api_url_file: FilePath,
        pub slack_app_token: Secret,
        pub slack_app_token_file: FilePath,
        pub slack_app_url: Option<HttpUrl> = url("https://slack.com/api/chat.postMessage"),
        pub pagerduty_url: Option<HttpUrl> = url("https://events.pagerduty.com/v2/enqueue"),
        pub opsgenie_api_url: Option<HttpUrl> = url("https://api.opsgenie.com/"),
        pub opsgenie_api_key: Secret,
        pub opsgenie_api_key_file: FilePath,
        pub wechat_api_url: Option<HttpUrl> = url("https://qyapi.weixin.qq.com/cgi-bin/"),
        pub wechat_api_secret: Secret,
        pub wechat_api_secret_file: FilePath,
        pub wechat_api_corp_id: String,
        pub victorops_api_url: Option<HttpUrl> = url("https://alert.victorops.com/integrations/generic/20131114/alert/"),
        pub victorops_api_key: Secret,
        pub victorops_api_key_file: FilePath,
        pub telegram_api_url: Option<HttpUrl> = url("https://api.telegram.org"),
        pub telegram_bot_token: Secret,
        pub telegram_bot_token_file: FilePath,
        pub webex_api_url: Option<HttpUrl> = url("https://webexapis.com/v1/messages"),
        pub rocketchat_api_url: Option<HttpUrl> = url("https://open.rocket.chat/"),
        pub rocketchat_token: Option<Secret>,
        pub rocketchat_token_file: FilePath,
        pub rocketchat_token_id: Option<Secret>,
        pub rocketchat_token_id_file: FilePath,
        pub mattermost_webhook_url: SecretUrl,
        pub mattermost_webhook_url_file: FilePath,
    }
}

fn url(text: &str) -> Option<HttpUrl> {
    Some(HttpUrl::parse(text).expect("a constant URL"))
}

section! {
    /// A name and how to reach who stands behind it.
    pub struct Receiver "receiver" => inherit::check_receiver {
        pub name: String,
        /// For filters; `name` is always among them.
        pub labels: BTreeMap<String, String>,
        pub discord_configs: Vec<DiscordConfig>,
        pub email_configs: Vec<EmailConfig>,
        pub incidentio_configs: Vec<IncidentioConfig>,
        pub pagerduty_configs: Vec<PagerdutyConfig>,
        pub slack_configs: Vec<SlackConfig>,
        pub webhook_configs: Vec<WebhookConfig>,
        pub opsgenie_configs: Vec<OpsgenieConfig>,
        pub wechat_configs: Vec<WechatConfig>,
        pub pushover_configs: Vec<PushoverConfig>,
        pub victorops_configs: Vec<VictoropsConfig>,
        pub sns_configs: Vec<SnsConfig>,
        pub telegram_configs: Vec<TelegramConfig>,
        pub webex_configs: Vec<WebexConfig>,
        pub msteams_configs: Vec<MsTeamsConfig>,
        pub msteamsv2_configs: Vec<MsTeamsV2Config>,
        pub jira_configs: Vec<JiraConfig>,
        pub rocketchat_configs: Vec<RocketchatConfig>,
        pub mattermost_configs: Vec<MattermostConfig>,
    }
}

/// One way to reach a receiver: its kind as upstream names it, its place among those of its kind, whether ends are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntegrationName {
    /// `webhook`, `slack`, …
    pub kind: &'static str,
    /// From zero.
    pub index: u32,
    /// Whether the end of an alert is told.
    pub send_resolved: bool,
}

impl Receiver {
    /// Its integrations, in upstream's order.
    pub fn integrations(&self) -> Vec<IntegrationName> {
        let mut all = Vec::new();
        let mut add = |kind: &'static str, flags: Vec<bool>| {
            all.extend(flags.into_iter().enumerate().map(|(index, send_resolved)| IntegrationName {
                kind,
                index: index as u32,
                send_resolved,
            }));
        };
        macro_rules! kinds {
            ($($kind:literal: $field:ident),* $(,)?) => {
                $( add($kind, self.$field.iter().map(|config| config.send_resolved).collect()); )*
            };
        }
        kinds!(
            "webhook": webhook_configs, "email": email_configs, "pagerduty": pagerduty_configs,
            "opsgenie": opsgenie_configs, "wechat": wechat_configs, "slack": slack_configs,
            "victorops": victorops_configs, "pushover": pushover_configs, "sns": sns_configs,
            "telegram": telegram_configs, "discord": discord_configs, "webex": webex_configs,
            "msteams": msteams_configs, "msteamsv2": msteamsv2_configs, "jira": jira_configs,
            "rocketchat": rocketchat_configs, "mattermost": mattermost_configs, "incidentio": incidentio_configs,
        );
        all
    }
}

impl AlertmanagerConfig {
    /// The root of the route tree.
    pub fn root(&self) -> &Route {
        self.route.as_ref().expect("a configuration without a route does not load")
    }

    /// An interval by its name.
    pub fn interval(&self, name: &str) -> Option<&NamedInterval> {
        self.mute_time_intervals.iter().chain(&self.time_intervals).find(|interval| interval.name == name)
    }

    /// The file for people, secrets masked.
    pub fn masked(&self) -> String {
        yaml::print(&self.show(Show::Masked))
    }

    /// What peers compare: the content as meant, secrets in, paths and comments out. Contents of template files are the
    /// caller's to add.
    pub fn digest(&self) -> u128 {
        xxhash_rust::xxh3::xxh3_128(yaml::print(&self.show(Show::Content)).as_bytes())
    }
}

/// Loads the text of a file. Relative paths in it mean `dir`.
///
/// # Errors
/// Everything wrong with it.
pub fn load(file: &str, text: &[u8], dir: &Path) -> Result<AlertmanagerConfig, ConfigErrors> {
    load_in(file, text, dir, MatcherMode::default()).map(|loaded| loaded.config)
}

/// A file that loads, and what its author should know.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file.
    pub config: AlertmanagerConfig,
    /// What is written correctly and without the effect that it has in Alertmanager, with its place: for a warning.
    pub remarks: Vec<Problem>,
}

/// As [`load`], with matchers read in the mode that the process was started in.
///
/// # Errors
/// Everything wrong with it.
pub fn load_in(file: &str, text: &[u8], dir: &Path, mode: MatcherMode) -> Result<Loaded, ConfigErrors> {
    let node = yaml::parse(file, text).map_err(|problem| ConfigErrors(vec![problem]))?;
    let mut reader = Reader::new(file, text, dir);
    reader.matcher_mode = mode;
    let config = AlertmanagerConfig::read(&node, &mut reader);
    if config.route.is_none() && reader.problem_count() == 0 {
        reader.problem(Node::new(yaml::Kind::Null).at, "no route provided in config");
    }
    let (remarks, unbuilt) = (reader.take_remarks(), reader.take_unbuilt());
    let problems = [reader.into_problems(), unbuilt].concat();
    if problems.is_empty() { Ok(Loaded { config, remarks }) } else { Err(ConfigErrors(problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conformance() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/alertmanager")
    }

    /// Strips the places that Go's decoder puts before a reason.
    fn reason(text: &str) -> &str {
        text.rsplit_once(": line ").and_then(|(_, rest)| rest.split_once(": ")).map_or(text, |(_, reason)| reason)
    }

    #[test]
    fn every_upstream_file_gets_upstreams_verdict() {
        let Ok(expected) = std::fs::read_to_string(conformance().join("expected.json")) else {
            println!("the conformance cases are absent");
            return;
        };
        let expected: serde_json::Value = serde_json::from_str(&expected).expect("well-formed");
        let mut wrong = Vec::new();
        for (name, verdict) in expected["files"].as_object().expect("a list of files") {
            let path = conformance().join("config").join(name);
            let text = std::fs::read(&path).expect("a file for each verdict");
            let loaded = load(name, &text, path.parent().expect("a folder"));
            match (verdict["ok"].as_bool(), loaded) {
                (Some(true), Ok(_)) => {}
                (Some(false), Err(errors)) => {
                    let wanted = reason(verdict["error"].as_str().expect("a reason"));
                    let wanted = wanted.replace(" in type config.plain", "");
                    if !errors.to_string().contains(&wanted) {
                        wrong.push(format!("{name}: {errors} instead of {wanted}"));
                    }
                }
                (_, loaded) => wrong.push(format!("{name}: {:?}", loaded.map(|_| ()))),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_printed_file_loads_as_the_same() {
        let text = "route: {receiver: a, group_by: [job], routes: [{matchers: ['x=~\"y|z\"'], receiver: a}]}\n\
                    receivers: [{name: a, webhook_configs: [{url: 'http://h/x', send_resolved: false}]}]";
        let config = load("a.yml", text.as_bytes(), Path::new("")).expect("it loads");
        let content = yaml::print(&config.show(Show::Content));
        let again = load("b.yml", content.as_bytes(), Path::new("")).expect("it loads again");
        assert_eq!(config.digest(), again.digest());
        assert!(config.masked().contains("<secret>") && !config.masked().contains("http://h/x"), "{}", config.masked());
    }

    #[test]
    fn what_has_no_effect_is_named_with_its_line() {
        let text = "route: {receiver: a}\nreceivers:\n- name: a\n  sns_configs:\n  - topic_arn: t\n    use_aws_http_client: true\n\
                    event_recorder: {}\n";
        let loaded = load_in("a.yml", text.as_bytes(), Path::new(""), MatcherMode::default()).expect("it loads");
        let remarks: Vec<String> = loaded.remarks.iter().map(ToString::to_string).collect();
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(remarks[0].starts_with("a.yml:6:5: use_aws_http_client has no effect"), "{remarks:?}");
        assert!(remarks[1].starts_with("a.yml:7:1: event_recorder has no effect"), "{remarks:?}");
    }

    #[test]
    fn problems_say_where() {
        let text = "route:\n  receiver: a\n  routes:\n  - receiver: ops\n    nope: 1\nreceivers:\n- name: a\n";
        let errors = load("alertmanager.yml", text.as_bytes(), Path::new("")).unwrap_err().to_string();
        assert!(errors.starts_with("alertmanager.yml:5:5: field nope not found in type route"), "{errors}");
        let errors = load("alertmanager.yml", text.replace("    nope: 1\n", "").as_bytes(), Path::new("")).unwrap_err();
        assert_eq!(errors.0[0].message, "undefined receiver \"ops\" used in route");
        assert_eq!((errors.0[0].at.line, errors.0[0].at.column), (4, 5));
    }
}
