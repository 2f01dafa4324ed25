//! Any interleaving of what a database does with what disks and machines do to it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use promesh_model::Labels;
use promesh_model::ingest::HistogramValue;
use promesh_model::matcher::Matcher;
use promesh_model::time::{Monotonic, Now};
use promesh_model::value::STALE_NAN_BITS;
use proptest::prelude::*;

use super::conformance::samples_of;
use super::support::{HISTOGRAMS, Plain, dump, now, open, series, write};
use crate::fs::{Fault, FaultyFs, Fs as _};
use crate::head::series::Value;
use crate::{Db, DbOptions, open_blocks_read_only};

const HOUR: i64 = 3_600_000;
const START: i64 = 1_700_006_400_000;
const RETENTION: i64 = 9 * HOUR;

/// Which series a step is about: floats, or histograms of one of the three kinds.
#[derive(Clone, Copy, Debug)]
struct Of(&'static str, usize);

impl Of {
    fn labels(self) -> Labels {
        series(self.0, self.1)
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A sample so many minutes after the newest; a staleness marker if so said.
    Append(Of, i64, bool),
    /// A sample so many minutes before the newest.
    Late(Of, i64),
    Sync,
    Maintain,
    Delete(Of, i64),
    CleanTombstones,
    /// Copies everything, with or without the head, and looks at the copy.
    Snapshot(bool),
    Reopen,
    /// The power goes; of the unsynced end of each file so many bytes are left.
    Crash(usize),
    /// The so-manieth operation from now answers EIO.
    Fail(u64),
    /// So many bytes are free from now on, until the next restart.
    Fill(u64),
    /// The process dies within the so-manieth operation, a write torn in half; nothing works until the next restart.
    Die(u64),
}

fn arb_of() -> impl Strategy<Value = Of> {
    (prop_oneof![3 => Just("up"), 2 => Just(HISTOGRAMS)], 0usize..3).prop_map(|(name, host)| Of(name, host))
}

fn arb_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        14 => (arb_of(), 1i64..40, prop::bool::weighted(0.1)).prop_map(|(of, after, stale)| Step::Append(of, after, stale)),
        3 => (arb_of(), 1i64..600).prop_map(|(of, before)| Step::Late(of, before)),
        2 => Just(Step::Sync),
        4 => Just(Step::Maintain),
        1 => (arb_of(), 1i64..300).prop_map(|(of, minutes)| Step::Delete(of, minutes)),
        1 => Just(Step::CleanTombstones),
        1 => any::<bool>().prop_map(Step::Snapshot),
        1 => Just(Step::Reopen),
        1 => (0usize..2000).prop_map(Step::Crash),
        1 => (1u64..60).prop_map(Step::Fail),
        1 => (0u64..3000).prop_map(Step::Fill),
        1 => (1u64..40).prop_map(Step::Die),
    ]
}

fn options(options: &mut DbOptions) {
    options.head.out_of_order_ms = 1000 * HOUR;
    options.retention = Some(Duration::from_millis(RETENTION as u64));
}

type Sample = (Labels, i64, u64);

/// Everything a snapshot holds.
fn dump_snapshot(fs: &FaultyFs, name: &str) -> BTreeSet<Sample> {
    let dir = Path::new("data/snapshots").join(name);
    let (blocks, aside) = open_blocks_read_only(Arc::new(fs.clone()), &dir).expect("opens");
    assert_eq!(aside, []);
    let mut all = BTreeSet::new();
    for (labels, samples) in samples_of(&blocks.iter().map(|block| &**block).collect::<Vec<_>>()) {
        for (at, sample) in samples {
            let bits = match sample.0 {
                Value::Float(bits) => bits,
                Value::Histogram(HistogramValue::Integer(h)) => h.sum.to_bits(),
                Value::Histogram(HistogramValue::Float(h)) => h.sum.to_bits(),
            };
            all.insert((labels.clone(), at, bits));
        }
    }
    // The disk may fail here, too.
    let _ = fs.remove_dir_all(&dir);
    all
}

/// What a test knows of the samples.
#[derive(Default)]
struct Known {
    written: Plain,
    /// Acknowledged and synced.
    certain: Plain,
    ever: BTreeSet<Sample>,
    /// Samples that come late into a span that was deleted may or may not stay deleted.
    deleted: Vec<(Labels, i64, i64)>,
}

impl Known {
    fn append(&mut self, db: &Db, lane: u8, sample: Sample) {
        self.ever.insert(sample.clone());
        let (labels, at, _) = &sample;
        let in_deleted = self.deleted.iter().any(|(gone, from, to)| gone == labels && (*from..=*to).contains(at));
        let taken = write(db, lane, &vec![sample.clone()]);
        if taken.is_ok_and(|taken| taken.outcome.rejected.is_empty()) && !in_deleted {
            self.written.push(sample);
        }
    }

