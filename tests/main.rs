//! What a user sees: the real binary, real files, real HTTP. One module a subject.

mod alerts;
mod faults;
mod mesh;
mod process;
mod push;
mod relay;
mod rules;
mod support;
mod tidy;
mod ui;
