//! Relabelling: rules that rewrite, keep or drop label sets, one after the other.
//!
//! A rule joins the values of its source labels, matches the result against its regular expression (anchored at both
//! ends) and acts. The same rules run over discovered targets, scraped samples, alerts and remote writes.
//!
//! Source: prometheus `model/relabel`.

use std::fmt;
use std::sync::{Arc, LazyLock};

use md5::{Digest, Md5};
use regex_automata::meta;
use regex_automata::util::captures::Captures;
use regex_automata::util::syntax;
use serde::{Serialize, Serializer};

use crate::labels::{Labels, LabelsBuilder, is_classic_label_name};
use crate::regexp::{RegexpError, expand};

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Writes the expanded replacement to the expanded target label, if the expression matches.
    #[default]
    Replace,
    /// Keeps only what matches.
    Keep,
    /// Drops what matches.
    Drop,
    /// Keeps only what equals the target label.
    KeepEqual,
    /// Drops what equals the target label.
    DropEqual,
    /// Writes the hash of the joined values, modulo the modulus, to the target label.
    HashMod,
    /// Copies each label whose name matches to the name that the replacement expands to.
    LabelMap,
    /// Removes each label whose name matches.
    LabelDrop,
    /// Removes each label whose name does not match.
    LabelKeep,
    /// Writes the joined values in lower case to the target label.
    Lowercase,
    /// Writes the joined values in upper case to the target label.
    Uppercase,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 11] = [
        Action::Replace,
        Action::Keep,
        Action::Drop,
        Action::KeepEqual,
        Action::DropEqual,
        Action::HashMod,
        Action::LabelMap,
        Action::LabelDrop,
        Action::LabelKeep,
        Action::Lowercase,
        Action::Uppercase,
    ];

    /// As it is written in a file.
    pub fn name(self) -> &'static str {
        match self {
            Action::Replace => "replace",
            Action::Keep => "keep",
            Action::Drop => "drop",
            Action::KeepEqual => "keepequal",
            Action::DropEqual => "dropequal",
            Action::HashMod => "hashmod",
            Action::LabelMap => "labelmap",
            Action::LabelDrop => "labeldrop",
            Action::LabelKeep => "labelkeep",
            Action::Lowercase => "lowercase",
            Action::Uppercase => "uppercase",
        }
    }

    /// Reads a name, whatever its case.
    pub fn from_name(name: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| name.eq_ignore_ascii_case(action.name()))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which label names are valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NameScheme {
    /// Any text that is not empty.
    #[default]
    Utf8,
    /// `[a-zA-Z_][a-zA-Z0-9_]*`.
    Legacy,
}

impl NameScheme {
    /// Whether a text is a label name.
    pub fn is_label_name(self, name: &str) -> bool {
        match self {
            NameScheme::Utf8 => !name.is_empty(),
            NameScheme::Legacy => is_classic_label_name(name),
        }
    }

    /// Whether a text is a metric name.
    pub fn is_metric_name(self, name: &str) -> bool {
        match self {
            NameScheme::Utf8 => !name.is_empty(),
            NameScheme::Legacy => crate::labels::is_classic_metric_name(name),
        }
    }
}

/// An expression anchored at both ends whose groups can be put into templates. Cheap to clone.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    regex: meta::Regex,
}

