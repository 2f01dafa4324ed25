//! Two stores with the same samples have the same digests, however they came to hold them.

use promesh_model::shard::{ShardSet, shard_of};
use promesh_model::storage::Budget;
use promesh_model::time::Timestamp;
use proptest::prelude::*;

use super::support::{Plain, now, open, series, write};
use crate::fs::FaultyFs;
use crate::{Db, DigestError, Window};

const HOUR: i64 = 3_600_000;
const START: i64 = 1_700_006_400_000;

fn digests(db: &Db, window: Window) -> Vec<(u16, u64, u128)> {
    let found = db.shard_digests(&ShardSet::all(), window, &Budget::unlimited()).expect("reads");
    found.into_iter().map(|(shard, digest)| (shard.0, digest.count, digest.sum)).collect()
}

fn every_minute(hours: std::ops::Range<i64>) -> Plain {
    let steps = hours.start * 60..hours.end * 60;
    let sample = |step: i64, host| (series("up", host), START + step * 60_000, (step as f64 / 3.0).to_bits());
    steps.flat_map(|step| (0..4).map(move |host| sample(step, host))).collect()
}

#[test]
fn a_window_is_sealed_half_an_hour_after_its_end() {
    let (db, _) = open(&FaultyFs::new(), |_| {});
    write(&db, 1, &every_minute(0..5)).expect("writes");
    let window = db.window_of(Timestamp(START + 1));
    assert_eq!((window.start.ms(), window.end.ms()), (START, START + 2 * HOUR));
    assert!(!db.is_sealed(window, now(START + 2 * HOUR + HOUR / 2 - 1)));
    assert!(db.is_sealed(window, now(START + 2 * HOUR + HOUR / 2)));
    assert_eq!(db.sealed_windows(now(START + 3 * HOUR)), [window]);
    assert_eq!(db.sealed_windows(now(START + 5 * HOUR)).len(), 2);
    assert_eq!(db.sealed_windows(now(START)), []);
}

#[test]
fn a_missing_sample_changes_its_shard_and_its_series_only() {
    let (whole, less) = (open(&FaultyFs::new(), |_| {}).0, open(&FaultyFs::new(), |_| {}).0);
    let all = every_minute(0..2);
    write(&whole, 1, &all).expect("writes");
    let lost = (series("up", 2), START + 30 * 60_000);
    let rest: Plain = all.into_iter().filter(|(labels, at, _)| (labels, at) != (&lost.0, &lost.1)).collect();
    write(&less, 1, &rest).expect("writes");
    let window = whole.window_of(Timestamp(START));
    let (a, b) = (digests(&whole, window), digests(&less, window));
    let differ: Vec<u16> = a.iter().zip(&b).filter(|(a, b)| a != b).map(|(a, _)| a.0).collect();
    assert_eq!(differ, [shard_of(&lost.0).0]);
    let shards = [shard_of(&lost.0)].into_iter().collect();
    let of = |db: &Db| db.series_digests(&shards, window, &Budget::unlimited()).expect("reads");
    let (a, b) = (of(&whole), of(&less));
    assert_eq!(a[&lost.0.stable_hash()].count, b[&lost.0.stable_hash()].count + 1);
}

#[test]
fn a_damaged_block_has_no_digest() {
    let fs = FaultyFs::new();
    let (db, _) = open(&fs, |_| {});
    write(&db, 1, &every_minute(0..6)).expect("writes");
    db.maintain(now(START + 6 * HOUR)).expect("maintains");
    let window = db.window_of(Timestamp(START));
    assert!(!digests(&db, window).is_empty());
    drop(db);
    for chunks in fs.files().iter().filter(|path| path.ends_with("chunks/000001")) {
        fs.damage(chunks, |bytes| bytes[20] ^= 1);
    }
    let (db, _) = open(&fs, |_| {});
    let read = db.shard_digests(&ShardSet::all(), window, &Budget::unlimited());
    assert!(matches!(read, Err(DigestError::Damaged(_))), "{read:?}");
}

/// What `from` has and `to` has not, as a peer would fetch it.
fn copy(from: &Db, to: &Db, window: Window) -> usize {
    let all = ShardSet::all();
    let known = to.series_digests(&all, window, &Budget::unlimited()).expect("reads");
    let mut series = Vec::new();
    let known = known.into_iter().collect();
    let sent = from.export_window(&all, window, &known, &Budget::unlimited(), |one| {
        series.push(one);
        true
    });
    sent.expect("reads");
    to.add_window(window, &series, now(START + 9 * HOUR)).expect("is taken");
    series.len()
}

