//! What `/api/v1/cluster` says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use promesh_cluster::PeerState;
use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, SHARD_COUNT, Timestamp};
use promesh_node::{Contest, Digests, MeshView, PeerInfo};
use serde_json::{Value, json};

use crate::peer::Peer;

/// The whole answer.
pub fn json(peer: &Peer, facts: &BTreeMap<String, BTreeMap<String, String>>) -> Value {
    let label = peer.options.cluster.as_ref().map_or("", |cluster| cluster.label.as_str());
    let Some(view) = peer.view.borrow().clone() else {
        return json!({"cluster": label, "self": peer.id.to_string(), "members": []});
    };
    let replication = view.replication_factor;
    let mut members = vec![own(peer, &view)];
    members.extend(view.peers.iter().map(|other| member(peer, &view, other, facts.get(&other.id.to_string()))));
    let (total, acting) = targets(peer, &view);
    let unowned = SHARD_COUNT - owned_by_living(&view).len();
    let changes: Vec<Value> = peer
        .journal
        .newest(20)
        .into_iter()
        .map(|change| {
            json!({
                "at": change.at.to_string(), "what": change.what, "peer": change.peer.to_string(),
                "shards": change.shards, "reason": change.reason,
            })
        })
        .collect();
    json!({
        "cluster": label,
        "self": view.me.to_string(),
        "placementVersion": 1,
        "replicationFactor": replication,
        "view": view.number,
        "split": view.is_split(),
        "configContests": contests(&view),
        "members": members,
        "shards": {"total": SHARD_COUNT, "underReplicated": view.under_replicated(), "unowned": unowned},
        "targets": {"total": total, "owned": acting, "unscraped": view.unscraped},
        "copies": copies(peer, &view),
        "capacity": capacity(&view, peer.options.cluster.as_ref().map_or("", |cluster| cluster.zone.as_str())),
        "splitSlots": peer.ingest.split_slots(),
        "heavyTargets": heavy(peer, &view),
        "lastChanges": changes,
    })
}

/// What this peer is copying, and how much is left.
fn copies(peer: &Peer, view: &MeshView) -> Value {
    let figures = &peer.history.figures;
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    json!({
        "bytesLeft": figures.bytes_left(),
        "windowsLeft": load(&figures.windows_left),
        "etaSeconds": figures.seconds_left(),
        "openCopies": view.fetching.len(),
        "shardsLeft": view.fetching.iter().map(|(_, shards)| shards).sum::<usize>(),
        "bytesDone": load(&figures.bytes),
        "windowsDone": load(&figures.windows),
        "failures": load(&figures.failures),
        "underReplicatedHistory": load(&figures.under_replicated),
    })
}

/// What the mesh can lose without losing samples: so many peers, whichever they are, and which whole zones. Who is on its
/// way out takes its copies along, and is counted no more.
fn capacity(view: &MeshView, own_zone: &str) -> Value {
    let own = (view.state != PeerState::Leaving).then(|| (own_zone, view.state.as_str(), view.own.open_shards()));
    let living: Vec<(&str, &str, ShardSet)> = view
        .peers
        .iter()
        .filter(|peer| peer.alive && !peer.silent && peer.state != Some(PeerState::Leaving))
        .filter_map(|peer| Some((peer, view.possession.get(&peer.id)?)))
        .map(|(peer, held)| (peer.zone.as_str(), peer.state.map_or("joining", PeerState::as_str), held.open_shards()))
        .chain(own)
        .collect();
    let mut copies = vec![0usize; SHARD_COUNT];
    for (_, _, held) in &living {
        held.iter().for_each(|shard| copies[usize::from(shard.0)] += 1);
    }
    let mut zones: BTreeMap<&str, (usize, ShardSet)> = BTreeMap::new();
    for (zone, ..) in &living {
        zones.entry(zone).or_insert_with(|| (0, ShardSet::all())).0 += 1;
    }
    // A shard that is held outside of a zone outlives it.
    for (zone, (_, alone)) in &mut zones {
        let outside = living.iter().filter(|(other, ..)| other != zone);
        outside.for_each(|(_, _, held)| alone.remove_all(held));
    }
    let zones = zones.into_iter().map(|(zone, (peers, alone))| {
        json!({"zone": zone, "peers": peers, "shardsOnlyThere": alone.len(), "mayBeLost": alone.is_empty()})
    });
    let fewest = copies.iter().copied().min().unwrap_or(0);
    json!({
        "peers": living.len(),
        "copiesFewest": fewest,
        "peersMayBeLost": fewest.saturating_sub(1).min(living.len().saturating_sub(1)),
        "zones": zones.collect::<Vec<_>>(),
        "standingBack": living.iter().filter(|(_, state, _)| ["full", "skewed"].contains(state)).count(),
    })
}

