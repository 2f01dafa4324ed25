//! Lists of alerts from whoever has them: electors do, the others ask one.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use promesh_alerting::Alerting;
use promesh_alerting::api::AlertFilter;
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

/// A list as JSON, of what this peer holds.
///
/// # Errors
/// `Bad` for a parameter that makes no sense.
pub fn list(mind: &Alerting, now: Now, list: AlertList, query: &Query) -> Result<Bytes, PagerError> {
    let filter = filter(query, mind.limits().matchers)?;
    let mut json = match list {
        AlertList::Alerts => serde_json::to_vec(&mind.alerts_view(&filter, now)),
        AlertList::Groups => serde_json::to_vec(&mind.groups_view(&filter, now)),
    }
    .expect("views have text keys only");
    json.push(b'\n');
    Ok(json.into())
}

/// Checks the parameters.
///
/// # Errors
/// `Bad` for one that makes no sense.
pub fn filter(query: &Query, mode: MatcherMode) -> Result<AlertFilter, PagerError> {
    AlertFilter::parse(query.iter().map(|(name, value)| (name.as_str(), value.as_str())), mode).map_err(PagerError::Bad)
}

impl Paging {
    /// The list from an elector that answers; this peer's own if it is one.
    pub(super) async fn list(&self, wanted: AlertList, query: Query) -> Result<Bytes, PagerError> {
        filter(&query, self.limits.matchers)?;
        let me = self.me;
        let asked = query.clone();
        let own = self.to.look(move |mind, now| match mind.electorate() {
            Some(electorate) if !electorate.contains(me) => Err(electorate.members.clone()),
            _ => Ok(list(mind, now, wanted, &asked)),
        });
        let electors = match own.await {
            Some(Ok(list)) => return list,
            Some(Err(electors)) => electors,
            None => return Err(PagerError::Unavailable("this peer is stopping".to_owned())),
        };
        for elector in electors {
            match self.list_of(elector, wanted, &query).await {
                Ok(list) => return Ok(list),
                Err(error) => tracing::debug!(%elector, error, "an elector did not answer"),
            }
        }
        Err(PagerError::Unavailable("no elector answers".to_owned()))
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
        let found = self.to.look(move |mind, now| list(mind, now, wanted, &query)).await;
        match found {
            Some(Ok(list)) => {
                let frames = responder.stream();
                for piece in list.chunks(PIECE_BYTES) {
                    if frames.send(ASK, piece).await.is_err() {
                        return;
                    }
                }
                let _ = frames.send(END, &[]).await;
            }
            Some(Err(error)) => drop(responder.refuse(&error.to_string()).await),
            None => drop(responder.refuse("it is stopping").await),
        }
    }
}
