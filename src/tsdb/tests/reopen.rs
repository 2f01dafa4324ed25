//! What was written is there after a restart.

use std::path::Path;
use std::sync::Arc;

use promesh_model::matcher::{MatchOp, Matcher};
use promesh_model::storage::{Budget, ListRequest, Queryable};
use promesh_model::time::Timestamp;
use proptest::prelude::*;

use super::support::{Plain, PlainDecoder, dump, now, open, select, series, write};
use crate::fs::FaultyFs;
use crate::{Db, DbOptions, OpenError};

#[test]
fn a_second_process_is_kept_out() {
    let fs = FaultyFs::new();
    let (db, _) = open(&fs, |_| {});
    let options = DbOptions { fs: Arc::new(fs.clone()), ..DbOptions::default() };
    let second = Db::open(Path::new("data"), options, &|| Box::new(PlainDecoder), now(0));
    assert!(matches!(second, Err(OpenError::Locked { .. })));
    drop(db);
    open(&fs, |_| {});
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let fs = FaultyFs::new();
    drop(open(&fs, |_| {}));
    fs.damage(Path::new("data/format.json"), |bytes| *bytes = br#"{"version":9,"min_reader":8}"#.to_vec());
    let options = DbOptions { fs: Arc::new(fs.clone()), ..DbOptions::default() };
    let refused = Db::open(Path::new("data"), options, &|| Box::new(PlainDecoder), now(0)).map(drop);
    assert!(refused.expect_err("too new").to_string().contains("format 8 is newer"));
}

#[test]
fn queries_see_the_newest_sample_and_older_ones() {
    let fs = FaultyFs::new();
    let (db, _) = open(&fs, |_| {});
    for step in 0..500i64 {
        let batch: Plain =
            (0..3).map(|host| (series("up", host), step * 15_000, ((step + host as i64) as f64).to_bits())).collect();
        let written = write(&db, 1, &batch).expect("writes");
        assert_eq!(written.outcome.appended, 3);
    }
    let one = select(&db, vec![Matcher::equal("instance", "host-1:9100")], 100 * 15_000, 499 * 15_000);
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].timestamps, (100..500).map(|step| step * 15_000).collect::<Vec<i64>>());
    assert_eq!(one[0].values[399], 500.0);
    let regex = Matcher::new(MatchOp::Regex, "instance", "host-(0|2):.*").expect("compiles");
    assert_eq!(select(&db, vec![regex.clone()], 0, i64::MAX).len(), 2);
    let not = Matcher::new(MatchOp::NotEqual, "instance", "host-0:9100").expect("compiles");
    assert_eq!(select(&db, vec![not, regex.clone()], 0, i64::MAX)[0].labels, series("up", 2));
    let request = ListRequest { matcher_sets: vec![vec![regex]], start: Timestamp(0), end: Timestamp(1), limit: 0 };
    let budget = Budget::unlimited();
    assert_eq!(db.label_values("instance", &request, &budget).expect("answers").items, ["host-0:9100", "host-2:9100"]);
    assert_eq!(db.label_names(&request, &budget).expect("answers").items, ["__name__", "instance", "job"]);
    assert_eq!(db.series(&request, &budget).expect("answers").items, [series("up", 0), series("up", 2)]);
    let before = dump(&db);
    assert_eq!(before.len(), 1500);
    drop(db);
    let (db, report) = open(&fs, |_| {});
    assert_eq!(report.replay.samples, 1500);
    assert_eq!(dump(&db), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What was synced before the power went is there, once each, and nothing that was not written.
    #[test]
    fn synced_samples_survive_a_power_cut(
        steps in proptest::collection::vec((0u8..12, 0usize..5, 1i64..400, 0u32..5), 1..80),
        keep in 0usize..3000,
    ) {
        let fs = FaultyFs::new();
        let (mut db, _) = open(&fs, |_| {});
        let (mut written, mut synced): (Plain, usize) = (Vec::new(), 0);
        let mut clock = 1_700_000_000_000i64;
        for (what, host, step, value) in steps {
            match what {
                0 => { db.sync().expect("syncs"); synced = written.len(); }
                1 => { db.log().cut().expect("cuts"); }
                2 => { drop(db); db = open(&fs, |_| {}).0; }
                _ => {
                    clock += step * 1000;
                    let batch = vec![
                        (series("a", host), clock, f64::from(value).to_bits()),
                        (series("b", host), clock - step % 2 * 500, f64::from(value).to_bits()),
                    ];
                    let outcome = write(&db, host as u8, &batch).expect("writes").outcome;
                    prop_assert_eq!(outcome.appended, 2);
                    written.extend(batch);
                }
            }
        }
        let mut expected = written.clone();
        expected.sort();
        prop_assert_eq!(dump(&db), expected.clone());
        drop(db);
        fs.crash(|tail| keep.min(tail));
        let (db, _) = open(&fs, |_| {});
        let found = dump(&db);
        prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(written[..synced].iter().all(|sample| found.contains(sample)));
        prop_assert!(found.iter().all(|sample| expected.binary_search(sample).is_ok()));
    }
}
