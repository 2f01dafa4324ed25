//! Hostile bytes for every reader of files: whatever they are, an error or an answer, never a panic, never unbounded
//! memory.
//!
//! Each target is a function of bytes; its corpus lies in `tests/corpus/<target>`, and what once failed is added there.
//! The ordinary test tries each file of the corpus and a fixed number of mutations of them, the same in every run;
//! `PROMESH_FUZZ_ROUNDS=1000000 PROMESH_FUZZ_SEED=7 cargo test -p promesh-tsdb fuzz::` tries more. Checksums would keep
//! mutations from going deep: the readers of blocks are tried with and without them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use promesh_model::frame;
use promesh_model::matcher::{MatchOp, Matcher};
use promesh_model::time::Timestamp;

use crate::block::Tombstones;
use crate::block::codec::without_checksums;
use crate::block::index::Index;
use crate::chunk::{self, Encoding};
use crate::fs::{FaultyFs, FileBytes, Fs};
use crate::head::{Head, HeadOptions};
use crate::import::importer::Importer;
use crate::import::wal::for_each_record;
use crate::log::Log;

/// Mutations a target in the ordinary test.
const ROUNDS: u64 = 3_000;
/// Mutated inputs grow no further.
const BYTES_MAX: usize = 8 << 10;

fn index(bytes: &[u8]) {
    let Ok(index) = Index::open(FileBytes::owned(bytes.to_vec())) else { return };
    let _ = index.all_symbols();
    let names: Vec<String> = index.names().map(str::to_owned).collect();
    assert!(index.value_counts().count() <= bytes.len());
    let name = names.first().map_or("job", String::as_str);
    let regex = Matcher::new(MatchOp::Regex, name, "a.*|").expect("compiles");
    for matchers in [vec![], vec![Matcher::equal(name, "node")], vec![regex]] {
        let Ok(found) = index.select(&matchers) else { continue };
        for name in names.iter().take(8) {
            let _ = index.values_of(name, Some(&found));
        }
        let mut chunks = Vec::new();
        for series in found.iter().take(64) {
            let Ok(labels) = index.series(series, &mut chunks) else { continue };
            assert!(chunks.len() <= bytes.len());
            let _ = labels.resolve(&index);
        }
    }
}

fn unchecked_index(bytes: &[u8]) {
    without_checksums(|| index(bytes));
}

fn chunks(bytes: &[u8]) {
    let Some((first, chunk)) = bytes.split_first() else { return };
    let encoding = [Encoding::Xor, Encoding::Histogram, Encoding::FloatHistogram][usize::from(*first) % 3];
    let mut count = 0usize;
    let _ = chunk::for_each_value(encoding, chunk, |_, value| {
        value();
        count += 1;
        true
    });
    assert!(count <= usize::from(u16::MAX));
    assert!(count == 0 || chunk::first_at(encoding, chunk).is_some(), "who has samples has a first");
}

fn tombstones(bytes: &[u8]) {
    without_checksums(|| {
        if let Ok(read) = Tombstones::parse(bytes) {
            assert_eq!(Tombstones::parse(&read.to_bytes()).as_ref(), Ok(&read));
        }
    });
    let _ = Tombstones::parse(bytes);
}

/// A file of the log, as it is and with the checksums of its frames put right.
fn log(bytes: &[u8]) {
    log_file(bytes);
    let mut mended = b"pmlog\0\0\x01".to_vec();
    for piece in bytes.get(8..).unwrap_or_default().chunks(61) {
        frame::write(&mut mended, piece[0], piece);
    }
    mended.extend_from_slice(bytes.get(8..40).unwrap_or_default());
    log_file(&mended);
}

