use promesh_model::ShardId;

use super::*;

const HOUR: i64 = 3_600_000;

fn set(shards: &[u16]) -> ShardSet {
    shards.iter().map(|&shard| ShardId(shard)).collect()
}

fn at(ms: i64) -> Now {
    Now { monotonic: Monotonic(ms as u64 * 1_000_000), wall: Timestamp(ms) }
}

/// Peers 1 and 2 are known; those named are heard, and hold what they say.
fn around(donors: &[(u128, &Possession)]) -> Surroundings<'static> {
    let donors = donors.iter().map(|(id, possession)| (PeerId(*id), Arc::new((*possession).clone()))).collect();
    Surroundings {
        donors,
        away: Vec::new(),
        known: [PeerId(1), PeerId(2)].into(),
        unknown: BTreeSet::new(),
        alone: false,
        first: false,
        acting: None,
    }
}

fn holder(shards: &[u16]) -> Possession {
    let mut possession = Possession::default();
    possession.begin(&set(shards), Timestamp(7));
    possession
}

/// (from, log since) of each copy planned.
fn plan(holdings: &mut Holdings, around: Surroundings<'_>, now: Now) -> Vec<(u64, u128, Option<i64>)> {
    let planned = holdings.plan(around, now);
    planned.into_iter().map(|(token, fetch)| (token, fetch.from.0, fetch.since.map(Timestamp::ms))).collect()
}

fn finish(holdings: &mut Holdings, planned: &[(u64, u128, Option<i64>)], now: Now) {
    for (token, ..) in planned {
        holdings.fetched(*token, Some(Timestamp(7)), &BTreeMap::new(), now.monotonic);
    }
}

#[test]
fn a_gained_shard_is_whole_once_window_and_logs_are_in_and_who_was_away_owes_the_rest() {
    let (mut holdings, now) = (Holdings::default(), at(HOUR));
    holdings.want(set(&[3]), now.wall);
    let planned = plan(&mut holdings, around(&[(1, &holder(&[3]))]), now);
    assert_eq!(planned.iter().map(|copy| (copy.1, copy.2)).collect::<Vec<_>>(), [(1, Some(HOUR - 30_000)), (1, None)]);
    assert!(holdings.is_syncing() && holdings.own.open_shards().is_empty());
    finish(&mut holdings, &planned, now);
    assert!(holdings.own.covers(ShardId(3), Timestamp(7), now.wall));
    assert_eq!(holdings.own.debts()[&PeerId(2)], Debt { since: now.wall, shards: set(&[3]) });
    let planned = plan(&mut holdings, around(&[(2, &holder(&[]))]), at(HOUR + 500));
    assert_eq!(planned.iter().map(|copy| (copy.1, copy.2)).collect::<Vec<_>>(), [(2, Some(HOUR - 30_000))]);
    finish(&mut holdings, &planned, now);
    assert!(holdings.own.debts().is_empty());
}

#[test]
fn a_copy_inherits_what_its_donor_is_owed() {
    let (mut holdings, now) = (Holdings::default(), at(HOUR));
    holdings.want(set(&[3]), now.wall);
    let mut donor = holder(&[3, 4]);
    donor.owe(PeerId(2), Timestamp(HOUR / 2), &set(&[3, 4]));
    plan(&mut holdings, around(&[(1, &donor)]), now);
    assert_eq!(holdings.own.debts()[&PeerId(2)], Debt { since: Timestamp(HOUR / 2), shards: set(&[3]) });
}

#[test]
fn a_debt_stays_until_it_is_fetched_and_a_loss_meanwhile_is_not_forgotten() {
    let (mut holdings, now) = (Holdings::default(), at(HOUR));
    holdings.own = holder(&[3]);
    holdings.wanted = set(&[3]);
    holdings.lose(PeerId(1), now.wall);
    let planned = plan(&mut holdings, around(&[(1, &holder(&[3]))]), now);
    holdings.fetched(planned[0].0, None, &BTreeMap::new(), now.monotonic);
    assert!(plan(&mut holdings, around(&[(1, &holder(&[3]))]), now).is_empty(), "it rests after a failure");
    let later = at(HOUR + 1_000);
    assert!(holdings.has_rested(later.monotonic));
    let planned = plan(&mut holdings, around(&[(1, &holder(&[3]))]), later);
    holdings.lose(PeerId(1), later.wall);
    finish(&mut holdings, &planned, later);
    assert!(holdings.own.debts().contains_key(&PeerId(1)));
}

