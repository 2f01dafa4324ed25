//! How a pattern is matched: by comparing texts where that is enough, else by the engine.

use std::collections::BTreeSet;

use regex_automata::meta;
use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};

/// The most texts that a pattern is spelled out to.
const LITERALS_MAX: usize = 256;
/// The most shapes that one alternative is taken apart to.
const SHAPES_MAX: usize = 32;
/// The most alternatives of literals alone: people write long lists.
const ALTERNATIVES_MAX: usize = 1 << 16;

/// How a pattern is matched.
#[derive(Debug)]
pub enum Plan {
    /// One of these, sorted.
    Literals(Vec<String>),
    /// Like one of these.
    Shapes(Vec<Shape>),
    /// The engine decides, once beginning and end fit.
    Engine {
        /// What every matching text begins with.
        prefix: String,
        /// What every matching text ends with.
        suffix: String,
        /// The whole pattern.
        regex: Box<meta::Regex>,
    },
}

/// Literals with anything between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    prefix: String,
    middles: Vec<String>,
    /// Nothing: the prefix is the whole text.
    suffix: Option<String>,
}

impl Shape {
    /// After this literal comes anything.
    fn gap(&mut self, literal: String) {
        if self.suffix.is_none() {
            self.prefix = literal;
            self.suffix = Some(String::new());
        } else if !literal.is_empty() {
            self.middles.push(literal);
        }
    }

    /// This literal is the last.
    fn end(mut self, literal: String) -> Shape {
        match &mut self.suffix {
            None => self.prefix = literal,
            Some(suffix) => *suffix = literal,
        }
        self
    }

    fn matches(&self, text: &str) -> bool {
        let Some(suffix) = &self.suffix else { return text == self.prefix };
        let Some(mut rest) =
            text.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_suffix(suffix.as_str()))
        else {
            return false;
        };
        // The leftmost place of each leaves the most for those that follow.
        for middle in &self.middles {
            let Some(found) = rest.find(middle.as_str()) else { return false };
            rest = &rest[found + middle.len()..];
        }
        true
    }
}

impl Plan {
    /// A plan by comparing texts only, if there is one.
    pub fn without_engine(hir: &Hir) -> Option<Plan> {
        if let Some(literals) = literals(hir) {
            return Some(Plan::Literals(literals.into_iter().collect()));
        }
        let alternatives = match strip(hir).kind() {
            HirKind::Alternation(parts) => parts.iter().map(shapes).collect::<Option<Vec<_>>>()?.concat(),
            _ => shapes(hir)?,
        };
        Some(Plan::Shapes(alternatives))
    }

    /// A plan with the engine.
    pub fn with_engine(hir: &Hir, regex: meta::Regex) -> Plan {
        let (mut prefix, mut suffix) = (String::new(), String::new());
        if let HirKind::Concat(parts) = strip(hir).kind() {
            let parts = trim_looks(parts);
            prefix = parts.iter().map_while(|part| literal(strip(part))).collect();
            let ends: Vec<&str> = parts.iter().rev().map_while(|part| literal(strip(part))).collect();
            suffix = ends.into_iter().rev().collect();
        }
        Plan::Engine { prefix, suffix, regex: Box::new(regex) }
    }

    /// All texts that match, if the plan is to compare with them.
    pub fn literals(&self) -> Option<&[String]> {
        match self {
            Plan::Literals(literals) => Some(literals),
            Plan::Shapes(_) | Plan::Engine { .. } => None,
        }
    }

    /// What every matching text begins with.
    pub fn prefix(&self) -> &str {
        match self {
            Plan::Literals(literals) if literals.len() == 1 => &literals[0],
            Plan::Shapes(shapes) => common_prefix(shapes),
            Plan::Engine { prefix, .. } => prefix,
            Plan::Literals(_) => "",
        }
    }

    /// Whether a text matches.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Plan::Literals(literals) => literals.binary_search_by(|literal| literal.as_str().cmp(text)).is_ok(),
            Plan::Shapes(shapes) => shapes.iter().any(|shape| shape.matches(text)),
            Plan::Engine { prefix, suffix, regex } => {
                text.starts_with(prefix.as_str()) && text.ends_with(suffix.as_str()) && regex.is_match(text)
            }
        }
    }
}

/// A group matches what is in it.
fn strip(hir: &Hir) -> &Hir {
    let mut hir = hir;
    while let HirKind::Capture(capture) = hir.kind() {
        hir = &capture.sub;
    }
    hir
}

fn literal(hir: &Hir) -> Option<&str> {
    match hir.kind() {
        HirKind::Literal(literal) => std::str::from_utf8(&literal.0).ok(),
        _ => None,
    }
}

/// `^` at the beginning and `$` at the end of a whole-string pattern say nothing.
fn trim_looks(parts: &[Hir]) -> &[Hir] {
    let mut parts = parts;
    while let [first, rest @ ..] = parts
        && matches!(first.kind(), HirKind::Look(Look::Start))
    {
        parts = rest;
    }
    while let [rest @ .., last] = parts
        && matches!(last.kind(), HirKind::Look(Look::End))
    {
        parts = rest;
    }
    parts
}

