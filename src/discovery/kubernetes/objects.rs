//! The parts of Kubernetes' objects that become labels.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// An answer to a list.
#[derive(Debug, Deserialize)]
pub(crate) struct ObjectList {
    #[serde(default)]
    pub(crate) metadata: ListMeta,
    #[serde(default)]
    pub(crate) items: Vec<Object>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ListMeta {
    pub(crate) resource_version: String,
    /// Where the next page begins; empty on the last one.
    pub(crate) r#continue: String,
}

/// An object: what all kinds share, and the rest as it came.
#[derive(Debug, Deserialize)]
pub(crate) struct Object {
    pub(crate) metadata: Meta,
    #[serde(flatten)]
    pub(crate) rest: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    pub(crate) owner_references: Option<Vec<Owner>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Owner {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) controller: Option<bool>,
}

impl Object {
    /// `namespace/name`, or the name alone of objects outside namespaces.
    pub(crate) fn key(&self) -> String {
        key_of(&self.metadata.namespace, &self.metadata.name)
    }

    /// A value by JSON pointer.
    pub(crate) fn at(&self, pointer: &str) -> &Value {
        self.rest.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// A text by JSON pointer; empty when there is none.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or("")
    }

    /// The elements of a list by JSON pointer.
    pub(crate) fn list(&self, pointer: &str) -> &[Value] {
        elements(self.at(pointer))
    }
}

pub(crate) fn key_of(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

pub(crate) fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A scalar as a label's value; empty for anything else.
pub(crate) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        _ => String::new(),
    }
}
