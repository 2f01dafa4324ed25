//! What an operator asks of the mesh through one peer, and what one peer asks of another for them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use promesh_api::backend::ClusterOrder;
use promesh_cluster::PeerState;
use promesh_model::PeerId;
use promesh_model::codec::{self, RPC_BYTES_MAX};
use promesh_node::{Input, PeerInfo};
use promesh_transport::{Class, Responder, Transport};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::peer::Peer;

/// "Do this", an [`Order`]. Answered with what came of it.
const ORDER: u8 = 27;
/// "Copy the sealed history of the shards that you rank for." Nothing more is said.
const REBALANCE: u8 = 82;
/// The request kinds that are orders.
pub const KINDS: [u8; 2] = [ORDER, REBALANCE];
/// A snapshot takes a while.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Orders of other peers that may wait.
pub const WAITING_MAX: usize = 64;

/// What one peer asks of another. A further one is a further request kind.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Order {
    /// Stop as after SIGTERM.
    Leave,
    /// Own and gain nothing, or do so again.
    Drain(bool),
    /// Forget a peer that is down.
    Remove(PeerId),
    /// Take a snapshot.
    Snapshot,
}

/// What came of an order: a text for people, or what is wrong.
type Outcome = Result<String, String>;

/// An order of another peer, on its way to whoever carries it out.
pub struct Relayed {
    kind: u8,
    payload: Bytes,
    answer: oneshot::Sender<Outcome>,
}

/// Hands an order of another peer to whoever carries it out.
pub async fn relay(orders: mpsc::Sender<Relayed>, kind: u8, payload: Bytes, responder: Responder) {
    let (answer, answered) = oneshot::channel();
    let stopping = || Err("it is stopping".to_owned());
    let outcome = match orders.send(Relayed { kind, payload, answer }).await {
        Ok(()) => answered.await.unwrap_or_else(|_| stopping()),
        Err(_) => stopping(),
    };
    let _ = responder.respond(kind, &codec::encode(&outcome)).await;
}

/// Carries out orders of other peers, one after the other.
pub async fn obey(peer: Arc<Peer>, mut orders: mpsc::Receiver<Relayed>) {
    while let Some(Relayed { kind, payload, answer }) = orders.recv().await {
        let outcome = match codec::decode::<Order, RPC_BYTES_MAX>(&payload) {
            _ if kind == REBALANCE => rebalance(&peer),
            Ok(order) => carry_out(&peer, order).await,
            Err(error) => Err(format!("an order that is not known here: {error}")),
        };
        let _ = answer.send(outcome);
    }
}

fn rebalance(peer: &Peer) -> Outcome {
    tracing::info!("an operator asks for the history of all shards that rank here");
    peer.history.rebalance();
    Ok("it copies the sealed history of its shards: `promesh cluster status` says how far it is".to_owned())
}

async fn carry_out(peer: &Arc<Peer>, order: Order) -> Outcome {
    tracing::info!(?order, "an operator asks");
    match order {
        Order::Leave => {
            peer.ask_to_quit();
            Ok("it gives its shards away and stops".to_owned())
        }
        Order::Drain(drained) => {
            peer.tell(Input::Drain(drained));
            Ok(if drained { "it gives its shards away and stays" } else { "it takes its share again" }.to_owned())
        }
        Order::Remove(gone) => {
            let known = peer.view.borrow().as_ref().and_then(|view| view.peer(gone).map(|peer| peer.alive));
            match known {
                Some(true) => Err(format!("{gone} is alive: stop it first (`promesh cluster leave`)")),
                Some(false) => {
                    peer.tell(Input::Remove(gone));
                    Ok("forgotten".to_owned())
                }
                None => Ok("it was not known".to_owned()),
            }
        }
        Order::Snapshot => {
            let db = Arc::clone(peer.ingest.db());
            let taken = tokio::task::spawn_blocking(move || db.snapshot(true, crate::clock::now())).await;
            taken.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        }
    }
}

/// Carries out what an operator asks; `whom` is a UUID or an address, and empty for this peer.
///
/// # Errors
/// Who did not do it, and why.
pub async fn operate(peer: &Arc<Peer>, order: ClusterOrder, whom: &str) -> Result<Value, String> {
    let (order, of_all) = match order {
        ClusterOrder::Leave => (Order::Leave, false),
        ClusterOrder::Drain => (Order::Drain(true), false),
        ClusterOrder::Undrain => (Order::Drain(false), false),
        ClusterOrder::Remove => (Order::Remove(named(peer, whom)?), true),
        ClusterOrder::Snapshot => (Order::Snapshot, true),
        ClusterOrder::Rebalance => {
            let own = (peer.id.to_string(), rebalance(peer));
            let others = ask(peer, others(peer, stays), REBALANCE, Bytes::new()).await;
            return told(others.into_iter().chain([own]).collect());
        }
    };
    let target = if of_all || whom.is_empty() { None } else { Some(named(peer, whom)?) };
    let own = target.is_none_or(|target| target == peer.id);
    let is_asked = |other: &PeerInfo| match order {
        _ if !of_all => target == Some(other.id),
        // Who is on its way out may be gone before it has answered, and what it would forget goes with it.
        _ => stays(other),
    };
    let asked = others(peer, is_asked);
    let mut outcomes = Vec::new();
    if own {
        outcomes.push((peer.id.to_string(), carry_out(peer, order).await));
    }
    let payload = Bytes::from(codec::encode(&order));
    let leaving = if matches!(order, Order::Snapshot) { others(peer, |other| !stays(other)) } else { Vec::new() };
    let (staying, leaving) = tokio::join!(ask(peer, asked, ORDER, payload.clone()), ask(peer, leaving, ORDER, payload));
    outcomes.extend(staying);
    // What the leaving have they hand on; while one is there its snapshot is taken too.
    outcomes.extend(leaving.into_iter().filter(|(_, outcome)| outcome.is_ok()));
    if outcomes.is_empty() {
        return Err(format!("{whom} is not alive"));
    }
    told(outcomes)
}

