//! Files that Prometheus wrote.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use promesh_model::storage::Budget;
use sha2::{Digest, Sha256};

use super::promtool::{line, swallowed};
use crate::block::{Block, BlockMeta, Tombstones};
use crate::chunk;
use crate::fs::RealFs;

/// The folder of cases, unless it is not there; then the test says so and ends.
pub fn cases(name: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/conformance/tsdb")).join(name);
    if !path.exists() {
        println!("conformance cases are absent: {}", path.display());
        return None;
    }
    Some(path)
}

fn blocks(dir: &Path) -> Vec<Block> {
    let mut dirs: Vec<PathBuf> =
        std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    dirs.retain(|path| path.join("meta.json").exists());
    dirs.sort();
    dirs.iter().map(|dir| Block::open(&RealFs, dir).expect("opens")).collect()
}

/// Every sample of a block as promtool prints it, without what was deleted.
pub fn dump_block(block: &Block) -> Vec<String> {
    let mut lines = Vec::new();
    for series in block.all_series().expect("postings") {
        let (labels, chunks) = block.read_series(series).expect("a series");
        let tombstones = block.tombstones();
        let deleted = tombstones.of(u64::from(series));
        let (mut seen, mut skip) = (0, 0);
        for meta in chunks {
            let chunk = block.chunk(&meta).expect("a chunk");
            chunk::for_each_value(chunk.encoding, chunk.bytes, |at, value| {
                if !deleted.iter().any(|(min, max)| (*min..=*max).contains(&at)) {
                    let value = value();
                    if seen == 0 {
                        skip = swallowed(&value);
                    }
                    seen += 1;
                    if seen > skip {
                        lines.push(line(&labels, at, &value));
                    }
                }
                true
            })
            .expect("samples");
        }
    }
    lines.sort();
    lines
}

#[test]
fn the_snapshot_of_prometheus_reads_as_promtool_dumps_it() {
    let Some(dir) = cases("prom-3.5.3-snapshot") else { return };
    let mut lines = Vec::new();
    for block in blocks(&dir) {
        lines.extend(dump_block(&block));
    }
    lines.sort();
    let found: String = Sha256::digest(lines.concat()).iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = std::fs::read_to_string(cases("prom-3.5.3-snapshot.dump.sorted.sha256").expect("beside it"));
    let expected = expected.expect("reads");
    if !expected.starts_with(&found) {
        let out = std::env::temp_dir().join("promesh-snapshot-dump.txt");
        std::fs::write(&out, lines.concat()).expect("writes");
        panic!("{found} is not {expected}; see {}", out.display());
    }
}

#[test]
fn blocks_of_promtool_read_as_dumped() {
    let Some(dir) = cases("create-blocks-from-openmetrics") else { return };
    let mut lines: Vec<String> = blocks(&dir).iter().flat_map(dump_block).collect();
    lines.sort();
    let expected = std::fs::read_to_string(dir.join("expected.dump.txt")).expect("reads");
    let mut expected: Vec<String> = expected.lines().map(|line| format!("{line}\n")).collect();
    expected.sort();
    assert_eq!(lines, expected);
}

#[test]
fn an_index_of_version_1_answers() {
    let Some(dir) = cases("index_format_v1") else { return };
    let block = Block::open(&RealFs, &dir).expect("opens");
    assert_eq!(block.all_series().expect("postings").len() as u64, block.meta().stats.series);
    let mut warnings = Vec::new();
    let matcher = promesh_model::Matcher::equal("foo", "bar");
    let found = block.select(&[matcher], i64::MIN, i64::MAX, &Budget::unlimited(), &mut warnings).expect("answers");
    assert_eq!(warnings, Vec::<String>::new());
    assert!(found.iter().all(|series| series.labels.get("foo") == Some("bar")));
    assert!(!found.is_empty());
}

#[test]
fn descriptions_are_written_as_prometheus_writes_them() {
    let Some(dir) = cases("prom-3.5.3-snapshot") else { return };
    for block in blocks(&dir) {
        let mut text = String::new();
        let file = std::fs::File::open(block.dir().join("meta.json"));
        file.and_then(|mut file| file.read_to_string(&mut text)).expect("reads");
        assert_eq!(String::from_utf8(BlockMeta::parse(text.as_bytes()).expect("parses").to_json()), Ok(text));
        let bytes = std::fs::read(block.dir().join("tombstones")).expect("reads");
        assert_eq!(Tombstones::parse(&bytes).expect("parses").to_bytes(), bytes);
    }
}
