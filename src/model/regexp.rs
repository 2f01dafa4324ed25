//! Regular expressions with Go's RE2 meaning, anchored at both ends.
//!
//! A pattern is first rewritten from Go's syntax ([`go_syntax`]), then looked at: a list of literals, or literals with
//! `.*` between them, is matched without an engine; for others a literal beginning or end is compared first.

mod go_syntax;
mod plan;

use std::sync::Arc;

use regex_automata::meta;
use regex_automata::nfa::thompson::WhichCaptures;
use regex_automata::util::syntax;
use thiserror::Error;

use plan::Plan;

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
/// The longest pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A compiled, whole-string expression. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Regexp {
    plan: Arc<Plan>,
}

impl Regexp {
    /// Compiles a pattern. `.` matches a newline too, as in Prometheus.
    ///
    /// # Errors
    /// When the pattern is malformed, in Go's words, or its program would be too large.
    pub fn new(pattern: &str) -> Result<Regexp, RegexpError> {
        Regexp::build(pattern, true)
    }

    /// Compiles a pattern of Alertmanager's, where `.` does not match a newline.
    ///
    /// Source: alertmanager pkg/labels/matcher.go, beside prometheus model/labels/regexp.go.
    ///
    /// # Errors
    /// As [`Regexp::new`].
    pub fn within_lines(pattern: &str) -> Result<Regexp, RegexpError> {
        Regexp::build(pattern, false)
    }

    fn build(pattern: &str, dot_matches_new_line: bool) -> Result<Regexp, RegexpError> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(RegexpError::new(format!("a pattern of {} bytes is too long", pattern.len())));
        }
        let translated = go_syntax::translate(pattern).map_err(RegexpError::new)?;
        let hir = regex_syntax::ParserBuilder::new()
            .dot_matches_new_line(dot_matches_new_line)
            .nest_limit(1000)
            .build()
            .parse(&translated)
            .map_err(|error| RegexpError::new(in_one_line(&error)))?;
        let plan = match Plan::without_engine(&hir) {
            Some(plan) => plan,
            None => Plan::with_engine(&hir, compile(&translated, dot_matches_new_line)?),
        };
        Ok(Regexp { plan: Arc::new(plan) })
    }

    /// All texts that match, sorted, if they are few and known.
    pub fn literals(&self) -> Option<&[String]> {
        self.plan.literals()
    }

    /// What every matching text begins with; empty if nothing is known.
    pub fn prefix(&self) -> &str {
        self.plan.prefix()
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.plan.matches(text)
    }
}

fn compile(translated: &str, dot_matches_new_line: bool) -> Result<meta::Regex, RegexpError> {
    // A matcher lives for one query and sees some dozens of values: a whole automaton costs more to make than it saves. The
    // lazy one makes the states it meets.
    let config = meta::Config::new()
        .nfa_size_limit(Some(PROGRAM_BYTES_MAX))
        .dfa(false)
        .onepass(false)
        .which_captures(WhichCaptures::None);
    meta::Builder::new()
        .configure(config)
        .syntax(syntax::Config::new().dot_matches_new_line(dot_matches_new_line).nest_limit(1000))
        .build(&format!("^(?:{translated})$"))
        .map_err(|error| {
            let cause = error.syntax_error().map_or_else(|| error.to_string(), |error| in_one_line(error));
            RegexpError::new(cause)
        })
}

/// The parser draws pictures; the last line says what is wrong.
fn in_one_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Puts groups of a match into a template: `$1`, `${1}`, `$name`, `${name}`, `$$`. `group` has what a number or name
/// stands for, nothing for a group that does not exist or took no part; a `$` that begins no reference stands for itself.
///
/// Source: Go `regexp.Regexp.Expand`.
pub fn expand<'t>(template: &str, group: impl Fn(&str) -> &'t str) -> String {
    let mut out = String::with_capacity(2 * template.len());
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
            continue;
        }
        match take_reference(rest) {
            Some((name, tail)) => {
                out.push_str(group(name));
                rest = tail;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

/// A group's name or number at the start of a text, and what follows it.
fn take_reference(text: &str) -> Option<(&str, &str)> {
    let (body, braced) = text.strip_prefix('{').map_or((text, false), |body| (body, true));
    let end = body.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(body.len());
    let (name, tail) = body.split_at(end);
    let tail = if braced { tail.strip_prefix('}')? } else { tail };
    (!name.is_empty()).then_some((name, tail))
}

#[cfg(test)]
mod tests;
