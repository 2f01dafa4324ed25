//! Nobody takes its clock for skewed: here they are a quarter of a second off at most.
//!
//! Source: design of the mesh, section 3, clocks: skewed is who is off by more than two seconds from a majority.

use promesh_cluster::PeerState;
use promesh_node::Change;

pub(crate) fn violation(change: &Change, seconds: f64) -> Option<String> {
    let is_false = change.what == "state" && change.reason == PeerState::Skewed.as_str();
    is_false.then(|| format!("{} took its clock for skewed at {seconds:.3} s", change.peer))
}
