//! Golden bytes: what Prometheus wrote is decoded and written again byte for byte; what we wrote once decodes for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use promesh_model::Labels;
use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, CounterReset, Span};
use promesh_model::ingest::HistogramValue;
use promesh_model::matcher::Matcher;

use super::conformance::{blocks_in, cases};
use super::support::{Plain, dump, open, series, write};
use crate::block::codec::{Reader, put_text, put_uvarint, put_varint};
use crate::block::index_writer::IndexWriter;
use crate::block::{Block, BlockMeta, Tombstones};
use crate::chunk::histogram::HistogramAppender;
use crate::chunk::xor::XorAppender;
use crate::chunk::{self, Encoding};
use crate::fs::{FaultyFs, Fs as _};
use crate::head::series::Value;
use crate::import::records::Record;
use crate::import::wal;

/// All blocks of the cases with an index of version 2.
fn real_blocks() -> Vec<Block> {
    let dirs = ["prom-3.5.3-snapshot", "create-blocks-from-openmetrics"].into_iter().filter_map(cases);
    dirs.flat_map(|dir| blocks_in(&dir)).collect()
}

/// Writes the samples of a chunk one by one, as a new chunk; nothing when they would not stay in one.
fn written_again(encoding: Encoding, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut samples = Vec::new();
    chunk::for_each_value(encoding, bytes, |at, value| {
        samples.push((at, value()));
        true
    })
    .expect("a chunk of Prometheus");
    let mut out = Vec::new();
    let (mut floats, mut histograms) = (None::<XorAppender>, None::<HistogramAppender>);
    for (at, value) in samples {
        match (&value, &mut floats, &mut histograms) {
            (Value::Float(bits), Some(appender), _) => appender.append(&mut out, at, *bits),
            (Value::Float(bits), None, _) => floats = Some(XorAppender::begin(&mut out, at, *bits)),
            (Value::Histogram(value), _, Some(appender)) => {
                if !appender.append_more(&mut out, at, value) {
                    return None;
                }
            }
            (Value::Histogram(value), _, None) => {
                let flags = chunk::histogram::counter_reset(bytes).expect("a header");
                histograms = Some(HistogramAppender::begin(&mut out, at, value, flags));
            }
        }
    }
    Some(out)
}

#[test]
fn every_encoding_of_chunks_is_written_as_prometheus_writes_it() {
    let mut seen: BTreeMap<(Encoding, bool), usize> = BTreeMap::new();
    let (mut count, mut blocks) = (0, 0);
    for block in real_blocks() {
        blocks += 1;
        for series in block.all_series().expect("postings") {
            let (labels, metas) = block.read_series(series).expect("a series");
            for meta in metas {
                let chunk = block.chunk(&meta).expect("a chunk");
                let mut custom = false;
                let mut bounds = (i64::MAX, i64::MIN);
                chunk::for_each_value(chunk.encoding, chunk.bytes, |at, value| {
                    bounds = (bounds.0.min(at), bounds.1.max(at));
                    custom |= match value() {
                        Value::Histogram(HistogramValue::Integer(h)) => h.schema == CUSTOM_BUCKETS_SCHEMA,
                        Value::Histogram(HistogramValue::Float(h)) => h.schema == CUSTOM_BUCKETS_SCHEMA,
                        Value::Float(_) => false,
                    };
                    true
                })
                .expect("samples");
                assert_eq!(bounds, (meta.min, meta.max), "{labels} {meta:?}");
                assert_eq!(chunk::first_at(chunk.encoding, chunk.bytes), Some(meta.min), "{labels} {meta:?}");
                let again = written_again(chunk.encoding, chunk.bytes);
                assert_eq!(again.as_deref(), Some(chunk.bytes), "{labels} {meta:?} {:?}", chunk.encoding);
                *seen.entry((chunk.encoding, custom)).or_default() += 1;
                count += 1;
            }
        }
    }
    println!("{count} chunks of {blocks} blocks: {seen:?}");
    assert!(blocks == 0 || seen.len() >= 4, "an encoding is missing among {seen:?}");
}

/// The places that the table of contents names: symbols, series, label indexes, their table, postings, their table.
fn contents(bytes: &[u8]) -> [usize; 6] {
    let mut reader = Reader::at(bytes, bytes.len() - 52);
    std::array::from_fn(|_| reader.u64().expect("a place") as usize)
}

/// The section `length | content | checksum` at a place.
fn section(bytes: &[u8], at: usize) -> &[u8] {
    let length = u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    &bytes[at..at + 8 + length]
}

