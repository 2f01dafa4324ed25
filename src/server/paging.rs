//! The alerting half in the process: the third mind on its thread, its record log, its messages, its deliveries.
//!
//! [`Paging`] is what the rest of the server has of it. It runs in every peer: without an `alertmanager.yml` alerts are
//! kept, voted on and shown, and this peer tells nobody.

mod ask;
mod configuration;
mod deliveries;
mod figures;
mod inherit;
mod links;
mod mind;
mod pager;
mod records;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use promesh_alerting::route::RouteTree;
use promesh_alerting::{
    AlertMessage, AlertPeer, Alerting, Input, Limits, Output, PostedAlert, Setup, SilenceError, SilenceId, Timing,
};
use promesh_model::{Generation, Now, PeerId, Timestamp};
use promesh_node::MeshView;
use promesh_notify::Notifiers;
use promesh_transport::{FrameReceiver, Transport};
use tokio::sync::{oneshot, watch};

pub use ask::ASK;
pub use configuration::Configuration;
use deliveries::Deliveries;
use links::Links;
pub use links::{ALERTING, DIGEST, MESSAGE};
use mind::{Hands, MindFigures, ToAlerting};
use records::RecordLog;

use crate::minds::Addresses;
use crate::options::Options;

/// Alerts of one input of the mind.
const POST_ALERTS_MAX: usize = 1000;
/// About so many bytes of them, so that they go into a frame.
const POST_BYTES_MAX: usize = 256 << 10;

/// What the alerting half needs of the peer.
pub struct Means<'a> {
    /// Its command line.
    pub options: &'a Options,
    /// The folder of all data.
    pub data: &'a Path,
    /// Who it is, in which life.
    pub who: (PeerId, Generation),
    /// The URL under which people reach it.
    pub external_url: &'a str,
    /// To other peers; `None` while the cluster is off.
    pub transport: Option<Transport>,
    /// Whether seeds are configured that are not this peer itself.
    pub has_seeds: bool,
    /// Where they are.
    pub addresses: Addresses,
    /// Where others reach this peer's QUIC endpoint.
    pub own_address: Option<SocketAddr>,
    /// The mesh as it is seen here.
    pub view: watch::Receiver<Option<Arc<MeshView>>>,
}

/// Who waits for which answer of the mind.
#[derive(Default)]
struct Answers {
    posts: Mutex<HashMap<u64, oneshot::Sender<Result<(), String>>>>,
    silences: Mutex<HashMap<u64, oneshot::Sender<Result<SilenceId, SilenceError>>>>,
}

/// What was told to the mind about the mesh.
#[derive(Default)]
struct Told {
    /// What each peer said of its configuration.
    digests: BTreeMap<PeerId, Option<u128>>,
    members: Vec<AlertPeer>,
    number: u64,
}

/// What was posted, by upstream's words.
#[derive(Debug, Default)]
struct Received {
    firing: AtomicU64,
    resolved: AtomicU64,
    invalid: AtomicU64,
}

/// The alerting half of a running peer.
pub struct Paging {
    to: ToAlerting,
    me: PeerId,
    own_address: Option<SocketAddr>,
    started_at: Timestamp,
    zone: String,
    weight: u32,
    external_url: String,
    configuration: ArcSwap<Configuration>,
    deliveries: Arc<Deliveries>,
    links: Option<Links>,
    transport: Option<Transport>,
    addresses: Addresses,
    view: watch::Receiver<Option<Arc<MeshView>>>,
    told: Mutex<Told>,
    answers: Arc<Answers>,
    next_token: AtomicU64,
    received: Received,
    limits: Limits,
    figures: Arc<MindFigures>,
}

/// Carries out what the mind wants.
struct Carrier {
    links: Option<Links>,
    deliveries: Arc<Deliveries>,
    answers: Arc<Answers>,
}

