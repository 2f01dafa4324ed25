//! Damaged copies of what Prometheus wrote: never a panic, and the healthy rest is answered.

use std::path::{Path, PathBuf};

use promesh_model::matcher::Matcher;
use promesh_model::storage::{Budget, Queryable, SelectHints, SelectRequest};
use promesh_model::time::Timestamp;
use std::sync::Arc;

use super::conformance::cases;
use super::support::{PlainDecoder, now};
use crate::fs::{FaultyFs, Fs};
use crate::{Db, DbOptions};

/// Copies a folder of the machine into a file system in memory.
fn copy_into(fs: &FaultyFs, from: &Path, to: &Path) {
    fs.create_dir_all(to).expect("makes");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_into(fs, &path, &target);
        } else {
            fs.create(&target).and_then(|mut file| file.append(&std::fs::read(&path)?)).expect("copies");
        }
    }
}

fn count(fs: &FaultyFs) -> usize {
    let options = DbOptions { fs: Arc::new(fs.clone()), retention: None, ..DbOptions::default() };
    let Ok((db, _)) = Db::open(Path::new("data"), options, &|| Box::new(PlainDecoder), now(1_767_225_600_000)) else {
        return 0;
    };
    let request = SelectRequest {
        matchers: vec![Matcher::equal("instance", "demo.promlabs.com:10001")],
        start: Timestamp::MIN,
        end: Timestamp::MAX,
        hints: SelectHints::default(),
    };
    let answer = db.select(&[request], &Budget::unlimited()).expect("answers").remove(0);
    answer.series.iter().map(|series| series.values.len() + series.histograms.len()).sum()
}

/// `loses_at_most` says how many samples a single flipped bit in a file may cost; where it does not say, all.
fn check(case: &str, damages_a_file: usize, may_lose: fn(&Path) -> bool, loses_at_most: fn(&Path) -> Option<usize>) {
    let Some(dir) = cases(case) else { return };
    let pristine = FaultyFs::new();
    copy_into(&pristine, &dir, Path::new("data"));
    let files: Vec<PathBuf> = pristine.files();
    let whole = count(&pristine);
    assert!(whole > 1000, "{whole}");
    for file in &files {
        for number in 0..damages_a_file {
            let fs = FaultyFs::new();
            copy_into(&fs, &dir, Path::new("data"));
            let mut changed = false;
            fs.damage(file, |bytes| {
                // Spread over the file, the same in every run.
                let place = (number * 2_654_435_761 + 17) % bytes.len().max(1);
                changed = !bytes.is_empty();
                match number % 3 {
                    0 => bytes.truncate(place),
                    1 if changed => bytes[place] ^= 1 << (number % 8),
                    _ => bytes.iter_mut().skip(place).take(64).for_each(|byte| *byte = 0xff),
                }
            });
            let left = count(&fs);
            // A log that lost the record of a deletion brings back what was deleted.
            assert!(left <= whole || may_lose(file), "{}: {left} of {whole}", file.display());
            assert!(!changed || left > 0 || may_lose(file), "{} {number}: nothing is left", file.display());
            if let Some(most) = loses_at_most(file).filter(|_| number % 3 == 1) {
                assert!(left + most >= whole, "{} {number}: one bit costs {} of {whole}", file.display(), whole - left);
            }
        }
    }
}

/// The most samples Prometheus puts into one chunk of the case.
const CHUNK_SAMPLES_MAX: usize = 240;

#[test]
fn damaged_blocks_never_panic() {
    // One block: when its index or description is gone there is nothing to answer from.
    // A bit of a chunk costs that chunk.
    let chunks = |path: &Path| path.to_string_lossy().contains("chunks").then_some(CHUNK_SAMPLES_MAX);
    check("prom-3.5.3-snapshot", 45, |_| true, chunks);
}

#[test]
fn damaged_logs_of_prometheus_never_panic() {
    check("prom-3.5.3-crashed-datadir", 18, |path| path.starts_with("data/wal"), |_| None);
}
