//! What a user sees: the real binary, real files, real HTTP. One module a subject.

mod adverse;
mod alerts;
mod blocks;
mod discovery;
mod exporters;
mod faults;
mod gateway;
mod golden;
mod history;
mod hostile;
mod manager;
mod mesh;
mod overload;
mod parts;
mod process;
mod push;
mod relay;
mod reload;
mod remote;
mod rules;
mod scraping;
mod stage;
mod storage;
mod support;
mod tidy;
mod ui;
