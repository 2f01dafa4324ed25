//! The log, in the form Prometheus' has: logfmt, or JSON with the same fields.
//!
//! ```text
//! time=2026-11-22T20:15:00.123Z level=INFO source=membership.rs:120 msg="took over targets" peer=6f1c… targets=12
//! ```

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;
use std::path::Path;

use promesh_model::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock;
use crate::options::LogOptions;

/// Crates whose INFO is our DEBUG: they tell of every connection.
const QUIET: [&str; 8] = ["quinn", "quinn_proto", "rustls", "hyper", "hyper_util", "h2", "chitchat", "foca"];

/// Starts the log on standard error. `RUST_LOG` refines the level by module, for developers.
///
/// Does nothing when a log was started before in this process.
pub fn start(options: LogOptions) {
    let level = options.level.to_string().to_lowercase();
    let quiet = if options.level == Level::DEBUG { "info" } else { "warn" };
    let own: String = QUIET.iter().fold(level, |filter, name| format!("{filter},{name}={quiet}"));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(own));
    let format = Format { json: options.json };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .fmt_fields(SpanFields)
        .event_format(format)
        .finish();
    // An error says that one is there already: in tests, several peers of one process share it.
    let _ = tracing::subscriber::set_global_default(subscriber);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "Starting promesh");
}

struct Format {
    json: bool,
}

/// Spans keep their fields as JSON, so that both forms can print them.
struct SpanFields;

impl<'writer> FormatFields<'writer> for SpanFields {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut found = Fields::default();
        fields.record(&mut found);
        for (name, value) in &found.others {
            writeln!(writer, "{}", Value::Array(vec![Value::String(name.clone()), value.clone()]))?;
        }
        Ok(())
    }
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let file = meta.file().and_then(|file| Path::new(file).file_name()?.to_str()).unwrap_or("unknown");
        let mut line: Vec<(String, Value)> = vec![
            ("time".to_owned(), Value::String(instant(clock::wall()))),
            ("level".to_owned(), Value::String(meta.level().to_string())),
            ("source".to_owned(), Value::String(format!("{file}:{}", meta.line().unwrap_or(0)))),
            ("msg".to_owned(), Value::String(fields.message)),
        ];
        for span in ctx.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(stored) = span.extensions().get::<FormattedFields<N>>() {
                let pairs = stored.fields.lines().filter_map(|pair| serde_json::from_str(pair).ok());
                line.extend(pairs.map(|(name, value): (String, Value)| (name, value)));
            }
        }
        line.extend(fields.others);
        if self.json {
            let object: Map<String, Value> = line.into_iter().collect();
            writeln!(writer, "{}", Value::Object(object))
        } else {
            writeln!(writer, "{}", logfmt(&line))
        }
    }
}

/// RFC 3339 with all three digits of the milliseconds, as Prometheus' log: the lines below each other begin alike.
fn instant(at: Timestamp) -> String {
    let ms = at.ms().rem_euclid(1000);
    let seconds = Timestamp(at.ms() - ms).to_string();
    format!("{}.{ms:03}Z", seconds.trim_end_matches('Z'))
}

fn logfmt(fields: &[(String, Value)]) -> String {
    let mut out = String::with_capacity(256);
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let quote = text.is_empty() || text.chars().any(|c| c <= ' ' || matches!(c, '=' | '"') || c.is_control());
        // Writing to a String cannot fail.
        let _ = if quote {
            write!(out, "{name}={}", promesh_model::labels::quoted(&text))
        } else {
            write!(out, "{name}={text}")
        };
    }
    out
}

/// An event's message, and its other fields in order.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.others.push((name.trim_start_matches("r#").to_owned(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::String(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic under the lock").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(SpanFields)
            .event_format(Format { json })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("peer", peer = "a b").entered();
            tracing::warn!(targets = 3, name = %"x=y", plain = "z", "took over");
        });
        let bytes = sink.0.lock().expect("no panic under the lock").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn logfmt_reads_like_prometheus_log() {
        let line = logged(false);
        assert!(line.starts_with("time=20") && line.ends_with('\n'), "{line}");
        let (_, rest) = line.split_once(" level=").expect("a level");
        let (level, rest) = rest.split_once(" source=logging.rs:").expect("a source");
        let (_, rest) = rest.split_once(' ').expect("a message");
        assert_eq!((level, rest), ("WARN", "msg=\"took over\" peer=\"a b\" targets=3 name=\"x=y\" plain=z\n"));
    }

    #[test]
    fn instants_are_of_one_length() {
        let check = |ms: i64, expected: &str| assert_eq!(instant(Timestamp(ms)), expected);
        check(1_795_637_303_096, "2026-11-25T20:08:23.096Z");
        check(1_795_637_303_300, "2026-11-25T20:08:23.300Z");
        check(1_795_637_303_000, "2026-11-25T20:08:23.000Z");
    }

    #[test]
    fn json_has_the_same_fields() {
        let line: Value = serde_json::from_str(&logged(true)).expect("JSON");
        assert_eq!((&line["level"], &line["msg"], &line["peer"]), (&"WARN".into(), &"took over".into(), &"a b".into()));
        assert_eq!((&line["targets"], &line["name"]), (&3.into(), &"x=y".into()));
    }
}
