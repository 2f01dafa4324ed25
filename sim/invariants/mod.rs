//! What must hold. One property a file, with its source; each gives the violations it finds.

pub(crate) mod at_most_one_notification;
pub(crate) mod every_slot_scraped;
pub(crate) mod history_is_whole;
pub(crate) mod holders_agree;
pub(crate) mod majority_runs;
pub(crate) mod no_false_alert;
pub(crate) mod no_false_skew;
pub(crate) mod nothing_lost;
pub(crate) mod one_owner;
