//! The engine against plainer ways to the same answer: merged parts against the whole, and each step of a range query
//! against an instant query of its own.

use std::time::Duration;

use promesh_model::{Labels, Timestamp};
use promesh_promql::parser::{Expr, Span};
use promesh_promql::parts::{Partial, PartialOp};
use promesh_promql::script::MemoryStorage;
use promesh_promql::{Annotations, Engine, EngineOptions, MatrixSeries, QueryOptions, SampleValue, Value};
use proptest::prelude::*;

const STEP: i64 = 15_000;

/// Samples of one series: a value, nothing, or the end of the series.
fn points() -> impl Strategy<Value = Vec<Option<f64>>> {
    let value = prop_oneof![
        8 => (-1000i32..1000).prop_map(|n| Some(f64::from(n) / 8.0)),
        1 => Just(Some(f64::from_bits(promesh_model::value::STALE_NAN_BITS))),
        2 => Just(None),
    ];
    prop::collection::vec(value, 40)
}

fn labels(number: usize) -> Labels {
    Labels::from_pairs([
        ("__name__", "m_total"),
        ("group", ["a", "b", "c"][number % 3]),
        ("instance", &format!("i{number}")),
    ])
}

fn store<'a>(series: impl Iterator<Item = (usize, &'a Vec<Option<f64>>)>) -> MemoryStorage {
    let mut storage = MemoryStorage::default();
    for (number, points) in series {
        for (index, value) in points.iter().enumerate() {
            if let Some(value) = value {
                // The number keeps values apart, so that no tie has to be resolved.
                let value = if value.is_nan() { *value } else { value + number as f64 / 1024.0 };
                storage.append(&labels(number), index as i64 * STEP, 0, value);
            }
        }
    }
    storage
}

fn matrix(engine: &Engine, storage: &MemoryStorage, query: &str) -> Vec<MatrixSeries> {
    let (start, end) = (Timestamp(STEP * 12), Timestamp(STEP * 36));
    let step = Duration::from_millis(2 * STEP as u64);
    let outcome = engine.range(storage, query, start, end, step, &QueryOptions::default()).expect(query);
    match outcome.value {
        Value::Matrix(series) => series,
        other => panic!("{query}: {other:?}"),
    }
}

fn close(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-3)
}

fn assert_same(query: &str, a: &[MatrixSeries], b: &[MatrixSeries]) -> Result<(), TestCaseError> {
    let keys = |series: &[MatrixSeries]| series.iter().map(|s| s.labels.clone()).collect::<Vec<_>>();
    prop_assert_eq!(keys(a), keys(b), "{}", query);
    for (a, b) in a.iter().zip(b) {
        prop_assert_eq!(a.floats.len(), b.floats.len(), "{} {}", query, a.labels);
        for (a, b) in a.floats.iter().zip(&b.floats) {
            prop_assert!(a.0 == b.0 && close(a.1, b.1), "{}: {:?} and {:?}", query, a, b);
        }
    }
    Ok(())
}

const AGGREGATIONS: [&str; 11] = [
    "sum by (group) (m_total)",
    "avg without (instance) (m_total)",
    "count(m_total)",
    "min by (group) (m_total)",
    "max(m_total)",
    "group by (group) (m_total)",
    "stddev by (group) (m_total)",
    "stdvar(rate(m_total[2m]))",
    "topk by (group) (2, m_total)",
    "bottomk(3, max_over_time(m_total[1m]))",
    "count_values by (group) (\"v\", round(m_total, 50))",
];

const QUERIES: [&str; 22] = [
    "m_total",
    "m_total offset 1m",
    "rate(m_total[2m])",
    "increase(m_total[1m])",
    "irate(m_total[2m])",
    "delta(m_total[90s])",
    "resets(m_total[5m])",
    "changes(m_total[5m])",
    "sum_over_time(m_total[1m])",
    "avg_over_time(m_total[2m])",
    "min_over_time(m_total[2m]) + max_over_time(m_total[45s])",
    "quantile_over_time(0.3, m_total[3m])",
    "last_over_time(m_total[1m]) - first_over_time(m_total[1m])",
    "deriv(m_total[2m])",
    "absent(m_total > 100)",
    "sum by (group) (m_total) / on (group) count by (group) (m_total)",
    "m_total > on (instance) avg without (x) (m_total) or m_total * 2",
    "m_total and on (group) topk(1, m_total)",
    "m_total unless m_total > 0",
    "max_over_time(rate(m_total[1m])[3m:30s])",
    "m_total * on (group) group_left () sum by (group) (m_total)",
    "quantile by (group) (0.5, m_total)",
];

