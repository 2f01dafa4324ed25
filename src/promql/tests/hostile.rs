//! Whatever the text, no panic, no endless work; errors say which limit was met.

#![allow(clippy::disallowed_methods)]

use std::thread;
use std::time::{Duration, Instant};

use promesh_model::Timestamp;
use promesh_promql::parser::{self, ParseOptions, parse, prettify, to_json};
use promesh_promql::script::{MemoryStorage, ScriptOptions};
use promesh_promql::{Engine, EngineOptions, QueryError, QueryOptions};
use proptest::prelude::*;

/// Queries of every kind, the hostile among them, one a line: the seeds of all that is made here at random.
const CORPUS: &str = include_str!("corpus/queries.txt");

fn corpus() -> Vec<&'static str> {
    CORPUS.lines().collect()
}

fn storage() -> MemoryStorage {
    let script = "a{x=\"1\", job=\"j\"} 1+1x5 0+3x5\nb{x=\"2\"} 5 _ stale 7x5\nh{job=\"j\"} {{schema:1 sum:5 count:4 buckets:[1 2 1]}}+{{schema:1 sum:2 count:1 buckets:[0 1]}}x9";
    let mut storage = MemoryStorage::default();
    for line in script.lines() {
        let series = parser::parse_series(line).expect(line);
        for (index, value) in series.values.iter().enumerate() {
            let at = index as i64 * 60_000;
            match value {
                parser::SeriesValue::Float(value) => storage.append(&series.labels, at, 0, *value),
                parser::SeriesValue::Histogram { value, .. } => storage.append_histogram(&series.labels, at, 0, value),
                parser::SeriesValue::Omitted => {}
            }
        }
    }
    storage
}

fn engine() -> Engine {
    Engine::new(EngineOptions { max_samples: 20_000, ..ScriptOptions::default().engine })
}

fn exercise(text: &str) {
    let Ok(expr) = parse(text, &ParseOptions::everything()) else { return };
    let printed = expr.to_string();
    if let Ok(again) = parse(&printed, &ParseOptions::everything()) {
        assert_eq!(again.to_string(), printed, "printing {text:?} twice");
    }
    assert!(!prettify(&expr).is_empty());
    assert!(to_json(&expr).is_object());
    let (engine, storage, options) = (engine(), storage(), QueryOptions::default());
    let at = Timestamp(300_000);
    let _ = engine.instant(&storage, text, at, &options);
    let _ = engine.range(&storage, text, Timestamp(0), at, Duration::from_secs(30), &options);
}

#[test]
fn the_saved_corpus_is_answered_or_refused_in_bounded_time() {
    let mut valid = 0;
    for query in corpus() {
        valid += usize::from(parse(query, &ParseOptions::everything()).is_ok());
        let began = Instant::now();
        exercise(query);
        assert!(began.elapsed() < Duration::from_secs(5), "{query} took {:?}", began.elapsed());
    }
    assert!(valid * 4 > corpus().len() * 3, "{valid} of {} are queries", corpus().len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse(&text, &ParseOptions::everything());
        let _ = parser::parse_series(&text);
        let lossy = String::from_utf8_lossy(&bytes);
        let _ = parse(&lossy, &ParseOptions::default());
        let _ = parser::parse_selector(&lossy);
    }

    #[test]
    fn spliced_queries_neither_panic_nor_run_on(
        first in 0..corpus().len(),
        second in 0..corpus().len(),
        cut in 0usize..90,
        from in 0usize..90,
        extra in "[()\\[\\]{},:@+^<>/!=~\"a-z0-9 ]{0,6}",
    ) {
        let (first, second) = (corpus()[first], corpus()[second]);
        let head: String = first.chars().take(cut).collect();
        let tail: String = second.chars().skip(from).collect();
        exercise(&format!("{head}{extra}{tail}"));
        exercise(&format!("({first}) {extra} ({second})"));
        exercise(&format!("abs({first}) + {second}"));
    }
}

/// On a stack as small as a blocking thread's.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().stack_size(2 << 20).spawn(work).expect("a thread").join().expect("no overflow");
}

#[test]
fn deep_nesting_is_refused_without_overflowing_the_stack() {
    on_a_small_stack(|| {
        let many = 200_000;
        for text in [
            "(".repeat(many),
            "-".repeat(many) + "1",
            "a+".repeat(many) + "a",
            "abs(".repeat(many),
            "a^".repeat(many) + "a",
            "a[".to_owned() + &"(".repeat(many),
            "a[1m".to_owned() + &"+1m".repeat(many) + "]",
            "a".to_owned() + &"[1m:1m]".repeat(many),
            "sum(".repeat(many),
        ] {
            let error = parse(&text, &ParseOptions::everything()).expect_err("nobody writes such a query");
            assert!(!error.to_string().is_empty());
        }
    });
}