impl Hands for Carrier {
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { to, message } => {
                if let Some(links) = &self.links {
                    links.send(to, message);
                }
            }
            Output::Posted { token, result } => {
                if let Some(waiting) = self.answers.posts.lock().remove(&token) {
                    let _ = waiting.send(result);
                }
            }
            Output::SilencePut { token, result } => {
                if let Some(waiting) = self.answers.silences.lock().remove(&token) {
                    let _ = waiting.send(result);
                }
            }
            Output::Notify { claim, notification, not_after } => self.deliveries.begin(claim, notification, not_after),
            Output::LeaseUntil { claims, not_after } => self.deliveries.lease_until(&claims, not_after),
            Output::Persist { .. } => unreachable!("the mind's thread gives these to the log"),
        }
    }
}

impl Paging {
    /// Reads the record log, and starts the mind on it. Called within the runtime.
    ///
    /// # Errors
    /// When the log cannot be read, receivers' settings cannot be used, or the system gives no threads.
    pub fn start(
        means: Means<'_>,
        configuration: Configuration,
        now: Now,
    ) -> Result<(Arc<Paging>, Vec<JoinHandle<()>>), String> {
        let (me, generation) = means.who;
        let (mut log, mut records) = RecordLog::open(means.data).map_err(|error| format!("the record log: {error}"))?;
        if !records.is_empty() {
            tracing::info!(records = records.len(), bytes = log.bytes(), "record log read");
        }
        let tree = RouteTree::new(&configuration.config);
        records.extend(inherit::take_over(means.data, &mut log, &tree, now.wall)?);
        let cluster = means.options.cluster.as_ref();
        let defaults = Timing::default();
        let timing = Timing {
            notify_hold: cluster.map_or(defaults.notify_hold, |cluster| cluster.notify_hold),
            replace_after: cluster.map_or(defaults.replace_after, |cluster| cluster.replace_after),
            ..defaults
        };
        let setup = Setup {
            me,
            boot: generation.0,
            seed: generation.0 ^ (me.0 >> 64) as u64,
            config: Arc::clone(&configuration.config),
            digest: configuration.digest,
            timing,
            limits: means.options.alertmanager.limits,
            has_seeds: means.has_seeds,
            records,
        };
        let external_url = means.external_url.trim_end_matches('/').to_owned();
        let notifiers = notifiers(&configuration, &external_url)?;
        let (to, inbox) = mind::inbox();
        let deliveries = Arc::new(Deliveries::new(notifiers, to.clone()));
        let links = means
            .transport
            .clone()
            .map(|transport| Links::new(transport, Arc::clone(&means.addresses), configuration.published()));
        let answers: Arc<Answers> = Arc::default();
        let figures: Arc<MindFigures> = Arc::default();
        let carrier =
            Carrier { links: links.clone(), deliveries: Arc::clone(&deliveries), answers: Arc::clone(&answers) };
        let threads = mind::start(Alerting::new(setup, now), log, (to.clone(), inbox), carrier, Arc::clone(&figures))
            .map_err(|error| format!("no threads for alerting: {error}"))?;
        let paging = Arc::new(Paging {
            to,
            me,
            own_address: means.own_address,
            started_at: now.wall,
            zone: cluster.map(|cluster| cluster.zone.clone()).unwrap_or_default(),
            weight: cluster.map_or(4, |cluster| cluster.weight),
            external_url,
            configuration: ArcSwap::from_pointee(configuration),
            deliveries,
            links,
            transport: means.transport,
            addresses: means.addresses,
            view: means.view,
            told: Mutex::default(),
            answers,
            next_token: AtomicU64::new(0),
            received: Received::default(),
            limits: means.options.alertmanager.limits,
            figures,
        });
        tokio::spawn(Arc::clone(&paging).follow());
        Ok((paging, threads))
    }

    /// The mind learns of every change of the mesh.
    async fn follow(self: Arc<Self>) {
        let mut view = self.view.clone();
        loop {
            self.tell_members();
            if view.changed().await.is_err() {
                return;
            }
        }
    }

    fn tell_members(&self) {
        let mut told = self.told.lock();
        let Some(view) = self.view.borrow().clone() else { return };
        let own = self.configuration.load().published();
        let digest = |peer| if peer == self.me { own } else { told.digests.get(&peer).copied().flatten() };
        let members = promesh_node::alert_members(&view, (&self.zone, Some(self.weight)), digest);
        if members != told.members {
            told.number += 1;
            told.members.clone_from(&members);
            self.to.tell(Input::View { members, view: told.number });
        }
    }

