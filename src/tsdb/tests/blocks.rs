//! Windows become blocks, blocks are merged, and every sample is still there once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use promesh_model::matcher::{MatchOp, Matcher};
use promesh_model::storage::{Budget, ListRequest, Queryable};
use promesh_model::time::Timestamp;

use super::conformance::{blocks_in, samples_of};
use super::support::{Plain, PlainDecoder, dump, now, open, select, series, write};
use crate::block::ulid::Ulid;
use crate::block::{Block, meta::HINT_OUT_OF_ORDER};
use crate::compact::compact;
use crate::fs::{FaultyFs, RealFs};
use crate::{Db, DbOptions, HeadChunk};

const HOUR: i64 = 3_600_000;
const START: i64 = 1_700_006_400_000;

fn fill(db: &Db, hours: std::ops::Range<i64>, hosts: usize) -> Plain {
    let mut all = Vec::new();
    for step in hours.start * 60..hours.end * 60 {
        let at = START + step * 60_000;
        let batch: Plain = (0..hosts).map(|host| (series("up", host), at, (step as f64).to_bits())).collect();
        assert_eq!(write(db, 1, &batch).expect("writes").outcome.appended, hosts as u64);
        all.extend(batch);
    }
    all
}

fn sorted(mut samples: Plain) -> Plain {
    samples.sort();
    samples
}

#[test]
fn windows_become_blocks_and_blocks_become_larger() {
    let fs = FaultyFs::new();
    let (db, _) = open(&fs, |_| {});
    let mut all = Vec::new();
    let (mut cut, mut merged) = (0, 0);
    for hour in 0..50 {
        all.extend(fill(&db, hour..hour + 1, 3));
        let done = db.maintain(now(START + hour * HOUR)).expect("maintains");
        cut += done.windows_cut;
        merged += done.compactions;
        assert_eq!(dump(&db), sorted(all.clone()), "after hour {hour}");
    }
    assert_eq!((cut, merged), (24, 9));
    let spans: Vec<i64> =
        db.blocks().iter().map(|block| (block.meta().max_time - block.meta().min_time) / HOUR).collect();
    assert_eq!(spans, [6, 18, 18, 2, 2, 2]);
    assert!(db.log().segments().len() <= 5, "{:?}", db.log().segments());
    drop(db);
    let (db, report) = open(&fs, |_| {});
    assert_eq!((report.blocks, report.set_aside.len()), (6, 0));
    assert_eq!(dump(&db), sorted(all));
}

#[test]
fn late_samples_get_blocks_of_their_own_that_are_merged() {
    let fs = FaultyFs::new();
    let (db, _) = open(&fs, |options| options.head.out_of_order_ms = 100 * HOUR);
    let mut all = fill(&db, 0..6, 2);
    db.maintain(now(START)).expect("maintains");
    let late: Plain = (0..50).map(|step| (series("up", 0), START + step * 60_000 + 30_000, 7)).collect();
    assert_eq!(write(&db, 1, &late).expect("writes").outcome.late, 50);
    all.extend(late);
    assert_eq!(dump(&db), sorted(all.clone()));
    all.extend(fill(&db, 6..8, 2));
    let done = db.maintain(now(START)).expect("maintains");
    assert_eq!((done.late_blocks, db.head().late_samples()), (1, 0));
    assert!(done.compactions > 0, "what overlaps is merged");
    assert!(db.blocks().iter().all(|block| block.meta().compaction.hints != [HINT_OUT_OF_ORDER]));
    assert_eq!(dump(&db), sorted(all.clone()));
    drop(db);
    assert_eq!(dump(&open(&fs, |options| options.head.out_of_order_ms = 100 * HOUR).0), sorted(all));
}

#[test]
fn deleted_samples_are_gone_for_ever_and_later_ones_stay() {
    let fs = FaultyFs::new();
    let (db, _) = open(&fs, |_| {});
    let mut all = fill(&db, 0..6, 3);
    db.maintain(now(START)).expect("maintains");
    let host = Matcher::equal("instance", "host-1:9100");
    db.delete_series(&[vec![host]], START + HOUR, i64::MAX).expect("deletes");
    all.retain(|(labels, at, _)| *labels != series("up", 1) || *at < START + HOUR);
    assert_eq!(dump(&db), sorted(all.clone()));
    drop(db);
    let (db, _) = open(&fs, |_| {});
    assert_eq!(dump(&db), sorted(all.clone()));
    all.extend(fill(&db, 6..9, 3));
    db.maintain(now(START)).expect("maintains");
    assert_eq!(dump(&db), sorted(all.clone()));
    db.clean_tombstones(now(START)).expect("cleans");
    assert!(db.blocks().iter().all(|block| block.tombstones().is_empty()));
    assert_eq!(dump(&db), sorted(all));
}