#[test]
fn what_came_from_the_future_is_owed_until_its_time_has_come() {
    let (mut holdings, now) = (Holdings::default(), at(HOUR));
    holdings.own = holder(&[3]);
    holdings.wanted = set(&[3]);
    let peer = holder(&[3]);
    let then = Timestamp(HOUR + 600_000);
    assert!(holdings.refuse(PeerId(1), then, &set(&[3])) && !holdings.refuse(PeerId(1), then, &set(&[3])));
    assert!(!holdings.has_work(now.wall) && plan(&mut holdings, around(&[(1, &peer)]), now).is_empty());
    assert_eq!(holdings.next_due(), Some(then.before(SOON)));
    let later = at(HOUR + 590_000);
    assert!(holdings.has_come_due(later.wall) && holdings.has_work(later.wall));
    let planned = plan(&mut holdings, around(&[(1, &peer)]), later);
    assert_eq!(planned.iter().map(|copy| copy.2).collect::<Vec<_>>(), [Some(HOUR + 570_000)]);
    // The copy has more of the future, which is owed anew.
    let further = Timestamp(HOUR + 1_500_000);
    holdings.refuse(PeerId(1), further, &set(&[3]));
    finish(&mut holdings, &planned, later);
    assert_eq!(holdings.own.debts()[&PeerId(1)], Debt { since: further, shards: set(&[3]) });
    assert!(!holdings.has_work(later.wall));
    assert_eq!(holdings.doubts(PeerId(1)), 0, "sealed windows are not in doubt");
    // A copy that failed leaves the debt that it was for.
    let planned = plan(&mut holdings, around(&[(1, &peer)]), at(HOUR + 1_500_000));
    holdings.refuse(PeerId(1), Timestamp(2 * HOUR), &set(&[4]));
    holdings.fetched(planned[0].0, None, &BTreeMap::new(), now.monotonic);
    assert_eq!(holdings.own.debts()[&PeerId(1)], Debt { since: further, shards: set(&[3, 4]) });
}

#[test]
fn the_dead_are_owed_by_those_who_held_with_them_since_they_were_first_lost() {
    let mut holdings = Holdings { own: holder(&[3, 4]), wanted: set(&[3, 4]), ..Holdings::default() };
    holdings.lose(PeerId(1), Timestamp(HOUR));
    assert_eq!((holdings.doubts(PeerId(1)), holdings.doubts(PeerId(2))), (1, 0));
    let theirs = holder(&[4, 5]);
    let bequest = holdings.bequest(PeerId(1), Timestamp(HOUR + 9_000), ShardSet::clone);
    holdings.bereave(PeerId(1), bequest, [(PeerId(2), Some(&theirs))].into_iter());
    assert_eq!(holdings.own.debts()[&PeerId(2)], Debt { since: Timestamp(HOUR), shards: set(&[4]) });
    assert_eq!((holdings.doubts(PeerId(1)), holdings.doubts(PeerId(2))), (1, 1));
}

/// A hundred peers that missed half of them one by one asked everybody for everything, again and again.
#[test]
fn in_a_large_mesh_a_span_goes_on_by_the_log_of_one_who_has_had_all_since() {
    let now = at(HOUR);
    let ended = |to: i64| {
        let mut own = holder(&[3]);
        own.end(&set(&[3]), Timestamp(to));
        Holdings { own, wanted: set(&[3]), ..Holdings::default() }
    };
    let acting = BTreeMap::from([(PeerId(2), set(&[3]))]);
    let (mut whole, late) = (holder(&[3]), {
        let mut late = Possession::default();
        late.begin(&set(&[3]), Timestamp(HOUR - 1_000));
        late
    });
    whole.owe(PeerId(9), Timestamp(HOUR / 2), &set(&[3, 4]));
    let planned = |holdings: &mut Holdings, donor: &Possession| {
        let around = Surroundings { acting: Some(&acting), ..around(&[(1, donor), (2, &Possession::default())]) };
        plan(holdings, around, now).into_iter().map(|(_, from, since)| (from, since)).collect::<Vec<_>>()
    };
    // Who acts may have written what is not there yet.
    let mut holdings = ended(HOUR / 3);
    assert_eq!(planned(&mut holdings, &whole), [(2, Some(HOUR - 30_000)), (1, Some(HOUR / 3 - 30_000))]);
    assert_eq!(holdings.own.debts()[&PeerId(9)], Debt { since: Timestamp(HOUR / 2), shards: set(&[3]) });
    for token in holdings.fetches.keys().copied().collect::<Vec<_>>() {
        holdings.fetched(token, Some(Timestamp(7)), &BTreeMap::new(), now.monotonic);
    }
    assert!(holdings.own.covers(ShardId(3), Timestamp(7), now.wall));
    // Nobody has had all since: the window of one begins a new span, unless it ended a moment ago.
    assert_eq!(planned(&mut ended(HOUR / 3), &late), [(2, Some(HOUR - 30_000)), (1, None)]);
    let since = Some(HOUR - 40_000);
    assert_eq!(planned(&mut ended(HOUR - 10_000), &late), [(1, since), (2, since)]);
}

