//! Whole queries over series in memory, 1,000, 10,000 and 100,000 of them: an instant, an hour at 15 s, a day at 5 m.
//!
//! `cargo bench -p promesh-promql`; a filter picks some, as in `cargo bench -p promesh-promql -- "10000 series/hour"`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use promesh_model::{Labels, Timestamp};
use promesh_promql::script::MemoryStorage;
use promesh_promql::{Engine, EngineOptions, QueryOptions};

/// Samples of each series: a lookback and a range before the first step, and the span of the steps.
const SAMPLES: i64 = 340;

/// Queries, with ranges in units of the interval between samples.
const QUERIES: [(&str, &str); 15] = [
    ("selector", "requests_total"),
    ("regex", "requests_total{instance=~\"host-1.*9100\",job=~\"job-1|job-3|job-5\"}"),
    ("negative_regex", "requests_total{job!~\"job-.\"}"),
    ("rate", "rate(requests_total[%20])"),
    ("sum_by_rate", "sum by (job) (rate(requests_total[%20]))"),
    ("sum_over_time", "sum_over_time(requests_total[%40])"),
    ("avg_over_time", "avg_over_time(requests_total[%40])"),
    ("max_over_time", "max_over_time(requests_total[%40])"),
    ("quantile_over_time", "quantile_over_time(0.9, requests_total[%40])"),
    ("topk", "topk(5, requests_total)"),
    ("join", "requests_total / on (instance, le) requests_total"),
    ("join_left", "requests_total * on (job) group_left sum by (job) (requests_total)"),
    ("quantile", "histogram_quantile(0.9, sum by (le, job) (rate(requests_total[%20])))"),
    ("count_values", "count_values(\"v\", requests_total)"),
    ("subquery", "max_over_time(sum(rate(requests_total[%20]))[%40:%4])"),
];

/// What a query is asked for, and how far the samples for it are apart.
const SPANS: [(&str, i64, i64); 3] = [("instant", 15_000, 0), ("hour", 15_000, 240), ("day", 300_000, 288)];

fn storage(series: usize, interval: i64) -> MemoryStorage {
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
            storage.append(&labels, sample * interval, 0, value);
        }
    }
    storage
}

/// Puts durations for `%N`, so many intervals.
fn written(query: &str, interval: i64) -> String {
    let mut parts = query.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let count: i64 = part[..digits].parse().expect("a number follows the sign");
        text.push_str(&format!("{}s{}", count * interval / 1000, &part[digits..]));
    }
    text
}

fn queries(criterion: &mut Criterion) {
    let engine = Engine::new(EngineOptions { max_samples: 200_000_000, ..EngineOptions::default() });
    let options = QueryOptions::default();
    for series in [1_000, 10_000, 100_000] {
        for (span, interval, steps) in SPANS {
            let storage = storage(series, interval);
            let mut group = criterion.benchmark_group(format!("{series} series/{span}"));
            group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
            let end = Timestamp((SAMPLES - 1) * interval);
            let start = Timestamp(end.0 - steps * interval);
            let step = Duration::from_millis(interval as u64);
            for (name, query) in QUERIES {
                let query = written(query, interval);
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter(|| {
                        black_box(if steps == 0 {
                            engine.instant(&storage, &query, end, &options).expect(&query)
                        } else {
                            engine.range(&storage, &query, start, end, step, &options).expect(&query)
                        })
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, queries);
criterion_main!(benches);
