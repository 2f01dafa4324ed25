//! The database as a whole, on a file system that fails.

mod support;

mod reopen;
