//! The claim protocol, its interleavings within bounds: the real voters, beats and candidacies in an explicit-state
//! search.
//!
//! Two electors want to send the same notification; all electors vote. Messages are delivered in any order, late, or never.
//! Anybody may stand still (it takes no step while time passes), crash and come back with what it had on disk, and the
//! electorate may change by one member, of which each hears at its own time. Time passes in seconds, the grain at which a
//! lease (2.5 s) ends before a session lapses (3 s), and at which a round that is half a second old is fresh and one of a
//! second is not.
//!
//! The property: nobody sends the first byte while a rival that has sent still holds its lease, nor after a rival recorded
//! its notification at a majority without losing its lease in between. So there is a second notification only where the
//! sender of the first crashed, stood still or was cut off in between.
//!
//! Voters that claim nothing are alike: states that differ by their order are one. What is counted are states up to that.
//!
//! Three, four and five electors are checked whole by way of the voters that two rivals share ([`Through`]). Any two
//! majorities of one electorate, and of two that differ by one member, have a member in common; and nothing that one voter
//! does depends on another. Every other elector does whatever it may, at any time: it accepts, acknowledges, or refuses and
//! shows the other's ballot.
//!
//! * *One holds its lease while another sends.* Whoever holds two leases at once by two majorities holds both through one
//!   common voter. The search runs that voter, a third elector or one of the rivals. If no state of it lets both send, no
//!   electorate does, of whatever size.
//! * *One has recorded what another sends.* Let the first have sent, held its lease until a majority had its record, at an
//!   instant d, and never have lost it before. Then two voters are common to it and the second: one through which the first
//!   holds its lease at d, and one that has the record at d. The search runs these two, which may be one, or the rivals
//!   themselves, though not the second as the one with the record: it would know. What the first needs from others it has at
//!   any time, so that it sends at once; what would only keep the second from sending is left out: the first's vote at the
//!   voter with the record, and the record at others. The first is in the clear when the record is at the one voter while the other holds its lease. The second sends
//!   when both accepted in one fresh round, or when the first voter accepted a round, and while its lease through that
//!   voter lasts the other accepts the confirmation. In a round and its confirmation the second may have had different
//!   majorities: what it holds at d it holds through some voter of the first's, and the search is about that voter. So if
//!   no state of this lets the second send, no electorate does.
//! * *Two changes of the electorate.* Two electorates with one in between need share no voter. But a majority of the first,
//!   through which somebody holds its lease, and one of the second, which decides the third, do. The search runs that voter,
//!   another or the claimant itself, while others let the claimant begin: it never decides the third electorate while what
//!   it accepted counts in the first. What was recorded in the first, and is known in the third, is searched in three electors.

mod signature;
mod state;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::*;
use crate::candidacy::Candidacy;
use crate::nflog::LogKey;
use state::{State, Step};

/// Which voters a search has, besides the rivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Through {
    /// All of an electorate.
    All,
    /// The one that two majorities share; all others do whatever they may.
    Shared(usize),
    /// The one through which the first rival holds its lease when it is in the clear, and one that has its record then.
    Pair { voter: usize, record: usize },
    /// The one that shares a majority that decides an electorate with a lease of two electorates before.
    Decision(usize),
}

/// How the electorate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    /// The last elector leaves; of a shared voter's, any other.
    Leaves,
    /// Two join, one after the other.
    TwoJoin,
    /// Two leave, one after the other.
    TwoLeave,
}

impl Change {
    /// How many changes that are.
    fn count(self) -> u8 {
        match self {
            Change::None => 0,
            Change::Leaves => 1,
            Change::TwoJoin | Change::TwoLeave => 2,
        }
    }
}

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    electors: usize,
    /// Electors that want to send.
    rivals: usize,
    seconds: u64,
    /// Rounds of asking, for each rival.
    rounds: u8,
    /// Beats, for each life of a rival.
    beats: u8,
    crashes: u8,
    change: Change,
    through: Through,
}

impl Bounds {
    /// Whom a rival asks, in an electorate of this number.
    fn asked(self, peer: usize, number: u64) -> Vec<usize> {
        match self.through {
            Through::All => {
                let changes = number as usize - 1;
                let members = match self.change {
                    Change::None => self.electors,
                    Change::Leaves | Change::TwoLeave => self.electors - changes,
                    Change::TwoJoin => self.electors - 2 + changes,
                };
                (0..members).collect()
            }
            Through::Shared(shared) => vec![shared],
            Through::Decision(voter) => vec![voter],
            Through::Pair { voter, record } if peer == 1 && voter != record => vec![voter, record],
            Through::Pair { voter, .. } => vec![voter],
        }
    }