/// It claimed the hole between its last sample and the window that its donors still had in their logs.
#[test]
fn who_was_away_while_a_window_became_a_block_does_not_go_on_from_where_it_was() {
    let away = |from: i64, to: i64| {
        let mut own = holder(&[3]);
        own.end(&set(&[3]), Timestamp(from));
        let mut holdings = Holdings { own, wanted: set(&[3]), ..Holdings::default() };
        let donor = Possession::of(vec![Extent { from: Timestamp(12 * HOUR), to: Timestamp::MAX, shards: set(&[3]) }]);
        let planned = plan(&mut holdings, around(&[(1, &donor)]), at(to));
        let logs_alone = planned.iter().all(|(_, _, since)| since.is_some());
        for (token, ..) in planned {
            holdings.fetched(token, Some(Timestamp(12 * HOUR)), &BTreeMap::new(), at(to).monotonic);
        }
        (logs_alone, holdings.own.covers(ShardId(3), Timestamp(from), Timestamp(to)))
    };
    let minutes = |hour: i64, minutes: i64| hour * HOUR + minutes * 60_000;
    assert_eq!(away(minutes(11, 50), minutes(12, 50)), (true, true), "ten to twelve is in the logs until one");
    assert_eq!(away(minutes(11, 50), minutes(13, 5)), (false, false));
    assert_eq!(away(minutes(12, 10), minutes(13, 5)), (true, true));
}

#[test]
fn a_shard_given_up_during_its_copy_is_not_claimed() {
    let (mut holdings, now) = (Holdings::default(), at(HOUR));
    holdings.want(set(&[3, 4]), now.wall);
    let planned = plan(&mut holdings, around(&[(1, &holder(&[3, 4]))]), now);
    holdings.want(set(&[4]), now.wall);
    holdings.want(set(&[3, 4]), now.wall);
    finish(&mut holdings, &planned, now);
    assert_eq!(holdings.own.open_shards(), set(&[4]));
}

#[test]
fn after_a_restart_claims_end_at_the_oldest_debt() {
    let mut own = holder(&[3]);
    own.owe(PeerId(1), Timestamp(HOUR), &set(&[3]));
    let now = at(HOUR + 300_000);
    let holdings = Holdings::restarted(own, Timestamp(HOUR + 200_000), Windows::default(), now.wall);
    assert!(holdings.own.covers(ShardId(3), Timestamp(7), Timestamp(HOUR - 1)));
    assert!(!holdings.own.covers(ShardId(3), Timestamp(HOUR), Timestamp(HOUR)));
}

/// Held here from the start until a moment before the hour.
fn held_until_a_moment_ago(shards: &[u16]) -> Holdings {
    let mut holdings = Holdings::default();
    holdings.own.begin(&set(shards), Timestamp(7));
    holdings.want(set(shards), at(HOUR).wall);
    holdings.want(ShardSet::default(), at(HOUR).wall);
    holdings.want(set(shards), at(HOUR + 60_000).wall);
    holdings
}

#[test]
fn what_only_somebody_silent_has_had_since_is_waited_for() {
    let (mut holdings, now) = (held_until_a_moment_ago(&[3, 4]), at(HOUR + 60_000));
    let away = |is_alive: bool| vec![(Arc::new(holder(&[3])), is_alive)];
    let heard = holder(&[4]);
    let planned = plan(&mut holdings, Surroundings { away: away(true), ..around(&[(1, &heard)]) }, now);
    finish(&mut holdings, &planned, now);
    assert_eq!(holdings.own.open_shards(), set(&[4]));
    assert!(holdings.own.covers(ShardId(4), Timestamp(7), now.wall));
    assert_eq!(plan(&mut holdings, Surroundings { away: away(true), ..around(&[(1, &heard)]) }, now), []);
    let planned = plan(&mut holdings, around(&[(1, &heard), (2, &holder(&[3]))]), now);
    finish(&mut holdings, &planned, now);
    assert!(holdings.own.covers(ShardId(3), Timestamp(7), now.wall));
}

#[test]
fn what_only_the_dead_have_had_since_is_not_claimed_until_one_is_back() {
    let (mut holdings, now) = (held_until_a_moment_ago(&[3]), at(HOUR + 60_000));
    let away = vec![(Arc::new(holder(&[3])), false)];
    let planned = plan(&mut holdings, Surroundings { away, ..around(&[(1, &holder(&[]))]) }, now);
    finish(&mut holdings, &planned, now);
    let ended = HOUR - 30_000;
    assert!(holdings.own.covers(ShardId(3), Timestamp(7), Timestamp(ended - 1)));
    assert!(holdings.own.covers(ShardId(3), now.wall, now.wall));
    assert!(!holdings.own.covers(ShardId(3), Timestamp(ended), now.wall));
    assert_eq!(holdings.own.debts()[&PeerId(2)].since, Timestamp(ended));
    let back = holder(&[3]);
    for (token, from, _) in plan(&mut holdings, around(&[(2, &back)]), at(HOUR + 90_000)) {
        let held = BTreeMap::from([(PeerId(from), Arc::new(back.clone()))]);
        holdings.fetched(token, Some(Timestamp(7)), &held, now.monotonic);
    }
    assert!(holdings.own.covers(ShardId(3), Timestamp(7), now.wall));
    assert!(holdings.own.debts().is_empty());
}
