//! The language: text to tree and back.
//!
//! [`parse`] reads an expression, [`Expr`]'s `Display` prints it, [`prettify`] breaks it over lines and [`to_json`]
//! gives the tree of the API's `parse_query`. Everything is bounded: a tree is at most [`DEPTH_MAX`] nodes deep.

mod ast;
mod check;
mod functions;
mod grammar;
mod json;
mod lexer;
mod literals;
mod modifiers;
mod prettier;
mod printer;
mod series;
#[cfg(test)]
mod tables;
mod token;

use std::fmt;

use promesh_model::Matcher;
use thiserror::Error;

pub use ast::{
    Aggregate, AggregateOp, At, Binary, BinaryOp, Call, Cardinality, DurationExpr, DurationNode, DurationOp, Expr,
    Matching, MatrixSelector, NumberLiteral, Paren, Span, StringLiteral, Subquery, Unary, ValueType, VectorSelector,
};
pub use functions::{FUNCTIONS, Function, Variadic, function};
pub use json::to_json;
pub(crate) use literals::number as parse_number;
pub(crate) use modifiers::seconds_to_ms;
pub use prettier::prettify;
pub use series::{SeriesDescription, SeriesValue};

/// The deepest tree that is accepted. Evaluating, printing and dropping a tree recurse; a thread's stack holds so
/// many levels with room to spare.
pub const DEPTH_MAX: usize = 400;

/// The longest text that is accepted, in bytes.
pub const QUERY_BYTES_MAX: usize = 1 << 20;

/// Which experimental parts of the language are switched on. None by default, as upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParseOptions {
    /// `promql-experimental-functions`.
    pub experimental_functions: bool,
    /// `promql-duration-expr`.
    pub duration_expressions: bool,
    /// `promql-extended-range-selectors`: `anchored` and `smoothed`.
    pub extended_range_selectors: bool,
    /// `promql-binop-fill-modifiers`: `fill`, `fill_left`, `fill_right`.
    pub fill_modifiers: bool,
}

impl ParseOptions {
    /// Everything switched on.
    pub fn everything() -> ParseOptions {
        ParseOptions {
            experimental_functions: true,
            duration_expressions: true,
            extended_range_selectors: true,
            fill_modifiers: true,
        }
    }
}

/// One mistake in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Where it is.
    pub span: Span,
    /// What it is.
    pub message: String,
    /// The whole text.
    pub query: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: parse error: {}", self.span.position(&self.query), self.message)
    }
}

/// All mistakes that were found, at least one. Prints the first, as upstream.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ParseErrors(pub Vec<ParseError>);

impl fmt::Display for ParseErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first() {
            Some(error) => error.fmt(f),
            None => f.write_str("error contains no error message"),
        }
    }
}

/// Parses and checks an expression.
///
/// # Errors
/// The mistakes found, the first one first, with upstream's texts.
pub fn parse(text: &str, options: &ParseOptions) -> Result<Expr, ParseErrors> {
    bounded(text)?;
    let mut parser = grammar::Parser::new(text, options, false);
    let mut parsed = parser.expression();
    if let Ok(expr) = &mut parsed
        && parser.errors.is_empty()
    {
        parser.check(expr);
    }
    parser.finish(parsed)
}

/// Parses a vector selector without modifiers, such as the API's `match[]`.
///
/// # Errors
/// As [`parse`].
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseErrors> {
    bounded(text)?;
    let options = ParseOptions::default();
    let mut parser = grammar::Parser::new(text, &options, false);
    let parsed = parser.vector_selector().and_then(|selector| parser.end().map(|()| selector.matchers));
    parser.finish(parsed)
}

/// Parses a series description of the `.test` language: `name{labels} value value …`.
///
/// # Errors
/// As [`parse`].
pub fn parse_series(text: &str) -> Result<SeriesDescription, ParseErrors> {
    bounded(text)?;
    let options = ParseOptions::everything();
    let mut parser = grammar::Parser::new(text, &options, true);
    let parsed = parser.series();
    parser.finish(parsed)
}

fn bounded(text: &str) -> Result<(), ParseErrors> {
    if text.len() <= QUERY_BYTES_MAX {
        return Ok(());
    }
    let message = format!("expression of {} bytes is longer than {QUERY_BYTES_MAX}", text.len());
    Err(ParseErrors(vec![ParseError { span: Span::default(), message, query: text[..64.min(text.len())].to_owned() }]))
}