#[test]
fn retention_drops_old_blocks() {
    let fs = FaultyFs::new();
    let (db, _) = open(&fs, |options| {
        options.retention = Some(Duration::from_secs(10 * 3600));
        options.block_span_max = Duration::from_secs(2 * 3600);
    });
    for hour in 0..24 {
        fill(&db, hour..hour + 1, 2);
        db.maintain(now(START + hour * HOUR)).expect("maintains");
    }
    let first = select(&db, Vec::new(), i64::MIN, i64::MAX)[0].timestamps[0];
    assert!((START + 12 * HOUR..=START + 14 * HOUR).contains(&first), "{}", (first - START) / HOUR);
    // What is asked for while it runs counts from the next maintenance on.
    db.set_retention(crate::Retention { time: Some(Duration::from_secs(5 * 3600)), bytes: None, percent: None });
    db.maintain(now(START + 24 * HOUR)).expect("maintains");
    let first = select(&db, Vec::new(), i64::MIN, i64::MAX)[0].timestamps[0];
    assert!((START + 17 * HOUR..=START + 19 * HOUR).contains(&first), "{}", (first - START) / HOUR);
    drop(db);
    let (db, _) = open(&fs, |options| options.retention_bytes = Some(1));
    db.maintain(now(START)).expect("maintains");
    assert!(db.blocks().is_empty());
}

#[test]
fn a_damaged_block_is_set_aside_and_the_others_answer() {
    for name in ["meta.json", "index", "chunks/000001", "tombstones"] {
        let fs = FaultyFs::new();
        let (db, _) = open(&fs, |options| options.block_span_max = Duration::ZERO);
        fill(&db, 0..8, 2);
        db.maintain(now(START)).expect("maintains");
        let blocks = db.blocks();
        assert_eq!(blocks.len(), 3);
        let whole = dump(&db).len();
        let damaged = blocks[1].dir().join(name);
        drop((blocks, db));
        fs.damage(&damaged, |bytes| bytes.truncate(bytes.len() / 9));
        let (db, report) = open(&fs, |_| {});
        assert_eq!(report.set_aside.len() + report.blocks, 3, "{name}");
        let budget = Budget::unlimited();
        let request = ListRequest { matcher_sets: vec![], start: Timestamp(0), end: Timestamp::MAX, limit: 0 };
        assert_eq!(db.label_values("job", &request, &budget).expect("answers").items, ["node"]);
        let request = promesh_model::storage::SelectRequest {
            matchers: vec![],
            start: Timestamp(0),
            end: Timestamp::MAX,
            hints: Default::default(),
        };
        let answer = db.select(&[request], &budget).expect("answers").remove(0);
        let left: usize = answer.series.iter().map(|series| series.values.len()).sum();
        assert!(left >= whole - 240, "{name}: {left} of {whole}");
        assert_eq!(report.set_aside.is_empty(), !answer.warnings.is_empty(), "{name}: {:?}", answer.warnings);
    }
}

/// A real folder, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("promesh-tsdb-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open_real(dir: &Path) -> Db {
    let options = DbOptions { fs: Arc::new(RealFs), ..DbOptions::default() };
    Db::open(dir, options, &|| Box::new(PlainDecoder), now(START)).expect("opens").0
}

#[test]
fn a_snapshot_on_a_real_disk_opens_with_all_samples() {
    let folder = Folder::new("snapshot");
    let db = open_real(&folder.0.join("data"));
    let all = fill(&db, 0..5, 2);
    db.maintain(now(START)).expect("maintains");
    let name = db.snapshot(true, now(START)).expect("copies");
    let copy = folder.0.join("data/snapshots").join(name);
    let copied: u64 = blocks_in(&copy).iter().map(|block| block.meta().stats.samples).sum();
    assert_eq!(copied, all.len() as u64);
    let copied = open_real(&copy);
    assert_eq!(dump(&copied), sorted(all));
    let none = Matcher::new(MatchOp::Regex, "instance", "host-[5-9].*").expect("compiles");
    assert!(select(&copied, vec![none], i64::MIN, i64::MAX).is_empty());
}

/// `promtool tsdb dump` of both forms prints what it prints for the original; that was checked by hand, and this keeps it.
#[test]
fn a_block_of_prometheus_written_anew_holds_the_same_samples() {
    let Some(dir) = super::conformance::cases("prom-3.5.3-snapshot") else { return };
    let folder = Folder::new("anew");
    let original: Vec<Arc<Block>> = blocks_in(&dir).into_iter().map(Arc::new).collect();
    let samples = samples_of(&original.iter().map(|block| &**block).collect::<Vec<_>>());
    assert!(samples.len() > 800);

    let copy = folder.0.join("copy");
    std::fs::create_dir_all(&copy).expect("a folder");
    let meta = compact(&RealFs, &copy, &original, Ulid::new(START, 1, 1)).expect("compacts").expect("is not empty");
    let block = Block::open(&RealFs, &copy.join(meta.ulid.to_string())).expect("opens");
    assert_eq!(block.meta().stats.samples, original[0].meta().stats.samples);
    assert!(samples_of(&[&block]) == samples, "copied chunks differ");

    let db = open_real(&folder.0.join("data"));
    for series in original[0].all_series().expect("postings") {
        let (labels, metas) = original[0].read_series(series).expect("a series");
        for meta in metas {
            let chunk = original[0].chunk(&meta).expect("a chunk");
            let (labels, bytes) = (labels.clone(), chunk.bytes.to_vec());
            let chunk = HeadChunk { labels, encoding: chunk.encoding, min: meta.min, max: meta.max, bytes };
            db.head().import_open(chunk).expect("imports");
        }
    }
    assert_eq!(db.maintain(now(START)).expect("maintains").windows_cut, 1);
    let name = db.snapshot(true, now(START)).expect("copies");
    let anew = blocks_in(&folder.0.join("data/snapshots").join(name));
    assert_eq!(anew.len(), 2);
    assert!(samples_of(&anew.iter().collect::<Vec<_>>()) == samples, "samples written anew differ");
}
