//! The database as a whole, on a file system that fails.

mod promtool;
pub(crate) mod support;

mod anything;
mod blocks;
mod conformance;
mod cursors;
mod damage;
mod digests;
mod fuzz;
mod golden;
mod reopen;
