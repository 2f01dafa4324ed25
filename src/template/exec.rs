//! Running a tree over data. Errors name the node that Go would name: `at` moves exactly where Go moves it.

use std::sync::Arc;

use crate::functions::{Body, Environment, Function};
use crate::html::Escaper;
use crate::methods;
use crate::node::{Branch, Kind, Node, Number, Pipe};
use promesh_model::labels::quoted;

use crate::print;
use crate::value::{MapKind, Type, Value};
use crate::{Limits, MissingKey, Template, TemplateError, Tree};

/// Where output goes.
pub enum Sink {
    /// As it is.
    Text(String),
    /// Escaped for the place in an HTML document where it lands.
    Html(Escaper),
}

/// What remains of an execution's limits, over all templates that it runs.
pub struct Fuel {
    steps: u64,
    bytes: usize,
    depth: usize,
}

/// A running execution.
pub struct Execution<'t> {
    template: &'t Template,
    tree: &'t Tree,
    environment: &'t Environment<'t>,
    at: Option<&'t Node>,
    variables: Vec<(&'t str, Value)>,
    sink: Sink,
    fuel: Fuel,
    /// The data of the whole execution; route labels are rendered against it.
    root: Value,
    /// Route labels being rendered, outermost first.
    route_labels: Vec<String>,
}

/// Why a list ended early.
enum Flow {
    Go,
    Break,
    Continue,
}

type Ran<T> = Result<T, TemplateError>;

/// Runs the template of `name`.
pub fn run(
    template: &Template,
    name: &str,
    data: &Value,
    environment: &Environment<'_>,
    limits: &Limits,
    sink: Sink,
) -> Ran<Sink> {
    let fuel = Fuel { steps: limits.steps_max, bytes: limits.output_bytes_max, depth: limits.depth_max };
    run_inside(template, name, data, environment, fuel, sink, Vec::new()).map(|(sink, _)| sink)
}

#[allow(clippy::too_many_arguments)]
fn run_inside(
    template: &Template,
    name: &str,
    data: &Value,
    environment: &Environment<'_>,
    fuel: Fuel,
    sink: Sink,
    route_labels: Vec<String>,
) -> Ran<(Sink, Fuel)> {
    let Some(tree) = template.trees.get(name) else {
        let text = format!("template: {name}: {} is an incomplete or empty template", quoted(name));
        return Err(TemplateError::Execute(text));
    };
    let mut execution = Execution {
        template,
        tree,
        environment,
        at: None,
        variables: vec![("$", data.clone())],
        sink,
        fuel,
        root: data.clone(),
        route_labels,
    };
    execution.walk(data, &tree.root)?;
    Ok((execution.sink, execution.fuel))
}

impl<'t> Execution<'t> {
    fn error<T>(&self, reason: impl AsRef<str>) -> Ran<T> {
        let reason = reason.as_ref();
        let Some(node) = self.at else {
            return Err(TemplateError::Execute(format!("template: {}: {reason}", self.tree.name)));
        };
        let before = &self.tree.text[..node.position.min(self.tree.text.len())];
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        let column = before.rfind('\n').map_or(before.len(), |newline| before.len() - newline - 1);
        let name = quoted(&self.tree.name);
        Err(TemplateError::Execute(format!(
            "template: {}:{line}:{column}: executing {name} at <{node}>: {reason}",
            self.tree.parse_name
        )))
    }

    fn step(&mut self) -> Ran<()> {
        match self.fuel.steps.checked_sub(1) {
            Some(left) => self.fuel.steps = left,
            None => return Err(TemplateError::Limit("the template runs too long".to_owned())),
        }
        Ok(())
    }

    /// Runs `inside` one level deeper.
    fn deeper<T>(&mut self, inside: impl FnOnce(&mut Self) -> Ran<T>) -> Ran<T> {
        if self.fuel.depth == 0 {
            return Err(TemplateError::Limit("the template nests too deep, perhaps without end".to_owned()));
        }
        self.fuel.depth -= 1;
        let result = inside(self);
        self.fuel.depth += 1;
        result
    }

