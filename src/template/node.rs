//! The syntax tree. Every node prints as Go prints it, because error texts quote nodes.

use std::fmt;

/// A node and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Byte offset into the template's text.
    pub position: usize,
    /// What it is.
    pub kind: Kind,
}

/// The kinds of nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Literal text.
    Text(String),
    /// `{{pipeline}}`
    Action(Box<Node>),
    /// `$a, $b := command | command`
    Pipe(Pipe),
    /// `operand operand …`
    Command(Vec<Node>),
    /// `.A.B`
    Field(Vec<String>),
    /// `$x.A.B`, the variable first.
    Variable(Vec<String>),
    /// `(pipeline).A.B`
    Chain(Box<Node>, Vec<String>),
    /// A function's name.
    Identifier(String),
    /// `.`
    Dot,
    /// `nil`
    Nil,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(Number),
    /// A quoted string: as written, and what it means.
    Str(String, String),
    /// `{{if}}`
    If(Box<Branch>),
    /// `{{with}}`
    With(Box<Branch>),
    /// `{{range}}`
    Range(Box<Branch>),
    /// A sequence.
    List(Vec<Node>),
    /// `{{template "name" pipeline}}`
    Template(String, Option<Box<Node>>),
    /// `{{break}}`
    Break,
    /// `{{continue}}`
    Continue,
}

/// A pipeline with what it declares or assigns.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipe {
    /// Variables declared or assigned, in source order.
    pub variables: Vec<Node>,
    /// Whether `=` stood there instead of `:=`.
    pub assigns: bool,
    /// The commands, left to right.
    pub commands: Vec<Node>,
}

/// A condition and its two lists.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// What decides.
    pub pipe: Node,
    /// When it holds.
    pub list: Node,
    /// When it does not.
    pub otherwise: Option<Node>,
}

/// A numeric literal; Go decides by context which reading it takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Number {
    /// As written.
    pub text: String,
    /// As a signed integer, if it is one.
    pub int: Option<i64>,
    /// As an unsigned integer, if it is one.
    pub uint: Option<u64>,
    /// As a float, if it is one.
    pub float: Option<f64>,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Text(text) => f.write_str(text),
            Kind::Action(pipe) => write!(f, "{{{{{pipe}}}}}"),
            Kind::Pipe(pipe) => fmt_pipe(pipe, f),
            Kind::Command(operands) => fmt_command(operands, f),
            Kind::Field(names) => names.iter().try_for_each(|name| write!(f, ".{name}")),
            Kind::Variable(names) => f.write_str(&names.join(".")),
            Kind::Chain(node, names) => {
                if matches!(node.kind, Kind::Pipe(_)) {
                    write!(f, "({node})")?;
                } else {
                    write!(f, "{node}")?;
                }
                names.iter().try_for_each(|name| write!(f, ".{name}"))
            }
            Kind::Identifier(name) => f.write_str(name),
            Kind::Dot => f.write_str("."),
            Kind::Nil => f.write_str("nil"),
            Kind::Bool(value) => write!(f, "{value}"),
            Kind::Number(number) => f.write_str(&number.text),
            Kind::Str(quoted, _) => f.write_str(quoted),
            Kind::If(branch) => fmt_branch("if", branch, f),
            Kind::With(branch) => fmt_branch("with", branch, f),
            Kind::Range(branch) => fmt_branch("range", branch, f),
            Kind::List(nodes) => nodes.iter().try_for_each(|node| write!(f, "{node}")),
            Kind::Template(name, None) => write!(f, "{{{{template {}}}}}", promesh_model::labels::quoted(name)),
            Kind::Template(name, Some(pipe)) => {
                write!(f, "{{{{template {} {pipe}}}}}", promesh_model::labels::quoted(name))
            }
            Kind::Break => f.write_str("{{break}}"),
            Kind::Continue => f.write_str("{{continue}}"),
        }
    }
}

fn fmt_pipe(pipe: &Pipe, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, variable) in pipe.variables.iter().enumerate() {
        write!(f, "{}{variable}", if index > 0 { ", " } else { "" })?;
    }
    if !pipe.variables.is_empty() {
        f.write_str(if pipe.assigns { " = " } else { " := " })?;
    }
    for (index, command) in pipe.commands.iter().enumerate() {
        write!(f, "{}{command}", if index > 0 { " | " } else { "" })?;
    }
    Ok(())
}

fn fmt_command(operands: &[Node], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, operand) in operands.iter().enumerate() {
        if index > 0 {
            f.write_str(" ")?;
        }
        if matches!(operand.kind, Kind::Pipe(_)) { write!(f, "({operand})")? } else { write!(f, "{operand}")? }
    }
    Ok(())
}

fn fmt_branch(word: &str, branch: &Branch, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{{{{{word} {}}}}}{}", branch.pipe, branch.list)?;
    if let Some(otherwise) = &branch.otherwise {
        write!(f, "{{{{else}}}}{otherwise}")?;
    }
    f.write_str("{{end}}")
}
