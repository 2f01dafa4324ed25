//! Discovery kinds that are read and not built: their fields and rules are upstream's, so that a file is judged alike.
//!
//! Source: prometheus `discovery/*`, the `SDConfig` of each.

use promesh_model::secret::MASK;

use crate::http::HttpClientConfig;
use crate::yaml::{Kind, Node, Position, Reader, Section as _, Show, Yaml as _};

/// A kind: its name, whether HTTP settings stand among its fields, its fields, its rules.
type UnbuiltKind = (&'static str, bool, &'static str, fn(&Section<'_>, &mut Reader<'_>));

const AWS: &str = "region endpoint access_key secret_key profile role_arn external_id port refresh_interval clusters \
                   filters request_concurrency";

const KINDS: [UnbuiltKind; 6] = [
    (
        "aws",
        true,
        "role region endpoint access_key secret_key profile role_arn external_id refresh_interval port filters clusters",
        check_filters,
    ),
    ("ecs", true, AWS, no_rules),
    ("elasticache", true, AWS, no_rules),
    ("msk", true, AWS, no_rules),
    (
        "oci",
        true,
        "auth tenancy user fingerprint key_file key_passphrase key_passphrase_file region compartments port refresh_interval",
        check_oci,
    ),
    ("rds", true, AWS, check_filters),
];

/// Whether Prometheus has this kind and we do not.
pub(super) fn is_kind(name: &str) -> bool {
    KINDS.iter().any(|(kind, ..)| *kind == name)
}

/// A section of a kind that is not built.
struct Section<'a> {
    node: &'a Node,
    http: HttpClientConfig,
}

impl Section<'_> {
    fn text(&self, key: &str) -> &str {
        match self.node.get(key).map(|node| &node.kind) {
            Some(Kind::Scalar { text, .. }) => text,
            _ => "",
        }
    }

    fn at(&self, key: &str) -> Position {
        self.node.at_key(key)
    }

    fn one_of(&self, key: &str, allowed: &[&str], message: impl Fn(&str) -> String, reader: &mut Reader<'_>) {
        let text = self.text(key);
        if !text.is_empty() && !allowed.contains(&text) {
            reader.problem(self.at(key), message(text));
        }
    }
}

/// Checks a section of a kind that is not built: its fields strictly, then its rules.
pub(super) fn check(kind: &str, node: &Node, reader: &mut Reader<'_>) {
    let Some((name, with_http, fields, rules)) = KINDS.iter().find(|(name, ..)| *name == kind) else { return };
    let mut section = Section { node, http: HttpClientConfig::default() };
    let problems_before = reader.problem_count();
    for (key, value) in reader.entries(node, &format!("{kind}_sd_config")) {
        let known = fields.split_whitespace().any(|field| field == key.text);
        if !known && (!with_http || !section.http.set_field(key, value, reader)) {
            reader.problem(key.at, format!("field {} not found in type {name}_sd_config", key.text));
        }
    }
    if reader.problem_count() == problems_before {
        section.http.check(node, reader);
        rules(&section, reader);
    }
}

fn no_rules(_: &Section<'_>, _: &mut Reader<'_>) {}

fn check_filters(section: &Section<'_>, reader: &mut Reader<'_>) {
    for filter in section.node.get("filters").map_or(&[][..], Node::elements) {
        if filter.get("values").is_none_or(|values| values.elements().is_empty()) {
            reader.problem(filter.at, "EC2 SD configuration filter values cannot be empty");
        }
    }
}

fn check_oci(section: &Section<'_>, reader: &mut Reader<'_>) {
    let message =
        |auth: &str| format!("oci_sd: unknown auth method {auth:?}, expected \"api_key\" or \"instance_principal\"");
    section.one_of("auth", &["api_key", "instance_principal"], message, reader);
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
        Kind::Scalar { .. } if secret => String::from(MASK).show(Show::Masked),
        Kind::Map(entries) => Node::new(Kind::Map(
            entries.iter().map(|(key, value)| (key.clone(), masked(value, secret || is_secret(&key.text)))).collect(),
        )),
        Kind::List(elements) => Node::new(Kind::List(elements.iter().map(|element| masked(element, secret)).collect())),
        _ => node.clone(),
    }
}

fn is_secret(key: &str) -> bool {
    let words = ["password", "passphrase", "secret", "token", "key", "credentials", "authorization"];
    words.iter().any(|word| key.contains(word))
        && !key.ends_with("_file")
        && !key.ends_with("_path")
        && key != "access_key"
}