/// The table of the postings with the places taken out, and the lists in its order.
fn postings(bytes: &[u8], table: usize) -> Vec<(String, String, Vec<u8>)> {
    let mut reader = Reader::at(bytes, table).section().expect("a table");
    let count = reader.u32().expect("a count");
    (0..count)
        .map(|_| {
            assert_eq!(reader.u8().expect("a count of texts"), 2);
            let pair = (reader.text().expect("a name").to_owned(), reader.text().expect("a value").to_owned());
            let place = reader.uvarint().expect("a place") as usize;
            (pair.0, pair.1, section(bytes, place).to_vec())
        })
        .collect()
}

#[test]
fn every_section_of_an_index_is_written_as_prometheus_writes_it() {
    for block in real_blocks() {
        let theirs = std::fs::read(block.dir().join("index")).expect("reads");
        let fs = FaultyFs::new();
        let path = Path::new("index");
        let symbols = block.index().all_symbols().expect("symbols");
        let mut writer = IndexWriter::new(&fs, path, symbols.iter().copied()).expect("begins");
        let mut used = BTreeSet::new();
        for series in block.all_series().expect("postings") {
            let (labels, chunks) = block.read_series(series).expect("a series");
            for (name, value) in &labels {
                used.extend([name.to_owned(), value.to_owned()]);
            }
            writer.push(&labels, &chunks).expect("writes");
        }
        writer.finish().expect("writes");
        let ours = fs.map(path).expect("reads").to_vec();
        let (at, their_at) = (contents(&ours), contents(&theirs));
        // Symbols and series stand at the same places, so that series have the same numbers.
        assert_eq!((at[0], at[1]), (their_at[0], their_at[1]));
        assert_eq!(section(&ours, at[0]), section(&theirs, their_at[0]), "symbols");
        assert!(used.iter().map(String::as_str).eq(symbols.iter().copied().filter(|symbol| !symbol.is_empty())));
        let series_end = |at: &[usize; 6]| if at[2] > at[1] { at[2].min(at[4]) } else { at[4] };
        let (our_series, their_series) = (&ours[at[1]..series_end(&at)], &theirs[their_at[1]..series_end(&their_at)]);
        let length = our_series.len().min(their_series.len());
        assert!(our_series[..length] == their_series[..length], "series");
        let rest = our_series[length..].iter().chain(&their_series[length..]);
        assert!(rest.clone().all(|byte| *byte == 0) && rest.count() < 16, "only padding may differ");
        assert!(postings(&ours, at[5]) == postings(&theirs, their_at[5]), "postings and their table");
        assert_eq!(
            Reader::at(&ours, ours.len() - 52).take(48).map(|toc| crc32c::crc32c(toc).to_be_bytes().to_vec()),
            Ok(ours[ours.len() - 4..].to_vec()),
            "table of contents"
        );
        label_indexes_say_what_postings_say(&block, &theirs, their_at[3]);
    }
}

/// The label indexes, which older readers look at: one a name, with the numbers of its values' symbols.
fn label_indexes_say_what_postings_say(block: &Block, bytes: &[u8], table: usize) {
    if contents(bytes)[2] == contents(bytes)[4] {
        // Newer versions write none, and have the place of the postings there.
        return;
    }
    let mut reader = Reader::at(bytes, table).section().expect("a table of label indexes");
    let mut names = Vec::new();
    for _ in 0..reader.u32().expect("a count") {
        assert_eq!(reader.u8().expect("a count of texts"), 1);
        let name = reader.text().expect("a name").to_owned();
        let place = reader.uvarint().expect("a place") as usize;
        let mut list = Reader::at(bytes, place).section().expect("a label index");
        assert_eq!(list.u32().expect("names"), 1);
        let count = list.u32().expect("a count");
        let values: Vec<String> = (0..count)
            .map(|_| block.index().symbol(list.u32().expect("a symbol")).expect("a symbol").to_owned())
            .collect();
        assert_eq!(values, block.index().values_of(&name, None).expect("values"), "{name}");
        names.push(name);
    }
    names.sort();
    assert!(names.iter().map(String::as_str).eq(block.index().names()));
}

#[test]
fn blocks_are_described_and_deleted_from_as_in_prometheus() {
    for block in real_blocks() {
        let text = std::fs::read(block.dir().join("meta.json")).expect("reads");
        let again = BlockMeta::parse(&text).expect("parses").to_json();
        assert_eq!(String::from_utf8(again), String::from_utf8(text));
        let bytes = std::fs::read(block.dir().join("tombstones")).expect("reads");
        assert_eq!(Tombstones::parse(&bytes).expect("parses").to_bytes(), bytes);
    }
    let mut tombstones = Tombstones::default();
    tombstones.add(5, 1_000, 2_000);
    tombstones.add(300, -1, 1);
    let bytes = tombstones.to_bytes();
    assert_eq!(hex(&bytes), "0130ba300105d00fa01fac020102a6719591");
    assert_eq!(Tombstones::parse(&bytes), Ok(tombstones));
}