/// Pieces of its configuration that are not as the mesh runs them.
fn differs(view: &MeshView, peer: PeerId) -> Vec<String> {
    view.elected.differs(peer).map(ToString::to_string).collect()
}

/// One hash over what a peer's configuration says: equal roots, equal configurations that changed together.
fn root(digests: &Digests) -> String {
    format!("{:032x}", digests.root())
}

/// Pieces of which ready peers have different versions, and who has which.
fn contests(view: &MeshView) -> Vec<Value> {
    let of = |peer: PeerId| if peer == view.me { Some(&view.digests) } else { view.peer(peer).map(|p| &p.digests) };
    let contest = |contest: &Contest| {
        let lacks = |peer: &&PeerId| of(**peer).is_none_or(|digests| digests.digest(&contest.piece).is_none());
        let (absent, other): (Vec<&PeerId>, Vec<&PeerId>) = contest.others.iter().partition(lacks);
        let names = |peers: Vec<&PeerId>| peers.iter().map(ToString::to_string).collect::<Vec<_>>();
        json!({
            "piece": contest.piece.to_string(), "present": contest.winner.is_some(), "votes": contest.votes,
            "absentOn": names(absent), "differentOn": names(other),
        })
    };
    view.elected.contests().map(contest).collect()
}

fn targets(peer: &Peer, view: &MeshView) -> (usize, usize) {
    let (mut all, mut acting) = (0, 0);
    peer.scraping.look(|target, _| {
        all += 1;
        acting += usize::from(view.acting.contains(target.shard));
    });
    (all, acting)
}

/// One (job, instance) with more than this part of a peer's series is named.
const HEAVY: f64 = 0.05;

/// The targets that this peer scrapes and that hold more than their part of its series, the largest first: their shard
/// cannot be split, so an operator should know of them.
fn heavy(peer: &Peer, view: &MeshView) -> Vec<Value> {
    let all = peer.ingest.db().head().series_count().max(1) as f64;
    let mut series: BTreeMap<(String, String), usize> = BTreeMap::new();
    peer.scraping.look(|target, status| {
        if target.pinned || view.acting.contains(target.shard) {
            let name = |label| target.labels.value(label).to_owned();
            *series.entry((name("job"), name("instance"))).or_default() += status.series;
        }
    });
    let mut heavy: Vec<_> = series.into_iter().filter(|(_, count)| *count as f64 > HEAVY * all).collect();
    heavy.sort_by(|(a, heavier), (b, lighter)| lighter.cmp(heavier).then_with(|| a.cmp(b)));
    let shown = |((job, instance), count): ((String, String), usize)| json!({"job": job, "instance": instance, "series": count, "share": count as f64 / all});
    heavy.into_iter().map(shown).collect()
}

/// Shards whose rank 0 is there to be asked.
fn owned_by_living(view: &MeshView) -> ShardSet {
    let living = |id: PeerId| id == view.me || view.peer(id).is_some_and(|peer| peer.alive);
    (0..SHARD_COUNT as u16)
        .map(promesh_model::ShardId)
        .filter(|shard| view.placement.owner(*shard).is_some_and(living))
        .collect()
}

