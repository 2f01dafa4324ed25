//! Label matchers: `=`, `!=`, `=~`, `!~`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::labels::{Labels, is_classic_label_name, quoted};
use crate::regexp::{Regexp, RegexpError};

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl MatchOp {
    /// As PromQL writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        }
    }

    /// Whether it is `!=` or `!~`.
    pub fn is_negative(self) -> bool {
        matches!(self, MatchOp::NotEqual | MatchOp::NotRegex)
    }
}

impl fmt::Display for MatchOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One condition on one label. An absent label has the empty value.
#[derive(Clone)]
pub struct Matcher {
    /// The label's name.
    pub name: String,
    /// How to compare.
    pub op: MatchOp,
    /// The value, or the regular expression, anchored at both ends.
    pub value: String,
    regexp: Option<Regexp>,
}

impl Matcher {
    /// A matcher.
    ///
    /// # Errors
    /// When a regular expression does not compile.
    pub fn new(op: MatchOp, name: impl Into<String>, value: impl Into<String>) -> Result<Matcher, RegexpError> {
        Matcher::build(op, name.into(), value.into(), Regexp::new)
    }

    /// A matcher of Alertmanager's: see [`Regexp::within_lines`].
    ///
    /// # Errors
    /// As [`Matcher::new`].
    pub fn within_lines(
        op: MatchOp,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Result<Matcher, RegexpError> {
        Matcher::build(op, name.into(), value.into(), Regexp::within_lines)
    }

    fn build(
        op: MatchOp,
        name: String,
        value: String,
        compile: fn(&str) -> Result<Regexp, RegexpError>,
    ) -> Result<Matcher, RegexpError> {
        let regexp = match op {
            MatchOp::Regex | MatchOp::NotRegex => Some(compile(&value)?),
            MatchOp::Equal | MatchOp::NotEqual => None,
        };
        Ok(Matcher { name, op, value, regexp })
    }

    /// An `=` matcher; it cannot fail.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Matcher {
        Matcher { name: name.into(), op: MatchOp::Equal, value: value.into(), regexp: None }
    }

    /// Whether a label's value satisfies the condition.
    pub fn matches(&self, value: &str) -> bool {
        match (self.op, &self.regexp) {
            (MatchOp::Equal, _) => self.value == value,
            (MatchOp::NotEqual, _) => self.value != value,
            (MatchOp::Regex, regexp) => regexp.as_ref().is_some_and(|regexp| regexp.matches(value)),
            (MatchOp::NotRegex, regexp) => regexp.as_ref().is_some_and(|regexp| !regexp.matches(value)),
        }
    }

    /// Whether a label set satisfies the condition.
    pub fn matches_labels(&self, labels: &Labels) -> bool {
        self.matches(labels.value(&self.name))
    }

    /// The only values that the matcher, without its negation, accepts: one for `=` and `!=`; those of an expression that
    /// is a list of literals. Nothing when there may be others.
    pub fn literals(&self) -> Option<&[String]> {
        match &self.regexp {
            None => Some(std::slice::from_ref(&self.value)),
            Some(regexp) => regexp.literals(),
        }
    }

    /// The compiled expression of `=~` and `!~`.
    pub fn regexp(&self) -> Option<&Regexp> {
        self.regexp.as_ref()
    }
}

/// Whether a label set satisfies every condition.
pub fn matches_all(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers.iter().all(|matcher| matcher.matches_labels(labels))
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.op == other.op && self.value == other.value
    }
}

impl Eq for Matcher {}

/// `name="value"`, the name quoted when it is not classic.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_classic_label_name(&self.name) {
            write!(f, "{}{}{}", self.name, self.op, quoted(&self.value))
        } else {
            write!(f, "{}{}{}", quoted(&self.name), self.op, quoted(&self.value))
        }
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Matcher {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.op, &self.name, &self.value).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Matcher {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (op, name, value) = <(MatchOp, String, String)>::deserialize(deserializer)?;
        Matcher::new(op, name, value).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_means_what_promql_says() {
        let check = |op, pattern: &str, value: &str, expected: bool| {
            let matcher = Matcher::new(op, "a", pattern).expect(pattern);
            assert_eq!(matcher.matches(value), expected, "{matcher} on {value:?}");
        };
        check(MatchOp::Equal, "b", "b", true);
        check(MatchOp::Equal, "", "b", false);
        check(MatchOp::NotEqual, "b", "b", false);
        check(MatchOp::Regex, "b|c", "bc", false);
        check(MatchOp::Regex, "b.*", "b\n", true);
        for (pattern, expected) in [("b.*", false), ("b.*\n", true), ("(?s)b.*", true), ("b", false)] {
            let matcher = Matcher::within_lines(MatchOp::Regex, "a", pattern).expect(pattern);
            assert_eq!(matcher.matches("b\n"), expected, "{pattern}");
        }
        check(MatchOp::NotRegex, "b.*", "c", true);
    }
}
