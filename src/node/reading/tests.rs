use promesh_model::ShardId;

use super::*;

const EVER: i64 = i64::MIN;
const OPEN: i64 = i64::MAX;

fn set(shards: &[u16]) -> ShardSet {
    shards.iter().map(|&shard| ShardId(shard)).collect()
}

type Held<'a> = &'a [(i64, i64, &'a [u16])];

fn held(extents: Held<'_>) -> Arc<Possession> {
    let extent = |(from, to, shards): &(i64, i64, &[u16])| Extent {
        from: Timestamp(*from),
        to: Timestamp(*to),
        shards: set(shards),
    };
    Arc::new(Possession::of(extents.iter().map(extent).collect::<Vec<_>>()))
}

#[derive(Clone, Copy, PartialEq)]
enum Is {
    Heard,
    Silent,
    Down,
}

/// Peer 1's view of itself and of peers 2, 3 and so on.
fn view(own: Held<'_>, others: &[(Is, Held<'_>)]) -> MeshView {
    let info = |(id, (is, _)): (u128, &(Is, Held<'_>))| {
        let ready = PeerInfo::ready(PeerId(id), "127.0.0.1:1".parse().expect("an address"));
        PeerInfo { alive: *is != Is::Down, silent: *is == Is::Silent, ..ready }
    };
    let possession: BTreeMap<PeerId, Arc<Possession>> =
        (2..).zip(others).map(|(id, (_, theirs))| (PeerId(id), held(theirs))).collect();
    MeshView {
        peers: (2..).zip(others).map(info).collect(),
        own: held(own),
        possession: Arc::new(possession),
        ..MeshView::alone(PeerId(1))
    }
}

/// One read of shards 3, 4 and 5 over an inclusive span, driven by hand.
struct Driven {
    reading: Reading,
    view: MeshView,
    now: u64,
}

impl Driven {
    fn over((from, to): (i64, i64), view: MeshView) -> Driven {
        let reading = Reading::new(&view, &set(&[3, 4, 5]), Timestamp(from), Timestamp(to), Vec::new());
        Driven { reading, view, now: 0 }
    }

    /// Who is asked for what, after so many ms.
    fn asks(&mut self, ms: u64) -> Vec<(u128, Vec<u16>)> {
        self.now += ms * 1_000_000;
        let asks = self.reading.ask(&self.view, Monotonic(self.now));
        asks.into_iter().map(|(_, peer, shards)| (peer.0, shards.iter().map(|shard| shard.0).collect())).collect()
    }

    fn missing(&self) -> Option<Vec<u16>> {
        self.reading.is_done().then(|| self.reading.missing().iter().map(|shard| shard.0).collect())
    }
}

fn to(peer: u128, shards: &[u16]) -> (u128, Vec<u16>) {
    (peer, shards.to_vec())
}

#[test]
fn what_is_here_is_read_here_and_the_rest_once() {
    let others: [(Is, Held<'_>); 2] = [(Is::Heard, &[(EVER, OPEN, &[4, 5])]), (Is::Heard, &[(EVER, OPEN, &[3, 5])])];
    let mut read = Driven::over((0, 9), view(&[(EVER, OPEN, &[3, 4])], &others));
    let asks = read.asks(0);
    assert_eq!(asks[0], to(1, &[3, 4]));
    assert_eq!(asks[1..].iter().map(|ask| &ask.1).collect::<Vec<_>>(), [&vec![5]]);
    assert_eq!(read.missing(), None);
    read.reading.answered(0);
    assert_eq!(read.missing(), None);
    read.reading.answered(1);
    assert_eq!(read.missing(), Some(vec![]));
}

#[test]
fn who_is_late_is_doubled_by_who_has_as_much_and_the_first_answer_will_do() {
    let all: Held<'_> = &[(EVER, OPEN, &[3, 4, 5])];
    let mut read = Driven::over((0, 9), view(&[], &[(Is::Heard, all), (Is::Heard, all)]));
    let first = read.asks(0);
    assert_eq!(first.len(), 2);
    read.reading.answered(1);
    assert_eq!(read.asks(199), []);
    assert_eq!(read.reading.wakes_at(Monotonic(0)), Some(Monotonic(200_000_000)));
    assert_eq!(read.asks(1), [(5 - first[0].0, first[0].1.clone())]);
    read.reading.answered(2);
    assert_eq!(read.missing(), Some(vec![]));
}

#[test]
fn who_has_the_question_and_is_heard_has_longer_and_who_falls_silent_has_not() {
    let all: Held<'_> = &[(EVER, OPEN, &[3, 4, 5])];
    for falls_silent in [false, true] {
        let mut read = Driven::over((0, 9), view(&[(EVER, 5, &[3])], &[(Is::Heard, all)]));
        let mut second = view(&[(EVER, 5, &[3])], &[(Is::Heard, all), (Is::Heard, all)]);
        assert_eq!(read.asks(0), [to(2, &[3, 4, 5])], "an end of a span is not asked where another has all of it");
        read.reading.arrived(0);
        second.peers[0].silent = falls_silent;
        read.view = second;
        let doubled = [to(3, &[3, 4, 5])];
        assert_eq!(read.asks(500), if falls_silent { &doubled[..] } else { &[] });
        assert_eq!(read.asks(1500), if falls_silent { &[] } else { &doubled[..] });
    }
}

#[test]
fn who_is_slow_is_waited_for_where_the_others_have_holes_until_it_is_down() {
    // This peer held shard 3 until a while ago and is about to hold it again: what it has has a hole.
    let (own, all): (Held<'_>, Held<'_>) = (&[(EVER, 20, &[3]), (30, OPEN, &[3])], &[(EVER, OPEN, &[3])]);
    let mut read = Driven::over((10, 49), view(own, &[(Is::Heard, all)]));
    assert_eq!(read.asks(0), [to(2, &[3])]);
    assert_eq!(read.asks(1_000), []);
    read.view.peers[0].silent = true;
    assert_eq!((read.asks(1_000), read.missing()), (vec![], None));
    read.view.peers[0].alive = false;
    assert_eq!(read.asks(1_000), [to(1, &[3])]);
    read.reading.answered(1);
    assert_eq!(read.missing(), Some(vec![3, 4, 5]), "and nobody takes in the others");
}

#[test]
fn parts_that_are_whole_together_are_asked_for_together() {
    let others: [(Is, Held<'_>); 2] = [(Is::Heard, &[(EVER, 5, &[3, 4, 5])]), (Is::Down, &[(EVER, OPEN, &[3, 4, 5])])];
    let mut read = Driven::over((0, 9), view(&[(4, OPEN, &[3, 4]), (7, OPEN, &[5])], &others));
    assert_eq!(read.asks(0), [to(1, &[3, 4, 5]), to(2, &[3, 4, 5])]);
    read.reading.answered(0);
    assert_eq!(read.missing(), None);
    read.reading.answered(1);
    assert_eq!(read.missing(), Some(vec![5]), "of 5 and 6 only the dead had all");
}

#[test]
fn the_silent_are_asked_last_one_after_the_other_the_likelier_alive_first() {
    let all: Held<'_> = &[(EVER, OPEN, &[3, 4, 5])];
    let mut seen =
        view(&[(EVER, OPEN, &[3])], &[(Is::Silent, all), (Is::Silent, all), (Is::Silent, &[(EVER, OPEN, &[5])])]);
    seen.peers[0].suspect = true;
    seen.peers[1].since = Timestamp(7);
    let mut read = Driven::over((0, 9), seen);
    assert_eq!(read.asks(0), [to(1, &[3]), to(3, &[4, 5])]);
    assert_eq!(read.asks(200), [to(4, &[5]), to(2, &[4])]);
    read.reading.answered(0);
    read.reading.failed(1);
    read.reading.answered(2);
    assert_eq!((read.asks(1), read.missing()), (vec![], None));
    read.view.peers[0].alive = false;
    assert_eq!((read.asks(3_000), read.missing()), (vec![], Some(vec![4])));
}

#[test]
fn who_did_not_do_what_was_asked_before_is_asked_where_nobody_else_has_it() {
    let seen = view(&[], &[(Is::Heard, &[(EVER, OPEN, &[3, 4])]), (Is::Heard, &[(EVER, OPEN, &[4, 5])])]);
    let mut reading = Reading::new(&seen, &set(&[3, 4, 5]), Timestamp(0), Timestamp(9), vec![PeerId(2)]);
    let asks: Vec<_> = reading.ask(&seen, Monotonic(0)).into_iter().map(|(_, peer, of)| (peer.0, of)).collect();
    assert_eq!(asks, [(3, set(&[4, 5])), (2, set(&[3]))]);
}

#[test]
fn what_was_pushed_late_is_asked_of_those_who_hold_the_shard_now() {
    // Peer 2 held shard 3 once and has handed it to peer 3: that one got what was pushed since.
    let others: [(Is, Held<'_>); 2] = [(Is::Heard, &[(EVER, 50, &[3])]), (Is::Heard, &[(40, OPEN, &[3])])];
    let mut read = Driven::over((0, 9), view(&[(40, OPEN, &[4, 5])], &others));
    assert_eq!(read.asks(0), [to(1, &[4, 5]), to(2, &[3]), to(3, &[3])]);
}

#[test]
fn a_time_before_all_claims_is_missed_by_nobody_unless_somebody_is_away() {
    let missing = |away: Option<Held<'_>>| {
        let mut others: Vec<(Is, Held<'_>)> = vec![(Is::Heard, &[(40, OPEN, &[3, 4])])];
        others.extend(away.map(|theirs| (Is::Down, theirs)));
        let mut read = Driven::over((0, 9), view(&[(40, OPEN, &[5])], &others));
        assert_eq!(read.asks(0), [to(1, &[5]), to(2, &[3, 4])]);
        read.reading.answered(0);
        read.reading.answered(1);
        read.missing()
    };
    assert_eq!(missing(None), Some(vec![]));
    assert_eq!(missing(Some(&[(0, 20, &[3])])), Some(vec![3]));
    assert_eq!(missing(Some(&[(30, OPEN, &[3])])), Some(vec![]));
}

#[test]
fn an_instant_is_unheard_of_where_only_the_silent_claim_it() {
    let others: [(Is, Held<'_>); 2] = [(Is::Silent, &[(EVER, OPEN, &[3, 4])]), (Is::Heard, &[(50, OPEN, &[4])])];
    let seen = view(&[(EVER, OPEN, &[5])], &others);
    assert_eq!(unheard(&seen, &set(&[3, 4, 5]), Timestamp(60), Timestamp(60)), set(&[3]));
    assert_eq!(unheard(&seen, &set(&[3, 4, 5]), Timestamp(40), Timestamp(60)), set(&[3, 4]));
}