/// The largest compiled program, so that no pattern takes the memory of a peer.
const PROGRAM_BYTES_MAX: usize = 10 << 20;

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// When it is malformed or its program would be too large.
    pub fn new(pattern: &str) -> Result<Pattern, RegexpError> {
        // Compiled apart from the anchors first: "a)(b" must not become valid by them.
        let syntax = syntax::Config::new().dot_matches_new_line(true);
        let config = meta::Config::new().nfa_size_limit(Some(PROGRAM_BYTES_MAX));
        let compile = |pattern: &str| {
            meta::Builder::new().configure(config.clone()).syntax(syntax).build(pattern).map_err(|error| {
                RegexpError::new(error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string))
            })
        };
        syntax::parse_with(pattern, &syntax).map_err(|error| RegexpError::new(error.to_string()))?;
        Ok(Pattern { text: pattern.into(), regex: compile(&format!("^(?:{pattern})$"))? })
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The groups of a match; `None` when the text does not match.
    fn captures(&self, text: &str) -> Option<Captures> {
        let mut captures = self.regex.create_captures();
        self.regex.captures(text, &mut captures);
        captures.is_match().then_some(captures)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

static MATCH_ALL: LazyLock<Pattern> = LazyLock::new(|| Pattern::new("(.*)").expect("a constant pattern"));

impl Default for Pattern {
    fn default() -> Self {
        MATCH_ALL.clone()
    }
}

/// One rule. Serializes as upstream's API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The labels whose values are joined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_labels: Vec<String>,
    /// What stands between them. Default `;`.
    pub separator: String,
    /// What they are matched with. Default `(.*)`.
    pub regex: Pattern,
    /// For [`Action::HashMod`]; at least 1.
    #[serde(skip_serializing_if = "is_zero")]
    pub modulus: u64,
    /// The label that is written; a template for [`Action::Replace`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub target_label: String,
    /// What is written; a template. Default `$1`.
    pub replacement: String,
    /// What is done.
    pub action: Action,
    /// Which label names may be written.
    #[serde(skip)]
    pub scheme: NameScheme,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Default for Rule {
    fn default() -> Self {
        Rule {
            source_labels: Vec::new(),
            separator: ";".to_owned(),
            regex: Pattern::default(),
            modulus: 0,
            target_label: String::new(),
            replacement: "$1".to_owned(),
            action: Action::Replace,
            scheme: NameScheme::Utf8,
        }
    }
}

impl Rule {
    /// Whether the rule makes sense.
    ///
    /// # Errors
    /// What is wrong, in upstream's words.
    pub fn validate(&self) -> Result<(), String> {
        use Action::{DropEqual, HashMod, KeepEqual, LabelDrop, LabelKeep, LabelMap, Lowercase, Replace, Uppercase};
        let action = self.action;
        let defaults = Rule::default();
        let target = &self.target_label;
        if action == HashMod && self.modulus == 0 {
            return Err("relabel configuration for hashmod requires non-zero modulus".to_owned());
        }
        let writes = matches!(action, Replace | HashMod | Lowercase | Uppercase | KeepEqual | DropEqual);
        if writes && target.is_empty() {
            return Err(format!("relabel configuration for {action} action requires 'target_label' value"));
        }
        let target_valid = match action {
            Replace if target.contains('$') => self.is_name_template(target),
            _ => self.scheme.is_label_name(target),
        };
        if writes && !target_valid {
            return Err(format!("{target:?} is invalid 'target_label' for {action} action"));
        }
        if matches!(action, Lowercase | Uppercase | KeepEqual | DropEqual) && self.replacement != defaults.replacement {
            return Err(format!("'replacement' can not be set for {action} action"));
        }
        if action == LabelMap && !self.is_name_template(&self.replacement) {
            return Err(format!("{:?} is invalid 'replacement' for {action} action", self.replacement));
        }
        let plain =
            self.modulus == 0 && self.separator == defaults.separator && self.replacement == defaults.replacement;
        if matches!(action, DropEqual | KeepEqual) && !(plain && self.regex == defaults.regex) {
            return Err(format!(
                "{action} action requires only 'source_labels' and `target_label`, and no other fields"
            ));
        }
        if matches!(action, LabelDrop | LabelKeep) && !(plain && self.source_labels.is_empty() && target.is_empty()) {
            return Err(format!("{action} action requires only 'regex', and no other fields"));
        }
        Ok(())
    }

    /// Whether a template can only give label names. In UTF-8 any text is a name, `$` included.
    fn is_name_template(&self, template: &str) -> bool {
        static LEGACY: LazyLock<Pattern> = LazyLock::new(|| {
            Pattern::new(r"(?:(?:[a-zA-Z_]|\$(?:\{[0-9A-Za-z_]+\}|[0-9A-Za-z_]+))+[0-9A-Za-z_]*)+")
                .expect("a constant pattern")
        });
        match self.scheme {
            NameScheme::Utf8 => !template.is_empty(),
            NameScheme::Legacy => LEGACY.matches(template),
        }
    }

    /// Applies the rule; false when the labels are to be dropped.
    pub fn apply(&self, labels: &mut LabelsBuilder) -> bool {
        let joined = self.joined(labels);
        match self.action {
            Action::Drop => return !self.regex.matches(&joined),
            Action::Keep => return self.regex.matches(&joined),
            Action::DropEqual => return labels.get(&self.target_label).unwrap_or("") != joined,
            Action::KeepEqual => return labels.get(&self.target_label).unwrap_or("") == joined,
            Action::Replace => self.replace(&joined, labels),
            Action::Lowercase => drop(labels.set(&self.target_label, &joined.to_lowercase())),
            Action::Uppercase => drop(labels.set(&self.target_label, &joined.to_uppercase())),
            Action::HashMod => drop(labels.set(&self.target_label, &self.hash_mod(&joined).to_string())),
            Action::LabelMap => {
                for (name, value) in owned_pairs(labels) {
                    if let Some(captures) = self.regex.captures(&name) {
                        labels.set(&expand(&self.replacement, |group| of(&captures, group, &name)), &value);
                    }
                }
            }
            Action::LabelDrop => self.remove_names(labels, true),
            Action::LabelKeep => self.remove_names(labels, false),
        }
        true
    }

    fn joined(&self, labels: &LabelsBuilder) -> String {
        let mut joined = String::new();
        for (index, name) in self.source_labels.iter().enumerate() {
            if index > 0 {
                joined.push_str(&self.separator);
            }
            joined.push_str(labels.get(name).unwrap_or(""));
        }
        joined
    }

    fn replace(&self, joined: &str, labels: &mut LabelsBuilder) {
        let Some(captures) = self.regex.captures(joined) else { return };
        let target = expand(&self.target_label, |group| of(&captures, group, joined));
        if self.scheme.is_label_name(&target) {
            labels.set(&target, &expand(&self.replacement, |group| of(&captures, group, joined)));
        }
    }

    /// The last 8 bytes of the MD5, big-endian: what Prometheus has always computed, so shards stay where they are.
    fn hash_mod(&self, joined: &str) -> u64 {
        let hash = Md5::digest(joined.as_bytes());
        let mut last = [0u8; 8];
        last.copy_from_slice(&hash[8..]);
        u64::from_be_bytes(last) % self.modulus.max(1)
    }

    fn remove_names(&self, labels: &mut LabelsBuilder, matching: bool) {
        for (name, _) in owned_pairs(labels) {
            if self.regex.matches(&name) == matching {
                labels.remove(&name);
            }
        }
    }
}

fn owned_pairs(labels: &LabelsBuilder) -> Vec<(String, String)> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What one rule did to labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The labels after it; none once they were dropped.
    pub output: Labels,
    /// Whether they are kept so far.
    pub keep: bool,
}

/// Applies rules one after the other, and says what each did. Rules after the one that drops are not applied.
pub fn steps<'a>(rules: &'a [Rule], labels: &Labels) -> Vec<Step<'a>> {
    let mut builder = labels.to_builder();
    let mut keep = true;
    let step = |rule: &'a Rule| {
        keep = keep && rule.apply(&mut builder);
        Step { rule, output: if keep { builder.build() } else { Labels::empty() }, keep }
    };
    rules.iter().map(step).collect()
}

/// Applies rules in order. `None`: a rule dropped the labels.
pub fn apply(rules: &[Rule], mut labels: LabelsBuilder) -> Option<LabelsBuilder> {
    rules.iter().all(|rule| rule.apply(&mut labels)).then_some(labels)
}

/// What a group, by its number or name, has of a text.
fn of<'t>(captures: &Captures, name: &str, text: &'t str) -> &'t str {
    let leading_zero = name.len() > 1 && name.starts_with('0');
    let span = if name.bytes().all(|byte| byte.is_ascii_digit()) && !leading_zero {
        name.parse().ok().and_then(|index| captures.get_group(index))
    } else {
        captures.get_group_by_name(name)
    };
    span.map_or("", |span| &text[span.range()])
}

#[cfg(test)]
mod tests;