#[test]
fn a_copied_window_is_what_its_donor_has_whether_that_lies_in_blocks_or_in_the_head() {
    let fs = FaultyFs::new();
    let (donor, copied) = (open(&FaultyFs::new(), |_| {}).0, open(&fs, |_| {}).0);
    write(&donor, 1, &every_minute(0..7)).expect("writes");
    donor.maintain(now(START + 7 * HOUR)).expect("maintains");
    assert!(donor.blocks().len() >= 2 && donor.head().min_time() < Timestamp(START + 7 * HOUR));
    let held: Plain = every_minute(0..2).into_iter().filter(|(labels, ..)| *labels == series("up", 3)).collect();
    write(&copied, 1, &held).expect("writes");
    let window = |hours: i64| donor.window_of(Timestamp(START + hours * HOUR));
    let copies: Vec<usize> = [0, 2, 4, 6].into_iter().map(|hours| copy(&donor, &copied, window(hours))).collect();
    assert_eq!(copies, [3, 4, 4, 4], "what is there alike is not sent");
    let same =
        |db: &Db| [0, 2, 4, 6].iter().all(|hours| digests(db, window(*hours)) == digests(&donor, window(*hours)));
    assert!(same(&copied));
    // Merged and opened again it is the same.
    copied.maintain(now(START + 9 * HOUR)).expect("maintains");
    assert!(same(&copied));
    drop(copied);
    assert!(same(&open(&fs, |_| {}).0));
}

#[test]
fn a_window_that_no_honest_peer_sends_is_refused_whole() {
    let (donor, copied) = (open(&FaultyFs::new(), |_| {}).0, open(&FaultyFs::new(), |_| {}).0);
    write(&donor, 1, &every_minute(0..2)).expect("writes");
    let window = donor.window_of(Timestamp(START));
    let mut all = Vec::new();
    let sent = donor.export_window(&ShardSet::all(), window, &Default::default(), &Budget::unlimited(), |one| {
        all.push(one);
        true
    });
    sent.expect("reads");
    let refused = |spoil: &dyn Fn(&mut Vec<crate::WindowSeries>)| {
        let mut spoilt = all.clone();
        spoil(&mut spoilt);
        let refused = copied.add_window(window, &spoilt, now(START + 9 * HOUR));
        assert!(matches!(refused, Err(crate::WindowError::Malformed { .. })), "{refused:?}");
        assert!(copied.blocks().is_empty());
    };
    refused(&|series| series.swap(0, 1));
    refused(&|series| series[1].1[0].bytes.truncate(9));
    refused(&|series| series[1].1[0].max += 1);
    refused(&|series| {
        let chunk = series[1].1[0].clone();
        series[1].1.push(chunk);
    });
    let elsewhere = Window { start: Timestamp(START + HOUR), end: window.end };
    assert!(copied.add_window(elsewhere, &all, now(START + 9 * HOUR)).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// One store takes everything in order and keeps it in its head; another takes it in pieces, in another order, cuts
    /// blocks, merges them and restarts in between.
    #[test]
    fn the_way_in_does_not_matter(
        order in Just((0..40usize).collect::<Vec<_>>()).prop_shuffle(),
        restart in 0usize..40,
        deleted in proptest::option::of(0usize..4),
    ) {
        let all = every_minute(0..8);
        let straight = open(&FaultyFs::new(), |_| {}).0;
        write(&straight, 1, &all).expect("writes");
        let fs = FaultyFs::new();
        let late = |options: &mut crate::DbOptions| options.head.out_of_order_ms = 100 * HOUR;
        let mut pieces = open(&fs, late).0;
        let length = all.len().div_ceil(order.len());
        for (count, piece) in order.iter().enumerate() {
            if count == restart {
                drop(pieces);
                pieces = open(&fs, late).0;
            }
            if let Some(piece) = all.chunks(length).nth(*piece) {
                write(&pieces, 1, &piece.to_vec()).expect("writes");
                pieces.maintain(now(START + count as i64 * HOUR / 4)).expect("maintains");
            }
        }
        if let Some(host) = deleted {
            let matchers = [vec![promesh_model::Matcher::equal("instance", format!("host-{host}:9100"))]];
            for db in [&straight, &pieces] {
                db.delete_series(&matchers, START + HOUR, START + 3 * HOUR).expect("deletes");
            }
        }
        for hours in [0, 2, 4, 6] {
            let window = straight.window_of(Timestamp(START + hours * HOUR));
            prop_assert_eq!(digests(&straight, window), digests(&pieces, window), "window {}", hours);
        }
    }
}
