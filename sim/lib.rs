//! The simulator: the production minds of many peers in one deterministic world.
//!
//! One seed decides size, configuration, faults and workload; the same seed gives the same run to the last event. Faults
//! come first, then everything heals and the mesh must converge within a stated bound; [`invariants`] are checked during
//! and after. A seed that once failed stays in `seeds.txt` and is run by `cargo test`.

pub mod deaths;
mod disk;
mod faults;
pub mod invariants;
mod members;
mod network;
mod paging;
pub mod scale;
mod scenario;
#[cfg(test)]
mod tests;
mod world;

pub use scenario::{Report, Scenario, run};