    /// Who hears a rival's beats.
    fn heard_by(self, peer: usize) -> impl Iterator<Item = usize> {
        let all = match self.through {
            Through::All => (0..self.electors).collect(),
            _ => self.asked(0, 1),
        };
        all.into_iter().filter(move |other| *other != peer)
    }

    /// Who may be told of the record.
    fn told_by(self, peer: usize) -> impl Iterator<Item = usize> {
        let all = match self.through {
            Through::Pair { record, .. } => vec![record],
            _ => (0..self.electors).collect(),
        };
        all.into_iter().filter(move |other| *other != peer)
    }

    /// Whose acceptance and beats make a lease.
    fn members(self, number: u64) -> Vec<PeerId> {
        match self.through {
            Through::Pair { voter, .. } => vec![id(voter)],
            _ => self.asked(0, number).into_iter().map(id).collect(),
        }
    }

    fn is_pair(self) -> bool {
        matches!(self.through, Through::Pair { .. })
    }
}

fn id(peer: usize) -> PeerId {
    PeerId(peer as u128 + 1)
}

/// Searches states, depth first, until there are no more or so many were seen. Gives how many were seen, how many of them
/// have a second notification, which is allowed only after a loss of the lease, and whether these are all there are.
fn search(bounds: Bounds, most: usize) -> (usize, usize, bool) {
    let mut seen: HashSet<u64> = HashSet::new();
    let mut twice = 0;
    let mut path: Vec<Step> = Vec::new();
    let mut stack: Vec<(State, Vec<Step>)> = Vec::new();
    let first = State::new(bounds);
    seen.insert(first.signature(bounds));
    let steps = first.steps(bounds);
    stack.push((first, steps));
    while let Some((state, steps)) = stack.last_mut() {
        if seen.len() >= most {
            return (seen.len(), twice, false);
        }
        let Some(step) = steps.pop() else {
            stack.pop();
            path.pop();
            continue;
        };
        let mut next = state.clone();
        path.push(step);
        if let Err(wrong) = next.take(step, bounds) {
            panic!("{bounds:?}: {wrong}\n{}", path.iter().map(|step| format!("  {step:?}\n")).collect::<String>());
        }
        next.prune();
        if !seen.insert(next.signature(bounds)) {
            path.pop();
            continue;
        }
        twice += usize::from(next.sent.len() > 1);
        let steps = next.steps(bounds);
        stack.push((next, steps));
    }
    (seen.len(), twice, true)
}

fn check(bounds: Bounds, most: usize) -> bool {
    let (states, twice, all) = search(bounds, most);
    let extent = if all { "all" } else { "stopped there" };
    println!("{bounds:?}: {states} states, {extent}; {twice} with a second notification after a lost lease");
    assert!(states > 100, "the search went nowhere");
    all
}

const SMALL: Bounds = Bounds {
    electors: 2,
    rivals: 2,
    seconds: 3,
    rounds: 1,
    beats: 1,
    crashes: 0,
    change: Change::None,
    through: Through::All,
};

/// What a check before every landing can afford: two electors to the end, more of them in part.
#[test]
fn within_bounds_no_interleaving_lets_two_send_while_one_holds_its_lease() {
    assert!(check(SMALL, 2_000_000), "two electors are searched to the end");
    for electors in 3..=5 {
        check(Bounds { electors, seconds: 4, rounds: 2, crashes: 1, change: Change::Leaves, ..SMALL }, 60_000);
    }
}

/// The voter that the rivals of any electorate share: a third elector, and a rival itself.
fn shared(bounds: Bounds) -> [Bounds; 2] {
    [(3, 2), (2, 0)].map(|(electors, shared)| Bounds { electors, through: Through::Shared(shared), ..bounds })
}

/// The voters that matter for a record: through whom the first holds its lease, and who has the record.
fn pairs(bounds: Bounds) -> [Bounds; 7] {
    [(2, 3), (2, 2), (2, 0), (0, 2), (0, 0), (1, 2), (1, 0)].map(|(voter, record)| Bounds {
        electors: 1 + voter.max(record).max(1),
        through: Through::Pair { voter, record },
        ..bounds
    })
}

/// Three electors and more, to the end.
#[test]
fn within_bounds_no_voter_lets_two_hold_their_leases_through_it() {
    for bounds in shared(SMALL) {
        assert!(check(bounds, 3_000_000), "{bounds:?} is searched to the end");
    }
}

