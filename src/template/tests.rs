//! Cases after upstream's template tests, and what hostile templates may not do.

mod alertmanager;
mod hostile;
mod prometheus;
