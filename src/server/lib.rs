//! The process: options, command line, log, clock, and the loops around the minds.
//!
//! [`run()`] is a peer's life; [`peer::Peer`] is what it consists of. The minds run beside it ([`minds`]),
//! [`hands`] does what they want done, [`ingest`] is the way of every batch.

mod acquaintances;
mod ahead;
mod asking;
mod assembling;
mod backend;
pub mod cli;
pub mod clock;
mod cluster_view;
mod copy;
mod definitions;
mod deletes;
mod deltas;
mod discovering;
mod exposition;
mod facts;
mod failure;
mod failure_log;
pub mod files;
mod gateway;
#[cfg(test)]
mod golden;
mod hands;
mod history;
mod house;
mod identity;
mod ingest;
mod joining;
mod journal;
mod lines;
mod live;
pub mod logging;
mod lone;
mod minds;
mod operate;
pub mod options;
mod outgoing;
mod outside;
mod paging;
pub mod peer;
mod pushing;
mod queries;
mod reach;
mod reading;
mod reload;
mod ruling;
mod run;
mod scrapers;
mod scraping;
mod seeking;
mod sending;
mod serving;
mod settings;
mod subscribed;
mod telemetry;
mod traces;
mod trust;
mod twins;

pub use run::run;