    fn write(&mut self, bytes: usize) -> Ran<()> {
        match self.fuel.bytes.checked_sub(bytes) {
            Some(left) => self.fuel.bytes = left,
            None => return Err(TemplateError::Limit("the template's output is too long".to_owned())),
        }
        Ok(())
    }

    fn walk(&mut self, dot: &Value, node: &'t Node) -> Ran<Flow> {
        self.at = Some(node);
        self.step()?;
        match &node.kind {
            Kind::Text(text) => {
                self.write(text.len())?;
                match &mut self.sink {
                    Sink::Text(out) => out.push_str(text),
                    Sink::Html(escaper) => escaper.literal(text),
                }
            }
            Kind::Action(pipe) => {
                let value = self.pipeline(dot, pipe)?;
                if !declares(pipe) {
                    self.at = Some(node);
                    self.print(&value, last_function(pipe))?;
                }
            }
            Kind::List(nodes) => {
                for node in nodes {
                    match self.walk(dot, node)? {
                        Flow::Go => {}
                        flow => return Ok(flow),
                    }
                }
            }
            Kind::If(branch) => return self.deeper(|s| s.branch(dot, branch, false)),
            Kind::With(branch) => return self.deeper(|s| s.branch(dot, branch, true)),
            Kind::Range(branch) => return self.deeper(|s| s.range(dot, node, branch)),
            Kind::Template(name, pipe) => self.deeper(|s| s.call_template(dot, name, pipe.as_deref()))?,
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
            _ => return self.error(format!("unknown node: {node}")),
        }
        Ok(Flow::Go)
    }

    fn print(&mut self, value: &Value, done: Option<&str>) -> Ran<()> {
        match &mut self.sink {
            Sink::Text(out) => {
                let text = print::top(value);
                out.push_str(&text);
                let bytes = text.len();
                self.write(bytes)
            }
            Sink::Html(escaper) => {
                let bytes = escaper.value(value, done);
                self.write(bytes)
            }
        }
    }

    fn branch(&mut self, dot: &Value, branch: &'t Branch, with: bool) -> Ran<Flow> {
        let mark = self.variables.len();
        let value = self.pipeline(dot, &branch.pipe)?;
        let flow = if value.is_true() {
            self.walk(if with { &value } else { dot }, &branch.list)
        } else if let Some(otherwise) = &branch.otherwise {
            self.walk(dot, otherwise)
        } else {
            Ok(Flow::Go)
        };
        self.variables.truncate(mark);
        flow
    }

    fn range(&mut self, dot: &Value, node: &'t Node, branch: &'t Branch) -> Ran<Flow> {
        self.at = Some(node);
        let mark = self.variables.len();
        let value = self.pipeline(dot, &branch.pipe)?;
        let pairs: Vec<(Value, Value)> = match &value {
            Value::List(list) => {
                list.items.iter().enumerate().map(|(index, item)| (Value::Int(index as i64), item.clone())).collect()
            }
            Value::Map(map) => {
                map.entries.iter().map(|(key, item)| (Value::Text(Arc::clone(key)), item.clone())).collect()
            }
            Value::Int(count) => {
                let count = u64::try_from(*count).unwrap_or(0).min(self.fuel.steps + 1);
                (0..count).map(|index| (Value::Int(index as i64), Value::Int(index as i64))).collect()
            }
            Value::Nil => Vec::new(),
            other => return self.error(format!("range can't iterate over {}", print::plain(other))),
        };
        if pairs.is_empty() {
            let flow = match &branch.otherwise {
                Some(otherwise) => self.walk(dot, otherwise)?,
                None => Flow::Go,
            };
            self.variables.truncate(mark);
            return Ok(flow);
        }
        let Kind::Pipe(pipe) = &branch.pipe.kind else { return self.error("range without a pipeline") };
        let inner = self.variables.len();
        for (index, item) in pairs {
            self.set_range_variables(pipe, index, &item)?;
            let flow = self.walk(&item, &branch.list)?;
            self.variables.truncate(inner);
            if matches!(flow, Flow::Break) {
                break;
            }
        }
        self.variables.truncate(mark);
        Ok(Flow::Go)
    }