    /// Checks that a configuration can be used.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn prepare(&self, configuration: &Configuration) -> Result<Notifiers, String> {
        notifiers(configuration, &self.external_url)
    }

    /// From now on this configuration is in force.
    pub fn apply(&self, configuration: Configuration, notifiers: Notifiers) {
        let (config, digest) = (Arc::clone(&configuration.config), configuration.digest);
        let published = configuration.published();
        self.deliveries.apply(notifiers);
        self.configuration.store(Arc::new(configuration));
        self.to.tell(Input::Configured { config, digest });
        if let Some(links) = &self.links {
            links.set_digest(published);
        }
        self.tell_members();
    }

    /// The configuration in force.
    pub fn configuration(&self) -> Arc<Configuration> {
        self.configuration.load_full()
    }

    /// Alerts of this peer's own rules: nobody waits, what is lost is sent again.
    pub fn take(&self, alerts: &[PostedAlert]) {
        for part in parts(alerts.to_vec()) {
            let token = self.next_token.fetch_add(1, Ordering::Relaxed);
            self.to.tell(Input::Post { token, alerts: part });
        }
    }

    /// Listens to one peer's stream until it ends.
    pub async fn listen(&self, peer: PeerId, mut frames: FrameReceiver) {
        let why = loop {
            match frames.recv().await {
                Ok(Some((MESSAGE, payload))) => match AlertMessage::decode(&payload) {
                    Ok(message) => self.to.tell(Input::Message { from: peer, message }),
                    Err(error) => tracing::warn!(%peer, %error, "a peer's alerting message is unreadable"),
                },
                Ok(Some((DIGEST, payload))) => match links::read_digest(&payload) {
                    Ok(digest) => {
                        self.told.lock().digests.insert(peer, digest);
                        self.tell_members();
                    }
                    Err(error) => tracing::warn!(%peer, %error, "a peer's alerting digest is unreadable"),
                },
                Ok(Some(_)) => {}
                Ok(None) => break "it was closed".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        tracing::debug!(%peer, why, "stream of alerts from a peer ended");
    }

    /// Lets attempts that run end. Others take what is left.
    pub async fn drain(&self, patience: Duration) {
        self.deliveries.drain(patience).await;
    }

    /// Ends the threads.
    pub fn stop(&self) {
        self.to.stop();
    }
}

fn notifiers(configuration: &Configuration, external_url: &str) -> Result<Notifiers, String> {
    let (config, template) = (Arc::clone(&configuration.config), configuration.template.clone());
    Notifiers::new(config, template, external_url.to_owned())
}

/// Alerts in parts that the mind and a frame take.
fn parts(alerts: Vec<PostedAlert>) -> Vec<Vec<PostedAlert>> {
    let mut parts: Vec<Vec<PostedAlert>> = Vec::new();
    let mut bytes = 0;
    for alert in alerts {
        let texts = alert.labels.iter().chain(alert.annotations.iter());
        let own = alert.generator_url.len() + texts.map(|(name, value)| name.len() + value.len()).sum::<usize>();
        match parts.last_mut() {
            Some(part) if part.len() < POST_ALERTS_MAX && bytes + own <= POST_BYTES_MAX => {
                bytes += own;
                part.push(alert);
            }
            _ => {
                bytes = own;
                parts.push(vec![alert]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use promesh_model::Labels;

    use super::*;

    #[test]
    fn alerts_go_in_parts_of_bounded_number_and_size() {
        let alert = |text: usize| PostedAlert {
            labels: Labels::from_pairs([("alertname", "A"), ("text", &"x".repeat(text))]),
            ..PostedAlert::default()
        };
        let sizes = |count: usize, text: usize| -> Vec<usize> {
            parts((0..count).map(|_| alert(text)).collect()).iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(0, 1), Vec::<usize>::new());
        assert_eq!(sizes(2500, 1), [1000, 1000, 500]);
        assert_eq!(sizes(3, 200 << 10), [1, 1, 1]);
    }
}
