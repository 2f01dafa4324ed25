//! Talking to servers outside the mesh in Prometheus' remote protocols: what is written to them and read from them.
//!
//! [`encode`] makes the messages of remote write 1.0 and 2.0; [`queue`] keeps samples in the order of their series until
//! they are sent; [`sender`] sends them, with upstream's rules of what is tried again; [`read`] asks for series. Which samples are to be sent, and
//! from where to go on after another peer, is `server`'s affair.

pub mod encode;
pub mod proto;
pub mod queue;
pub mod read;
pub mod sender;

pub use queue::{Item, OutSeries, Queue, Value};
pub use sender::{Counters, Sender};
