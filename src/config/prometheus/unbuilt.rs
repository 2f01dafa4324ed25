//! Discovery kinds that are read and not built: their rules are upstream's, so that a file is judged alike.

use promesh_model::secret::MASK;

use crate::yaml::{Kind, Node, Reader, Show};

/// Checks a section of a kind that is not built.
pub(super) fn check(kind: &str, node: &Node, reader: &mut Reader<'_>) {
    if !matches!(node.kind, Kind::Map(_)) {
        reader.mismatch(node, &format!("{kind}_sd_config"));
    }
}

/// The section for people: every value of a field that could be secret is masked.
pub(super) fn show(node: &Node, show: Show) -> Node {
    if show == Show::Content {
        return node.clone();
    }
    masked(node, false)
}

fn masked(node: &Node, secret: bool) -> Node {
    match &node.kind {
        Kind::Scalar { .. } if secret => Node::text(MASK),
        Kind::Map(entries) => Node::new(Kind::Map(
            entries.iter().map(|(key, value)| (key.clone(), masked(value, secret || is_secret(&key.text)))).collect(),
        )),
        Kind::List(elements) => Node::new(Kind::List(elements.iter().map(|element| masked(element, secret)).collect())),
        _ => node.clone(),
    }
}

fn is_secret(key: &str) -> bool {
    let words = ["password", "secret", "token", "key", "credentials", "authorization"];
    words.iter().any(|word| key.contains(word)) && !key.ends_with("_file") && key != "access_key"
}
