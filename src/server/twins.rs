//! Two processes with one UUID: a data directory was copied.
//!
//! Whoever is asked to let a newcomer in and knows its UUID at another address asks there first. Who answers in another
//! life is another process, and the newcomer is refused; nobody answering for two seconds, it has moved.

use std::net::SocketAddr;
use std::time::Duration;

use promesh_cluster::Snapshot;
use promesh_model::codec::{self, RPC_BYTES_MAX};
use promesh_model::{Generation, PeerId};
use promesh_node::MeshView;
use promesh_transport::{Class, Transport};

/// "Who are you?" Answered with a UUID and a generation.
pub const WHO: u8 = 28;
/// The answer to an exchange that is refused: a text for people.
pub const TWIN: u8 = 29;
const PATIENCE: Duration = Duration::from_secs(2);

/// Who this peer is, and where.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Its UUID.
    pub id: PeerId,
    /// In which of its lives.
    pub generation: Generation,
    /// Where others reach it.
    pub address: SocketAddr,
}

/// Why the sender of a snapshot is not let in, if another process with its UUID lives.
pub async fn refusal(
    own: Own,
    asker: PeerId,
    theirs: &Snapshot,
    view: Option<&MeshView>,
    transport: &Transport,
) -> Option<String> {
    let (generation, address) = theirs.identity_of(asker)?;
    let (at, lives) = if asker == own.id {
        (own.address, own.generation)
    } else {
        let known = view?.peer(asker).filter(|known| known.alive && known.address != address)?;
        let asked = transport.request(known.address, Class::Control, WHO, &[], PATIENCE).await;
        let (WHO, bytes) = asked.ok()? else { return None };
        let (id, lives) = codec::decode::<(PeerId, Generation), RPC_BYTES_MAX>(&bytes).ok()?;
        if id != asker {
            return None;
        }
        (known.address, lives)
    };
    (lives != generation).then(|| {
        format!(
            "peer {asker} runs at {at} already, and this process at {address} has the same id: its data directory is a \
             copy. Give it an empty one, or delete `peer/` in it"
        )
    })
}