    fn set_range_variables(&mut self, pipe: &'t Pipe, index: Value, item: &Value) -> Ran<()> {
        let values = match pipe.variables.len() {
            0 => return Ok(()),
            1 => vec![item.clone()],
            _ => vec![index, item.clone()],
        };
        for (variable, value) in pipe.variables.iter().zip(values) {
            self.assign(variable, value)?;
        }
        Ok(())
    }

    fn call_template(&mut self, dot: &Value, name: &str, pipe: Option<&'t Node>) -> Ran<()> {
        let template = self.template;
        let Some(tree) = template.trees.get(name) else {
            return self.error(format!("template {} not defined", quoted(name)));
        };
        let dot = match pipe {
            Some(pipe) => self.pipeline(dot, pipe)?,
            None => Value::Nil,
        };
        let outer_tree = std::mem::replace(&mut self.tree, tree);
        let outer_variables = std::mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        self.walk(&dot, &tree.root)?;
        self.tree = outer_tree;
        self.variables = outer_variables;
        Ok(())
    }

    fn pipeline(&mut self, dot: &Value, node: &'t Node) -> Ran<Value> {
        self.at = Some(node);
        self.step()?;
        let Kind::Pipe(pipe) = &node.kind else { return self.error("not a pipeline") };
        let value = self.deeper(|s| {
            let mut value = None;
            for command in &pipe.commands {
                value = Some(s.command(dot, command, value)?);
            }
            Ok(value.unwrap_or(Value::Nil))
        })?;
        for variable in &pipe.variables {
            if pipe.assigns {
                self.assign(variable, value.clone())?;
            } else {
                let Kind::Variable(names) = &variable.kind else { continue };
                self.variables.push((&names[0], value.clone()));
            }
        }
        Ok(value)
    }

    fn assign(&mut self, variable: &'t Node, value: Value) -> Ran<()> {
        let Kind::Variable(names) = &variable.kind else { return Ok(()) };
        match self.variables.iter_mut().rev().find(|(name, _)| *name == names[0]) {
            Some((_, slot)) => {
                *slot = value;
                Ok(())
            }
            None => self.error(format!("undefined variable: {}", names[0])),
        }
    }

    fn command(&mut self, dot: &Value, node: &'t Node, last: Option<Value>) -> Ran<Value> {
        let Kind::Command(operands) = &node.kind else { return self.error("not a command") };
        let first = &operands[0];
        match &first.kind {
            Kind::Field(names) => {
                self.at = Some(first);
                return self.chain(dot, dot.clone(), first, names, operands, last);
            }
            Kind::Chain(..) => return self.chain_node(dot, first, operands, last),
            Kind::Identifier(name) => {
                self.at = Some(first);
                return self.function(dot, name, node, operands, last);
            }
            Kind::Pipe(_) => {
                self.not_a_function(operands, last.is_some())?;
                return self.pipeline(dot, first);
            }
            Kind::Variable(_) => return self.variable(dot, first, operands, last),
            _ => {}
        }
        self.at = Some(first);
        self.not_a_function(operands, last.is_some())?;
        match &first.kind {
            Kind::Bool(value) => Ok(Value::Bool(*value)),
            Kind::Dot => Ok(dot.clone()),
            Kind::Nil => self.error("nil is not a command"),
            Kind::Number(number) => self.constant(first, number),
            Kind::Str(_, text) => Ok(Value::text(text)),
            _ => self.error(format!("can't evaluate command {}", quoted(&first.to_string()))),
        }
    }

    fn not_a_function(&self, operands: &[Node], piped: bool) -> Ran<()> {
        if operands.len() > 1 || piped {
            return self.error(format!("can't give argument to non-function {}", operands[0]));
        }
        Ok(())
    }

    fn constant(&mut self, node: &'t Node, number: &Number) -> Ran<Value> {
        self.at = Some(node);
        let text = number.text.to_ascii_lowercase();
        let hex = text.trim_start_matches(['+', '-']).starts_with("0x") && !text.contains('p');
        let floats = !hex && !text.starts_with('\'') && text.contains(['.', 'e', 'p']);
        match (number.float, number.int) {
            (Some(float), _) if floats => Ok(Value::Float(float)),
            (_, Some(int)) => Ok(Value::Int(int)),
            _ => self.error(format!("{} overflows int", number.text)),
        }
    }

