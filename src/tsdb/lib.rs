//! The storage engine: a log of opaque frames, a head in memory, blocks in Prometheus' format.
//!
//! A batch is written to the [`log`] first and to the [`head`] second. Every two hours the head's oldest window becomes
//! a block; blocks are merged into larger ones and dropped by retention. [`Db`] ties these together and is what
//! others hold: it is a [`promesh_model::storage::Queryable`] and a [`promesh_model::ingest::SeriesIndex`].

mod admin;
pub mod block;
mod blocks;
mod checkpoint;
pub mod chunk;
mod columns;
mod compact;
mod cursor;
pub mod db;
mod digest;
pub mod fs;
pub mod head;
mod import;
pub mod log;
mod maintain;
mod query;
mod replay;
mod window;

pub use blocks::{SetAside, open_blocks_read_only};
pub use db::{Db, DbOptions, Intake, OpenError, OpenReport, Retention, WriteError, Written};
pub use digest::{DigestError, SEAL_AFTER, Window};
pub use head::{AppendOutcome, HeadChunk, HeadCounts, HeadOptions, Rejected, SampleIndex, TsdbStats};
pub use import::ImportReport;
pub use log::{Log, LogError, LogPosition};
pub use maintain::{MaintainError, Maintained};
pub use replay::{DecoderFactory, ReplayDecoder, ReplayProgress, ReplayReport, Replayed};
pub use window::{WindowError, WindowSeries};

#[cfg(test)]
mod tests;
