//! Reading series one by one gives what reading all at once gives, whatever happens meanwhile.

use std::sync::Arc;

use promesh_model::matcher::{MatchOp, Matcher};
use promesh_model::shard::{ShardSet, shard_of};
use promesh_model::storage::{Budget, Queryable, SelectHints, SelectRequest, SeriesColumns};
use promesh_model::time::Timestamp;

use super::support::{Plain, now, open, select, series, write};
use crate::Db;
use crate::fs::FaultyFs;

const HOUR: i64 = 3_600_000;
const START: i64 = 1_700_006_400_000;

fn fill(db: &Db, name: &str, minutes: std::ops::Range<i64>, hosts: std::ops::Range<usize>) {
    for step in minutes {
        let at = START + step * 60_000;
        let batch: Plain = hosts.clone().map(|host| (series(name, host), at, (step as f64).to_bits())).collect();
        write(db, 1, &batch).expect("writes");
    }
}

fn request(matcher: Matcher, start: i64, end: i64, newest_only: bool) -> SelectRequest {
    let hints = SelectHints { newest_only, ..SelectHints::default() };
    SelectRequest { matchers: vec![matcher], start: Timestamp(start), end: Timestamp(end), hints }
}

fn drained(db: &Db, request: &SelectRequest, mut meanwhile: impl FnMut(usize)) -> Vec<SeriesColumns> {
    let mut cursors = db.cursors(std::slice::from_ref(request), &Budget::unlimited()).expect("answers");
    let mut cursor = cursors.pop().expect("one a request");
    let (mut all, mut series) = (Vec::new(), SeriesColumns::default());
    while cursor.next(&mut series).expect("reads") {
        all.push(series.clone());
        meanwhile(all.len());
    }
    assert_eq!(cursor.take_warnings(), Vec::<String>::new());
    all
}

fn name(value: &str) -> Matcher {
    Matcher::equal("__name__", value)
}

#[test]
fn shards_are_read_apart() {
    let (db, _) = open(&FaultyFs::new(), |_| {});
    // Some in a block, some in memory, some in both.
    fill(&db, "up", 0..100, 0..30);
    fill(&db, "up", 100..300, 20..60);
    assert_eq!(db.maintain(now(START)).expect("maintains").windows_cut, 1);
    let whole = request(name("up"), START, START + 300 * 60_000, false);
    let all = drained(&db, &whole, |_| {});
    assert_eq!(all.len(), 60);
    let mut apart: Vec<SeriesColumns> = (0..3)
        .flat_map(|third| {
            let shards = ShardSet::all().iter().filter(|shard| shard.0 % 3 == third).collect();
            let mut some = whole.clone();
            some.hints.shards = Some(Arc::new(shards));
            let found = drained(&db, &some, |_| {});
            assert!(found.iter().all(|series| shard_of(&series.labels).0 % 3 == third) && found.len() < 60);
            found
        })
        .collect();
    apart.sort_by(|a, b| a.labels.cmp(&b.labels));
    assert_eq!(apart, all);
}

