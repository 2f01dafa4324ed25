//! Go's text/template and html/template, with Prometheus' and Alertmanager's functions.
//!
//! A template is a set of named trees over one table of functions. It is parsed once and strictly, with Go's error texts
//! and positions, and rendered over a [`Value`] within [`Limits`], because templates come from configuration files that
//! the product does not trust with its memory or its stack.
//!
//! The language is our own implementation: gotmpl accepts what Go refuses (an unclosed `{{if}}`, a stray `{{end}}`),
//! knows no methods, and its error texts carry no positions, while upstream's cases compare error texts to the column.

mod alertmanager;
mod builtin;
pub mod clock;
mod common;
pub mod data;
mod defaults;
mod exec;
mod functions;
pub mod html;
pub mod json;
mod lex;
mod methods;
mod node;
mod parse;
pub mod print;
mod prometheus;
pub mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

pub use functions::{Environment, Functions, Query, QuerySample};
pub use value::Value;

/// A template that does not parse, or whose execution failed. The texts are Go's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// `template: NAME:LINE: …`
    #[error("{0}")]
    Parse(String),
    /// `template: NAME:LINE:COLUMN: executing "NAME" at <NODE>: …`
    #[error("{0}")]
    Execute(String),
    /// It ran into a limit that Go does not have.
    #[error("{0}")]
    Limit(String),
}

/// What one rendering may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nodes visited, loops counted.
    pub steps_max: u64,
    /// Bytes written.
    pub output_bytes_max: usize,
    /// Levels of nesting: templates in templates, blocks, parentheses.
    pub depth_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { steps_max: 2_000_000, output_bytes_max: 4 << 20, depth_max: 300 }
    }
}

/// What an absent map key reads as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingKey {
    /// `<no value>`
    Invalid,
    /// The zero value of the map's elements, as Prometheus and Alertmanager ask for.
    #[default]
    Zero,
    /// An error.
    Error,
}

/// One parsed tree and the text that its positions point into.
#[derive(Debug)]
pub(crate) struct Tree {
    name: String,
    parse_name: String,
    text: Arc<str>,
    root: node::Node,
}

/// A set of parsed templates. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Template {
    name: String,
    functions: Functions,
    missing_key: MissingKey,
    trees: BTreeMap<String, Arc<Tree>>,
}

impl Template {
    /// An empty set.
    pub fn new(functions: Functions) -> Template {
        Template { name: String::new(), functions, missing_key: MissingKey::default(), trees: BTreeMap::new() }
    }

    /// Parses one text.
    ///
    /// # Errors
    /// `Parse`, in Go's words.
    pub fn parse(name: &str, text: &str, functions: Functions) -> Result<Template, TemplateError> {
        Template::new(functions).with_text(name, text)
    }

    /// Alertmanager's set: the default templates that every receiver refers to. Files of the configuration are added.
    pub fn alertmanager() -> Template {
        static DEFAULTS: std::sync::LazyLock<Template> = std::sync::LazyLock::new(|| {
            let mut template = Template::new(Functions::Alertmanager);
            for (name, text) in [("default.tmpl", defaults::DEFAULT), ("email.tmpl", defaults::EMAIL)] {
                template.add(name, text).expect("the built-in templates parse, see the tests");
            }
            template
        });
        DEFAULTS.clone()
    }

    /// Adds a text and what it defines, as a template file does. A later definition replaces an earlier one.
    ///
    /// # Errors
    /// `Parse`; the set is unchanged.
    pub fn add(&mut self, name: &str, text: &str) -> Result<(), TemplateError> {
        parse::parse(name, text, &|function| self.functions.find(function).is_some(), &mut self.trees)
    }

    /// This set with one more text, which [`Template::render`] runs.
    ///
    /// # Errors
    /// `Parse`.
    pub fn with_text(&self, name: &str, text: &str) -> Result<Template, TemplateError> {
        let mut template = self.clone();
        template.name = name.to_owned();
        template.trees.remove(name);
        template.add(name, text)?;
        Ok(template)
    }

    /// Sets what an absent key reads as.
    pub fn missing_key(mut self, missing_key: MissingKey) -> Template {
        self.missing_key = missing_key;
        self
    }

    /// Whether a template of this name is defined.
    pub fn defines(&self, name: &str) -> bool {
        self.trees.contains_key(name)
    }

    /// Renders to text.
    ///
    /// # Errors
    /// `Execute` in Go's words; `Limit`.
    pub fn render(
        &self,
        data: &Value,
        environment: &Environment<'_>,
        limits: &Limits,
    ) -> Result<String, TemplateError> {
        let sink = exec::Sink::Text(String::new());
        exec::run(self, &self.name, data, environment, limits, sink).map(exec::Sink::finish)
    }

    /// Renders to HTML, each value escaped for its place.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn render_html(
        &self,
        data: &Value,
        environment: &Environment<'_>,
        limits: &Limits,
    ) -> Result<String, TemplateError> {
        let sink = exec::Sink::Html(html::Escaper::default());
        exec::run(self, &self.name, data, environment, limits, sink).map(exec::Sink::finish)
    }

    /// Parses and renders a text over this set, as receivers do with each of their fields. The empty text costs nothing.
    ///
    /// # Errors
    /// As [`Template::with_text`] and [`Template::render`].
    pub fn render_text(
        &self,
        text: &str,
        data: &Value,
        environment: &Environment<'_>,
        limits: &Limits,
    ) -> Result<String, TemplateError> {
        if !text.contains("{{") {
            return Ok(text.to_owned());
        }
        self.with_text("", text)?.render(data, environment, limits)
    }
}
