//! The values that templates see. Each carries the Go type that it would have upstream, because error texts, printing
//! and the rules of assignment name it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::Time;

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// No value: an absent field, an untyped nil.
    Nil,
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `uint64`
    Uint(u64),
    /// `float64`
    Float(f64),
    /// `string`
    Text(Arc<str>),
    /// A text that HTML escaping leaves as it is in its place.
    Safe(Safe, Arc<str>),
    /// A slice.
    List(Arc<List>),
    /// A map with string keys.
    Map(Arc<Map>),
    /// A struct, or a pointer to one.
    Struct(Arc<Struct>),
    /// `time.Time`
    Time(Time),
    /// `time.Duration`, in nanoseconds.
    Duration(i64),
}

/// What a safe text is safe as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safe {
    /// `template.HTML`
    Html,
    /// `template.URL`
    Url,
}

/// A slice of values of one type.
#[derive(Clone, Debug)]
pub struct List {
    /// Its type.
    pub kind: ListKind,
    /// Its elements.
    pub items: Vec<Value>,
}

/// Types of slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// `[]interface {}`
    Any,
    /// `[]string`
    Strings,
    /// `template.Strings`, a `[]string` with methods.
    NamedStrings,
    /// `template.Pairs`
    Pairs,
    /// `template.Alerts`
    Alerts,
    /// `[]template.Alert`
    AlertSlice,
    /// `template.queryResult`
    QueryResult,
}

impl ListKind {
    /// Go's name of the type.
    pub fn type_name(self) -> &'static str {
        match self {
            ListKind::Any => "[]interface {}",
            ListKind::Strings => "[]string",
            ListKind::NamedStrings => "template.Strings",
            ListKind::Pairs => "template.Pairs",
            ListKind::Alerts => "template.Alerts",
            ListKind::AlertSlice => "[]template.Alert",
            ListKind::QueryResult => "template.queryResult",
        }
    }
}

/// A map from strings.
#[derive(Clone, Debug)]
pub struct Map {
    /// Its type.
    pub kind: MapKind,
    /// Whether it is Go's nil map: it acts as an empty one, and is `null` in JSON.
    pub is_nil: bool,
    /// Its entries, in key order.
    pub entries: BTreeMap<Arc<str>, Value>,
}

/// Types of maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `map[string]interface {}`
    Any,
    /// `map[string]string`
    Strings,
    /// `template.KV`, a `map[string]string` with methods.
    Kv,
}

impl MapKind {
    /// Go's name of the type.
    pub fn type_name(self) -> &'static str {
        match self {
            MapKind::Any => "map[string]interface {}",
            MapKind::Strings => "map[string]string",
            MapKind::Kv => "template.KV",
        }
    }

    /// The zero value of an element: what an absent key reads as.
    pub fn zero(self) -> Value {
        match self {
            MapKind::Any => Value::Nil,
            MapKind::Strings | MapKind::Kv => Value::text(""),
        }
    }
}

/// A struct with named fields.
#[derive(Clone, Debug)]
pub struct Struct {
    /// Go's name of its type, with a `*` when it is a pointer.
    pub type_name: &'static str,
    /// Fields in declaration order: Go's name, the name in JSON, the value.
    pub fields: Vec<(&'static str, &'static str, Value)>,
    /// What it prints as when its type has a `String` method.
    pub display: Option<Arc<str>>,
}

impl Value {
    /// A `string`.
    pub fn text(text: impl AsRef<str>) -> Value {
        Value::Text(Arc::from(text.as_ref()))
    }

    /// A list.
    pub fn list(kind: ListKind, items: Vec<Value>) -> Value {
        Value::List(Arc::new(List { kind, items }))
    }

    /// A `[]string`.
    pub fn strings<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> Value {
        Value::list(ListKind::Strings, items.into_iter().map(Value::text).collect())
    }