    fn chain_node(&mut self, dot: &Value, node: &'t Node, operands: &'t [Node], last: Option<Value>) -> Ran<Value> {
        self.at = Some(node);
        let Kind::Chain(inner, names) = &node.kind else { return self.error("not a chain") };
        if matches!(inner.kind, Kind::Nil) {
            return self.error(format!("indirection through explicit nil in {node}"));
        }
        let receiver = self.argument(dot, Type::Any, inner)?;
        self.chain(dot, receiver, node, names, operands, last)
    }

    fn variable(&mut self, dot: &Value, node: &'t Node, operands: &'t [Node], last: Option<Value>) -> Ran<Value> {
        self.at = Some(node);
        let Kind::Variable(names) = &node.kind else { return self.error("not a variable") };
        let Some((_, value)) = self.variables.iter().rev().find(|(name, _)| *name == names[0]) else {
            return self.error(format!("undefined variable: {}", names[0]));
        };
        let value = value.clone();
        if names.len() == 1 {
            if !operands.is_empty() {
                self.not_a_function(operands, last.is_some())?;
            }
            return Ok(value);
        }
        self.chain(dot, value, node, &names[1..], operands, last)
    }

    fn chain(
        &mut self,
        dot: &Value,
        mut receiver: Value,
        node: &'t Node,
        names: &[String],
        operands: &'t [Node],
        last: Option<Value>,
    ) -> Ran<Value> {
        let (end, before) = names.split_last().expect("a chain has at least one name");
        for name in before {
            receiver = self.field(dot, name, node, &[], None, &receiver)?;
        }
        self.field(dot, end, node, operands, last, &receiver)
    }

    fn field(
        &mut self,
        dot: &Value,
        name: &str,
        node: &'t Node,
        operands: &'t [Node],
        last: Option<Value>,
        receiver: &Value,
    ) -> Ran<Value> {
        if let Some(method) = methods::find(receiver, name) {
            let arguments = self.arguments(dot, name, method.parameters, false, operands, last)?;
            return (method.call)(receiver, &arguments).or_else(|reason| self.call_failed(node, name, &reason));
        }
        let has_arguments = operands.len() > 1 || last.is_some();
        match receiver {
            Value::Nil if self.template.missing_key == MissingKey::Error => {
                self.error(format!("nil data; no entry for key {}", quoted(name)))
            }
            Value::Nil => Ok(Value::Nil),
            Value::Struct(record) => match record.fields.iter().find(|(field, _, _)| *field == name) {
                Some(_) if has_arguments => {
                    self.error(format!("{name} has arguments but cannot be invoked as function"))
                }
                Some((_, _, value)) => Ok(value.clone()),
                None => self.error(format!("can't evaluate field {name} in type {}", record.type_name)),
            },
            Value::Map(_) if has_arguments => self.error(format!("{name} is not a method but has arguments")),
            Value::Map(map) => match (map.entries.get(name), self.template.missing_key) {
                (Some(value), _) => Ok(value.clone()),
                (None, MissingKey::Error) => self.error(format!("map has no entry for key {}", quoted(name))),
                (None, MissingKey::Zero) => Ok(map.kind.zero()),
                (None, MissingKey::Invalid) => Ok(Value::Nil),
            },
            other => self.error(format!("can't evaluate field {name} in type {}", other.type_name())),
        }
    }

    fn call_failed<T>(&mut self, node: &'t Node, name: &str, reason: &str) -> Ran<T> {
        self.at = Some(node);
        self.error(format!("error calling {name}: {reason}"))
    }