#[test]
fn the_deepest_tree_that_is_accepted_is_evaluated_on_a_small_stack() {
    on_a_small_stack(|| {
        let depth = parser::DEPTH_MAX - 4;
        for text in ["abs(".repeat(depth / 2) + "a" + &")".repeat(depth / 2), "a+".repeat(depth / 2) + "a"] {
            assert!(parse(&text, &ParseOptions::everything()).is_ok(), "depth {depth}");
            exercise(&text);
        }
    });
}

fn range(query: &str, start: i64, end: i64, step: Duration) -> Result<(), QueryError> {
    let options = QueryOptions::default();
    engine().range(&storage(), query, Timestamp(start), Timestamp(end), step, &options).map(|_| ())
}

#[test]
fn absurd_ranges_meet_the_sample_limit() {
    let century = 100 * 365 * 86_400_000i64;
    assert_eq!(range("a", 0, century, Duration::from_millis(1)), Err(QueryError::TooManySamples));
    assert_eq!(range("sum_over_time(a[100y:1ms])", 0, 0, Duration::from_secs(1)), Err(QueryError::TooManySamples));
    assert_eq!(range("a", i64::MIN, i64::MAX, Duration::from_millis(1)), Err(QueryError::TooManySamples));
    assert_eq!(range("topk(1e9, a)", 0, 60_000, Duration::from_secs(60)), Ok(()));
    assert!(range("topk(1e20, a)", 0, 60_000, Duration::from_secs(60)).is_err());
    assert!(range("a{x=~\"((((((a{1000}){1000}){1000}){1000})))\"}", 0, 0, Duration::from_secs(1)).is_err());
}

#[test]
fn a_cancelled_budget_stops_a_query() {
    let budget = promesh_model::storage::Budget::unlimited();
    budget.cancel();
    let options = QueryOptions { budget: Some(budget), ..QueryOptions::default() };
    let outcome = engine().instant(&storage(), "sum(a)", Timestamp(0), &options);
    assert_eq!(outcome, Err(QueryError::Cancelled));
}

/// Labels that double with each level, of which the error tells the limit.
#[test]
fn labels_do_not_grow_without_end() {
    let nested = |open: &str, close: &str| open.repeat(60) + "a" + &close.repeat(60);
    for query in [
        nested("label_replace(", ", \"x\", \"$1$1\", \"x\", \"(.*)\")"),
        nested("label_join(", ", \"x\", \"-\", \"x\", \"x\")"),
    ] {
        let engine = Engine::new(EngineOptions::default());
        let outcome = engine.instant(&storage(), &query, Timestamp(0), &QueryOptions::default());
        let error = outcome.expect_err("nobody needs such a label");
        assert!(error.to_string().contains("longer than 1048576 bytes"), "{error}");
    }
}

/// Few samples at many steps: the columns are what takes memory.
#[test]
fn sparse_series_at_many_steps_meet_the_sample_limit() {
    let mut storage = MemoryStorage::default();
    for number in 0..200 {
        let labels = promesh_model::Labels::from_pairs([("__name__", "s"), ("n", &number.to_string())]);
        storage.append(&labels, 0, 0, 1.0);
    }
    let (end, step) = (Timestamp(10_000_000), Duration::from_secs(1));
    let outcome = engine().range(&storage, "last_over_time(s[1s])", Timestamp(0), end, step, &QueryOptions::default());
    assert_eq!(outcome, Err(QueryError::TooManySamples));
}

/// Windows of 200,000 samples at 10,000 steps: minutes of work that must end when it is told to.
#[test]
fn long_work_on_one_series_ends_when_it_is_cancelled() {
    let engine = Engine::new(EngineOptions { max_samples: 50_000_000, ..ScriptOptions::default().engine });
    for function in ["double_exponential_smoothing(%, 0.5, 0.5)", "quantile_over_time(0.5, %)", "mad_over_time(%)"] {
        let query = function.replace('%', "(vector(time()) % 1013)[200000s:1s]");
        let budget = promesh_model::storage::Budget::unlimited();
        let options = QueryOptions { budget: Some(budget.clone()), ..QueryOptions::default() };
        let began = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(300));
                budget.cancel();
            });
            let (end, step) = (Timestamp(1_000_000_000), Duration::from_secs(100));
            let outcome = engine.range(&MemoryStorage::default(), &query, Timestamp(0), end, step, &options);
            assert_eq!(outcome.map(|_| ()), Err(QueryError::Cancelled), "{query}");
        });
        assert!(began.elapsed() < Duration::from_secs(20), "{query} ran on for {:?}", began.elapsed());
    }
}
