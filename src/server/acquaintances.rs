//! Whom this peer knows, as it is kept for its next life: those that it is to wait for, and those that may have written what
//! is not here. A peer that is cut off and killed must know in its next life that the others owe it what it missed.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use promesh_model::{PeerId, Timestamp};
use promesh_node::MeshView;
use serde::{Deserialize, Serialize};

/// Who was away for longer when this peer starts is met like a stranger, which is asked for all since it began.
const REMEMBERED: Duration = Duration::from_hours(24);

/// A member of the mesh when this peer last ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    /// Its UUID.
    pub id: String,
    /// Where it was.
    pub address: SocketAddr,
    /// Since when it was away, in ms since 1970 by this peer's clock; none if it was alive.
    #[serde(default)]
    pub away_since: Option<i64>,
}

/// Whom a peer knows by what it sees and by what it knew before; none while it sees nobody alive, since a lone survivor is
/// to wait for those that it saw last.
pub fn known(view: &MeshView, before: &[KnownMember], now: Timestamp) -> Option<Vec<KnownMember>> {
    let seen = view.peers.iter().map(|peer| KnownMember {
        id: peer.id.to_string(),
        address: peer.address,
        away_since: (!peer.alive).then_some(peer.since.ms()),
    });
    joined(seen.collect(), &view.unmet, before, now)
}

fn joined(
    mut seen: Vec<KnownMember>,
    unmet: &[PeerId],
    before: &[KnownMember],
    now: Timestamp,
) -> Option<Vec<KnownMember>> {
    if seen.iter().all(|member| member.away_since.is_some()) {
        return None;
    }
    let unmet: BTreeSet<String> = unmet.iter().map(ToString::to_string).collect();
    let unmet = before.iter().filter(|member| unmet.contains(&member.id));
    seen.extend(
        unmet.map(|member| KnownMember { away_since: Some(member.away_since.unwrap_or(now.ms())), ..member.clone() }),
    );
    Some(seen)
}

/// Of those known in a life before, whom a peer is to wait for, and whom it is to remember.
pub fn split(known: &[KnownMember], now: Timestamp) -> (Vec<PeerId>, Vec<PeerId>) {
    let ids = |is_alive: bool| {
        let standing = known.iter().filter(move |member| match member.away_since {
            None => is_alive,
            Some(since) => !is_alive && Timestamp(since) >= now.before(REMEMBERED),
        });
        standing.filter_map(|member| member.id.parse().ok()).collect()
    };
    (ids(true), ids(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u128, away_since: Option<i64>) -> KnownMember {
        let address = "127.0.0.1:1".parse().expect("an address");
        KnownMember { id: PeerId(id).to_string(), address, away_since }
    }

    #[test]
    fn whoever_was_lost_is_remembered_and_not_waited_for() {
        let now = Timestamp(1_000_000_000);
        let first = joined(vec![member(2, None), member(3, None)], &[], &[], now).expect("somebody is there");
        let lost = joined(vec![member(2, None), member(3, Some(now.ms()))], &[], &first, now).expect("one is there");
        assert_eq!(split(&lost, now), (vec![PeerId(2)], vec![PeerId(3)]));
        // Alone it waits, in its next life, for those it saw last.
        assert_eq!(joined(vec![member(2, Some(1)), member(3, Some(1))], &[], &lost, now), None);
        // In its next life it has met only one.
        let unmet = joined(vec![member(2, None)], &[PeerId(3)], &lost, now.after(Duration::from_secs(9)));
        assert_eq!(unmet.expect("one is there"), lost);
        // Whom it was waiting for in vain is away since then.
        let vain = joined(vec![member(3, None)], &[PeerId(2)], &lost, now.after(Duration::from_secs(9)));
        assert_eq!(vain.expect("one is there"), [member(3, None), member(2, Some(now.ms() + 9_000))]);
    }

    #[test]
    fn who_was_away_for_a_day_is_a_stranger_and_a_file_of_an_older_build_names_the_living() {
        let now = Timestamp(1_000_000_000);
        let known = [member(2, Some(now.ms() - 86_400_000)), member(3, Some(now.ms() - 86_400_001))];
        assert_eq!(split(&known, now), (Vec::new(), vec![PeerId(2)]));
        let older = r#"[{"id": "00000000-0000-0000-0000-000000000004", "address": "127.0.0.1:1"}]"#;
        let older: Vec<KnownMember> = serde_json::from_str(older).expect("no field is missing");
        assert_eq!(split(&older, now), (vec![PeerId(4)], Vec::new()));
    }
}
