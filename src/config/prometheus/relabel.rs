//! Relabelling rules as they are written.

use promesh_model::relabel::{Action, NameScheme, Pattern, Rule};

use crate::section;
use crate::yaml::{Node, Reader, Show, Yaml};

section! {
    /// As written; [`Rule`] is what it means.
    pub struct RelabelConfig "relabel_config" {
        /// Labels whose values are joined.
        pub source_labels: Vec<String>,
        /// What stands between them.
        pub separator: String = ";".to_owned(),
        /// What they must match.
        pub regex: Pattern,
        /// For `hashmod`.
        pub modulus: u64,
        /// What is written.
        pub target_label: String,
        /// What is written there.
        pub replacement: String = "$1".to_owned(),
        /// What is done.
        pub action: ActionField,
    }
}

/// An action whose name was checked; empty is told apart, as upstream refuses it with words of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ActionField(Action);

impl Yaml for ActionField {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let name = reader.scalar(node, "string").unwrap_or_default();
        match Action::from_name(name) {
            Some(action) => return ActionField(action),
            None if node.is_null() => reader.problem(node.at, "relabel action cannot be empty"),
            None => reader.problem(node.at, format!("unknown relabel action {name:?}")),
        }
        ActionField::default()
    }
    fn show(&self, _: Show) -> Node {
        Node::text(self.0.name())
    }
}

impl Yaml for Pattern {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let text = reader.scalar(node, "regular expression").unwrap_or_default();
        Pattern::new(text).unwrap_or_else(|error| {
            reader.problem(node.at, error.to_string());
            Pattern::default()
        })
    }
    fn show(&self, _: Show) -> Node {
        Node::text(self.as_str())
    }
    fn is_zero(&self) -> bool {
        *self == Pattern::default()
    }
}

impl Yaml for Rule {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let written = RelabelConfig::read(node, reader);
        Rule {
            source_labels: written.source_labels,
            separator: written.separator,
            regex: written.regex,
            modulus: written.modulus,
            target_label: written.target_label,
            replacement: written.replacement,
            action: written.action.0,
            scheme: NameScheme::Utf8,
        }
    }
    fn show(&self, show: Show) -> Node {
        let written = RelabelConfig {
            source_labels: self.source_labels.clone(),
            separator: self.separator.clone(),
            regex: self.regex.clone(),
            modulus: self.modulus,
            target_label: self.target_label.clone(),
            replacement: self.replacement.clone(),
            action: ActionField(self.action),
        };
        written.show(show)
    }
}

/// Checks a list of rules under the names that are valid there. `what` is upstream's word for an element, for `null`.
pub(super) fn check_rules(
    rules: &mut [Rule],
    list: Option<&Node>,
    what: &str,
    scheme: NameScheme,
    reader: &mut Reader<'_>,
) {
    let Some(list) = list else { return };
    for (rule, node) in rules.iter_mut().zip(list.elements()) {
        rule.scheme = scheme;
        if node.is_null() {
            reader.problem(node.at, format!("empty or null {what}"));
        } else if let Err(message) = rule.validate() {
            reader.problem(node.at, message);
        }
    }
}
