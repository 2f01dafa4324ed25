//! Why a peer does not start.

/// A failure to start: what, for people.
pub(crate) struct StartError(pub String);

impl<E: std::fmt::Display> From<E> for StartError {
    fn from(error: E) -> StartError {
        StartError(error.to_string())
    }
}

/// Says what could not be had, before why.
pub(crate) fn context<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> StartError {
    move |error| StartError(format!("{what}: {error}"))
}
