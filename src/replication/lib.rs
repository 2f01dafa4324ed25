//! The log is the stream: what a writer appends to its log is byte for byte what its holders receive.
//!
//! [`framing`] turns batches into those bytes and back; [`ledger`] says which of two batches for one slot stands. Nothing
//! here touches a disk or a socket.

pub mod framing;
pub mod ledger;

pub use framing::{BatchHeader, Decoded, Framing, FramingError, Order, Origin, SourceId, Vanishing};
pub use ledger::{Disposition, Ledger, SlotOrders, Standing};
