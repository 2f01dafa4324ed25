//! The functions that a template may call: Go's own, and Prometheus' or Alertmanager's.

use std::sync::Arc;

use promesh_model::time::Timestamp;

use crate::value::{Type, Value};
use crate::{alertmanager, builtin, prometheus};

/// Which functions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Functions {
    /// Those of rule annotations and console templates.
    Prometheus,
    /// Those of notification templates.
    Alertmanager,
}

/// One sample of a query's answer, as `query` gives it to a template.
#[derive(Clone, Debug)]
pub struct QuerySample {
    /// Its labels, the metric's name among them.
    pub labels: promesh_model::Labels,
    /// A float as [`Value::Float`], a histogram as [`Value::opaque`].
    pub value: Value,
}

/// The callback behind `query`.
pub type Query<'a> = dyn Fn(&str) -> Result<Vec<QuerySample>, String> + Sync + 'a;

/// What functions may ask of the world.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// The instant of the evaluation or notification.
    pub now: Timestamp,
    /// The URL under which people reach this server.
    pub external_url: &'a str,
    /// Runs PromQL at `now`; without it `query` fails.
    pub query: Option<&'a Query<'a>>,
    /// Whether route labels hold rendered texts: then `routeLabels` gives them as they are.
    pub route_labels_rendered: bool,
}

impl Environment<'_> {
    /// An environment of an instant and nothing else.
    pub fn at(now: Timestamp) -> Environment<'static> {
        Environment { now, external_url: "", query: None, route_labels_rendered: false }
    }
}

/// A function of the language.
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// Types of its parameters; the last repeats when it is variadic.
    pub parameters: &'static [Type],
    /// Whether the last parameter repeats.
    pub variadic: bool,
    /// What it does.
    pub body: Body,
}

/// A function of so many arguments that needs nothing of the world.
pub const fn fixed(
    name: &'static str,
    parameters: &'static [Type],
    call: fn(&[Value]) -> Result<Value, String>,
) -> Function {
    Function { name, parameters, variadic: false, body: Body::Plain(call) }
}

/// The same, and its last argument may come again.
pub const fn variadic(
    name: &'static str,
    parameters: &'static [Type],
    call: fn(&[Value]) -> Result<Value, String>,
) -> Function {
    Function { name, parameters, variadic: true, body: Body::Plain(call) }
}

/// What a function does with its arguments.
pub enum Body {
    /// Needs nothing else.
    Plain(fn(&[Value]) -> Result<Value, String>),
    /// Needs the world.
    Environment(fn(&Environment<'_>, &[Value]) -> Result<Value, String>),
    /// Stops at the first false argument.
    And,
    /// Stops at the first true argument.
    Or,
    /// Renders a route label.
    RouteLabels,
    /// Renders another template.
    Template,
}

impl Functions {
    /// The names of its own functions, without Go's.
    pub fn names(self) -> Vec<&'static str> {
        let own = match self {
            Functions::Prometheus => prometheus::FUNCTIONS,
            Functions::Alertmanager => alertmanager::FUNCTIONS,
        };
        own.iter().map(|function| function.name).collect()
    }

    /// The function of a name.
    pub fn find(self, name: &str) -> Option<&'static Function> {
        let own = match self {
            Functions::Prometheus => prometheus::FUNCTIONS,
            Functions::Alertmanager => alertmanager::FUNCTIONS,
        };
        own.iter().chain(builtin::FUNCTIONS).find(|function| function.name == name)
    }
}

/// The text of an argument that its parameter says is one.
pub fn text(value: &Value) -> &str {
    value.as_text().expect("arguments are checked against the parameters")
}

/// A shared text.
pub fn shared(value: &Value) -> Arc<str> {
    match value {
        Value::Text(text) => Arc::clone(text),
        other => Arc::from(crate::print::plain(other)),
    }
}
