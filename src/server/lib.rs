//! The process: options, command line, log, clock, and the loops around the minds.

pub mod cli;
pub mod clock;
pub mod files;
pub mod logging;
pub mod options;

use std::process::ExitCode;

use options::Options;

/// Runs a peer until it is told to stop.
pub fn run(_options: Options) -> ExitCode {
    tracing::error!("this build cannot run a peer: its loops are not built yet");
    ExitCode::FAILURE
}