fn log_file(bytes: &[u8]) {
    let (fs, dir) = (FaultyFs::new(), Path::new("log"));
    fs.create_dir_all(dir).expect("makes");
    fs.create(&dir.join("0000000000000001")).and_then(|mut file| file.append(bytes)).expect("writes");
    let open = |fs: &FaultyFs| {
        let mut seen = Vec::new();
        let (log, report) =
            Log::open(Arc::new(fs.clone()), dir, |frame| seen.push((frame.kind, frame.payload().to_vec())))
                .expect("damage is no error");
        assert_eq!(report.frames, seen.len() as u64);
        (log, seen)
    };
    let (log, mut seen) = open(&fs);
    let mut one = Vec::new();
    frame::write(&mut one, 7, b"one");
    log.append(&one, Timestamp(1), None).expect("appends");
    drop(log);
    seen.push((7, b"one".to_vec()));
    assert!(open(&fs).1 == seen, "what was read once is read again, and what follows it");
}

/// Records of Prometheus' own log: with its pages around them, and bare.
fn records(bytes: &[u8]) {
    let head = || Head::new(Arc::new(FaultyFs::new()), Path::new("head"), HeadOptions::default()).expect("opens");
    let head_of_pages = head();
    let mut importer = Importer::new(&head_of_pages);
    let _ = for_each_record(bytes, |record| importer.record(record));
    importer.finish();
    let bare = head();
    let mut importer = Importer::new(&bare);
    for record in bytes.split(|byte| *byte == 0xfe).take(16) {
        importer.record(record);
        importer.series_only(record);
    }
    importer.finish();
    assert!(bare.series_count() <= bytes.len());
}

