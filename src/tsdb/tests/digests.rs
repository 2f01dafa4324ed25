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