/// Writes a record of Prometheus' logs, as its documentation says; `kind` tells apart what reads alike.
fn record_bytes(kind: u8, record: &Record) -> Vec<u8> {
    let mut out = vec![kind];
    let mut base = None;
    let mut based = |out: &mut Vec<u8>, reference: u64, at: i64| {
        let (first, first_at) = *base.get_or_insert_with(|| {
            out.extend_from_slice(&reference.to_be_bytes());
            out.extend_from_slice(&at.to_be_bytes());
            (reference, at)
        });
        put_varint(out, reference.wrapping_sub(first) as i64);
        put_varint(out, at.wrapping_sub(first_at));
    };
    let put_labels = |out: &mut Vec<u8>, labels: &Labels| {
        put_uvarint(out, labels.len() as u64);
        for (name, value) in labels {
            put_text(out, name);
            put_text(out, value);
        }
    };
    match record {
        Record::Series(entries) => entries.iter().for_each(|(reference, labels)| {
            out.extend_from_slice(&reference.to_be_bytes());
            put_labels(&mut out, labels);
        }),
        Record::Samples(entries) => entries.iter().for_each(|(reference, at, bits)| {
            based(&mut out, *reference, *at);
            out.extend_from_slice(&bits.to_be_bytes());
        }),
        Record::Tombstones(entries) => entries.iter().for_each(|(reference, min, max)| {
            out.extend_from_slice(&reference.to_be_bytes());
            put_varint(&mut out, *min);
            put_varint(&mut out, *max);
        }),
        Record::Exemplars(entries) => entries.iter().for_each(|(reference, at, bits, labels)| {
            based(&mut out, *reference, *at);
            out.extend_from_slice(&bits.to_be_bytes());
            put_labels(&mut out, labels);
        }),
        Record::Metadata(entries) => entries.iter().for_each(|(reference, kind, fields)| {
            put_uvarint(&mut out, *reference);
            out.push(*kind);
            put_uvarint(&mut out, fields.len() as u64);
            for (name, value) in fields {
                put_text(&mut out, name);
                put_text(&mut out, value);
            }
        }),
        Record::Histograms(entries) => entries.iter().for_each(|(reference, at, value)| {
            based(&mut out, *reference, *at);
            put_histogram(&mut out, value);
        }),
        Record::Other => {}
    }
    out
}

fn put_histogram(out: &mut Vec<u8>, value: &HistogramValue) {
    let hint = |hint: CounterReset| match hint {
        CounterReset::Unknown => 0,
        CounterReset::Reset => 1,
        CounterReset::NotReset => 2,
        CounterReset::Gauge => 3,
    };
    let put_float = |out: &mut Vec<u8>, value: f64| out.extend_from_slice(&value.to_bits().to_be_bytes());
    let put_spans = |out: &mut Vec<u8>, spans: &[Span]| {
        put_uvarint(out, spans.len() as u64);
        for span in spans {
            put_varint(out, span.offset.into());
            put_uvarint(out, span.length.into());
        }
    };
    let put_floats = |out: &mut Vec<u8>, values: &[f64]| {
        put_uvarint(out, values.len() as u64);
        values.iter().for_each(|value| put_float(out, *value));
    };
    let put_deltas = |out: &mut Vec<u8>, values: &[i64]| {
        put_uvarint(out, values.len() as u64);
        values.iter().for_each(|value| put_varint(out, *value));
    };
    let (schema, custom) = match value {
        HistogramValue::Integer(h) => {
            out.push(hint(h.counter_reset));
            put_varint(out, h.schema.into());
            put_float(out, h.zero_threshold);
            put_uvarint(out, h.zero_count);
            put_uvarint(out, h.count);
            put_float(out, h.sum);
            put_spans(out, &h.positive_spans);
            put_spans(out, &h.negative_spans);
            put_deltas(out, &h.positive_buckets);
            put_deltas(out, &h.negative_buckets);
            (h.schema, &h.custom_values)
        }
        HistogramValue::Float(h) => {
            out.push(hint(h.counter_reset));
            put_varint(out, h.schema.into());
            put_float(out, h.zero_threshold);
            put_float(out, h.zero_count);
            put_float(out, h.count);
            put_float(out, h.sum);
            put_spans(out, &h.positive_spans);
            put_spans(out, &h.negative_spans);
            put_floats(out, &h.positive_buckets);
            put_floats(out, &h.negative_buckets);
            (h.schema, &h.custom_values)
        }
    };
    if schema == CUSTOM_BUCKETS_SCHEMA {
        put_floats(out, custom);
    }
}

