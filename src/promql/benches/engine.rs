//! Whole queries over series in memory: one hour at 15 s and one instant, 1,000 and 10,000 series.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use promesh_model::{Labels, Timestamp};
use promesh_promql::script::MemoryStorage;
use promesh_promql::{Engine, EngineOptions, QueryOptions};

const STEP_MS: i64 = 15_000;
const SAMPLES: i64 = 280;

const QUERIES: [(&str, &str); 9] = [
    ("selector", "requests_total"),
    ("rate", "rate(requests_total[5m])"),
    ("sum_by_rate", "sum by (job) (rate(requests_total[5m]))"),
    ("sum_over_time", "sum_over_time(requests_total[10m])"),
    ("max_over_time", "max_over_time(requests_total[10m])"),
    ("topk", "topk(5, requests_total)"),
    ("join", "requests_total / on (instance, le) requests_total"),
    ("quantile", "histogram_quantile(0.9, sum by (le, job) (rate(requests_total[5m])))"),
    ("subquery", "max_over_time(rate(requests_total[5m])[10m:1m])"),
];

fn storage(series: usize) -> MemoryStorage {
    let mut storage = MemoryStorage::default();
    for number in 0..series {
        let bound = ["0.1", "0.5", "1", "5", "+Inf"][number % 5];
        let labels = Labels::from_pairs([
            ("__name__", "requests_total"),
            ("instance", &format!("host-{}:9100", number / 5)),
            ("job", &format!("job-{}", number / 5 % 20)),
            ("le", bound),
        ]);
        for sample in 0..SAMPLES {
            let value = (sample * (1 + number as i64 % 7)) as f64;
            storage.append(&labels, sample * STEP_MS, 0, value);
        }
    }
    storage
}

fn queries(criterion: &mut Criterion) {
    let engine = Engine::new(EngineOptions::default());
    let options = QueryOptions::default();
    let (start, end) = (Timestamp(600_000), Timestamp(SAMPLES * STEP_MS));
    let step = Duration::from_millis(STEP_MS as u64);
    for series in [1_000, 10_000] {
        let storage = storage(series);
        let mut group = criterion.benchmark_group(format!("{series} series"));
        group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
        for (name, query) in QUERIES {
            group.bench_function(BenchmarkId::new("range", name), |bencher| {
                bencher.iter(|| black_box(engine.range(&storage, query, start, end, step, &options).expect(query)));
            });
            group.bench_function(BenchmarkId::new("instant", name), |bencher| {
                bencher.iter(|| black_box(engine.instant(&storage, query, end, &options).expect(query)));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, queries);
criterion_main!(benches);
