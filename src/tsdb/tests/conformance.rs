//! Files that Prometheus wrote.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use promesh_model::Labels;
use promesh_model::storage::SeriesColumns;
use sha2::{Digest, Sha256};

use super::promtool::{line, swallowed};
use super::support::{PlainDecoder, now};
use crate::block::{Block, BlockSeries};
use crate::chunk;
use crate::fs::RealFs;
use crate::head::series::{Value, same};
use crate::{Db, DbOptions};

/// The folder of cases, unless it is not there; then the test says so and ends.
pub fn cases(name: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/conformance/tsdb")).join(name);
    if !path.exists() {
        println!("conformance cases are absent: {}", path.display());
        return None;
    }
    Some(path)
}

/// The blocks of a folder.
pub fn blocks_in(dir: &Path) -> Vec<Block> {
    let mut dirs: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    dirs.retain(|path| path.join("meta.json").exists());
    dirs.sort();
    dirs.iter().map(|dir| Block::open(&RealFs, dir).expect("opens")).collect()
}

/// Histograms are shared and large: two are compared as they would be printed.
#[derive(Clone, Debug)]
pub struct Sample(pub Value);

impl PartialEq for Sample {
    fn eq(&self, other: &Sample) -> bool {
        same(&self.0, &other.0)
    }
}

/// All samples of some blocks, by series, in time order, without what was deleted.
pub fn samples_of(blocks: &[&Block]) -> BTreeMap<Labels, Vec<(i64, Sample)>> {
    let mut all: BTreeMap<Labels, Vec<(i64, Sample)>> = BTreeMap::new();
    for block in blocks {
        let tombstones = block.tombstones();
        for series in block.all_series().expect("postings") {
            let (labels, chunks) = block.read_series(series).expect("a series");
            let deleted = tombstones.of(u64::from(series));
            let samples = all.entry(labels).or_default();
            for meta in chunks {
                let chunk = block.chunk(&meta).expect("a chunk");
                chunk::for_each_value(chunk.encoding, chunk.bytes, |at, value| {
                    if !deleted.iter().any(|(min, max)| (*min..=*max).contains(&at)) {
                        samples.push((at, Sample(value())));
                    }
                    true
                })
                .expect("samples");
            }
        }
    }
    all.values_mut().for_each(|samples| samples.sort_by_key(|sample| sample.0));
    all
}

/// What `promtool tsdb dump | LC_ALL=C sort` prints for them.
pub fn dump_blocks(blocks: &[Block]) -> Vec<String> {
    let mut lines = Vec::new();
    for (labels, samples) in samples_of(&blocks.iter().collect::<Vec<_>>()) {
        let text = labels.to_string();
        let skip = samples.first().map_or(0, |(_, first)| swallowed(&first.0));
        lines.extend(samples.iter().skip(skip).map(|(at, sample)| line(&text, *at, &sample.0)));
    }
    lines.sort_unstable();
    lines
}

#[test]
fn the_snapshot_of_prometheus_reads_as_promtool_dumps_it() {
    let Some(dir) = cases("prom-3.5.3-snapshot") else { return };
    let mut digest = Sha256::new();
    dump_blocks(&blocks_in(&dir)).iter().for_each(|line| digest.update(line));
    let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = cases("prom-3.5.3-snapshot.dump.sorted.sha256").expect("it lies beside the snapshot");
    let expected = std::fs::read_to_string(expected).expect("reads");
    assert_eq!(expected.get(..64), Some(found.as_str()));
}

#[test]
fn blocks_of_promtool_read_as_dumped() {
    let Some(dir) = cases("create-blocks-from-openmetrics") else { return };
    let expected = std::fs::read_to_string(dir.join("expected.dump.txt")).expect("reads");
    let mut expected: Vec<String> = expected.lines().map(|line| format!("{line}\n")).collect();
    expected.sort();
    assert_eq!(dump_blocks(&blocks_in(&dir)), expected);
}

#[test]
fn an_index_of_version_1_answers() {
    let Some(dir) = cases("index_format_v1") else { return };
    let block = Block::open(&RealFs, &dir).expect("opens");
    assert_eq!(block.all_series().expect("postings").len() as u64, block.meta().stats.series);
    let mut warnings = Vec::new();
    let matcher = promesh_model::Matcher::equal("foo", "bar");
    let mut found = BlockSeries::new(Arc::new(block), &[matcher], (i64::MIN, i64::MAX), None, &mut warnings);
    let (mut count, mut columns) = (0, SeriesColumns::default());
    while let Some(labels) = found.labels() {
        assert_eq!(labels.get("foo"), Some("bar"));
        found.read(&mut columns, &mut SeriesColumns::default(), &mut warnings);
        found.advance(&mut warnings);
        count += 1;
    }
    assert_eq!(warnings, Vec::<String>::new());
    assert!(count > 0 && !columns.values.is_empty());
}

#[test]
fn a_data_directory_of_prometheus_is_taken_over_once() {
    let Some(dir) = cases("prom-3.5.3-crashed-datadir") else { return };
    let folder = std::env::temp_dir().join(format!("promesh-tsdb-{}-takeover", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    for sub in ["wal", "wbl"] {
        std::fs::create_dir_all(folder.join(sub)).expect("a folder");
        std::fs::copy(dir.join(sub).join("00000000"), folder.join(sub).join("00000000")).expect("copies");
    }
    let open = || {
        let options = DbOptions::default();
        Db::open(&folder, options, &|| Box::new(PlainDecoder), now(1_767_225_600_000)).expect("opens")
    };
    let (db, report) = open();
    let imported = report.imported.expect("there is something to take over");
    assert_eq!((imported.orphans, imported.damaged), (0, 0), "{imported:?}");
    let blocks = blocks_in(&folder);
    let mut expected = String::new();
    let golden = cases("prom-3.5.3-crashed-datadir.dump.sorted.txt.gz").expect("it lies beside the directory");
    let file = std::fs::File::open(golden).expect("opens");
    flate2::read::GzDecoder::new(file).read_to_string(&mut expected).expect("unpacks");
    let found = dump_blocks(&blocks);
    let expected: Vec<String> = expected.lines().map(|line| format!("{line}\n")).collect();
    let only = |a: &[String], b: &[String]| {
        let b: std::collections::BTreeSet<&String> = b.iter().collect();
        a.iter().filter(|line| !b.contains(line)).take(5).cloned().collect::<Vec<String>>()
    };
    assert!(
        found == expected,
        "{} {} {:?} {:?}",
        found.len(),
        expected.len(),
        only(&found, &expected),
        only(&expected, &found)
    );
    drop(db);
    assert_eq!(open().1.imported, None);
    std::fs::remove_dir_all(&folder).expect("removes");
}
