//! The database as a whole, on a file system that fails.

mod promtool;
mod support;

mod blocks;
mod conformance;
mod cursors;
mod damage;
mod digests;
mod reopen;