/// The range query, one instant query at a time.
fn stepwise(engine: &Engine, storage: &MemoryStorage, query: &str) -> Vec<MatrixSeries> {
    let mut found: std::collections::BTreeMap<Labels, MatrixSeries> = std::collections::BTreeMap::new();
    for at in (12..=36).step_by(2).map(|index| Timestamp(index * STEP)) {
        let outcome = engine.instant(storage, query, at, &QueryOptions::default()).expect(query);
        let Value::Vector(samples) = outcome.value else { panic!("{query} is a vector") };
        for sample in samples {
            let empty = MatrixSeries { labels: sample.labels.clone(), floats: Vec::new(), histograms: Vec::new() };
            let SampleValue::Float(value) = sample.value else { panic!("{query} gives floats") };
            found.entry(sample.labels).or_insert(empty).floats.push((at, value));
        }
    }
    found.into_values().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_range_query_is_its_instant_queries(series in prop::collection::vec(points(), 1..9)) {
        let engine = Engine::new(EngineOptions::default());
        let storage = store(series.iter().enumerate());
        for query in QUERIES {
            assert_same(query, &matrix(&engine, &storage, query), &stepwise(&engine, &storage, query))?;
        }
    }

    /// What stands in a query twice is evaluated once where the texts are alike, and twice where a space makes them differ.
    #[test]
    fn a_part_that_stands_twice_is_worth_what_it_is_worth_alone(series in prop::collection::vec(points(), 1..9)) {
        let engine = Engine::new(EngineOptions::default());
        let storage = store(series.iter().enumerate());
        for query in QUERIES.iter().chain(&AGGREGATIONS) {
            let spaced = query.replace('(', "( ");
            for (twice, apart) in [
                (format!("({query}) + ({query})"), format!("({query}) + ({spaced})")),
                (format!("({query}) - (({query}) * 2 or ({query}))"), format!("({query}) - (({spaced}) * 2 or ( {query} ))")),
                (
                    format!("sum(max_over_time(({query})[2m:30s]) or max_over_time(({query})[2m:30s])) + sum({query})"),
                    format!("sum(max_over_time(({query})[2m:30s]) or max_over_time(({spaced})[2m:30s])) + sum({spaced})"),
                ),
            ] {
                let ask = |query: &str| {
                    let (start, end) = (Timestamp(STEP * 12), Timestamp(STEP * 36));
                    let step = Duration::from_millis(2 * STEP as u64);
                    engine.range(&storage, query, start, end, step, &QueryOptions::default()).expect(query)
                };
                let (once, both) = (ask(&twice), ask(&apart));
                let (Value::Matrix(a), Value::Matrix(b)) = (&once.value, &both.value) else { panic!("{twice}") };
                assert_same(&twice, a, b)?;
                prop_assert_eq!(once.stats.total_samples, both.stats.total_samples, "{}", twice);
                prop_assert_eq!((once.warnings.len(), once.infos.len()), (both.warnings.len(), both.infos.len()));
            }
        }
    }

    #[test]
    fn merged_parts_equal_the_whole(
        series in prop::collection::vec(points(), 1..24),
        holders in 1usize..=7,
        owners in prop::collection::vec(0usize..7, 24),
    ) {
        let engine = Engine::new(EngineOptions::default());
        let whole = store(series.iter().enumerate());
        for query in AGGREGATIONS {
            let Ok(Expr::Aggregate(aggregate)) = engine.parse(query) else { panic!("{query}") };
            let op = PartialOp::of(&aggregate).expect("all of these merge");
            let inner = aggregate.expr.to_string();
            let mut merged = Partial::new(op.clone(), &aggregate.grouping, aggregate.without);
            for holder in 0..holders {
                let owned = series.iter().enumerate().filter(|(number, _)| owners[*number] % holders == holder);
                let mut part = Partial::new(op.clone(), &aggregate.grouping, aggregate.without);
                part.fold(&Value::Matrix(matrix(&engine, &store(owned), &inner)));
                merged.merge(&part);
            }
            let Value::Matrix(parts) = merged.finish(Span::default(), false, &mut Annotations::default()) else {
                panic!("a matrix")
            };
            assert_same(query, &parts, &matrix(&engine, &whole, query))?;
        }
    }
}

#[test]
fn remarks_on_a_part_that_stands_twice_name_the_last_place() {
    let engine = Engine::new(EngineOptions::default());
    let storage = store([(0, &vec![Some(1.0); 40])].into_iter());
    for query in [
        "quantile_over_time(2, m_total[1m]) - quantile_over_time(2, m_total[1m])",
        "quantile_over_time(2, m_total[1m]) - quantile_over_time(2, m_total[1m] )",
    ] {
        let outcome = engine.instant(&storage, query, Timestamp(STEP * 30), &QueryOptions::default()).expect(query);
        let expected = "PromQL warning: quantile value should be between 0 and 1, got 2 (1:57)";
        assert_eq!(outcome.warnings, [expected], "{query}");
    }
}
