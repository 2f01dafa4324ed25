//! Tokens: what the lexer hands to the grammar.

use std::fmt;

use promesh_model::labels::quoted;

use super::ast::{AggregateOp, BinaryOp, Span};

/// A word with a meaning of its own in some places of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyword {
    Bool,
    By,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Ignoring,
    Offset,
    Smoothed,
    Anchored,
    On,
    Without,
}

/// A word that names something of the query itself when parentheses follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preprocessor {
    Start,
    End,
    Step,
    Range,
    MaxOf,
    MinOf,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    End,
    Error,
    Identifier,
    MetricIdentifier,
    String,
    Number,
    Duration,
    LeftBrace,
    RightBrace,
    LeftParen,
    RightParen,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    Equal,
    Blank,
    Times,
    Space,
    OpenHistogram,
    CloseHistogram,
    Descriptor,
    ResetHint,
    Operator(BinaryOp),
    RegexEqual,
    RegexNotEqual,
    At,
    Aggregator(AggregateOp),
    Keyword(Keyword),
    Preprocessor(Preprocessor),
}

/// A token of the input.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub kind: Kind,
    pub span: Span,
    /// The text, or the message of an error.
    pub text: String,
}

impl Token {
    /// How error messages name it.
    pub fn describe(&self) -> String {
        let quoted_short = || {
            let mut chars = self.text.char_indices();
            if self.text.len() > 10 {
                let end = chars.nth(10).map_or(self.text.len(), |(at, _)| at);
                format!("{}...", quoted(&self.text[..end]))
            } else {
                quoted(&self.text)
            }
        };
        match self.kind {
            Kind::End => "end of input".to_owned(),
            Kind::Error => self.text.clone(),
            Kind::Identifier => format!("identifier {}", quoted(&self.text)),
            Kind::MetricIdentifier => format!("metric identifier {}", quoted(&self.text)),
            Kind::String => format!("string {}", quoted_short()),
            Kind::Number => format!("number {}", quoted_short()),
            Kind::Duration => format!("duration {}", quoted_short()),
            Kind::Operator(_) | Kind::RegexEqual | Kind::RegexNotEqual | Kind::At => format!("<op:{}>", self.text),
            Kind::Aggregator(_) => format!("<aggr:{}>", self.text),
            Kind::Keyword(_) => format!("<{}>", self.text),
            _ => quoted_short(),
        }
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, _) = KEYWORDS.iter().find(|(_, keyword)| keyword == self).expect("every keyword is listed");
        f.write_str(word)
    }
}

const KEYWORDS: [(&str, Keyword); 13] = [
    ("offset", Keyword::Offset),
    ("smoothed", Keyword::Smoothed),
    ("anchored", Keyword::Anchored),
    ("by", Keyword::By),
    ("without", Keyword::Without),
    ("on", Keyword::On),
    ("ignoring", Keyword::Ignoring),
    ("group_left", Keyword::GroupLeft),
    ("group_right", Keyword::GroupRight),
    ("fill", Keyword::Fill),
    ("fill_left", Keyword::FillLeft),
    ("fill_right", Keyword::FillRight),
    ("bool", Keyword::Bool),
];

const PREPROCESSORS: [(&str, Preprocessor); 6] = [
    ("start", Preprocessor::Start),
    ("end", Preprocessor::End),
    ("step", Preprocessor::Step),
    ("range", Preprocessor::Range),
    ("max_of", Preprocessor::MaxOf),
    ("min_of", Preprocessor::MinOf),
];

/// The kind of a word that is not a plain identifier, whatever its case.
pub(crate) fn word(text: &str) -> Option<Kind> {
    let lower = text.to_ascii_lowercase();
    let operator = match lower.as_str() {
        "and" => Some(BinaryOp::And),
        "or" => Some(BinaryOp::Or),
        "unless" => Some(BinaryOp::Unless),
        "atan2" => Some(BinaryOp::Atan2),
        _ => None,
    };
    if let Some(operator) = operator {
        return Some(Kind::Operator(operator));
    }
    if matches!(lower.as_str(), "inf" | "nan") {
        return Some(Kind::Number);
    }
    AggregateOp::ALL
        .iter()
        .find(|op| op.as_str() == lower)
        .map(|op| Kind::Aggregator(*op))
        .or_else(|| KEYWORDS.iter().find(|(word, _)| *word == lower).map(|(_, keyword)| Kind::Keyword(*keyword)))
        .or_else(|| preprocessor(&lower).map(Kind::Preprocessor))
}

/// The preprocessor word of this (lower case) text.
pub(crate) fn preprocessor(lower: &str) -> Option<Preprocessor> {
    PREPROCESSORS.iter().find(|(word, _)| *word == lower).map(|(_, preprocessor)| *preprocessor)
}
