//! Tree → typed values, problems collected on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use promesh_model::{Labels, Secret, duration};

use super::{Key, Kind, Node, Position, Problem, snippet};
use crate::alertmanager::MatcherMode;

/// How a value is turned back into a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// For people: secrets masked, paths as meant.
    Masked,
    /// For digests that peers compare: secrets exposed, paths left out, as peers may keep the same files elsewhere.
    /// Never print it.
    Content,
}

/// What a field can be.
pub trait Yaml: Sized {
    /// Reads a value. What is wrong goes to the reader, and something harmless comes back, so that reading goes on.
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self;

    /// The value as a tree.
    fn show(&self, show: Show) -> Node;

    /// Whether the value says nothing: printing leaves it out, unless its field has a default of its own.
    fn is_zero(&self) -> bool {
        false
    }

    /// What to say when a list has nothing where this should stand; `None` where nothing means the empty value.
    fn null_element() -> Option<String> {
        None
    }
}

/// Reads one file: its name, its text, its folder, and what is wrong with it so far.
#[derive(Debug)]
pub struct Reader<'a> {
    file: &'a str,
    source: &'a str,
    dir: &'a Path,
    problems: Vec<Problem>,
    remarks: Vec<Problem>,
    unbuilt: Vec<Problem>,
    /// How matchers of Alertmanager's files are read, which a flag of the process says.
    pub matcher_mode: MatcherMode,
}

impl<'a> Reader<'a> {
    /// How many problems are kept; a file with more is broken in one place only.
    const PROBLEMS_MAX: usize = 100;

    /// A reader of a file. Relative paths in it mean `dir`.
    pub fn new(file: &'a str, source: &'a [u8], dir: &'a Path) -> Reader<'a> {
        let source = std::str::from_utf8(source).unwrap_or("").trim_start_matches('\u{feff}');
        Reader {
            file,
            source,
            dir,
            problems: Vec::new(),
            remarks: Vec::new(),
            unbuilt: Vec::new(),
            matcher_mode: MatcherMode::default(),
        }
    }

    /// Says that something is wrong.
    pub fn problem(&mut self, at: Position, message: impl Into<String>) {
        if self.problems.len() < Self::PROBLEMS_MAX {
            let problem = self.place(at, message.into());
            self.problems.push(problem);
        }
    }

    /// Says that something is written correctly and does less here than its author may think: the file loads, and whoever
    /// loads it is warned.
    pub fn remark(&mut self, at: Position, message: impl Into<String>) {
        if self.remarks.len() < Self::PROBLEMS_MAX {
            let remark = self.place(at, message.into());
            self.remarks.push(remark);
        }
    }

    /// Says that something is written correctly and not built: the file is sound, and no peer starts with it.
    pub fn unbuilt(&mut self, at: Position, message: impl Into<String>) {
        if self.unbuilt.len() < Self::PROBLEMS_MAX {
            let problem = self.place(at, message.into());
            self.unbuilt.push(problem);
        }
    }

    fn place(&self, at: Position, message: String) -> Problem {
        Problem { file: self.file.to_owned(), at, message, snippet: snippet(self.source, at) }
    }

    /// The remarks so far; none are left.
    pub fn take_remarks(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.remarks)
    }

    /// What is not built so far; none is left.
    pub fn take_unbuilt(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.unbuilt)
    }

    /// How many problems there are.
    pub fn problem_count(&self) -> usize {
        self.problems.len()
    }

    /// What is wrong.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// The folder that relative paths mean.
    pub fn dir(&self) -> &Path {
        self.dir
    }

    /// Says that a value is not what its field wants, in the words of Go's decoder.
    pub fn mismatch(&mut self, node: &Node, wanted: &str) {
        let shown = match &node.kind {
            Kind::Scalar { text, .. } => format!("!!{} `{}`", tag_of(node), shortened(text)),
            Kind::List(_) => "!!seq".to_owned(),
            Kind::Map(_) => "!!map".to_owned(),
            Kind::Null => "!!null".to_owned(),
        };
        self.problem(node.at, format!("cannot unmarshal {shown} into {wanted}"));
    }

    /// The text of a scalar, whatever it looks like; empty for null.
    pub fn scalar<'n>(&mut self, node: &'n Node, wanted: &str) -> Option<&'n str> {
        match &node.kind {
            Kind::Scalar { text, .. } => Some(text),
            Kind::Null => Some(""),
            _ => {
                self.mismatch(node, wanted);
                None
            }
        }
    }

    /// The entries of a mapping; none for null.
    pub fn entries<'n>(&mut self, node: &'n Node, wanted: &str) -> &'n [(Key, Node)] {
        match &node.kind {
            Kind::Map(entries) => entries,
            Kind::Null => &[],
            _ => {
                self.mismatch(node, wanted);
                &[]
            }
        }
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= 10 { text.to_owned() } else { text.chars().take(7).chain("...".chars()).collect() }
}

