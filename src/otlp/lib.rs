//! OTLP metrics → samples: the messages of OpenTelemetry's exporters, decoded by hand and translated as Prometheus does.
//!
//! [`decode_protobuf`] and [`decode_json`] read a message into a [`Metrics`]; [`translate`] turns it into series with
//! Prometheus' names, units and suffixes; [`DeltaState`] adds up what comes as differences. Bytes come from anybody: every
//! count is bounded, nothing is allocated for a claim, and a metric that cannot be translated leaves the others alone.

mod delta;
mod json;
mod message;
mod names;
mod protobuf;
mod split;
mod translate;

pub use delta::DeltaState;
pub use json::decode_json;
pub use message::Metrics;
pub use protobuf::decode_protobuf;
pub use split::{join_json, join_protobuf, split_json, split_protobuf};
pub use translate::{Sample, Settings, Translated, TranslatedSeries, translate};

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf, or not this message.
    #[error("malformed OTLP message: {0}")]
    Malformed(&'static str),
    /// Not JSON, or not this message.
    #[error("malformed OTLP JSON: {0}")]
    Json(String),
    /// More of something than any exporter sends.
    #[error("too many {0} in one OTLP message")]
    TooMany(&'static str),
}
