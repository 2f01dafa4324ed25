//! Differences that came by OTLP, added up by one peer each: the owner of the shard that a resource's `job` and `instance`
//! say, which is where its series are, too.
//!
//! Whoever is asked by an exporter sends on what others own, as it came. An owner that does not answer is no reason to add
//! up elsewhere: two sums of one stream would take turns, and every turn would look like a restart. The exporter is told
//! to come again, and finds the successor, who begins a new sum; that is a restart of the counter, which loses nothing.
//! Who is no owner any more forgets its sums, so that it does not go on from them should it become one again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use promesh_api::backend::BackendError;
use promesh_api::otlp::{Format, Untaken};
use promesh_model::codec::{self, BULK_BYTES_MAX};
use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, ShardId};
use promesh_transport::{Class, Responder};
use serde::{Deserialize, Serialize};

use crate::backend::PeerBackend;
use crate::peer::Peer;

/// "Add these up, they are yours."
pub const OTLP: u8 = 100;
/// What became of them.
const ADDED: u8 = 101;
/// An owner that has not answered for so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// One resource that is larger cannot be sent on.
const MESSAGE_BYTES_MAX: usize = BULK_BYTES_MAX - (64 << 10);

/// What is asked. Never changes: another form is another kind.
#[derive(Serialize, Deserialize)]
struct WireMessage {
    shards: ShardSet,
    is_json: bool,
    message: Vec<u8>,
}

/// What is answered. Never changes: another form is another kind.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum WireAdded {
    /// With what could not be stored.
    Taken(Vec<String>),
    Malformed(String),
    Later(String),
    Failed(String),
}

impl From<Result<Vec<String>, Untaken>> for WireAdded {
    fn from(taken: Result<Vec<String>, Untaken>) -> Self {
        match taken {
            Ok(problems) => WireAdded::Taken(problems),
            Err(Untaken::Malformed(why)) => WireAdded::Malformed(why),
            Err(Untaken::Backend(BackendError::Unavailable(why))) => WireAdded::Later(why),
            Err(Untaken::Backend(error)) => WireAdded::Failed(error.to_string()),
        }
    }
}

impl From<WireAdded> for Result<Vec<String>, Untaken> {
    fn from(added: WireAdded) -> Self {
        match added {
            WireAdded::Taken(problems) => Ok(problems),
            WireAdded::Malformed(why) => Err(Untaken::Malformed(why)),
            WireAdded::Later(why) => Err(unavailable(why)),
            WireAdded::Failed(why) => Err(Untaken::Backend(BackendError::Failed(why))),
        }
    }
}

fn unavailable(why: impl Into<String>) -> Untaken {
    Untaken::Backend(BackendError::Unavailable(why.into()))
}

impl Peer {
    /// Who adds up in a shard; none when it is this peer.
    pub(crate) fn otlp_owner(&self, shard: ShardId) -> Option<PeerId> {
        self.pushing.owner(shard)
    }

    /// Has the owner add up.
    pub(crate) async fn forward_otlp(
        &self,
        owner: PeerId,
        shards: &ShardSet,
        format: Format,
        message: Vec<u8>,
    ) -> Result<Vec<String>, Untaken> {
        if message.len() > MESSAGE_BYTES_MAX {
            let (length, max) = (message.len(), MESSAGE_BYTES_MAX);
            let why =
                format!("one resource has {length} bytes, at most {max} are sent on: export it in smaller batches");
            return Err(Untaken::Malformed(why));
        }
        let address = self.view.borrow().as_ref().and_then(|view| view.peer(owner).map(|peer| peer.address));
        let (Some(address), Some(transport)) = (address, &self.transport) else {
            return Err(unavailable(format!("peer {owner} is gone")));
        };
        let asked = WireMessage { shards: shards.clone(), is_json: format == Format::Json, message };
        match transport.request(address, Class::Bulk, OTLP, &codec::encode(&asked), PATIENCE).await {
            Ok((ADDED, bytes)) => match codec::decode::<WireAdded, BULK_BYTES_MAX>(&bytes) {
                Ok(added) => added.into(),
                Err(error) => Err(unavailable(format!("peer {owner}: {error}"))),
            },
            Ok((kind, _)) => Err(unavailable(format!("peer {owner} answered with a frame of kind {kind}"))),
            Err(error) => Err(unavailable(format!("peer {owner}: {error}"))),
        }
    }

    /// Answers [`OTLP`].
    pub(crate) async fn add_up(self: Arc<Self>, bytes: Bytes, responder: Responder) {
        let added = match codec::decode::<WireMessage, BULK_BYTES_MAX>(&bytes) {
            Ok(asked) if !self.pushing.acts_for(&asked.shards) => {
                WireAdded::Later("the asked peer does not own these resources now".to_owned())
            }
            Ok(asked) => {
                let format = if asked.is_json { Format::Json } else { Format::Protobuf };
                promesh_api::otlp::take(&PeerBackend(Arc::clone(&self)), format, asked.message).await.into()
            }
            Err(error) => WireAdded::Failed(format!("malformed request: {error}")),
        };
        // The asker may be gone: its exporter comes again.
        let _ = responder.respond(ADDED, &codec::encode(&added)).await;
    }

    /// Forgets sums whose shards have gone to others, until the process ends.
    pub(crate) async fn forget_sums(self: Arc<Self>) {
        let mut view = self.view.clone();
        let mut acting: Option<ShardSet> = None;
        while view.changed().await.is_ok() {
            let Some(present) = view.borrow_and_update().as_ref().map(|view| view.acting.clone()) else { continue };
            if acting.as_ref().is_some_and(|before| !before.is_subset(&present)) {
                self.otlp_deltas.lock().keep_only(&present);
            }
            acting = Some(present);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of released kinds decode for ever.
    #[test]
    fn golden_bytes() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let shards = [ShardId(70)].into_iter().collect();
        let asked = codec::encode(&WireMessage { shards, is_json: true, message: b"{}".to_vec() });
        let again = codec::decode::<WireMessage, BULK_BYTES_MAX>(&asked).expect("own bytes");
        assert_eq!(codec::encode(&again), asked);
        let mut seen = format!("{OTLP} {}\n", hex(asked));
        let why = || "w".to_owned();
        let all = [
            WireAdded::Taken(vec![why()]),
            WireAdded::Malformed(why()),
            WireAdded::Later(why()),
            WireAdded::Failed(why()),
        ];
        for added in all {
            match added {
                WireAdded::Taken(_) | WireAdded::Malformed(_) | WireAdded::Later(_) | WireAdded::Failed(_) => {}
            }
            let bytes = codec::encode(&added);
            let there: Result<Vec<String>, Untaken> =
                codec::decode::<WireAdded, BULK_BYTES_MAX>(&bytes).expect("own bytes").into();
            assert_eq!(WireAdded::from(there), added);
            seen.push_str(&format!("{ADDED} {}\n", hex(bytes)));
        }
        expect_test::expect![[r#"
            100 00014601027b7d
            101 00010177
            101 010177
            101 020177
            101 030177
        "#]]
        .assert_eq(&seen);
    }
}