#[test]
fn what_lies_in_memory_and_is_found_by_name_is_at_hand() {
    let (db, _) = open(&FaultyFs::new(), |_| {});
    fill(&db, "up", 0..30, 0..12);
    fill(&db, "down", 0..30, 0..3);
    let host = |op, value: &str| Matcher::new(op, "instance", value).expect("compiles");
    let check = |matchers: &[Matcher], minutes: (i64, i64), expected: Option<usize>| {
        let (start, end) = (START + minutes.0 * 60_000, START + minutes.1 * 60_000);
        let mut request = request(matchers[0].clone(), start, end, false);
        request.matchers = matchers.to_vec();
        let found = db.at_hand(std::slice::from_ref(&request)).map(|(_, series)| series);
        assert_eq!(found, expected, "{matchers:?} {minutes:?}");
        // It is a bound, whatever else is asked for.
        let series = drained(&db, &request, |_| {}).len();
        assert!(found.is_none_or(|found| series <= found), "{matchers:?} {minutes:?}: {series}");
    };
    check(&[name("up")], (25, 29), Some(12));
    check(&[name("up")], (25, 90), Some(12));
    check(&[name("none")], (25, 29), Some(0));
    check(&[name("up"), host(MatchOp::NotEqual, "host-1:9100")], (25, 29), Some(12));
    check(&[name("down"), host(MatchOp::Regex, "host-1:9100|host-2:9100")], (25, 29), Some(3));
    // Older than what is surely in memory; a walk over values; the absence of a label.
    check(&[name("up")], (0, 29), None);
    check(&[name("up"), host(MatchOp::Regex, "host.*")], (25, 29), None);
    check(&[name("up"), host(MatchOp::NotEqual, "")], (25, 29), None);
    check(&[name("up"), host(MatchOp::Equal, "")], (25, 29), None);
    // What is nowhere needs no search wherever it would lie.
    check(&[name("none")], (0, 29), Some(0));
    fill(&db, "up", 30..300, 0..12);
    assert_eq!(db.maintain(now(START)).expect("maintains").windows_cut, 1);
    check(&[name("none"), host(MatchOp::NotEqual, "host-1:9100")], (0, 299), Some(0));
    check(&[name("up")], (290, 299), Some(12));
    check(&[name("up")], (100, 299), None);
    check(&[name("up"), host(MatchOp::Equal, "host-99:9100")], (0, 299), Some(0));
    check(&[name("up"), host(MatchOp::Equal, "")], (0, 299), None);
    let two = [
        request(name("up"), START + 295 * 60_000, START + 299 * 60_000, true),
        request(name("down"), START, START, true),
    ];
    assert!(db.at_hand(&two).is_none());
    assert_eq!(db.at_hand(&two[..1]).map(|(_, series)| series), Some(12));
}

#[test]
fn a_cursor_gives_what_a_selection_gives() {
    let (db, _) = open(&FaultyFs::new(), |_| {});
    fill(&db, "up", 0..200, 0..12);
    let every = || Matcher::new(MatchOp::Regex, "__name__", ".+").expect("compiles");
    for (from, to) in [(0, 200), (50, 60), (199, 400), (300, 400)] {
        let (start, end) = (START + from * 60_000, START + to * 60_000);
        for matcher in [name("up"), every(), name("down")] {
            let whole = select(&db, vec![matcher.clone()], start, end);
            assert_eq!(drained(&db, &request(matcher.clone(), start, end, false), |_| {}), whole);
            let newest = drained(&db, &request(matcher, start, end, true), |_| {});
            let last = |series: &SeriesColumns| (series.timestamps.last().copied(), series.values.last().copied());
            assert_eq!(newest.iter().map(last).collect::<Vec<_>>(), whole.iter().map(last).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_window_that_becomes_a_block_under_a_cursor_is_read_all_the_same() {
    let (db, _) = open(&FaultyFs::new(), |_| {});
    fill(&db, "up", 0..300, 0..9);
    let (start, end) = (START, START + 5 * HOUR);
    let whole = select(&db, vec![name("up")], start, end);
    let read = drained(&db, &request(name("up"), start, end, false), |count| {
        if count == 4 {
            assert_eq!(db.maintain(now(START)).expect("maintains").windows_cut, 1);
        }
    });
    assert_eq!(read, whole);
}

#[test]
fn a_kept_selection_sees_series_come_and_go() {
    let (db, _) = open(&FaultyFs::new(), |_| {});
    let hosts = |from: i64| select(&db, vec![name("up")], START + from * 60_000, START + 1000 * 60_000).len();
    assert_eq!(hosts(0), 0);
    fill(&db, "up", 0..10, 0..3);
    assert_eq!((hosts(0), hosts(0)), (3, 3));
    fill(&db, "other", 0..10, 0..3);
    fill(&db, "up", 5..10, 3..5);
    assert_eq!(hosts(0), 5);
    // All but one host end; blocks take over, and their slots are used again by other series.
    fill(&db, "up", 10..700, 4..5);
    db.maintain(now(START)).expect("maintains");
    fill(&db, "fresh", 690..700, 0..8);
    assert_eq!((hosts(0), hosts(600)), (5, 1));
    fill(&db, "up", 700..705, 0..1);
    assert_eq!(hosts(600), 2);
}
