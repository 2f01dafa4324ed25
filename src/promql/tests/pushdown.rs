//! Aggregations computed in parts, by holders that have some of the series each, against the whole at one place.

use std::time::Duration;

use promesh_model::storage::Budget;
use promesh_model::{FloatHistogram, Labels, Timestamp};
use promesh_promql::script::MemoryStorage;
use promesh_promql::{
    Engine, EngineOptions, MatrixSeries, Outcome, Part, PartAnswer, Parts, QueryError, QueryOptions, SampleValue, Value,
};
use proptest::prelude::*;

const STEP: i64 = 15_000;

/// Holders, each with the series of some instances.
#[derive(Debug)]
struct Split(Vec<MemoryStorage>);

impl Parts for Split {
    fn compute(&self, part: &Part, budget: &Budget) -> Result<Option<PartAnswer>, QueryError> {
        let mut whole: Option<PartAnswer> = None;
        for holder in &self.0 {
            let part = Engine::new(EngineOptions::default()).part(holder, part, budget.clone())?;
            match &mut whole {
                Some(whole) => {
                    whole.partial.merge(&part.partial);
                    whole.warnings.extend(part.warnings);
                    whole.infos.extend(part.infos);
                }
                None => whole = Some(part),
            }
        }
        Ok(whole)
    }
}

#[derive(Clone, Debug)]
enum Point {
    Nothing,
    Float(f64),
    Histogram(f64),
}

fn points() -> impl Strategy<Value = Vec<Point>> {
    let float = |n: i32| Point::Float(f64::from(n) / 7.0);
    let plain = prop::collection::vec(
        prop_oneof![8 => (-1000i32..1000).prop_map(float), 1 => Just(Point::Nothing), 1 => Just(Point::Float(f64::NAN))],
        40,
    );
    let histogram = prop_oneof![6 => (1u8..9).prop_map(|n| Point::Histogram(f64::from(n))), 1 => Just(Point::Nothing)];
    prop_oneof![6 => plain, 1 => prop::collection::vec(histogram, 40)]
}

fn labels(name: &str, number: usize) -> Labels {
    Labels::from_pairs([
        ("__name__", name),
        ("group", ["a", "b", "c"][number % 3]),
        ("instance", &format!("i{number}")),
        ("job", "j"),
    ])
}

fn store<'a>(series: impl Iterator<Item = (usize, &'a Vec<Point>)>) -> MemoryStorage {
    let mut storage = MemoryStorage::default();
    for (number, points) in series {
        for (index, point) in points.iter().enumerate() {
            let at = index as i64 * STEP;
            match point {
                Point::Nothing => {}
                Point::Float(value) => {
                    // The number keeps values apart: of equal ones `topk` may choose any.
                    storage.append(&labels("m_total", number), at, 0, value + number as f64 / 1024.0);
                    storage.append(&labels("n_total", number), at, 0, index as f64);
                }
                Point::Histogram(count) => {
                    let value = FloatHistogram { count: *count, sum: *count, ..FloatHistogram::default() };
                    storage.append_histogram(&labels("m_total", number), at, 0, &value);
                }
            }
        }
    }
    storage
}

const QUERIES: [&str; 22] = [
    "sum by (group) (m_total)",
    "avg without (instance) (m_total)",
    "count(m_total)",
    "min by (group) (m_total)",
    "max(m_total)",
    "group by (group) (m_total)",
    "stddev by (group) (m_total)",
    "stdvar(rate(m_total[2m]))",
    // Without NaN: two of them are a tie, in which either may be chosen.
    "topk by (group) (2, m_total > -1e6)",
    "bottomk(3, max_over_time(m_total[1m]) > -1e6)",
    "count_values by (group) (\"v\", round(m_total, 50))",
    "sum by (group) (rate(m_total[2m] offset 1m)) / on (group) count by (group) (n_total)",
    "sum(m_total / on (job, instance) n_total)",
    "sum(m_total - ignoring (group) n_total)",
    "sum(abs(m_total) * 2 + 1)",
    "max(m_total @ end()) - min(m_total @ start())",
    "topk(1, sum by (group) (increase(m_total[1m])))",
    "histogram_quantile(0.5, sum by (group) (m_total))",
    "absent(sum(nothing))",
    "avg by (group) (quantile_over_time(0.3, m_total[3m]))",
    "max_over_time(sum(m_total)[2m:30s])",
    "quantile by (group) (0.5, m_total) + sum(n_total)",
];