#[test]
fn every_record_of_prometheus_logs_comes_back_byte_for_byte() {
    let Some(dir) = cases("prom-3.5.3-crashed-datadir") else { return };
    let mut kinds: BTreeMap<u8, usize> = BTreeMap::new();
    for log in ["wal", "wbl"] {
        let segment = std::fs::read(dir.join(log).join("00000000")).expect("reads");
        let whole = wal::for_each_record(&segment, |bytes| {
            let (record, damage) = Record::parse(bytes);
            assert_eq!(damage, None, "{log} {}", bytes[0]);
            *kinds.entry(bytes[0]).or_default() += 1;
            if record != Record::Other {
                assert_eq!(hex(&record_bytes(bytes[0], &record)), hex(bytes), "{log} {}", bytes[0]);
            }
        });
        assert_eq!(whole, Ok(()), "{log}");
    }
    println!("records by kind: {kinds:?}");
    let wanted = [1, 2, 3, 4, 7, 8, 9];
    assert!(wanted.iter().all(|kind| kinds.contains_key(kind)), "{kinds:?}");
}

/// Of a kind that the cases have none of: what Prometheus 3.5.3 wrote with `metadata-wal-records`.
#[test]
fn a_record_of_metadata_comes_back_byte_for_byte() {
    let bytes = unhex(
        "0602020204554e4954000448454c502a4e756d626572206f6620676f726f7574696e657320746861742063757272656e746c792065786973\
         742e05020204554e4954077365636f6e64730448454c50274475726174696f6e206f6620746865206c6173742073637261706520696e2073\
         65636f6e64732e",
    );
    let (record, damage) = Record::parse(&bytes);
    assert_eq!(damage, None);
    let fields = |unit: &str, help: &str| {
        [("UNIT", unit), ("HELP", help)].map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec()
    };
    let goroutines = fields("", "Number of goroutines that currently exist.");
    let duration = fields("seconds", "Duration of the last scrape in seconds.");
    assert_eq!(record, Record::Metadata(vec![(2, 2, goroutines), (5, 2, duration)]));
    assert_eq!(record_bytes(6, &record), bytes);
}

/// The files of a data directory as the first release writes them, in this crate's tests' own frames.
const FIRST_FORM: [(&str, &str); 3] = [
    ("data/format.json", "7b2276657273696f6e223a312c226d696e5f726561646572223a317d"),
    (
        "data/checkpoint.json",
        "\
         7b22637263333263223a343234383530363134362c22636865636b706f696e74223a7b22666c7573686564223a7b22746872\
         6f756768223a7b227365676d656e74223a302c226f6666736574223a307d2c226265666f7265223a2d393232333337323033\
         363835343737353830387d2c226d65746164617461223a7b7d2c22746f6d6273746f6e6573223a5b7b226c6162656c73223a\
         7b225f5f6e616d655f5f223a227570222c22696e7374616e6365223a22686f73742d323a39313030222c226a6f62223a226e\
         6f6465227d2c226d696e223a302c226d6178223a313730303030303030303030327d5d7d7d",
    ),
    (
        "data/log/0000000000000001",
        "\
         706d6c6f67000001706d0101a0000000cb020d77032a085f5f6e616d655f5f02757008696e7374616e63650b686f73742d30\
         3a39313030036a6f62046e6f6465fd00d0ca9f17030000072a085f5f6e616d655f5f02757008696e7374616e63650b686f73\
         742d313a39313030036a6f62046e6f6465fd02d0ca9f17030000082a085f5f6e616d655f5f02757008696e7374616e63650b\
         686f73742d323a39313030036a6f62046e6f6465fd04d0ca9f1703000009",
    ),
];

/// What was written once is read for ever.
#[test]
fn a_data_directory_of_the_first_form_opens() {
    let samples: Plain = (0..3).map(|n| (series("up", n), 1_700_000_000_000 + n as i64, 7 + n as u64)).collect();
    let written = FaultyFs::new();
    let (db, _) = open(&written, |_| {});
    write(&db, 1, &samples).expect("writes");
    db.delete_series(&[vec![Matcher::equal("instance", "host-2:9100")]], 0, i64::MAX).expect("deletes");
    db.sync().expect("syncs");
    let dump_hex = |path: &str| hex(&written.map(Path::new(path)).expect("reads"));
    assert_eq!(FIRST_FORM.map(|(path, _)| dump_hex(path)), FIRST_FORM.map(|(_, bytes)| bytes.to_owned()));
    let fs = FaultyFs::new();
    for (path, bytes) in FIRST_FORM {
        fs.create_dir_all(Path::new(path).parent().expect("a folder")).expect("makes");
        fs.create(Path::new(path)).and_then(|mut file| file.append(&unhex(bytes))).expect("writes");
    }
    let (db, report) = open(&fs, |_| {});
    assert_eq!((report.replay.samples, dump(&db)), (3, samples[..2].to_vec()));
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
