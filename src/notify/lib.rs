//! Delivery: one function an integration, from a [`Notification`] to requests, and from answers to an [`Outcome`].
//!
//! What to send is worked out before anything is sent: a receiver is a pure function from a message to [`Call`]s, and
//! what an answer means is another. Between them lies one place that speaks HTTP, asks the lease after connecting and
//! before the first byte, cuts an attempt by the integration's timeout, and honours what receivers say about rates.
//!
//! A template that fails does not keep a page from going out: the text in its place says that and why.

mod call;
mod chat;
mod email;
mod jira;
mod message;
mod opsgenie;
mod page;
mod pagerduty;
mod slack;
mod smtp;
mod sns;
mod talk;
mod webhook;
mod wechat;

#[cfg(test)]
mod cases;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use promesh_alerting::{Notification, Outcome};
use promesh_client::{Gate, HttpClient};
use promesh_config::alertmanager::{AlertmanagerConfig, Receiver};
use promesh_config::http::HttpClientConfig;
use promesh_template::Template;

pub use call::{Call, CallError};
pub use message::Message;

/// An attempt is cut after this where the integration has no timeout of its own.
const TIMEOUT: Duration = Duration::from_secs(60);

/// All integrations of a configuration.
pub struct Notifiers {
    config: Arc<AlertmanagerConfig>,
    template: Template,
    external_url: String,
    clients: BTreeMap<u128, HttpClient>,
}

impl Notifiers {
    /// Of a configuration with its template files parsed into `template`.
    ///
    /// # Errors
    /// When a receiver's HTTP settings cannot be used.
    pub fn new(config: Arc<AlertmanagerConfig>, template: Template, external_url: String) -> Result<Notifiers, String> {
        let mut clients = BTreeMap::new();
        let mut first_error = None;
        for receiver in &config.receivers {
            for_each_http(receiver, |http| {
                let digest = promesh_config::prometheus::content_digest(http);
                if clients.contains_key(&digest) {
                    return;
                }
                match HttpClient::new(http) {
                    Ok(client) => drop(clients.insert(digest, client)),
                    Err(error) => {
                        first_error.get_or_insert_with(|| format!("receiver {:?}: {error}", receiver.name));
                    }
                }
            });
        }
        match first_error {
            Some(error) => Err(error),
            None => Ok(Notifiers { config, template, external_url, clients }),
        }
    }

    /// Sends a notification once. `lease` says, when it is asked, whether the first byte may go.
    pub async fn deliver(&self, notification: &Notification, lease: Gate) -> Outcome {
        let Some(receiver) = self.config.receivers.iter().find(|r| r.name == notification.key.receiver) else {
            return Outcome::Refused {
                why: format!("receiver {:?} is not configured any more", notification.key.receiver),
            };
        };
        let message = Message::new(notification, &self.template, &self.external_url);
        let span = promesh_trace::span(promesh_trace::Kind::Internal, "notify", || {
            let key = &notification.key;
            vec![
                ("alerting.group.key", key.group_key.clone()),
                ("alerting.receiver.name", key.receiver.clone()),
                ("alerting.integration.name", key.integration.clone()),
                ("alerting.alerts.count", notification.alerts.len().to_string()),
            ]
        });
        let outcome = span.around(self.deliver_message(receiver, &message, lease)).await;
        if let Outcome::Retry { why, .. } | Outcome::Refused { why } = &outcome {
            span.fail(why);
        }
        for error in message.errors() {
            let key = &notification.key;
            tracing::warn!(
                receiver = key.receiver,
                kind = key.integration,
                group = key.group_key,
                error,
                "a template failed: what was sent says so"
            );
        }
        outcome
    }

    async fn deliver_message(&self, receiver: &Receiver, message: &Message<'_>, lease: Gate) -> Outcome {
        let name = &message.notification.integration;
        let talk = match name.kind {
            "email" | "wechat" | "jira" => self.talk(receiver, name.kind, name.index as usize, message, &lease).await,
            _ => None,
        };
        if let Some(outcome) = talk {
            return outcome;
        }
        match self.calls(receiver, name.kind, name.index as usize, message).await {
            Ok(plan) => self.run(plan, lease).await,
            Err(why) => Outcome::Refused { why: format!("{}: {why}", name.kind) },
        }
    }

