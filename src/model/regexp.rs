//! Regular expressions with Go's RE2 meaning, anchored at both ends.

use regex_automata::meta;
use regex_automata::util::syntax;
use thiserror::Error;

/// A pattern that does not compile.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("error parsing regexp: {0}")]
pub struct RegexpError(String);

impl RegexpError {
    /// With the engine's words.
    pub(crate) fn new(message: String) -> RegexpError {
        RegexpError(message)
    }
}

/// The largest compiled program, so that no pattern takes the memory of a peer.
const PROGRAM_BYTES_MAX: usize = 10 << 20;

/// A compiled, whole-string expression. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Regexp {
    regex: meta::Regex,
    literals: Option<std::sync::Arc<[String]>>,
}

impl Regexp {
    /// Compiles a pattern. `.` matches a newline too, as in Prometheus.
    ///
    /// # Errors
    /// When the pattern is malformed or its program would be too large.
    pub fn new(pattern: &str) -> Result<Regexp, RegexpError> {
        let regex = meta::Builder::new()
            .configure(meta::Config::new().nfa_size_limit(Some(PROGRAM_BYTES_MAX)))
            .syntax(syntax::Config::new().dot_matches_new_line(true))
            .build(&format!("^(?:{pattern})$"))
            .map_err(|error| {
                let cause = error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string);
                RegexpError(cause)
            })?;
        Ok(Regexp { regex, literals: None })
    }

    /// All texts that match, if the expression is a list of literals.
    pub fn literals(&self) -> Option<&[String]> {
        self.literals.as_deref()
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}
