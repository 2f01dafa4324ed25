//! Queries that are the work of a moment are told from others, and answered alike.

use std::time::Duration;

use promesh_model::storage::{Budget, ListRequest, Listing, Queryable, SelectRequest, Selection, StorageError};
use promesh_model::{Labels, Timestamp};

use promesh_promql::script::MemoryStorage;
use promesh_promql::{Engine, QueryOptions};

/// Storage that says that all is at hand.
struct Near {
    storage: MemoryStorage,
    series: usize,
}

impl Queryable for Near {
    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError> {
        self.storage.select(requests, budget)
    }

    fn at_hand(&self, _: &[SelectRequest]) -> Option<(&dyn Queryable, usize)> {
        Some((self, self.series))
    }

    fn label_names(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<String>, StorageError> {
        self.storage.label_names(request, budget)
    }

    fn label_values(
        &self,
        name: &str,
        request: &ListRequest,
        budget: &Budget,
    ) -> Result<Listing<String>, StorageError> {
        self.storage.label_values(name, request, budget)
    }

    fn series(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<Labels>, StorageError> {
        self.storage.series(request, budget)
    }
}

fn near(series: usize) -> Near {
    let mut storage = MemoryStorage::default();
    for index in 0..10 {
        let labels = Labels::from_pairs([("__name__", "up"), ("instance", &index.to_string())]);
        for second in 0..60 {
            storage.append(&labels, second * 1000, 0, second as f64);
        }
    }
    Near { storage, series }
}

#[test]
fn a_small_query_is_answered_at_once_and_as_any_other() {
    let (engine, options, near) = (Engine::default(), QueryOptions::default(), near(10));
    let at = Timestamp(59_000);
    for query in ["up", "1", "sum(up)", "rate(up[1m])", "up / on(instance) up", "topk(2, up offset 5s)", "\"x\""] {
        let whole = engine.instant(&near, query, at, &options);
        assert_eq!(engine.instant_in_a_moment(&near, query, at, &options), whole.map(Some), "{query}");
    }
    let (span, step) = ((Timestamp(0), Timestamp(59_000)), Duration::from_secs(5));
    for query in ["up", "sum by (instance) (rate(up[30s]))"] {
        let whole = engine.range(&near, query, span.0, span.1, step, &options);
        assert_eq!(engine.range_in_a_moment(&near, query, span, step, &options), whole.map(Some), "{query}");
    }
    assert!(engine.instant_in_a_moment(&near, "up(", at, &options).is_err());
}

#[test]
fn what_may_take_long_is_left_to_those_who_may_wait() {
    let (engine, options) = (Engine::default(), QueryOptions::default());
    let at = Timestamp(59_000);
    let left = |near: &dyn Queryable, query: &str| {
        assert_eq!(engine.instant_in_a_moment(near, query, at, &options), Ok(None), "{query}");
    };
    let few = near(10);
    left(&few, "max_over_time(up[1m:1s])");
    left(&few, "sum(rate(up[1d]))");
    left(&few, &format!("up{}", " + up".repeat(200)));
    left(&near(30_000), "up");
    left(&near(1_000).storage, "up");
    let span = (Timestamp(0), Timestamp(100_000_000));
    let many = engine.range_in_a_moment(&few, "up", span, Duration::from_secs(1), &options);
    assert_eq!(many, Ok(None));
}