/// Small, quick, the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn mutated(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            match self.below(8) {
                0 => bytes.truncate(at),
                1 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len());
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                2 => {
                    let piece = bytes[at..(at + self.below(24)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
                3 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][self.below(6)],
                4 if !bytes.is_empty() => bytes[at] = self.next() as u8,
                5 => {
                    let end = (at + 8).min(bytes.len());
                    let word = [u64::MAX, i64::MAX as u64, 1 << 31, 1 << 20][self.below(4)].to_be_bytes();
                    bytes[at..end].copy_from_slice(&word[8 - (end - at)..]);
                }
                _ if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                _ => bytes.push(self.next() as u8),
            }
            bytes.truncate(BYTES_MAX);
        }
        bytes
    }
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn fuzz(corpus: &str, target: fn(&[u8])) {
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(corpus);
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&dir).expect("the corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let inputs: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).expect("reads")).collect();
    assert!(inputs.len() > 1, "{}: {} files", dir.display(), inputs.len());
    let mut random = Random(number("PROMESH_FUZZ_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mutations = (0..number("PROMESH_FUZZ_ROUNDS", ROUNDS)).map(|_| random.mutated(&inputs));
    for input in inputs.clone().into_iter().chain(mutations) {
        if let Err(failure) = std::panic::catch_unwind(|| target(&input)) {
            let kept = std::env::temp_dir().join(format!("promesh-fuzz-{corpus}-{}", input.len()));
            std::fs::write(&kept, &input).expect("keeps what failed");
            eprintln!("the input is in {}: add it to {}", kept.display(), dir.display());
            std::panic::resume_unwind(failure);
        }
    }
}

#[test]
fn no_index_does_harm() {
    fuzz("index", index);
    fuzz("index", unchecked_index);
}

#[test]
fn no_chunk_does_harm() {
    fuzz("chunk", chunks);
}

#[test]
fn no_tombstones_do_harm() {
    fuzz("tombstones", tombstones);
}

#[test]
fn no_log_does_harm() {
    fuzz("log", log);
}

#[test]
fn no_record_of_prometheus_does_harm() {
    fuzz("records", records);
}

/// Writes the first files of the corpora: what this build and Prometheus write.
#[test]
#[ignore = "run by hand when a format gets a new form"]
fn the_corpus_is_written_anew() {
    use super::support::{Plain, now, open, series, write};
    use crate::head::series::Value;
    use promesh_model::ingest::HistogramValue;
    use promesh_model::{FloatHistogram, Histogram, histogram::Span};

    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let keep = |target: &str, name: &str, bytes: &[u8]| {
        let dir = corpus.join(target);
        std::fs::create_dir_all(&dir).expect("makes");
        std::fs::write(dir.join(name), &bytes[..bytes.len().min(BYTES_MAX)]).expect("writes");
    };
    let fs = FaultyFs::new();
    let (db, _) = open(&fs, |_| {});
    let start = 1_700_006_400_000;
    for step in 0..400i64 {
        let value = |host: usize| if host == 1 { step as f64 } else { (step as f64).sqrt() * 1e3 };
        let batch: Plain =
            (0..3).map(|host| (series("up", host), start + step * 30_000, value(host).to_bits())).collect();
        write(&db, 1, &batch).expect("writes");
    }
    db.sync().expect("syncs");
    db.maintain(now(start)).expect("maintains");
    db.delete_series(&[vec![Matcher::equal("job", "node")]], start + 60_000, start + 600_000).expect("deletes");
    db.delete_series(&[vec![Matcher::equal("job", "node")]], start + 900_000, start + 960_000).expect("deletes");
    keep("log", "ours", &fs.map(Path::new("data/log/0000000000000001")).expect("reads")[..3_000]);
    let mut frames = b"pmlog\0\0\x01".to_vec();
    frame::write(&mut frames, 1, b"first");
    frame::write(&mut frames, 2, b"pm\x01\x02");
    keep("log", "two-frames", &frames);
    for (number, block) in db.blocks().iter().enumerate() {
        let read = |name: &str| fs.map(&block.dir().join(name)).expect("reads");
        keep("index", &format!("ours-{number}"), &read("index"));
        keep("tombstones", &format!("ours-{number}"), &read("tombstones"));
        let mut metas = Vec::new();
        let first = block.all_series().expect("postings")[0];
        block.index().series(first, &mut metas).expect("a series");
        keep("chunk", &format!("floats-{number}"), &[&[0], block.chunk(&metas[0]).expect("a chunk").bytes].concat());
    }
    keep("tombstones", "none", &Tombstones::default().to_bytes());
    let spans = |offset| vec![Span { offset, length: 2 }, Span { offset: 3, length: 1 }];
    let integers = (0..40u64).map(|step| {
        let histogram = Histogram {
            schema: 1,
            zero_threshold: 1e-128,
            count: 8 + 4 * step,
            zero_count: 1 + step,
            sum: step as f64 * 1.5,
            positive_spans: spans(-1),
            positive_buckets: vec![2 + step as i64, 1, -1],
            negative_spans: Vec::new(),
            negative_buckets: Vec::new(),
            ..Histogram::default()
        };
        (start + step as i64 * 15_000, Value::Histogram(HistogramValue::Integer(Arc::new(histogram))))
    });
    let floats = (0..40i64).map(|step| {
        let histogram = FloatHistogram {
            schema: -53,
            count: 3.0 * step as f64,
            sum: step as f64,
            positive_spans: spans(0),
            positive_buckets: vec![step as f64, step as f64, step as f64],
            custom_values: [0.5, 1.0, 2.5, 5.0, 10.0, 25.0].into(),
            ..FloatHistogram::default()
        };
        (start + step * 15_000, Value::Histogram(HistogramValue::Float(Arc::new(histogram))))
    });
    keep("chunk", "histograms", &[&[1], &crate::head::encode_chunks(integers)[0].bytes[..]].concat());
    keep("chunk", "float-histograms", &[&[2], &crate::head::encode_chunks(floats)[0].bytes[..]].concat());
    let Some(dir) = super::conformance::cases("prom-3.5.3-crashed-datadir") else { return };
    for log in ["wal", "wbl"] {
        let bytes = std::fs::read(dir.join(log).join("00000000")).expect("reads");
        keep("records", log, &bytes);
        let mut kinds = std::collections::BTreeSet::new();
        let _ = for_each_record(&bytes, |record| {
            if kinds.insert(record[0]) {
                keep("records", &format!("{log}-{}", record[0]), &record[..record.len().min(1_500)]);
            }
        });
    }
    if let Some(dir) = super::conformance::cases("index_format_v1") {
        keep("index", "version-1", &std::fs::read(dir.join("index")).expect("reads"));
    }
}
