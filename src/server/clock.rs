//! The clock, read here and nowhere else.

use std::time::{SystemTime, UNIX_EPOCH};

use promesh_model::{Monotonic, Now, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// The present: monotonic time that counts suspended time, and the wall clock.
pub fn now() -> Now {
    Now { monotonic: monotonic(), wall: wall() }
}

/// The monotonic clock, suspended time included.
pub fn monotonic() -> Monotonic {
    let now = clock_gettime(ClockId::Boottime);
    Monotonic(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// The wall clock.
#[allow(clippy::disallowed_methods)] // here and nowhere else
pub fn wall() -> Timestamp {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp(since.as_millis() as i64),
        Err(before) => Timestamp(-(before.duration().as_millis() as i64)),
    }
}
