use std::collections::BTreeMap;
use std::sync::Mutex;

use promesh_model::ingest::{Exemplar, HistogramSample, HistogramValue, IngestError, Metadata, SeriesIndex};
use promesh_model::labels::Labels;
use promesh_model::value::is_stale;
use promesh_model::{Histogram, Span};
use proptest::prelude::*;

use super::*;

/// The smallest thing that numbers series.
#[derive(Default)]
struct Index(Mutex<Vec<Labels>>);

impl SeriesIndex for Index {
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, IngestError> {
        let mut known = self.0.lock().unwrap();
        let position = known.iter().position(|candidate| candidate == labels).unwrap_or_else(|| {
            known.push(labels.clone());
            known.len() - 1
        });
        Ok(SeriesRef(position as u64))
    }
    fn labels(&self, series: SeriesRef) -> Option<Labels> {
        self.0.lock().unwrap().get(series.0 as usize).cloned()
    }
}

fn series(number: u32) -> Labels {
    Labels::from_pairs([("__name__", format!("m{number}")), ("instance", "a:1".into()), ("job", "j".into())])
}

fn header(sequence: u64, slot: i64) -> BatchHeader {
    let origin = Origin { writer: PeerId(7), generation: Generation(3) };
    let shard = promesh_model::shard::shard_of(&series(0));
    let order = Order { failed: false, rank: 0, origin };
    BatchHeader { source: SourceId(9), shard, slot: Timestamp(slot), order, sequence }
}

fn batch_of(index: &Index, slot: i64, samples: &[(u32, f64)]) -> Batch {
    Batch {
        slot: Timestamp(slot),
        series: samples.iter().map(|(number, _)| index.resolve(&series(*number)).unwrap()).collect(),
        values: samples.iter().map(|(_, value)| *value).collect(),
        ..Batch::default()
    }
}

/// A batch as labels and value bits, markers last.
fn seen(index: &Index, batch: &Batch) -> Vec<(String, u64)> {
    let name = |series: &SeriesRef| index.labels(*series).unwrap().to_string();
    batch.series.iter().map(name).zip(batch.values.iter().map(|value| value.to_bits())).collect()
}

/// A writer and a reader with head numbers of their own.
#[derive(Default)]
struct Pair {
    writer: Framing,
    reader: Framing,
    there: Index,
    here: Index,
    sequence: u64,
    payload: Vec<u8>,
}

impl Pair {
    fn send(&mut self, slot: i64, samples: &[(u32, f64)]) -> Decoded {
        let mut batch = batch_of(&self.there, slot, samples);
        self.sequence += 1;
        let header = header(self.sequence, slot);
        let mut payload = Vec::new();
        self.writer.encode(&header, &mut batch, None, Vanishing::Marked, &self.there, &mut payload).unwrap();
        let decoded = self.reader.decode(&payload, &self.here).unwrap();
        assert_eq!(decoded.header, header);
        assert_eq!(peek(&payload).unwrap(), (header, decoded.key));
        assert_eq!(seen(&self.there, &batch), seen(&self.here, &decoded.batch));
        self.payload = payload;
        decoded
    }
}

#[test]
fn unchanged_values_cost_a_bit() {
    let mut pair = Pair::default();
    let samples: Vec<_> = (0..8000).map(|number| (number, f64::from(number) * 1.5)).collect();
    assert!(pair.send(0, &samples).key);
    assert!(!pair.send(15_000, &samples).key);
    assert!(pair.payload.len() < 8000 / 8 + 80, "{} bytes", pair.payload.len());
}

#[test]
fn every_epoch_begins_with_a_key_frame() {
    let mut pair = Pair::default();
    assert!(pair.send(0, &[(1, 1.0)]).key);
    assert!(!pair.send(EPOCH_MS - 1, &[(1, 1.0)]).key);
    assert!(pair.send(EPOCH_MS, &[(1, 1.0)]).key);
}

