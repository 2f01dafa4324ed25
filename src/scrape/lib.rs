//! Targets and their scrapes: HTTP body → `textparse` → a batch for storage.
//!
//! A [`ScrapeLoop`] belongs to one [`Target`] and remembers its lines. It has no timer: the mesh calls
//! [`ScrapeLoop::scrape`] for each slot that this peer owns. It writes no staleness markers: whoever streams the
//! batches compares them, so that a takeover by another peer finds what vanished too.

mod cache;
mod labels;
mod negotiate;
mod reading;
mod scrape_loop;
mod target;
pub mod targets;

pub use scrape_loop::{Buffers, Fetched, ScrapeLoop, ScrapeOptions, ScrapeResult};
pub use target::{Target, TargetId};

#[cfg(test)]
mod tests;
