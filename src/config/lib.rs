//! Configuration files: as written → as meant, every error with `file:line:column` and the line it is about.
//!
//! A file becomes a tree of [`yaml::Node`]s that know where they stood. Each section is declared once, with
//! [`section!`]: its fields, their defaults, its own rules. From that one declaration follow strict reading (unknown
//! and repeated fields refused, all problems of a file collected), printing with secrets masked, and a content digest
//! that peers compare.
//!
//! Floor 1: files are read through [`Source`], never directly.

pub mod alertmanager;
pub mod bytesize;
pub mod http;
pub mod prometheus;
pub mod rules;
pub mod source;
pub mod web;
pub mod yaml;

pub use source::Source;
pub use yaml::{ConfigErrors, Problem};