fn own(peer: &Peer, view: &MeshView) -> Value {
    json!({
        "id": view.me.to_string(),
        "name": rustix::system::uname().nodename().to_string_lossy(),
        "address": peer.own_address.map(|address| address.to_string()).unwrap_or_default(),
        "webAddress": peer.web_address.to_string(),
        "zone": peer.options.cluster.as_ref().map_or("", |cluster| cluster.zone.as_str()),
        "version": env!("CARGO_PKG_VERSION"),
        "state": view.state.as_str(),
        "since": peer.started_at.to_string(),
        "generation": peer.generation.0,
        "rttSeconds": Value::Null,
        "clockOffsetSeconds": 0.0,
        "shardsOwned": view.acting.len(),
        "shardsHeld": view.own.open_shards().len(),
        "targetsOwned": targets(peer, view).1,
        "series": peer.ingest.db().head().series_count(),
        "replicationLagSeconds": 0.0,
        "configRoot": root(&view.digests),
        "configDiffers": differs(view, view.me),
    })
}

fn member(peer: &Peer, view: &MeshView, other: &PeerInfo, facts: Option<&BTreeMap<String, String>>) -> Value {
    let fact = |name: &str| facts.and_then(|facts| facts.get(name)).cloned().unwrap_or_default();
    let figure = |name: &str| fact(name).parse::<u64>().unwrap_or(0);
    let link = peer.transport.as_ref().and_then(|transport| {
        let links = transport.links();
        links.into_iter().find(|link| link.peer == other.id)
    });
    let held = view.possession.get(&other.id).map_or(0, |held| held.open_shards().len());
    let backlog = peer.live.as_ref().and_then(|live| live.backlog().get(&other.id).copied()).unwrap_or(0);
    let lag = if other.started_through > Timestamp(0) {
        crate::clock::wall().since(other.started_through).as_secs_f64()
    } else {
        0.0
    };
    json!({
        "id": other.id.to_string(),
        "name": fact("name"),
        "address": other.address.to_string(),
        "webAddress": other.web_address.map(|address| address.to_string()).unwrap_or_default(),
        "zone": other.zone,
        "version": fact("version"),
        "state": state(other, peer.reach.is_open(other.id)),
        "since": other.since.to_string(),
        "generation": other.generation.0,
        "rttSeconds": link.filter(|_| other.alive).map(|link| link.rtt.as_secs_f64()),
        "clockOffsetSeconds": other.clock_offset_ms.filter(|_| other.alive).map(|ms| ms as f64 / 1000.0),
        "shardsOwned": other.acting,
        "shardsHeld": held,
        "targetsOwned": figure("targetsOwned"),
        "series": figure("series"),
        "replicationLagSeconds": if other.alive { lag } else { 0.0 },
        "backlogBytes": backlog,
        "configRoot": root(&other.digests),
        "configDiffers": differs(view, other.id),
    })
}

/// How many peers there are in each state, this one included.
pub fn by_state(peer: &Peer) -> BTreeMap<&'static str, usize> {
    let Some(view) = peer.view.borrow().clone() else { return BTreeMap::new() };
    let mut counts = BTreeMap::from(STATES.map(|state| (state, 0)));
    let others = view.peers.iter().map(|other| state(other, peer.reach.is_open(other.id)));
    for state in others.chain([view.state.as_str()]) {
        *counts.entry(state).or_default() += 1;
    }
    counts
}

/// Every state that a member can be shown in.
const STATES: [&str; 10] =
    ["joining", "syncing", "ready", "leaving", "skewed", "full", "suspect", "unreachable", "left", "down"];

/// As design names them; what a dead peer last said of itself counts no more, but for its goodbye.
fn state(other: &PeerInfo, is_open: bool) -> &'static str {
    if !other.alive && is_open {
        "unreachable"
    } else if !other.alive && other.state == Some(PeerState::Leaving) {
        "left"
    } else if !other.alive {
        "down"
    } else if other.suspect || other.silent {
        "suspect"
    } else {
        other.state.map_or("joining", PeerState::as_str)
    }
}