    /// Receivers that want a conversation; `None` when the integration is not configured any more.
    async fn talk(
        &self,
        receiver: &Receiver,
        kind: &str,
        index: usize,
        message: &Message<'_>,
        lease: &Gate,
    ) -> Option<Outcome> {
        if kind == "email" {
            let config = receiver.email_configs.get(index)?;
            let attempt = tokio::time::timeout(TIMEOUT, email::deliver(config, message, lease));
            let late = |_| Outcome::Retry { after: None, why: format!("email: no answer within {TIMEOUT:?}") };
            return Some(attempt.await.unwrap_or_else(late));
        }
        let http = match kind {
            "wechat" => receiver.wechat_configs.get(index)?.http_config.clone(),
            _ => receiver.jira_configs.get(index)?.http_config.clone(),
        };
        let client = match self.client(&http.unwrap_or_default()) {
            Ok(client) => client,
            Err(why) => return Some(Outcome::Refused { why }),
        };
        let talk = talk::Talk { client: &client, timeout: TIMEOUT };
        let said = async {
            match kind {
                "wechat" => wechat::deliver(&receiver.wechat_configs[index], message, &talk, lease.clone()).await,
                _ => jira::deliver(&receiver.jira_configs[index], message, &talk, lease.clone()).await,
            }
        };
        Some(match tokio::time::timeout(TIMEOUT, said).await {
            Ok(said) => outcome_of(said),
            Err(_) => Outcome::Retry { after: None, why: format!("{kind}: no answer within {TIMEOUT:?}") },
        })
    }

    fn client(&self, http: &HttpClientConfig) -> Result<HttpClient, String> {
        match self.clients.get(&promesh_config::prometheus::content_digest(http)) {
            Some(client) => Ok(client.clone()),
            None => HttpClient::new(http).map_err(|error| error.to_string()),
        }
    }

    /// What to send, and how to read the answer.
    async fn calls(
        &self,
        receiver: &Receiver,
        kind: &str,
        index: usize,
        message: &Message<'_>,
    ) -> Result<Plan, String> {
        macro_rules! plan {
            ($field:ident, $build:path, $check:path $(, $timeout:ident)?) => {{
                let config = receiver.$field.get(index).ok_or("this integration is not configured any more")?;
                let http = config.http_config.clone().unwrap_or_default();
                let own: &[Duration] = &[$(config.$timeout.0)?];
                let timeout = own.iter().copied().find(|timeout| !timeout.is_zero()).unwrap_or(TIMEOUT);
                Plan { calls: $build(config, message).await?, http, timeout, check: $check }
            }};
        }
        Ok(match kind {
            "webhook" => plan!(webhook_configs, webhook::calls, call::check, timeout),
            "slack" => plan!(slack_configs, slack::calls, slack::check, timeout),
            "pagerduty" => plan!(pagerduty_configs, pagerduty::calls, pagerduty::check, timeout),
            "opsgenie" => plan!(opsgenie_configs, opsgenie::calls, call::check),
            "discord" => plan!(discord_configs, chat::discord, call::check),
            "msteams" => plan!(msteams_configs, chat::msteams, call::check),
            "msteamsv2" => plan!(msteamsv2_configs, chat::msteamsv2, call::check),
            "telegram" => plan!(telegram_configs, chat::telegram, chat::check_telegram),
            "webex" => plan!(webex_configs, chat::webex, call::check),
            "mattermost" => plan!(mattermost_configs, chat::mattermost, call::check),
            "rocketchat" => plan!(rocketchat_configs, chat::rocketchat, chat::check_rocketchat),
            "pushover" => plan!(pushover_configs, page::pushover, call::check),
            "victorops" => plan!(victorops_configs, page::victorops, call::check),
            "incidentio" => plan!(incidentio_configs, page::incidentio, call::check, timeout),
            "sns" => plan!(sns_configs, sns::calls, call::check),
            other => return Err(format!("delivery by {other} is not built")),
        })
    }

    async fn run(&self, plan: Plan, lease: Gate) -> Outcome {
        let client = match self.client(&plan.http) {
            Ok(client) => client,
            Err(why) => return Outcome::Refused { why },
        };
        let mut data = BTreeMap::new();
        let mut gate = Some(lease);
        for call in plan.calls {
            // Only the first byte of the first request asks the lease: after it the notification is on its way.
            match call::send(&client, call, plan.timeout, gate.take(), plan.check).await {
                Ok(more) => data.extend(more),
                Err(error) => return outcome_of(Err(error)),
            }
        }
        Outcome::Sent { data }
    }
}

fn outcome_of(said: Result<BTreeMap<String, String>, CallError>) -> Outcome {
    match said {
        Ok(data) => Outcome::Sent { data },
        Err(CallError::Closed) => Outcome::Expired,
        Err(CallError::Retry { after, why }) => Outcome::Retry { after, why },
        Err(CallError::Refused { why }) => Outcome::Refused { why },
    }
}

struct Plan {
    calls: Vec<Call>,
    http: HttpClientConfig,
    timeout: Duration,
    check: call::Check,
}

fn for_each_http(receiver: &Receiver, mut each: impl FnMut(&HttpClientConfig)) {
    macro_rules! walk {
        ($($field:ident),* $(,)?) => {
            $( for config in &receiver.$field { config.http_config.as_ref().map(&mut each); } )*
        };
    }
    walk!(
        webhook_configs,
        slack_configs,
        pagerduty_configs,
        opsgenie_configs,
        discord_configs,
        msteams_configs,
        msteamsv2_configs,
        telegram_configs,
        webex_configs,
        mattermost_configs,
        rocketchat_configs,
        pushover_configs,
        victorops_configs,
        incidentio_configs,
        sns_configs,
        wechat_configs,
        jira_configs,
    );
}
