//! Delivery: one function an integration, from a [`Notification`] to requests, and from answers to an [`Outcome`].
//!
//! What to send is worked out before anything is sent: a receiver is a pure function from a message to [`Call`]s, and
//! what an answer means is another. Between them lies one place that speaks HTTP, asks the lease after connecting and
//! before the first byte, cuts an attempt by the integration's timeout, and honours what receivers say about rates.
//!
//! A template that fails does not keep a page from going out: the text in its place says that and why.

mod call;
mod chat;
mod message;
mod opsgenie;
mod page;
mod pagerduty;
mod slack;
mod webhook;

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
        let name = &notification.integration;
        let Some(receiver) = self.config.receivers.iter().find(|r| r.name == notification.key.receiver) else {
            return Outcome::Refused {
                why: format!("receiver {:?} is not configured any more", notification.key.receiver),
            };
        };
        let message = Message::new(notification, &self.template, &self.external_url);
        match self.calls(receiver, name.kind, name.index as usize, &message).await {
            Ok(plan) => self.run(plan, lease).await,
            Err(why) => Outcome::Refused { why: format!("{}: {why}", name.kind) },
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
            other => return Err(format!("delivery by {other} is not built")),
        })
    }

    async fn run(&self, plan: Plan, lease: Gate) -> Outcome {
        let digest = promesh_config::prometheus::content_digest(&plan.http);
        let client = match self.clients.get(&digest) {
            Some(client) => client.clone(),
            None => match HttpClient::new(&plan.http) {
                Ok(client) => client,
                Err(error) => return Outcome::Refused { why: error.to_string() },
            },
        };
        let mut data = BTreeMap::new();
        let mut gate = Some(lease);
        for call in plan.calls {
            // Only the first byte of the first request asks the lease: after it the notification is on its way.
            match call::send(&client, call, plan.timeout, gate.take(), plan.check).await {
                Ok(more) => data.extend(more),
                Err(CallError::Closed) => return Outcome::Expired,
                Err(CallError::Retry { after, why }) => return Outcome::Retry { after, why },
                Err(CallError::Refused { why }) => return Outcome::Refused { why },
            }
        }
        Outcome::Sent { data }
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
    );
}