/// What an unquoted scalar is by the rules of YAML 1.1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plain {
    /// Nothing.
    Null,
    /// `yes` and `on` are among them.
    Bool(bool),
    /// In any of its notations.
    Int(i128),
    /// Infinities and NaN are among them.
    Float(f64),
    /// All else.
    Text,
}

/// Resolves an unquoted scalar.
///
/// Source: gopkg.in/yaml.v2 resolve.go.
pub fn resolve(text: &str) -> Plain {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Plain::Null;
    }
    None.or_else(|| parse_bool(text).map(Plain::Bool))
        .or_else(|| parse_int(text).map(Plain::Int))
        .or_else(|| parse_float(text).map(Plain::Float))
        .unwrap_or(Plain::Text)
}

fn tag_of(node: &Node) -> &'static str {
    let Kind::Scalar { text, plain: true } = &node.kind else { return "str" };
    match resolve(text) {
        Plain::Bool(_) => "bool",
        Plain::Int(_) => "int",
        Plain::Float(_) => "float",
        Plain::Null | Plain::Text => "str",
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn parse_int(text: &str) -> Option<i128> {
    let text = text.replace('_', "");
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, &text[..]),
    };
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        i128::from_str_radix(hex, 16).ok()?
    } else if let Some(octal) = digits.strip_prefix("0o") {
        i128::from_str_radix(octal, 8).ok()?
    } else if let Some(binary) = digits.strip_prefix("0b") {
        i128::from_str_radix(binary, 2).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i128::from_str_radix(digits, 8).ok()?
    } else {
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??
    };
    Some(if negative { -value } else { value })
}

fn parse_float(text: &str) -> Option<f64> {
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Some(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => Some(f64::NAN),
        _ if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-._eE".contains(&byte)) => {
            text.replace('_', "").parse().ok()
        }
        _ => None,
    }
}

impl Yaml for String {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        reader.scalar(node, "string").unwrap_or_default().to_owned()
    }
    fn show(&self, _: Show) -> Node {
        Node::text(self.as_str())
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

impl Yaml for Secret {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        match &node.kind {
            Kind::Scalar { text, .. } => Secret::new(text.as_str()),
            Kind::Null => Secret::default(),
            // The value stays out of the message.
            _ => {
                reader.problem(node.at, format!("cannot unmarshal a {} into a secret", node.kind_name()));
                Secret::default()
            }
        }
    }
    fn show(&self, show: Show) -> Node {
        Node::text(match show {
            Show::Masked if self.is_empty() => "",
            Show::Masked => promesh_model::secret::MASK,
            Show::Content => self.expose(),
        })
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

impl Yaml for bool {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        match &node.kind {
            Kind::Scalar { text, plain: true } if parse_bool(text).is_some() => parse_bool(text).unwrap_or_default(),
            Kind::Null => false,
            _ => {
                reader.mismatch(node, "bool");
                false
            }
        }
    }
    fn show(&self, _: Show) -> Node {
        Node::plain(self)
    }
    fn is_zero(&self) -> bool {
        !self
    }
}

macro_rules! integers {
    ($($type:ty => $name:literal),*) => {$(
        impl Yaml for $type {
            fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
                let value = match &node.kind {
                    Kind::Scalar { text, plain: true } => parse_int(text).or_else(|| {
                        // A float without a fraction is an integer to Go's decoder.
                        parse_float(text).filter(|float| float.fract() == 0.0 && float.abs() < 1e18).map(|float| float as i128)
                    }),
                    Kind::Null => Some(0),
                    _ => None,
                };
                match value.and_then(|value| <$type>::try_from(value).ok()) {
                    Some(value) => value,
                    None => {
                        reader.mismatch(node, $name);
                        0
                    }
                }
            }
            fn show(&self, _: Show) -> Node {
                Node::plain(self)
            }
            fn is_zero(&self) -> bool {
                *self == 0
            }
        }
    )*};
}

integers!(u16 => "uint16", u32 => "uint32", u64 => "uint64", usize => "uint", i32 => "int32", i64 => "int");

