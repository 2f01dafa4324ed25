//! What the engine costs: `cargo bench -p promesh-tsdb`.
//!
//! `append` is one scrape of 1,000 known series into a head of many; `decode` a full chunk into columns; `postings` a
//! selection among 100,000 series; `replay` a log of one million samples into a new head, its frames decoded by the
//! simplest framing. Before them the memory of a series is printed, from the resident set.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use promesh_model::frame;
use promesh_model::ingest::{Batch, SeriesIndex, SeriesRef};
use promesh_model::matcher::MatchOp;
use promesh_model::storage::Budget;
use promesh_model::{Labels, Matcher, Monotonic, Now, Timestamp};
use promesh_tsdb::chunk::xor::{XorAppender, decode_into};
use promesh_tsdb::fs::{FaultyFs, RealFs};
use promesh_tsdb::head::Head;
use promesh_tsdb::{Db, DbOptions, HeadOptions, ReplayDecoder, Replayed};

const TARGET_SERIES: usize = 1000;

fn labels(target: usize, line: usize) -> Labels {
    let family = line / 30;
    Labels::from_pairs([
        ("__name__", format!("app_family_{family}_seconds_bucket").as_str()),
        ("instance", &format!("10.0.{}.{}:9100", target / 256, target % 256)),
        ("job", "synthetic"),
        ("handler", &format!("/api/v1/handler_{}", line % 6)),
        ("le", &format!("{}", line % 30)),
        ("namespace", &format!("team-{}", target % 20)),
        ("pod", &format!("app-{target:05}")),
    ])
}

fn batches(head: &dyn SeriesIndex, targets: usize) -> Vec<Batch> {
    (0..targets)
        .map(|target| {
            let series: Vec<SeriesRef> =
                (0..TARGET_SERIES).map(|line| head.resolve(&labels(target, line)).expect("resolves")).collect();
            Batch { values: vec![0.0; series.len()], series, ..Batch::default() }
        })
        .collect()
}

fn advance(batch: &mut Batch, step: i64) {
    batch.slot = Timestamp(1_700_000_000_000 + step * 15_000);
    for (line, value) in batch.values.iter_mut().enumerate() {
        // A third of the series rest, the others count up by little.
        *value += if line % 3 == 0 { 0.0 } else { ((line as i64 * 7 + step * 3) % 10) as f64 };
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let field = |place: usize| statm.split(' ').nth(place).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // Without shared pages: files that are mapped are the system's to keep or drop.
    field(1).saturating_sub(field(2)) * 4096
}

fn memory(_: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let before = resident_bytes();
    let head = Head::new(Arc::new(RealFs), &folder.path().join("head"), HeadOptions::default()).expect("opens");
    let mut all = batches(&head, 300);
    let series = head.series_count() as u64;
    let resolved = resident_bytes();
    for step in 0..300 {
        for batch in &mut all {
            advance(batch, step);
            assert!(head.append(batch).rejected.is_empty());
        }
    }
    let refs = (all.len() * TARGET_SERIES * 16) as u64;
    let after = resident_bytes() - refs;
    println!(
        "memory: {series} series, {} B each without samples, {} B each after 300 samples",
        (resolved - before - refs.min(resolved - before)) / series,
        (after - before) / series
    );
}

fn append(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let head = Head::new(Arc::new(RealFs), &folder.path().join("head"), HeadOptions::default()).expect("opens");
    let mut all = batches(&head, 100);
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(TARGET_SERIES as u64));
    let mut tick = 0;
    group.bench_function("known series, 100 targets in turn", |bencher| {
        bencher.iter(|| {
            let batch = &mut all[tick % 100];
            advance(batch, (tick / 100) as i64);
            tick += 1;
            black_box(head.append(batch))
        });
    });
    group.bench_function("resolving known labels", |bencher| {
        let known: Vec<Labels> = (0..TARGET_SERIES).map(|line| labels(7, line)).collect();
        bencher.iter(|| known.iter().map(|labels| head.resolve(labels).expect("known").0).sum::<u64>());
    });
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let mut bytes = Vec::new();
    let mut appender = XorAppender::begin(&mut bytes, 1_700_000_000_000, 1f64.to_bits());
    let mut value = 1.0;
    for step in 1..120i64 {
        value += (step % 7) as f64;
        appender.append(&mut bytes, 1_700_000_000_000 + step * 15_000, f64::to_bits(value));
    }
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(120));
    let (mut timestamps, mut values) = (Vec::new(), Vec::new());
    group.bench_function("a counter's chunk", |bencher| {
        bencher.iter(|| {
            timestamps.clear();
            values.clear();
            decode_into(black_box(&bytes), i64::MIN, i64::MAX, &mut timestamps, &mut values).expect("a chunk");
            values.len()
        });
    });
    group.finish();
}