/// `.*`, with `.` being every character.
fn is_anything(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Repetition(Repetition { min: 0, max: None, sub, .. }) => match strip(sub).kind() {
            HirKind::Class(Class::Unicode(class)) => {
                matches!(class.ranges(), [range] if range.start() == '\0' && range.end() == char::MAX)
                    || covers_all(class.ranges())
            }
            _ => false,
        },
        _ => false,
    }
}

/// Whether ranges hold every character: surrogates are none.
fn covers_all(ranges: &[regex_syntax::hir::ClassUnicodeRange]) -> bool {
    match ranges {
        [low, high] => {
            low.start() == '\0' && low.end() == '\u{D7FF}' && high.start() == '\u{E000}' && high.end() == char::MAX
        }
        _ => false,
    }
}

/// What all of them begin with.
fn common_prefix(shapes: &[Shape]) -> &str {
    let Some((first, others)) = shapes.split_first() else { return "" };
    let common = |a: &str, b: &str| a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    others.iter().fold(first.prefix.as_str(), |prefix, shape| {
        let end = common(prefix, &shape.prefix).unwrap_or(prefix.len().min(shape.prefix.len()));
        &prefix[..end]
    })
}

/// The shapes of one alternative: of `a(b|c).*` they are `ab.*` and `ac.*`.
fn shapes(hir: &Hir) -> Option<Vec<Shape>> {
    let hir = strip(hir);
    let single = std::slice::from_ref(hir);
    let parts = match hir.kind() {
        HirKind::Concat(parts) => trim_looks(parts),
        HirKind::Empty => &[],
        _ => single,
    };
    // Each with the literal that is being gathered.
    let mut open = vec![(Shape { prefix: String::new(), middles: Vec::new(), suffix: None }, String::new())];
    for part in parts {
        let part = strip(part);
        if is_anything(part) {
            open.iter_mut().for_each(|(shape, run)| shape.gap(std::mem::take(run)));
            continue;
        }
        let texts = match literal(part) {
            Some(text) => BTreeSet::from([text.to_owned()]),
            None => spell(part, false, false)?,
        };
        if open.len() * texts.len() > SHAPES_MAX {
            return None;
        }
        let longer = |(shape, run): &(Shape, String)| -> Vec<(Shape, String)> {
            texts.iter().map(|text| (shape.clone(), format!("{run}{text}"))).collect()
        };
        open = open.iter().flat_map(longer).collect();
    }
    Some(open.into_iter().map(|(shape, run)| shape.end(run)).collect())
}

/// All texts that match, if they are few.
fn literals(hir: &Hir) -> Option<BTreeSet<String>> {
    let hir = strip(hir);
    if let HirKind::Alternation(parts) = hir.kind()
        && parts.len() <= ALTERNATIVES_MAX
        && parts.iter().all(|part| literal(strip(part)).is_some())
    {
        return Some(parts.iter().filter_map(|part| literal(strip(part))).map(str::to_owned).collect());
    }
    spell(hir, true, true)
}

fn spell(hir: &Hir, at_start: bool, at_end: bool) -> Option<BTreeSet<String>> {
    let mut texts = BTreeSet::new();
    match hir.kind() {
        HirKind::Empty => {
            texts.insert(String::new());
        }
        HirKind::Literal(_) => {
            texts.insert(literal(hir)?.to_owned());
        }
        HirKind::Look(Look::Start) if at_start => {
            texts.insert(String::new());
        }
        HirKind::Look(Look::End) if at_end => {
            texts.insert(String::new());
        }
        HirKind::Capture(capture) => return spell(&capture.sub, at_start, at_end),
        HirKind::Class(Class::Unicode(class)) => {
            let count: usize = class.ranges().iter().map(|range| range.len()).sum();
            if count > LITERALS_MAX {
                return None;
            }
            for range in class.ranges() {
                texts.extend((range.start()..=range.end()).map(String::from));
            }
        }
        HirKind::Class(Class::Bytes(class)) => {
            for range in class.ranges() {
                texts.extend((range.start()..=range.end()).map(|byte| char::from(byte).to_string()));
            }
            if !class.is_ascii() {
                return None;
            }
        }
        HirKind::Alternation(parts) => {
            for part in parts {
                texts.extend(spell(part, at_start, at_end)?);
                if texts.len() > LITERALS_MAX {
                    return None;
                }
            }
        }
        HirKind::Concat(parts) => {
            texts.insert(String::new());
            for (place, part) in parts.iter().enumerate() {
                let nothing_before = at_start && texts.iter().all(String::is_empty);
                let looks_after = parts[place + 1..].iter().all(|part| matches!(part.kind(), HirKind::Look(Look::End)));
                let tails = spell(part, nothing_before, at_end && looks_after)?;
                if texts.len() * tails.len() > LITERALS_MAX {
                    return None;
                }
                texts = texts.iter().flat_map(|head| tails.iter().map(move |tail| format!("{head}{tail}"))).collect();
            }
        }
        HirKind::Repetition(Repetition { min: 0, max: Some(1), sub, .. }) => {
            texts = spell(sub, false, false)?;
            texts.insert(String::new());
        }
        HirKind::Repetition(_) | HirKind::Look(_) => return None,
    }
    Some(texts)
}