#[test]
fn vanished_series_get_one_marker() {
    let mut pair = Pair::default();
    pair.send(0, &[(1, 1.0), (2, 2.0), (3, 3.0)]);
    let second = pair.send(1000, &[(1, 1.0), (3, 3.0)]);
    assert_eq!(second.batch.series.len(), 3);
    assert!(is_stale(second.batch.values[2]));
    let third = pair.send(2000, &[(1, 1.0), (3, 3.0)]);
    assert_eq!(third.batch.series.len(), 2);
    let back = pair.send(3000, &[(1, 1.0), (2, 5.0), (3, 3.0)]);
    assert_eq!(back.batch.values, [1.0, 5.0, 3.0]);
}

#[test]
fn series_with_instants_of_their_own_vanish_unmarked_unless_asked_for() {
    for (vanishing, marked) in [(Vanishing::Unmarked, 0), (Vanishing::MarkedUnlessStamped, 1), (Vanishing::Marked, 2)] {
        let index = Index::default();
        let mut writer = Framing::new();
        let mut first = batch_of(&index, 0, &[(1, 1.0), (2, 2.0), (3, 3.0)]);
        first.timestamps = vec![(1, Timestamp(-500))];
        let mut second = batch_of(&index, 1000, &[(1, 1.0)]);
        for (sequence, batch) in [(1, &mut first), (2, &mut second)] {
            let header = header(sequence, batch.slot.ms());
            writer.encode(&header, batch, None, vanishing, &index, &mut Vec::new()).unwrap();
        }
        assert_eq!(second.series.len(), 1 + marked, "{vanishing:?}");
        // Once it is without an instant it is a series as others.
        let mut third = batch_of(&index, 2000, &[(2, 2.0)]);
        let mut fourth = batch_of(&index, 3000, &[]);
        for (sequence, batch) in [(3, &mut third), (4, &mut fourth)] {
            let header = header(sequence, batch.slot.ms());
            writer.encode(&header, batch, None, vanishing, &index, &mut Vec::new()).unwrap();
        }
        assert_eq!(fourth.series.len(), usize::from(vanishing != Vanishing::Unmarked), "{vanishing:?}");
    }
}

#[test]
fn a_series_that_vanishes_while_its_target_moves_gets_its_marker_from_the_new_writer() {
    let index = Index::default();
    let mut successor = Framing::new();
    let before = batch_of(&index, 0, &[(1, 1.0), (2, 2.0)]).series;
    let mut batch = batch_of(&index, 1000, &[(1, 1.0)]);
    let mut payload = Vec::new();
    let encoded =
        successor.encode(&header(1, 1000), &mut batch, Some(&before), Vanishing::Marked, &index, &mut payload).unwrap();
    assert_eq!(encoded.vanished, [before[1]]);
    assert!(is_stale(batch.values[1]));
}

#[test]
fn a_reader_without_the_base_asks_and_a_key_frame_helps() {
    let index = Index::default();
    let (mut writer, mut reader) = (Framing::new(), Framing::new());
    let mut payloads = Vec::new();
    for sequence in 1..=3 {
        if sequence == 3 {
            writer.want_keys(|_| true);
        }
        let mut payload = Vec::new();
        let mut batch = batch_of(&index, sequence as i64, &[(1, sequence as f64)]);
        writer
            .encode(&header(sequence, sequence as i64), &mut batch, None, Vanishing::Marked, &index, &mut payload)
            .unwrap();
        payloads.push(payload);
    }
    assert_eq!(reader.decode(&payloads[1], &index), Err(FramingError::NoBase { sequence: 2, base: 1 }));
    assert_eq!(reader.decode(&payloads[2], &index).unwrap().batch.values, [3.0]);
}