    fn delete(&mut self, labels: Labels, from: i64, to: i64) {
        let stays = |sample: &Sample| sample.0 != labels || !(from..=to).contains(&sample.1);
        self.certain.retain(stays);
        self.written.retain(stays);
        self.deleted.push((labels, from, to));
    }

    /// Blocks that are older than the retention may go at any maintenance.
    fn forget_old(&mut self, clock: i64) {
        self.certain.retain(|sample| sample.1 > clock - RETENTION);
        self.written.retain(|sample| sample.1 > clock - RETENTION);
    }
}

/// More than the ordinary 64 when `PROMESH_CASES` says so.
fn cases() -> u32 {
    std::env::var("PROMESH_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    /// Any interleaving of appending floats and histograms in and out of order, cutting, merging, deleting, cleaning up,
    /// retention, snapshots, failing disks, crashes and restarts gives back what was acknowledged and synced, each once,
    /// and nothing that was not written.
    #[test]
    fn acknowledged_samples_survive_anything(steps in proptest::collection::vec(arb_step(), 1..170)) {
        let fs = FaultyFs::new();
        let mut db = Some(open(&fs, options).0);
        let mut known = Known::default();
        let (mut clock, mut disk_is_sound) = (START, true);
        for (number, step) in steps.into_iter().enumerate() {
            // Two snapshots of one instant have names of their own.
            let now = |wall| Now { monotonic: Monotonic(number as u64), ..now(wall) };
            let open_db = db.as_ref().expect("open between steps");
            match step {
                Step::Append(of, minutes, stale) => {
                    clock += minutes * 60_000;
                    let bits = if stale { STALE_NAN_BITS } else { (clock as f64).to_bits() };
                    known.append(open_db, of.1 as u8, (of.labels(), clock, bits));
                }
                Step::Late(of, minutes) => {
                    let at = clock - minutes * 60_000 - 1;
                    known.append(open_db, of.1 as u8, (of.labels(), at, (at as f64).to_bits()));
                }
                Step::Sync => if open_db.sync().is_ok() { known.certain = known.written.clone() },
                Step::Maintain => {
                    let done = open_db.maintain(now(clock));
                    prop_assert!(done.is_ok() || !disk_is_sound, "{:?}", done);
                }
                Step::Delete(of, minutes) => {
                    let matchers = of.labels().iter().map(|(name, value)| Matcher::equal(name, value)).collect();
                    let (from, to) = (clock - minutes * 60_000, clock - minutes * 30_000);
                    let result = open_db.delete_series(&[matchers], from, to);
                    known.delete(of.labels(), from, to);
                    prop_assert!(result.is_ok() || !disk_is_sound, "{:?}", result);
                    if result.is_ok() {
                        let gone = |sample: &Sample| sample.0 == of.labels() && (from..=to).contains(&sample.1);
                        prop_assert!(!dump(open_db).iter().any(gone));
                    }
                }
                Step::CleanTombstones => {
                    let done = open_db.clean_tombstones(now(clock));
                    prop_assert!(done.is_ok() || !disk_is_sound, "{:?}", done);
                    let left = open_db.blocks().iter().any(|block| !block.tombstones().is_empty());
                    prop_assert!(done.is_err() || !left);
                }
                Step::Snapshot(with_head) => match open_db.snapshot(with_head, now(clock)) {
                    Ok(name) => {
                        let whole: BTreeSet<Sample> = dump(open_db).into_iter().collect();
                        let copied = dump_snapshot(&fs, &name);
                        prop_assert!(copied.is_subset(&whole), "{:?}", copied.difference(&whole).next());
                        if with_head {
                            prop_assert!(whole == copied, "not copied: {:?}", whole.difference(&copied).next());
                        }
                    }
                    Err(error) => prop_assert!(!disk_is_sound, "{}", error),
                },
                Step::Reopen => {
                    drop(db.take());
                    fs.heal();
                    disk_is_sound = true;
                    db = Some(open(&fs, options).0);
                }
                Step::Crash(keep) => {
                    fs.crash(|tail| keep.min(tail));
                    drop(db.take());
                    disk_is_sound = true;
                    db = Some(open(&fs, options).0);
                    let found: BTreeSet<Sample> = dump(db.as_ref().expect("just opened")).into_iter().collect();
                    known.written.retain(|sample| found.contains(sample));
                }
                Step::Fail(after) => { fs.fail_after(after, Fault::Io); disk_is_sound = false; }
                Step::Fill(bytes) => { fs.set_bytes_free(Some(bytes)); disk_is_sound = false; }
                Step::Die(after) => { fs.fail_after(after, Fault::Crash); disk_is_sound = false; }
            }
            known.forget_old(clock);
            let found = dump(db.as_ref().expect("open"));
            let once: BTreeSet<&Sample> = found.iter().collect();
            prop_assert_eq!(once.len(), found.len());
            for sample in &known.certain {
                prop_assert!(once.contains(sample), "lost {:?}", sample);
            }
            prop_assert!(found.iter().all(|sample| known.ever.contains(sample)));
        }
    }
}