fn postings(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let head = Head::new(Arc::new(RealFs), &folder.path().join("head"), HeadOptions::default()).expect("opens");
    for batch in &mut batches(&head, 100) {
        advance(batch, 0);
        head.append(batch);
    }
    let name = Matcher::equal("__name__", "app_family_3_seconds_bucket");
    let regex = |pattern: &str| Matcher::new(MatchOp::Regex, "pod", pattern).expect("compiles");
    for (what, matchers) in [
        ("name", vec![name.clone()]),
        ("name and a list", vec![name.clone(), regex("app-00001|app-00002|app-00003")]),
        ("name and a prefix", vec![name.clone(), regex("app-0000.*")]),
        ("name and an expression", vec![name.clone(), regex("app-0[0-9]+[13]")]),
    ] {
        criterion.bench_function(&format!("postings/{what}"), |bencher| {
            bencher.iter(|| black_box(head.select_slots(&matchers)).iter().count());
        });
    }
    criterion.bench_function("select/3,000 series, newest sample", |bencher| {
        let at = 1_700_000_000_000;
        bencher.iter(|| {
            let found = head.select(std::slice::from_ref(&name), at, at, &Budget::unlimited(), &mut Vec::new());
            black_box(found).expect("answers").len()
        });
    });
}

/// A framing for measuring: packed labels once, then numbers and values.
struct Decoder(Vec<Vec<SeriesRef>>);

impl ReplayDecoder for Decoder {
    fn lane(&self, _kind: u8, payload: &[u8]) -> u64 {
        u64::from(u32::from_le_bytes(payload[..4].try_into().expect("four bytes")))
    }

    fn decode(&mut self, kind: u8, payload: &[u8], index: &dyn SeriesIndex) -> Result<Option<Replayed>, String> {
        let target = u32::from_le_bytes(payload[..4].try_into().expect("four bytes")) as usize;
        if kind == 1 {
            self.0.resize(self.0.len().max(target + 1), Vec::new());
            self.0[target] = (0..TARGET_SERIES)
                .map(|line| index.resolve(&labels(target, line)).map_err(|error| error.to_string()))
                .collect::<Result<_, _>>()?;
            return Ok(None);
        }
        let slot = i64::from_le_bytes(payload[4..12].try_into().expect("eight bytes"));
        let values =
            payload[12..].chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        Ok(Some(Replayed::Append(Batch {
            slot: Timestamp(slot),
            series: self.0[target].clone(),
            values: values.collect(),
            ..Batch::default()
        })))
    }
}

fn replay(criterion: &mut Criterion) {
    let open = |fs: &FaultyFs| {
        let options = DbOptions { fs: Arc::new(fs.clone()), ..DbOptions::default() };
        let now = Now { monotonic: Monotonic(0), wall: Timestamp(1_700_000_000_000) };
        Db::open("data".as_ref(), options, &|| Box::new(Decoder(Vec::new())), now).expect("opens")
    };
    let fs = FaultyFs::new();
    let (db, _) = open(&fs);
    let mut all = batches(&db, 20);
    for step in 0..50 {
        for (target, batch) in all.iter_mut().enumerate() {
            advance(batch, step);
            let mut payload = (target as u32).to_le_bytes().to_vec();
            let mut frames = Vec::new();
            if step == 0 {
                frame::write(&mut frames, 1, &payload);
            }
            payload.extend_from_slice(&batch.slot.ms().to_le_bytes());
            batch.values.iter().for_each(|value| payload.extend_from_slice(&value.to_le_bytes()));
            frame::write(&mut frames, 2, &payload);
            db.write(&frames, batch).expect("writes");
        }
    }
    drop(db);
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    group.throughput(Throughput::Elements(1_000_000));
    group.bench_function("a million samples of 20,000 series", |bencher| {
        bencher.iter_batched(|| (), |()| open(&fs).1.replay.samples, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, memory, append, decode, postings, replay);
criterion_main!(benches);
