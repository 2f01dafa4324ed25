//! What `/api/v2` asks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use promesh_alerting::api::{ConfigView, GettableSilence, ReceiverView, VersionInfo};
use promesh_alerting::{Electorate, Input, PostedAlert, SilenceBody, SilenceError, SilenceId};
use promesh_api::Pager;
use promesh_api::pager::{AlertList, PagerError};
use promesh_config::alertmanager::MatcherMode;
use promesh_model::Now;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Paging, parts};
use crate::clock;

/// How long a client is kept waiting until what it posted is safe.
const PATIENCE: Duration = Duration::from_secs(10);

fn unavailable(why: &str) -> PagerError {
    PagerError::Unavailable(why.to_owned())
}

#[async_trait]
impl Pager for Paging {
    fn now(&self) -> Now {
        clock::now()
    }

    fn matcher_mode(&self) -> MatcherMode {
        self.limits.matchers
    }

    async fn status(&self) -> Value {
        let configuration = self.configuration();
        let (electorate, degraded) = self.electorate().await;
        let view = self.view.borrow().clone();
        let others = view.iter().flat_map(|view| view.peers.iter()).filter(|peer| peer.alive);
        let own = self.own_address.map(|address| (self.me.to_string(), address));
        let all = own.into_iter().chain(others.map(|peer| (peer.id.to_string(), peer.address)));
        let peers: Vec<Value> =
            all.map(|(name, address)| json!({"name": name, "address": address.to_string()})).collect();
        let status = match (&self.transport, &electorate) {
            (None, _) => "disabled",
            (Some(_), Some(_)) => "ready",
            (Some(_), None) => "settling",
        };
        let version = VersionInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            go_version: "none: promesh is written in Rust".to_owned(),
            ..VersionInfo::default()
        };
        json!({
            "cluster": {"name": self.me.to_string(), "status": status, "peers": peers},
            "versionInfo": version,
            "config": ConfigView { original: configuration.shown.clone() },
            "uptime": promesh_alerting::api::ApiTime(self.started_at),
            "electorate": shown(electorate.as_ref(), degraded),
        })
    }

    async fn receivers(&self) -> Vec<ReceiverView> {
        self.to.look(|mind, _| mind.receivers_view()).await.unwrap_or_default()
    }

    async fn alerts(&self, list: AlertList, query: Vec<(String, String)>) -> Result<Bytes, PagerError> {
        self.list(list, query).await
    }

    async fn post(&self, alerts: Vec<PostedAlert>) -> Result<(), PagerError> {
        let now = clock::wall();
        let resolved = alerts.iter().filter(|alert| alert.ends_at.is_some_and(|end| end <= now)).count() as u64;
        self.received.resolved.fetch_add(resolved, Ordering::Relaxed);
        self.received.firing.fetch_add(alerts.len() as u64 - resolved, Ordering::Relaxed);
        let mut waiting = Vec::new();
        for part in parts(alerts) {
            let token = self.next_token.fetch_add(1, Ordering::Relaxed);
            let (answer, answered) = oneshot::channel();
            self.answers.posts.lock().insert(token, answer);
            self.to.tell(Input::Post { token, alerts: part });
            waiting.push((token, answered));
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut result = Ok(());
        for (token, answered) in waiting {
            let safe = match tokio::time::timeout_at(deadline, answered).await {
                Ok(Ok(safe)) => safe.map_err(PagerError::Unavailable),
                Ok(Err(_)) => Err(unavailable("this peer is stopping")),
                Err(_) => Err(unavailable("the alerts are not safe yet: post them again")),
            };
            self.answers.posts.lock().remove(&token);
            result = result.and(safe);
        }
        result
    }

    fn count_invalid(&self, alerts: usize) {
        self.received.invalid.fetch_add(alerts as u64, Ordering::Relaxed);
    }

    async fn silences(&self, filters: Vec<String>) -> Result<Vec<GettableSilence>, PagerError> {
        let found = self.to.look(move |mind, now| {
            let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
            mind.silences_view(&filters, now).map_err(PagerError::Bad)
        });
        found.await.unwrap_or(Err(unavailable("this peer is stopping")))
    }

    async fn silence(&self, id: SilenceId) -> Result<GettableSilence, PagerError> {
        match self.to.look(move |mind, now| mind.silence_view(id, now)).await {
            Some(Some(silence)) => Ok(silence),
            Some(None) => Err(SilenceError::NotFound.into()),
            None => Err(unavailable("this peer is stopping")),
        }
    }

    async fn put_silence(&self, id: Option<SilenceId>, body: SilenceBody) -> Result<SilenceId, PagerError> {
        self.about_silence(|token| Input::PutSilence { token, id, body }).await
    }

    async fn expire_silence(&self, id: SilenceId) -> Result<(), PagerError> {
        self.about_silence(|token| Input::ExpireSilence { token, id }).await.map(drop)
    }
}

fn shown(electorate: Option<&Electorate>, degraded: bool) -> Value {
    let members = electorate.map(|electorate| &electorate.members);
    json!({
        "number": electorate.map_or(0, |electorate| electorate.number),
        "members": members.into_iter().flatten().map(ToString::to_string).collect::<Vec<_>>(),
        "degraded": degraded,
    })
}

impl Paging {
    /// Who votes, and whether notifications go out without a majority.
    async fn electorate(&self) -> (Option<Electorate>, bool) {
        let mind = self.to.look(|mind, now| (mind.electorate().cloned(), mind.is_degraded(now)));
        mind.await.unwrap_or_default()
    }

    /// Says in `/api/v1/cluster` who votes.
    pub async fn mark_electors(&self, cluster: &mut Value) {
        let (electorate, degraded) = self.electorate().await;
        let electors: Vec<String> =
            electorate.iter().flat_map(|electorate| &electorate.members).map(ToString::to_string).collect();
        for member in cluster["members"].as_array_mut().into_iter().flatten() {
            let votes = member["id"].as_str().is_some_and(|id| electors.iter().any(|elector| elector == id));
            member["elector"] = votes.into();
        }
        cluster["electorate"] = shown(electorate.as_ref(), degraded);
    }

    async fn about_silence(&self, input: impl FnOnce(u64) -> Input + Send) -> Result<SilenceId, PagerError> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.answers.silences.lock().insert(token, answer);
        self.to.tell(input(token));
        let result = match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(result)) => result.map_err(PagerError::from),
            Ok(Err(_)) => Err(unavailable("this peer is stopping")),
            Err(_) => Err(unavailable("the silence is not safe yet: try again")),
        };
        self.answers.silences.lock().remove(&token);
        result
    }
}
