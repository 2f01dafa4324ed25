//! YAML as Prometheus reads it: a tree whose every node knows where it stood, and problems that say where.
//!
//! Scalars keep the text they were written with: `1.10` stays `1.10` where a label value is meant. Types are decided by
//! the field that is read, as Go's decoder does: `yes` is a bool where a bool is meant. Anchors, aliases and merge keys
//! work; the copies they make are counted, so that no file grows without bound.

mod parse;
mod print;
mod read;
mod section;

use std::fmt;

pub use parse::parse;
pub use print::print;
pub use read::{FilePath, Plain, Reader, Show, Yaml, join_dir, resolve};
pub use section::{Section, read_section, show_field, show_section};

/// A place in a file: line and column count from one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// From one; zero when the problem is about the file as a whole.
    pub line: u32,
    /// From one, in characters.
    pub column: u32,
}

/// A value of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// What it is.
    pub kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// A text as written.
    Scalar {
        /// After escapes.
        text: String,
        /// Written without quotes: it may stand for a number or a bool.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// Keys and values in the order written.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its text.
    pub text: String,
    /// Where it stands.
    pub at: Position,
}

impl Node {
    /// A node that stands nowhere: for printing.
    pub fn new(kind: Kind) -> Node {
        Node { at: Position::default(), kind }
    }

    /// A text, for printing.
    pub fn text(text: impl Into<String>) -> Node {
        Node::new(Kind::Scalar { text: text.into(), plain: false })
    }

    /// A number or bool, for printing.
    pub fn plain(value: impl fmt::Display) -> Node {
        Node::new(Kind::Scalar { text: value.to_string(), plain: true })
    }

    /// A value of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(candidate, _)| candidate.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// Where a key of a mapping stands; where the mapping begins when it is not there.
    pub fn at_key(&self, key: &str) -> Position {
        match &self.kind {
            Kind::Map(entries) => {
                entries.iter().find(|(candidate, _)| candidate.text == key).map_or(self.at, |(key, _)| key.at)
            }
            _ => self.at,
        }
    }

    /// The elements of a list; none for anything else.
    pub fn elements(&self) -> &[Node] {
        match &self.kind {
            Kind::List(elements) => elements,
            _ => &[],
        }
    }

    /// Whether nothing is there.
    pub fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    /// What it is, in YAML's words.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Scalar { .. } => "scalar",
            Kind::List(_) => "sequence",
            Kind::Map(_) => "mapping",
        }
    }
}

/// One thing wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file's name as it was given.
    pub file: String,
    /// Where.
    pub at: Position,
    /// What is wrong and what to do, without the place.
    pub message: String,
    /// The line it is about, values of secret-looking fields masked; empty when there is none.
    pub snippet: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.line == 0 {
            return write!(f, "{}: {}", self.file, self.message);
        }
        write!(f, "{}:{}:{}: {}", self.file, self.at.line, self.at.column, self.message)?;
        if !self.snippet.is_empty() {
            let number = self.at.line.to_string();
            let caret_column = self.at.column.saturating_sub(1) as usize;
            write!(f, "\n  {number} | {}", self.snippet)?;
            // Where a value is masked its signs are not where they were.
            if caret_column <= self.snippet.chars().count() {
                write!(f, "\n  {:width$} | {:caret_column$}^", "", "", width = number.len())?;
            }
        }
        Ok(())
    }
}

/// Everything wrong with a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Problem>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// The line of a text, made fit for a message: cut at 160 characters, values of secret-looking keys masked.
fn snippet(source: &str, at: Position) -> String {
    const LINE_CHARS_MAX: usize = 160;
    let Some(line) = source.lines().nth((at.line as usize).wrapping_sub(1)) else { return String::new() };
    let line: String = line.chars().take(LINE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let lower = line.to_ascii_lowercase();
    let secret_words = ["pass", "secret", "token", "credential", "key", "authorization", "webhook", "://"];
    match lower.find(": ") {
        Some(colon) if secret_words.iter().any(|word| lower.contains(word)) && !lower[..colon].ends_with("regex") => {
            // A key that says where something is, not what it is, may be shown.
            let key = lower[..colon].trim_start_matches([' ', '-']);
            let harmless = key.ends_with("_file") || key == "action" || key.ends_with("_label");
            if harmless { line } else { format!("{}: {}", &line[..colon], promesh_model::secret::MASK) }
        }
        // A list element or a continuation line of something secret has no key to go by.
        None if secret_words[..5].iter().any(|word| lower.contains(word)) && !lower.trim_end().ends_with(':') => {
            String::new()
        }
        _ => line,
    }
}
