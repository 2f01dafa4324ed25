//! What a peer says over HTTP: Prometheus' API, federation, remote write, its own metrics, the cluster endpoint.
//!
//! [`router`] makes the routes over a [`Backend`], which is the peer as the API sees it; [`serve`] runs them on a
//! listener. Envelope, status codes, error types, parameters and texts are Prometheus' (3.5): `tests/table.txt` lists
//! requests with the answers a real one gives.
//!
//! Queries run on blocking threads, so many at once, each with a budget that is cancelled when its time is over or its
//! client is gone. A large answer is written piece by piece from the result itself; it never exists as one text.

mod admin;
mod asked;
pub mod backend;
mod bounds;
mod cors;
mod error;
mod extras;
mod federate;
mod first_line;
mod form;
pub mod gateway;
pub mod guard;
mod json;
mod lifecycle;
mod listing;
pub mod metered;
mod operate;
pub mod otlp;
pub mod pager;
mod pages;
mod query;
mod remote_read;
mod remote_write;
mod respond;
mod router;
mod rules;
mod search;
mod serve;
mod starting;
mod status;
mod targets;
#[cfg(test)]
mod tests;
mod time;
mod v2;

pub use asked::{Asked, Origin, Timings};
/// What [`serve`] serves.
pub use axum::Router;
pub use backend::{Backend, QueryWatch};
pub use error::{ApiError, ErrorType};
pub use guard::Guard;
pub use json::{write_float, write_timestamp};
pub use pager::Pager;
pub use router::{ApiOptions, router};
pub use serve::{ServeOptions, serve};
pub use starting::starting;
pub use time::parse_time;
