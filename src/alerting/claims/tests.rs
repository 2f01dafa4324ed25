use std::collections::BTreeSet;

use super::*;
use crate::nflog::LogKey;

const KEY: KeyId = KeyId(1);
const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);
const VOTER: PeerId = PeerId(3);

fn session(peer: PeerId) -> Session {
    Session { peer, boot: 1 }
}

fn ballot(number: u64, peer: PeerId) -> Ballot {
    Ballot { number, peer }
}

fn intent(number: u64, peer: PeerId, flush: i64) -> Intent {
    let (firing, resolved) = (BTreeSet::new(), BTreeSet::new());
    let (ballot, session, flush) = (ballot(number, peer), session(peer), Timestamp(flush));
    Intent { key: KEY, ballot, session, flush, firing, resolved, electorate: 1 }
}

fn done(number: u64, peer: PeerId, flush: i64) -> Done {
    let key =
        LogKey { group_key: String::new(), receiver: String::new(), integration: String::new(), index: 0, twin: 0 };
    let (firing, resolved, data) = (BTreeSet::from([1]), BTreeSet::new(), BTreeMap::new());
    Done { key, flush: Timestamp(flush), ballot: ballot(number, peer), at: Timestamp(flush), firing, resolved, data }
}

/// A voter that has run for long, at 100 s.
fn voter() -> (Voter, Monotonic) {
    let now = Monotonic(0) + Duration::from_secs(100);
    (Voter::new(session(VOTER), BTreeMap::new(), Monotonic(0)), now)
}

#[test]
fn what_a_sender_of_a_lesser_ballot_told_late_ends_no_other_attempt() {
    let (mut voter, now) = voter();
    assert_eq!(voter.judge(&intent(2, A, 1000), None, now), Verdict::Accepted);
    // B lost its lease, A began, and now B's receiver has answered B after all.
    assert_eq!(voter.judge(&intent(3, B, 2000), Some(&done(1, B, 1000)), now), Verdict::Busy);
    assert_eq!(voter.judge(&intent(3, B, 2000), Some(&done(2, A, 1000)), now), Verdict::Accepted);
}

#[test]
fn giving_back_gives_back_what_came_before() {
    let (mut voter, now) = voter();
    assert_eq!(voter.judge(&intent(2, A, 1000), None, now), Verdict::Accepted);
    assert!(!voter.release(KEY, ballot(7, B)), "another's");
    assert!(!voter.release(KEY, ballot(1, A)), "an earlier one");
    assert_eq!(voter.judge(&intent(8, B, 1000), None, now), Verdict::Busy);
    // The voter missed how A gave back 2 and asked with 7.
    assert!(voter.release(KEY, ballot(7, A)));
    assert!(!voter.release(KEY, ballot(7, A)), "nothing changes twice");
    assert_eq!(voter.judge(&intent(8, B, 1000), None, now), Verdict::Accepted);
}

#[test]
fn a_voter_that_stood_still_waits_for_beats_before_it_lets_a_session_lapse() {
    let (mut voter, mut now) = voter();
    assert_eq!(voter.judge(&intent(1, A, 1000), None, now), Verdict::Accepted);
    now = now + Duration::from_secs(4);
    voter.woke(now);
    assert_eq!(voter.judge(&intent(2, B, 1000), None, now), Verdict::Busy);
    now = now + SESSION_LAPSE;
    assert_eq!(voter.judge(&intent(2, B, 1000), None, now), Verdict::Accepted);
}

#[test]
fn a_voter_that_started_anew_holds_no_vote_for_its_own_earlier_life() {
    let now = Monotonic(0) + Duration::from_secs(100);
    let vote = |peer: PeerId| {
        let (ballot, session, flush) = (ballot(1, peer), session(peer), Timestamp(1000));
        let vote = Vote { ballot, session, flush, released: false, electorate: 0 };
        BTreeMap::from([(KEY, vote)])
    };
    let life = Session { peer: VOTER, boot: 2 };
    let mut own = Voter::new(life, vote(VOTER), now);
    assert_eq!(own.judge(&intent(2, A, 1000), None, now), Verdict::Accepted, "who claimed died, and is this peer");
    let mut others = Voter::new(life, vote(B), now);
    assert_eq!(others.judge(&intent(2, A, 1000), None, now), Verdict::Busy, "it may live");
}