/// Three electors and more, to the end, but for where the first itself is the one with the record: that is run by name.
#[test]
fn within_bounds_nobody_sends_what_a_majority_has_recorded() {
    let quick = |bounds: &Bounds| bounds.through != Through::Pair { voter: 2, record: 0 };
    for bounds in pairs(SMALL).into_iter().filter(quick) {
        assert!(check(bounds, 3_000_000), "{bounds:?} is searched to the end");
    }
}

/// `cargo test -p promesh-alerting --release -- --ignored --nocapture larger_bounds`; minutes and gigabytes.
#[test]
#[ignore = "minutes; run by name"]
fn within_larger_bounds_no_voter_lets_two_hold_their_leases_through_it() {
    const MOST: usize = 60_000_000;
    for bounds in [
        Bounds { crashes: 1, ..SMALL },
        Bounds { seconds: 4, crashes: 1, ..SMALL },
        Bounds { change: Change::Leaves, ..SMALL },
        Bounds { rounds: 2, ..SMALL },
        Bounds { seconds: 4, beats: 2, ..SMALL },
        Bounds { seconds: 4, crashes: 1, change: Change::Leaves, ..SMALL },
        Bounds { seconds: 4, rounds: 2, crashes: 1, ..SMALL },
    ] {
        for bounds in shared(bounds) {
            check(bounds, MOST);
        }
    }
}

/// As above.
#[test]
#[ignore = "minutes; run by name"]
fn within_larger_bounds_nobody_sends_what_a_majority_has_recorded() {
    const MOST: usize = 30_000_000;
    for bounds in [SMALL, Bounds { seconds: 4, ..SMALL }, Bounds { crashes: 1, ..SMALL }, Bounds { rounds: 2, ..SMALL }]
    {
        for bounds in pairs(bounds) {
            check(bounds, MOST);
        }
    }
}

/// As above.
#[test]
#[ignore = "minutes; run by name"]
fn within_larger_bounds_no_interleaving_lets_two_send_while_one_holds_its_lease() {
    const MOST: usize = 30_000_000;
    check(Bounds { seconds: 4, crashes: 1, ..SMALL }, MOST);
    for electors in 3..=5 {
        check(Bounds { electors, ..SMALL }, MOST);
        check(Bounds { electors, crashes: 1, change: Change::Leaves, ..SMALL }, MOST);
    }
}

/// The voter shared by a lease and by those that decide the electorate after the next: another, and the claimant itself.
fn decisions(bounds: Bounds) -> [Bounds; 2] {
    [(2, 1), (1, 0)].map(|(electors, voter)| Bounds {
        electors,
        rivals: 1,
        change: Change::TwoJoin,
        through: Through::Decision(voter),
        ..bounds
    })
}

/// Electorates of any size, to the end: what counts in one, and who decides the one after the next.
#[test]
fn within_bounds_nobody_decides_an_electorate_while_a_lease_of_two_before_is_held_through_it() {
    for bounds in [Bounds { rounds: 2, ..SMALL }, Bounds { seconds: 2, crashes: 1, ..SMALL }] {
        for bounds in decisions(bounds) {
            assert!(check(bounds, 3_000_000), "{bounds:?} is searched to the end");
        }
    }
}

/// The whole of it, in part.
#[test]
fn within_bounds_two_changes_within_an_attempt_let_nobody_else_send() {
    for change in [Change::TwoJoin, Change::TwoLeave] {
        check(Bounds { electors: 3, seconds: 0, change, ..SMALL }, 200_000);
    }
}

/// As the larger bounds above.
#[test]
#[ignore = "minutes; run by name"]
fn within_larger_bounds_nobody_decides_while_a_lease_of_two_before_is_held_through_it() {
    const MOST: usize = 60_000_000;
    for bounds in [
        Bounds { crashes: 1, ..SMALL },
        Bounds { seconds: 4, beats: 2, ..SMALL },
        Bounds { seconds: 4, rounds: 2, beats: 2, ..SMALL },
        Bounds { seconds: 4, rounds: 3, crashes: 1, ..SMALL },
    ] {
        for bounds in decisions(bounds) {
            check(bounds, MOST);
        }
    }
    for change in [Change::TwoJoin, Change::TwoLeave] {
        check(Bounds { electors: 3, seconds: 1, change, ..SMALL }, MOST / 2);
    }
}
