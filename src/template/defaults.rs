//! The templates that receivers' defaults refer to. Their names, and what each gives a receiver, are Alertmanager's.

/// Texts of the chat and paging receivers.
pub const DEFAULT: &str = include_str!("default.tmpl");
/// The e-mail's subject and body.
pub const EMAIL: &str = include_str!("email.tmpl");