impl Yaml for f64 {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let value = match &node.kind {
            Kind::Scalar { text, plain: true } => {
                parse_int(text).map(|integer| integer as f64).or_else(|| parse_float(text))
            }
            Kind::Null => Some(0.0),
            _ => None,
        };
        value.unwrap_or_else(|| {
            reader.mismatch(node, "float64");
            0.0
        })
    }
    fn show(&self, _: Show) -> Node {
        Node::plain(self)
    }
    fn is_zero(&self) -> bool {
        *self == 0.0
    }
}

/// A span in Prometheus' notation: `1h30m`.
impl Yaml for Duration {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let Some(text) = reader.scalar(node, "duration") else { return Duration::ZERO };
        if node.is_null() {
            return Duration::ZERO;
        }
        duration::parse(text).unwrap_or_else(|error| {
            reader.problem(node.at, error.to_string());
            Duration::ZERO
        })
    }
    fn show(&self, _: Show) -> Node {
        Node::text(duration::format(*self))
    }
    fn is_zero(&self) -> bool {
        Duration::is_zero(self)
    }
}

impl<T: Yaml> Yaml for Option<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        if node.is_null() { None } else { Some(T::read(node, reader)) }
    }
    fn show(&self, show: Show) -> Node {
        self.as_ref().map_or(Node::new(Kind::Null), |value| value.show(show))
    }
    fn is_zero(&self) -> bool {
        self.is_none()
    }
}

impl<T: Yaml> Yaml for Box<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        Box::new(T::read(node, reader))
    }
    fn show(&self, show: Show) -> Node {
        (**self).show(show)
    }
    fn is_zero(&self) -> bool {
        (**self).is_zero()
    }
    fn null_element() -> Option<String> {
        T::null_element()
    }
}

impl<T: Yaml> Yaml for Vec<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        match &node.kind {
            Kind::List(elements) => elements
                .iter()
                .filter_map(|element| {
                    if element.is_null()
                        && let Some(message) = T::null_element()
                    {
                        reader.problem(element.at, message);
                        return None;
                    }
                    Some(T::read(element, reader))
                })
                .collect(),
            Kind::Null => Vec::new(),
            _ => {
                reader.mismatch(node, "list");
                Vec::new()
            }
        }
    }
    fn show(&self, show: Show) -> Node {
        Node::new(Kind::List(self.iter().map(|element| element.show(show)).collect()))
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

impl<T: Yaml> Yaml for BTreeMap<String, T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let entries = reader.entries(node, "map");
        entries.iter().map(|(key, value)| (key.text.clone(), T::read(value, reader))).collect()
    }
    fn show(&self, show: Show) -> Node {
        let entry = |(name, value): (&String, &T)| (key(name), value.show(show));
        Node::new(Kind::Map(self.iter().map(entry).collect()))
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

/// A mapping of label names to values; names must not be empty.
impl Yaml for Labels {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let mut pairs = Vec::new();
        for (key, value) in reader.entries(node, "label set") {
            if key.text.is_empty() {
                reader.problem(key.at, format!("\"{}\" is not a valid label name", key.text));
            }
            pairs.push((key.text.clone(), String::read(value, reader)));
        }
        Labels::from_pairs(pairs)
    }
    fn show(&self, _: Show) -> Node {
        Node::new(Kind::Map(self.iter().map(|(name, value)| (key(name), Node::text(value))).collect()))
    }
    fn is_zero(&self) -> bool {
        self.is_empty()
    }
}

/// A key that stands nowhere: for printing.
pub(super) fn key(text: &str) -> Key {
    Key { text: text.to_owned(), at: Position::default() }
}

/// A path; a relative one was joined with the folder of the file that names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(pub String);

impl FilePath {
    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Yaml for FilePath {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let text = reader.scalar(node, "string").unwrap_or_default();
        FilePath(join_dir(reader.dir, text))
    }
    fn show(&self, show: Show) -> Node {
        Node::text(match show {
            Show::Masked => self.0.as_str(),
            Show::Content => "",
        })
    }
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
}

/// A path as a file in `dir` means it: empty and absolute ones stay.
pub fn join_dir(dir: &Path, path: &str) -> String {
    if path.is_empty() || Path::new(path).is_absolute() || dir.as_os_str().is_empty() {
        return path.to_owned();
    }
    let mut joined = std::path::PathBuf::new();
    for part in dir.join(path).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if joined.file_name().is_some() => {
                joined.pop();
            }
            part => joined.push(part),
        }
    }
    joined.to_string_lossy().into_owned()
}