    /// A map of texts.
    pub fn map<K: AsRef<str>, V: AsRef<str>>(kind: MapKind, entries: impl IntoIterator<Item = (K, V)>) -> Value {
        let entries = entries.into_iter().map(|(k, v)| (Arc::from(k.as_ref()), Value::text(v))).collect();
        Value::Map(Arc::new(Map { kind, is_nil: false, entries }))
    }

    /// A struct.
    pub fn record(type_name: &'static str, fields: Vec<(&'static str, &'static str, Value)>) -> Value {
        Value::Struct(Arc::new(Struct { type_name, fields, display: None }))
    }

    /// Something that prints as `display` and has nothing inside to look at.
    pub fn opaque(type_name: &'static str, display: impl AsRef<str>) -> Value {
        Value::Struct(Arc::new(Struct { type_name, fields: Vec::new(), display: Some(Arc::from(display.as_ref())) }))
    }

    /// The text of a `string`.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Go's name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint64",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::Safe(Safe::Html, _) => "template.HTML",
            Value::Safe(Safe::Url, _) => "template.URL",
            Value::List(list) => list.kind.type_name(),
            Value::Map(map) => map.kind.type_name(),
            Value::Struct(record) => record.type_name,
            Value::Time(_) => "time.Time",
            Value::Duration(_) => "time.Duration",
        }
    }

    /// Go's truth: not the zero value, not empty.
    ///
    /// Source: text/template, "If pipeline": false, 0, nil, and any empty array, slice, map or string.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Nil => false,
            Value::Bool(value) => *value,
            Value::Int(value) | Value::Duration(value) => *value != 0,
            Value::Uint(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) | Value::Safe(_, text) => !text.is_empty(),
            Value::List(list) => !list.items.is_empty(),
            Value::Map(map) => !map.entries.is_empty(),
            Value::Struct(_) | Value::Time(_) => true,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::text(text)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Float(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

/// The type of a parameter of a function or method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `interface {}`
    Any,
    /// `bool`
    Bool,
    /// `int`
    Int,
    /// `float64`
    Float,
    /// `string`
    Text,
    /// `[]string`
    Strings,
    /// `[]interface {}`
    Anys,
    /// `time.Time`
    Time,
    /// `time.Duration`
    Duration,
    /// `template.queryResult`
    QueryResult,
    /// `*template.sample`
    Sample,
}

impl Type {
    /// Go's name.
    pub fn name(self) -> &'static str {
        match self {
            Type::Any => "interface {}",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Float => "float64",
            Type::Text => "string",
            Type::Strings => "[]string",
            Type::Anys => "[]interface {}",
            Type::Time => "time.Time",
            Type::Duration => "time.Duration",
            Type::QueryResult => "template.queryResult",
            Type::Sample => "*template.sample",
        }
    }

    /// Whether a value may be given where this type is wanted.
    pub fn accepts(self, value: &Value) -> bool {
        match (self, value) {
            (Type::Any, _)
            | (Type::Bool, Value::Bool(_))
            | (Type::Int, Value::Int(_))
            | (Type::Float, Value::Float(_))
            | (Type::Text, Value::Text(_))
            | (Type::Time, Value::Time(_))
            | (Type::Duration, Value::Duration(_)) => true,
            (Type::Strings, Value::List(list)) => matches!(list.kind, ListKind::Strings | ListKind::NamedStrings),
            (Type::Anys, Value::List(list)) => list.kind == ListKind::Any,
            (Type::QueryResult, Value::List(list)) => list.kind == ListKind::QueryResult,
            (Type::Sample, Value::Struct(record)) => record.type_name == "*template.sample",
            _ => false,
        }
    }

    /// What an untyped nil becomes here, if the type has a nil.
    pub fn nil(self) -> Option<Value> {
        match self {
            Type::Any | Type::Sample => Some(Value::Nil),
            Type::Strings => Some(Value::list(ListKind::Strings, Vec::new())),
            Type::Anys => Some(Value::list(ListKind::Any, Vec::new())),
            Type::QueryResult => Some(Value::list(ListKind::QueryResult, Vec::new())),
            Type::Bool | Type::Int | Type::Float | Type::Text | Type::Time | Type::Duration => None,
        }
    }
}