/// What came of it, peer by peer, or who did not do it, and why.
fn told(outcomes: Vec<(String, Outcome)>) -> Result<Value, String> {
    let failed = |(who, outcome): &(String, Outcome)| Some(format!("{who}: {}", outcome.as_ref().err()?));
    let failures: Vec<String> = outcomes.iter().filter_map(failed).collect();
    if !failures.is_empty() {
        return Err(failures.join("\n"));
    }
    let told = outcomes.into_iter().map(|(who, outcome)| json!({"peer": who, "outcome": outcome.unwrap_or_default()}));
    Ok(Value::Array(told.collect()))
}

/// A peer by its UUID, its address in the mesh or its web address.
fn named(peer: &Peer, whom: &str) -> Result<PeerId, String> {
    if let Ok(id) = whom.parse() {
        return Ok(id);
    }
    let address: Option<SocketAddr> = whom.parse().ok();
    let view = peer.view.borrow();
    let found = view
        .iter()
        .flat_map(|view| view.peers.iter())
        .find(|other| address.is_some_and(|address| address == other.address || Some(address) == other.web_address));
    match found {
        Some(found) => Ok(found.id),
        None if address.is_some() && (peer.own_address == address || Some(peer.web_address) == address) => Ok(peer.id),
        None => {
            Err(format!("no peer is known by {whom:?}: name a UUID or an address as `promesh cluster status` shows it"))
        }
    }
}

fn stays(other: &PeerInfo) -> bool {
    other.state != Some(PeerState::Leaving)
}

/// Of the others those that are alive and to be asked.
fn others(peer: &Peer, is_asked: impl Fn(&PeerInfo) -> bool) -> Vec<(PeerId, SocketAddr)> {
    let view = peer.view.borrow();
    let peers = view.iter().flat_map(|view| view.peers.iter());
    peers.filter(|other| other.alive && is_asked(other)).map(|other| (other.id, other.address)).collect()
}

/// Asks peers at once; says what came of it, by peer.
async fn ask(peer: &Peer, whom: Vec<(PeerId, SocketAddr)>, kind: u8, payload: Bytes) -> Vec<(String, Outcome)> {
    let Some(transport) = &peer.transport else { return Vec::new() };
    let mut asking = JoinSet::new();
    for (id, address) in whom {
        let (transport, payload) = (transport.clone(), payload.clone());
        asking.spawn(async move { (format!("{id} ({address})"), ask_one(&transport, address, kind, &payload).await) });
    }
    let mut outcomes = asking.join_all().await;
    outcomes.sort_by(|(a, _), (b, _)| a.cmp(b));
    outcomes
}

async fn ask_one(transport: &Transport, address: SocketAddr, kind: u8, payload: &[u8]) -> Outcome {
    match transport.request(address, Class::Control, kind, payload, TIMEOUT).await {
        Ok((answered, bytes)) if answered == kind => {
            codec::decode::<Outcome, RPC_BYTES_MAX>(&bytes).unwrap_or_else(|error| Err(error.to_string()))
        }
        Ok((answered, _)) => Err(format!("an answer of kind {answered}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of released kinds decode for ever.
    #[test]
    fn orders_have_golden_bytes() {
        let hex = |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut seen = String::new();
        let all = [Order::Leave, Order::Drain(true), Order::Drain(false), Order::Remove(PeerId(7)), Order::Snapshot];
        for order in all {
            // The compiler asks for a further one, which is to be a kind of its own.
            match order {
                Order::Leave | Order::Drain(_) | Order::Remove(_) | Order::Snapshot => {}
            }
            let bytes = codec::encode(&order);
            let again = codec::decode::<Order, RPC_BYTES_MAX>(&bytes).expect("own bytes");
            assert_eq!(format!("{again:?}"), format!("{order:?}"));
            seen.push_str(&format!("{ORDER} {order:?} {}\n", hex(bytes)));
        }
        seen.push_str(&format!("{REBALANCE}\n"));
        for outcome in [Ok("done".to_owned()), Err("why".to_owned())] {
            let bytes = codec::encode::<Outcome>(&outcome);
            assert_eq!(codec::decode::<Outcome, RPC_BYTES_MAX>(&bytes).expect("own bytes"), outcome);
            seen.push_str(&format!("{outcome:?} {}\n", hex(bytes)));
        }
        expect_test::expect![[r#"
            27 Leave 00
            27 Drain(true) 0101
            27 Drain(false) 0100
            27 Remove(00000000-0000-0000-0000-000000000007) 0207
            27 Snapshot 03
            82
            Ok("done") 0004646f6e65
            Err("why") 0103776879
        "#]]
        .assert_eq(&seen);
    }
}