/// Whether two floats have at most so many others between them.
fn within_ulps(a: f64, b: f64, ulps: u64) -> bool {
    let ordered = |value: f64| {
        let bits = value.to_bits() as i64;
        if bits < 0 { i64::MIN - bits } else { bits }
    };
    a == b || a.is_nan() && b.is_nan() || ordered(a).abs_diff(ordered(b)) <= ulps
}

/// Squared distances lose digits in any order of adding: they are compared by their size.
fn close(query: &str, a: f64, b: f64) -> bool {
    within_ulps(a, b, 4) || query.contains("std") && (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1.0)
}

fn same_values(query: &str, a: &SampleValue, b: &SampleValue) -> bool {
    match (a, b) {
        (SampleValue::Float(a), SampleValue::Float(b)) => close(query, *a, *b),
        (SampleValue::Histogram(a), SampleValue::Histogram(b)) => {
            close(query, a.sum, b.sum) && close(query, a.count, b.count)
        }
        _ => false,
    }
}

fn assert_same(query: &str, a: &Outcome, b: &Outcome) -> Result<(), TestCaseError> {
    prop_assert_eq!((&a.warnings, &a.infos), (&b.warnings, &b.infos), "{}", query);
    let found = |series: &MatrixSeries| {
        let floats = series.floats.iter().map(|(at, value)| (*at, SampleValue::Float(*value)));
        let histograms = series.histograms.iter().map(|(at, value)| (*at, SampleValue::Histogram(value.clone())));
        (series.labels.clone(), floats.chain(histograms).collect::<Vec<_>>())
    };
    let rows = |value: &Value| match value {
        Value::Vector(samples) => {
            samples.iter().map(|s| (s.labels.clone(), vec![(s.at, s.value.clone())])).collect::<Vec<_>>()
        }
        Value::Matrix(series) => series.iter().map(found).collect(),
        other => panic!("{query}: {other:?}"),
    };
    let (a, b) = (rows(&a.value), rows(&b.value));
    let keys = |rows: &[(Labels, Vec<_>)]| rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>();
    prop_assert_eq!(keys(&a), keys(&b), "{}", query);
    for ((labels, a), (_, b)) in a.iter().zip(&b) {
        let same = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && same_values(query, &a.1, &b.1));
        prop_assert!(same, "{query}: {labels}: {a:?} and {b:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parts_of_one_to_seven_holders_make_the_whole(
        series in prop::collection::vec(points(), 1..24),
        holders in 1usize..=7,
        owners in prop::collection::vec(0usize..7, 24),
    ) {
        let engine = Engine::new(EngineOptions::default());
        let whole = store(series.iter().enumerate());
        let held = |holder: usize| store(series.iter().enumerate().filter(|(n, _)| owners[*n] % holders == holder));
        let parts = std::sync::Arc::new(Split((0..holders).map(held).collect()));
        let alone = QueryOptions::default();
        let shared = QueryOptions { parts: Some(parts), ..QueryOptions::default() };
        let (start, end, step) = (Timestamp(STEP * 12), Timestamp(STEP * 36), Duration::from_millis(2 * STEP as u64));
        for query in QUERIES {
            let ask = |options: &QueryOptions| engine.range(&whole, query, start, end, step, options).expect(query);
            assert_same(query, &ask(&shared), &ask(&alone))?;
            let ask = |options: &QueryOptions| engine.instant(&whole, query, end, options).expect(query);
            assert_same(query, &ask(&shared), &ask(&alone))?;
        }
    }
}