    fn function(
        &mut self,
        dot: &Value,
        name: &str,
        node: &'t Node,
        operands: &'t [Node],
        last: Option<Value>,
    ) -> Ran<Value> {
        let Some(function) = self.template.functions.find(name) else {
            return self.error(format!("{} is not a defined function", quoted(name)));
        };
        if matches!(function.body, Body::And | Body::Or) {
            return self.short_circuit(dot, function, operands, last);
        }
        let arguments = self.arguments(dot, name, function.parameters, function.variadic, operands, last)?;
        let result = match function.body {
            Body::Plain(call) => call(&arguments),
            Body::Environment(call) => call(self.environment, &arguments),
            Body::RouteLabels => self.route_label(&arguments[0])?,
            Body::Template => self.render_template(&arguments[0], &arguments[1])?,
            Body::And | Body::Or => unreachable!("handled above"),
        };
        result.or_else(|reason| self.call_failed(node, name, &reason))
    }

    /// `and` and `or` evaluate no argument past the one that decides.
    fn short_circuit(
        &mut self,
        dot: &Value,
        function: &Function,
        operands: &'t [Node],
        last: Option<Value>,
    ) -> Ran<Value> {
        let given = operands.len().saturating_sub(1) + usize::from(last.is_some());
        if given == 0 {
            return self.error(format!("wrong number of args for {}: want at least 1 got 0", function.name));
        }
        let wanted = matches!(function.body, Body::Or);
        let mut value = Value::Nil;
        for operand in operands.iter().skip(1) {
            value = self.argument(dot, Type::Any, operand)?;
            if value.is_true() == wanted {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    fn arguments(
        &mut self,
        dot: &Value,
        name: &str,
        parameters: &[Type],
        variadic: bool,
        operands: &'t [Node],
        last: Option<Value>,
    ) -> Ran<Vec<Value>> {
        let operands = operands.get(1..).unwrap_or(&[]);
        let given = operands.len() + usize::from(last.is_some());
        let fixed = parameters.len() - usize::from(variadic);
        if variadic && given < fixed {
            return self
                .error(format!("wrong number of args for {name}: want at least {fixed} got {}", operands.len()));
        }
        if !variadic && given != fixed {
            return self.error(format!("wrong number of args for {name}: want {fixed} got {given}"));
        }
        let parameter = |index: usize| parameters[index.min(parameters.len() - 1)];
        let mut arguments = Vec::with_capacity(given);
        for (index, operand) in operands.iter().enumerate() {
            arguments.push(self.argument(dot, parameter(index), operand)?);
        }
        if let Some(last) = last {
            let index = arguments.len();
            arguments.push(self.checked(last, parameter(index))?);
        }
        Ok(arguments)
    }

    /// A value where a type is wanted.
    fn checked(&self, value: Value, wanted: Type) -> Ran<Value> {
        if let Value::Nil = value {
            return match wanted.nil() {
                Some(nil) => Ok(nil),
                None => self.error(format!("invalid value; expected {}", wanted.name())),
            };
        }
        if wanted.accepts(&value) {
            return Ok(value);
        }
        self.error(format!("wrong type for value; expected {}; got {}", wanted.name(), value.type_name()))
    }

    fn argument(&mut self, dot: &Value, wanted: Type, node: &'t Node) -> Ran<Value> {
        self.at = Some(node);
        let value = match &node.kind {
            Kind::Dot => dot.clone(),
            Kind::Nil => {
                return match wanted.nil() {
                    Some(nil) => Ok(nil),
                    None => self.error(format!("cannot assign nil to {}", wanted.name())),
                };
            }
            Kind::Field(names) => self.chain(dot, dot.clone(), node, names, &[], None)?,
            Kind::Variable(_) => self.variable(dot, node, &[], None)?,
            Kind::Pipe(_) => self.pipeline(dot, node)?,
            Kind::Identifier(name) => self.function(dot, name, node, &[], None)?,
            Kind::Chain(..) => self.chain_node(dot, node, &[], None)?,
            _ => return self.literal(wanted, node),
        };
        self.checked(value, wanted)
    }

    fn literal(&mut self, wanted: Type, node: &'t Node) -> Ran<Value> {
        let (what, value) = match (wanted, &node.kind) {
            (Type::Any, Kind::Bool(value)) => return Ok(Value::Bool(*value)),
            (Type::Any, Kind::Number(number)) => return self.constant(node, number),
            (Type::Any, Kind::Str(_, text)) => return Ok(Value::text(text)),
            (Type::Bool, Kind::Bool(value)) => ("bool", Some(Value::Bool(*value))),
            (Type::Bool, _) => ("bool", None),
            (Type::Text, Kind::Str(_, text)) => ("string", Some(Value::text(text))),
            (Type::Text, _) => ("string", None),
            (Type::Int, Kind::Number(number)) => ("integer", number.int.map(Value::Int)),
            (Type::Duration, Kind::Number(number)) => ("integer", number.int.map(Value::Duration)),
            (Type::Int | Type::Duration, _) => ("integer", None),
            (Type::Float, Kind::Number(number)) => ("float", number.float.map(Value::Float)),
            (Type::Float, _) => ("float", None),
            _ => return self.error(format!("can't handle {node} for arg of type {}", wanted.name())),
        };
        match value {
            Some(value) => Ok(value),
            None => self.error(format!("expected {what}; found {node}")),
        }
    }

    /// Alertmanager's `routeLabels`: a route label's value, itself a template over the same data.
    fn route_label(&mut self, name: &Value) -> Ran<Result<Value, String>> {
        let name = name.as_text().unwrap_or_default();
        let Some(text) = crate::data::route_label(&self.root, name) else { return Ok(Ok(Value::text(""))) };
        if self.environment.route_labels_rendered {
            return Ok(Ok(Value::text(text)));
        }
        if self.route_labels.iter().any(|busy| busy == name) {
            let path = self.route_labels.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(" -> ");
            return Ok(Err(format!("route label cycle detected: {path}")));
        }
        let template = match self.template.with_text("", text) {
            Ok(template) => template,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let mut busy = self.route_labels.clone();
        busy.push(name.to_owned());
        self.run_other(&template, "", &self.root.clone(), busy)
    }

    /// Prometheus' console function `tmpl`: another template's output as safe HTML.
    fn render_template(&mut self, name: &Value, data: &Value) -> Ran<Result<Value, String>> {
        let template = self.template;
        let name = name.as_text().unwrap_or_default();
        let busy = self.route_labels.clone();
        let result = self.run_other(template, name, data, busy)?;
        Ok(result.map(|value| Value::Safe(crate::value::Safe::Html, Arc::from(value.as_text().unwrap_or_default()))))
    }

    fn run_other(
        &mut self,
        template: &Template,
        name: &str,
        data: &Value,
        busy: Vec<String>,
    ) -> Ran<Result<Value, String>> {
        let sink = match &self.sink {
            Sink::Text(_) => Sink::Text(String::new()),
            Sink::Html(_) => Sink::Html(Escaper::default()),
        };
        // Every level of this recursion holds a whole execution on the stack.
        let Some(depth) = self.fuel.depth.checked_sub(16) else {
            return Err(TemplateError::Limit("the template nests too deep, perhaps without end".to_owned()));
        };
        let fuel = Fuel { steps: self.fuel.steps, bytes: self.fuel.bytes, depth };
        match run_inside(template, name, data, self.environment, fuel, sink, busy) {
            Ok((sink, fuel)) => {
                self.fuel.steps = fuel.steps;
                Ok(Ok(Value::text(sink.finish())))
            }
            Err(error @ TemplateError::Limit(_)) => Err(error),
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}

impl Sink {
    /// The output.
    pub fn finish(self) -> String {
        match self {
            Sink::Text(text) => text,
            Sink::Html(escaper) => escaper.finish(),
        }
    }
}

fn declares(pipe: &Node) -> bool {
    matches!(&pipe.kind, Kind::Pipe(pipe) if !pipe.variables.is_empty())
}

/// The function at the end of a pipeline.
fn last_function(pipe: &Node) -> Option<&str> {
    let Kind::Pipe(pipe) = &pipe.kind else { return None };
    let Kind::Command(operands) = &pipe.commands.last()?.kind else { return None };
    match &operands[0].kind {
        Kind::Identifier(name) => Some(name),
        _ => None,
    }
}

/// A map as a `map[string]interface {}`.
pub fn any_map(entries: impl IntoIterator<Item = (Arc<str>, Value)>) -> Value {
    Value::Map(Arc::new(crate::value::Map {
        kind: MapKind::Any,
        is_nil: false,
        entries: entries.into_iter().collect(),
    }))
}
