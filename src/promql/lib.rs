//! PromQL: a [`parser`], an [`Engine`] over any [`Queryable`](promesh_model::storage::Queryable), and the runner of the
//! [`script`] language that tests both.
//!
//! The engine is synchronous and without a clock: whoever calls it watches the time and cancels through a
//! [`Budget`](promesh_model::storage::Budget). A query is planned (which samples of which series, which parts do not
//! depend on the step), all its selectors are asked for at once, and the plan is evaluated column by column: the value
//! of an expression is a grid of series × steps, and an instant query is a grid of one step.

mod engine;
pub mod parser;
pub mod script;

pub use engine::{
    Annotations, Engine, EngineOptions, Features, MatrixSeries, Outcome, QueryError, QueryOptions, SampleValue, Stats,
    Value, VectorSample, capped,
};
