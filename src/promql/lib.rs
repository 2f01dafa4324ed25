//! PromQL: a [`parser`], an [`Engine`] over any [`Queryable`](promesh_model::storage::Queryable), and the runner of the
//! [`script`] language that tests both.
//!
//! The engine is synchronous and without a clock: whoever calls it watches the time and cancels through a
//! [`Budget`](promesh_model::storage::Budget). A query is planned (which samples of which series, which parts do not
//! depend on the step), all its selectors are asked for at once, and the plan is evaluated column by column: the value
//! of an expression is a grid of series × steps, and an instant query is a grid of one step. [`parts`] holds the states of
//! aggregations that can be computed where the samples are and merged elsewhere.
//!
//! ```
//! use promesh_model::{Labels, Timestamp};
//! use promesh_promql::script::MemoryStorage;
//! use promesh_promql::{Engine, QueryOptions, SampleValue, Value};
//!
//! let mut storage = MemoryStorage::default();
//! for minute in 0..10 {
//!     let labels = Labels::from_pairs([("__name__", "requests_total"), ("job", "api")]);
//!     storage.append(&labels, minute * 60_000, 0, minute as f64 * 30.0);
//! }
//! let engine = Engine::default();
//! let outcome = engine.instant(&storage, "sum(rate(requests_total[5m]))", Timestamp(540_000), &QueryOptions::default())?;
//! let Value::Vector(samples) = outcome.value else { panic!("an instant vector") };
//! assert_eq!(samples[0].value, SampleValue::Float(0.5));
//! # Ok::<(), promesh_promql::QueryError>(())
//! ```
//!
//! `examples/query.rs` asks over a storage of its own.

mod engine;
pub mod parser;
pub mod parts;
pub mod script;

pub use engine::{
    Annotations, Engine, EngineOptions, Features, MatrixSeries, Outcome, Part, PartAnswer, Parts, QueryError,
    QueryOptions, SampleValue, Stats, Value, VectorSample, capped,
};