#[test]
fn the_rarer_sections_come_back() {
    let index = Index::default();
    let mut batch = batch_of(&index, 60_000, &[(1, 1.0), (2, 2.0)]);
    batch.timestamps = vec![(1, Timestamp(59_000))];
    batch.start_timestamps = vec![(0, Timestamp(10)), (1, Timestamp(20))];
    let histogram = Histogram {
        count: 3,
        sum: 4.5,
        positive_spans: vec![Span { offset: 1, length: 2 }],
        positive_buckets: vec![1, 1],
        ..Histogram::default()
    };
    batch.histograms = vec![HistogramSample {
        series: index.resolve(&series(5)).unwrap(),
        timestamp: Timestamp(60_000),
        value: HistogramValue::Integer(histogram.into()),
        start: Timestamp(0),
    }];
    let exemplar = Exemplar { labels: Labels::from_pairs([("trace_id", "x")]), value: 0.5, timestamp: Timestamp(1) };
    batch.exemplars = vec![(batch.series[0], exemplar)];
    batch.metadata = vec![("m1".into(), Metadata { kind: "counter".into(), ..Metadata::default() })];
    let mut payload = Vec::new();
    Framing::new().encode(&header(1, 60_000), &mut batch, None, Vanishing::Marked, &index, &mut payload).unwrap();
    assert_eq!(Framing::new().decode(&payload, &index).unwrap().batch, batch);
}

