//! Lists of alerts from whoever has them: electors do, the others ask one.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use promesh_alerting::Alerting;
use promesh_alerting::api::AlertFilter;
use promesh_alerting::views::{Page, join_groups, sort_alerts};
use promesh_api::pager::{AlertList, PagerError};
use promesh_config::alertmanager::MatcherMode;
use promesh_model::codec::{self, BULK_BYTES_MAX, RPC_BYTES_MAX};
use promesh_model::{Now, PeerId};
use promesh_transport::{Class, Responder, Transport};

use super::Paging;

/// "Give me a list of alerts": the question and frames of the answer.
pub const ASK: u8 = 47;
/// The last frame of an answer, empty.
const END: u8 = 48;
/// How long an elector is waited for before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// The bytes of one frame of an answer.
const PIECE_BYTES: usize = 256 << 10;
/// The longest answer that is taken.
const ANSWER_BYTES_MAX: usize = 16 * BULK_BYTES_MAX;

/// Parameters of a request, in order.
pub type Query = Vec<(String, String)>;

/// Checks the parameters.
///
/// # Errors
/// `Bad` for one that makes no sense.
pub fn filter(query: &Query, mode: MatcherMode) -> Result<AlertFilter, PagerError> {
    AlertFilter::parse(query.iter().map(|(name, value)| (name.as_str(), value.as_str())), mode).map_err(PagerError::Bad)
}

fn stopping() -> PagerError {
    PagerError::Unavailable("this peer is stopping".to_owned())
}

/// Work of more than a moment, off the threads that serve.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it neither panics nor is cancelled")
}

impl Paging {
    /// The list from an elector that answers; this peer's own if it is one.
    pub(super) async fn list(&self, wanted: AlertList, query: Query) -> Result<Bytes, PagerError> {
        let filter = filter(&query, self.limits.matchers)?;
        let me = self.me;
        let others = self.to.look(move |mind, _| {
            let electorate = mind.electorate().filter(|electorate| !electorate.contains(me));
            electorate.map(|electorate| electorate.members.clone())
        });
        let electors = match others.await.ok_or_else(stopping)? {
            Some(electors) => electors,
            None => return self.own_list(wanted, filter).await,
        };
        for elector in electors {
            match self.list_of(elector, wanted, &query).await {
                Ok(list) => return Ok(list),
                Err(error) => tracing::debug!(%elector, error, "an elector did not answer"),
            }
        }
        Err(PagerError::Unavailable("no elector answers".to_owned()))
    }

    /// A list as JSON, of what this peer holds, looked at page by page.
    async fn own_list(&self, wanted: AlertList, filter: AlertFilter) -> Result<Bytes, PagerError> {
        let filter = Arc::new(filter);
        let json = match wanted {
            AlertList::Alerts => {
                let mut alerts = self
                    .pages(move |mind, after, now| mind.alerts_page(&filter, after, now))
                    .await
                    .ok_or_else(stopping)?;
                blocking(move || {
                    sort_alerts(&mut alerts);
                    serde_json::to_vec(&alerts)
                })
                .await
            }
            AlertList::Groups => {
                let parts = self
                    .pages(move |mind, after, now| mind.groups_page(&filter, after, now))
                    .await
                    .ok_or_else(stopping)?;
                blocking(move || serde_json::to_vec(&join_groups(parts))).await
            }
        };
        let mut json = json.expect("views have text keys only");
        json.push(b'\n');
        Ok(json.into())
    }

    /// All pages; `None` when the mind has ended.
    async fn pages<T: Send + 'static, P: Send + 'static>(
        &self,
        page: impl Fn(&Alerting, Option<P>, Now) -> Page<T, P> + Clone + Send + 'static,
    ) -> Option<Vec<T>> {
        let (mut found, mut after) = (Vec::new(), None);
        let mut config = None;
        loop {
            let page = page.clone();
            let look = move |mind: &Alerting, now: Now| (page(mind, after, now), Arc::clone(mind.config()));
            let (part, under) = self.to.look(look).await?;
            after = part.next;
            // Another configuration has other routes and groups: what was found so far is of no use.
            if config.replace(Arc::clone(&under)).is_some_and(|before| !Arc::ptr_eq(&before, &under)) {
                found.clear();
                after = None;
                continue;
            }
            found.extend(part.found);
            if after.is_none() {
                return Some(found);
            }
        }
    }

    /// Firing alerts: those that are heard, and those that are silenced or inhibited.
    pub(super) async fn alert_counts(&self) -> Option<[usize; 2]> {
        let (mut counts, mut after) = ([0, 0], None);
        loop {
            let (part, next) = self.to.look(move |mind, now| mind.alert_counts_page(after, now)).await?;
            counts = [counts[0] + part[0], counts[1] + part[1]];
            after = next;
            if after.is_none() {
                return Some(counts);
            }
        }
    }

    async fn list_of(&self, elector: PeerId, wanted: AlertList, query: &Query) -> Result<Bytes, String> {
        let transport: &Transport = self.transport.as_ref().ok_or("the cluster is off")?;
        let address = self.addresses.load().get(&elector).copied().ok_or("its address is not known")?;
        let question = codec::encode(&(wanted == AlertList::Groups, query));
        let asked = transport.request_stream(address, Class::Bulk, ASK, &question, PATIENCE).await;
        let mut frames = asked.map_err(|error| error.to_string())?;
        let mut answer = BytesMut::new();
        loop {
            let frame = tokio::time::timeout(PATIENCE, frames.recv()).await.map_err(|_| "it takes too long")?;
            match frame.map_err(|error| error.to_string())? {
                Some((ASK, piece)) if answer.len() + piece.len() <= ANSWER_BYTES_MAX => {
                    answer.extend_from_slice(&piece);
                }
                Some((END, _)) => return Ok(answer.freeze()),
                Some((kind, _)) => return Err(format!("its answer is none (kind {kind})")),
                None => return Err("its answer broke off".to_owned()),
            }
        }
    }

    /// Answers [`ASK`].
    pub async fn answer(&self, question: Bytes, responder: Responder) {
        let Ok((groups, query)) = codec::decode::<(bool, Query), RPC_BYTES_MAX>(&question) else {
            let _ = responder.refuse("the question is unreadable").await;
            return;
        };
        let wanted = if groups { AlertList::Groups } else { AlertList::Alerts };
        let found = match filter(&query, self.limits.matchers) {
            Ok(filter) => self.own_list(wanted, filter).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(list) => {
                let frames = responder.stream();
                for piece in list.chunks(PIECE_BYTES) {
                    if frames.send(ASK, piece).await.is_err() {
                        return;
                    }
                }
                let _ = frames.send(END, &[]).await;
            }
            Err(error) => drop(responder.refuse(&error.to_string()).await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of released kinds decode for ever. The answer is JSON as the API gives it, in pieces.
    #[test]
    fn golden_bytes() {
        let question = (true, vec![("active".to_owned(), "true".to_owned())]);
        let bytes = codec::encode(&question);
        assert_eq!(codec::decode::<(bool, Query), RPC_BYTES_MAX>(&bytes).expect("own bytes"), question);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect_test::expect!["47 0101066163746976650474727565; 48"].assert_eq(&format!("{ASK} {hex}; {END}"));
    }
}
