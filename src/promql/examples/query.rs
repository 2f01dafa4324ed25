//! PromQL over a storage of one's own: implement `Queryable`, ask an `Engine`.
//!
//! `cargo run -p promesh-promql --example query -- 'max_over_time(temperature[10m])'`

use std::time::Duration;

use promesh_model::matcher::matches_all;
use promesh_model::storage::{
    Budget, ListRequest, Listing, Queryable, SelectRequest, Selection, SeriesColumns, StorageError,
};
use promesh_model::{Labels, Timestamp};
use promesh_promql::{Engine, QueryOptions, Value};

/// A house with two rooms, measured once a minute for an hour.
struct House {
    series: Vec<SeriesColumns>,
}

impl House {
    fn measured() -> House {
        let room = |name: &str, base: f64| SeriesColumns {
            labels: Labels::from_pairs([("__name__", "temperature"), ("room", name)]),
            timestamps: (0..=60).map(|minute| minute * 60_000).collect(),
            values: (0..=60).map(|minute| base + f64::from(minute % 10) / 10.0).collect(),
            ..SeriesColumns::default()
        };
        House { series: vec![room("cellar", 12.0), room("kitchen", 20.0)] }
    }
}

impl Queryable for House {
    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError> {
        let answer = |request: &SelectRequest| {
            let matching = self.series.iter().filter(|series| matches_all(&request.matchers, &series.labels));
            let series: Vec<SeriesColumns> = matching.cloned().collect();
            budget.take(series.iter().map(|series| series.values.len()).sum())?;
            // Samples outside the request's bounds do no harm.
            Ok(Selection { series, warnings: Vec::new() })
        };
        requests.iter().map(answer).collect()
    }

    // The engine itself never lists anything: these are for the HTTP API.

    fn label_names(&self, _: &ListRequest, _: &Budget) -> Result<Listing<String>, StorageError> {
        Ok(Listing { items: vec!["__name__".to_owned(), "room".to_owned()], warnings: Vec::new() })
    }

    fn label_values(&self, name: &str, _: &ListRequest, _: &Budget) -> Result<Listing<String>, StorageError> {
        let values = self.series.iter().filter_map(|series| series.labels.get(name).map(str::to_owned));
        Ok(Listing { items: values.collect(), warnings: Vec::new() })
    }

    fn series(&self, _: &ListRequest, _: &Budget) -> Result<Listing<Labels>, StorageError> {
        Ok(Listing { items: self.series.iter().map(|series| series.labels.clone()).collect(), warnings: Vec::new() })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let query = std::env::args().nth(1).unwrap_or_else(|| "avg by (room) (avg_over_time(temperature[10m]))".to_owned());
    let (engine, house) = (Engine::default(), House::measured());
    let options = QueryOptions::default();
    let (start, end, step) = (Timestamp(0), Timestamp(3_600_000), Duration::from_secs(600));
    let outcome = engine.range(&house, &query, start, end, step, &options)?;
    let Value::Matrix(series) = outcome.value else { unreachable!("a range query gives a matrix") };
    for series in series {
        println!("{}", series.labels);
        for (at, value) in series.floats {
            println!("  {:>5} s  {value}", at.0 / 1000);
        }
    }
    for remark in outcome.warnings.iter().chain(&outcome.infos) {
        println!("{remark}");
    }
    Ok(())
}