/// Bytes of a batch of this form decode for ever.
#[test]
fn golden_bytes() {
    // One form, four meanings.
    assert_eq!([KIND_BATCH, KIND_COPY, KIND_PUSH, KIND_SETTLED], [1, 2, 3, 4]);
    let index = Index::default();
    let mut writer = Framing::new();
    let mut hex = String::new();
    for (sequence, value) in [(1, 10.0), (2, 12.0), (3, 0.1)] {
        let mut payload = Vec::new();
        let mut batch = batch_of(&index, 1000 * sequence as i64, &[(1, value), (2, 7.0)]);
        writer
            .encode(
                &header(sequence, 1000 * sequence as i64),
                &mut batch,
                None,
                Vanishing::Marked,
                &index,
                &mut payload,
            )
            .unwrap();
        // The compressed definitions may change with the compressor: they are cut out.
        let shown = if sequence == 1 { &payload[..40] } else { &payload[..] };
        hex.push_str(&shown.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        hex.push('\n');
    }
    expect_test::expect![[r#"
        0200090000000000000000000000000000000700000000000000000000000000000003813ad00f01
        0000090000000000000000000000000000000700000000000000000000000000000003813aa01f02010a06f01469a34100
        0000090000000000000000000000000000000700000000000000000000000000000003813af02e03010a07d04c1bd3a3a504
    "#]]
    .assert_eq(&hex);
}

/// A whole key frame as it was written once, compressed definitions and all, and the batch after it, decode for ever.
#[test]
fn a_key_frame_of_golden_bytes_reads_back() {
    let (index, mut reader) = (Index::default(), Framing::new());
    for (sequence, hex, value) in [(1, KEY_FRAME, 10.0), (2, NEXT_FRAME, 12.0)] {
        let decoded = reader.decode(&unhex(hex), &index).expect("it was written by this form");
        assert_eq!(decoded.header, header(sequence, 1000 * sequence as i64));
        assert_eq!(decoded.batch, batch_of(&index, 1000 * sequence as i64, &[(1, value), (2, 7.0)]));
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|place| u8::from_str_radix(&hex[place..place + 2], 16).unwrap()).collect()
}

const KEY_FRAME: &str = "\
    0200090000000000000000000000000000000700000000000000000000000000000003813ad00f010136024028b52ffd20405d01001402\
    1f085f5f6e616d655f5f026d3108696e7374616e636503613a31036a6f62016a3202002011189c7a0202030200020a074f1e0a7345211c";
const NEXT_FRAME: &str =
    "0000090000000000000000000000000000000700000000000000000000000000000003813aa01f02010a06f01469a34100";

/// Bytes that earlier releases wrote, with [`Section::Values`](super::sections::Section), decode for ever too.
#[test]
fn batches_of_the_earlier_form_read_back() {
    let index = Index::default();
    let (mut writer, mut reader) = (Framing::new(), Framing::new());
    let mut key = Vec::new();
    let mut batch = batch_of(&index, 1000, &[(1, 10.0), (2, 7.0)]);
    writer.encode(&header(1, 1000), &mut batch, None, Vanishing::Marked, &index, &mut key).unwrap();
    reader.decode(&key, &index).unwrap();
    for (hex, values) in [
        (
            "0000090000000000000000000000000000000700000000000000000000000000000003813aa01f02010406f01469a34100",
            [12.0, 7.0],
        ),
        (
            "0000090000000000000000000000000000000700000000000000000000000000000003813af02e0301040ed04c1bd387be999999999919f907",
            [0.1, 7.0],
        ),
    ] {
        assert_eq!(reader.decode(&unhex(hex), &index).unwrap().batch.values, values);
    }
}

fn scrapes() -> impl Strategy<Value = Vec<BTreeMap<u32, f64>>> {
    let hundredths = (0u32..100_000).prop_map(|number| f64::from(number) / 100.0);
    let value = prop_oneof![any::<f64>(), (0u32..100).prop_map(f64::from), hundredths, Just(1.0)];
    prop::collection::vec(prop::collection::btree_map(0u32..12, value, 0..12), 1..12)
}

proptest! {
    #[test]
    fn any_run_of_scrapes_reads_back(scrapes in scrapes()) {
        let mut pair = Pair::default();
        for (number, scrape) in scrapes.iter().enumerate() {
            let samples: Vec<_> = scrape.iter().map(|(series, value)| (*series, *value)).collect();
            pair.send(number as i64 * 15_000, &samples);
        }
    }

    /// Segments are cut anywhere, and the writer gives key frames anywhere.
    #[test]
    fn every_segment_of_a_holder_reads_from_its_own_start(
        scrapes in scrapes(),
        events in prop::collection::vec((any::<bool>(), 0u8..4), 12),
    ) {
        let (mut pair, mut log) = (Pair::default(), Framing::new());
        let mut segments = vec![Vec::new()];
        for (number, (scrape, (cut, key))) in scrapes.iter().zip(events).enumerate() {
            if cut {
                segments.push(Vec::new());
                log.want_keys(|_| true);
            }
            if key == 0 {
                pair.writer.want_keys(|_| true);
            }
            let samples: Vec<_> = scrape.iter().map(|(series, value)| (*series, *value)).collect();
            let mut decoded = pair.send(number as i64 * 15_000, &samples);
            let passes = log.can_pass(&pair.payload);
            prop_assert!(passes || !decoded.key);
            let framed = if passes {
                log.pass(&decoded.header, &decoded.batch);
                pair.payload.clone()
            } else {
                let mut framed = Vec::new();
                let batch = &mut decoded.batch;
                log.encode(&decoded.header, batch, None, Vanishing::Unmarked, &pair.here, &mut framed).unwrap();
                framed
            };
            let BatchHeader { source, shard, order, .. } = decoded.header;
            let newest = |framing: &Framing| framing.newest_series(order.origin, source, shard);
            prop_assert_eq!(newest(&log), newest(&pair.reader));
            segments.last_mut().unwrap().push((framed, decoded.batch));
        }
        for segment in segments {
            let mut reader = Framing::new();
            for (framed, batch) in segment {
                let read = reader.decode(&framed, &pair.here).unwrap().batch;
                prop_assert_eq!(seen(&pair.here, &read), seen(&pair.here, &batch));
            }
        }
    }

    #[test]
    fn damaged_payloads_never_panic(scrape in prop::collection::btree_map(0u32..12, any::<f64>(), 1..12), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let index = Index::default();
        let samples: Vec<_> = scrape.into_iter().collect();
        let mut payload = Vec::new();
        let mut batch = batch_of(&index, 0, &samples);
        Framing::new().encode(&header(1, 0), &mut batch, None, Vanishing::Marked, &index, &mut payload).unwrap();
        for (place, byte) in flips {
            let place = place.index(payload.len());
            payload[place] = byte;
        }
        let _ = Framing::new().decode(&payload, &index);
        let _ = peek(&payload);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Framing::new().decode(&bytes, &Index::default());
    }
}
