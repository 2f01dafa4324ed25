//! Traces of ourselves: spans of requests, scrapes, rule groups and deliveries, sent by OTLP where the `tracing:` section says.
//!
//! Spans are OpenTelemetry's; this crate says how they begin and end, and where they go. While there is no such section,
//! [`span`] costs one load of a flag. Search for [`Tracing`], [`span`], [`Span`].
//!
//! Source: prometheus tracing/tracing.go; W3C Trace Context for what requests carry.

mod export;

pub use export::MakeClient;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::noop::NoopTracerProvider;
use opentelemetry::trace::{FutureExt as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue, Value, global};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use parking_lot::Mutex;
use promesh_config::prometheus::TracingConfig;
use thiserror::Error;
use tokio::runtime::Handle;

/// Whether spans go anywhere.
static ON: AtomicBool = AtomicBool::new(false);

/// Why a `tracing:` section cannot be followed.
#[derive(Debug, Error)]
#[error("tracing: {0}")]
pub struct TraceError(String);

/// Where this process' spans go. There is one of it: OpenTelemetry's provider is the process'.
#[derive(Default)]
pub struct Tracing {
    /// The section as it was followed last, and what sends.
    current: Mutex<Option<(TracingConfig, SdkTracerProvider)>>,
}

impl std::fmt::Debug for Tracing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracing").field("on", &ON.load(Ordering::Relaxed)).finish_non_exhaustive()
    }
}

impl Tracing {
    /// Follows a section, or stops when there is none. What is the same as before goes on. Must be called within a
    /// runtime: requests are sent there.
    ///
    /// # Errors
    /// When certificates cannot be read or a setting cannot be followed; then all stays as it was.
    pub fn follow(&self, section: Option<&TracingConfig>, client: MakeClient<'_>) -> Result<(), TraceError> {
        let mut current = self.current.lock();
        if current.as_ref().map(|(known, _)| known) == section {
            return Ok(());
        }
        let next = match section {
            Some(section) => Some((section.clone(), export::provider(section, client)?)),
            None => None,
        };
        match &next {
            Some((section, provider)) => {
                global::set_tracer_provider(provider.clone());
                ON.store(true, Ordering::Relaxed);
                tracing::info!(endpoint = section.endpoint, client = section.client_type, "traces are sent");
            }
            None => {
                ON.store(false, Ordering::Relaxed);
                global::set_tracer_provider(NoopTracerProvider::new());
            }
        }
        if let Some((_, before)) = std::mem::replace(&mut *current, next) {
            shut_down(before);
        }
        Ok(())
    }

    /// Sends what waits, and stops.
    pub async fn stop(&self) {
        ON.store(false, Ordering::Relaxed);
        let last = self.current.lock().take();
        if let Some((_, provider)) = last {
            // It blocks until all is sent or its time is over.
            let _ = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        }
    }
}

fn shut_down(provider: SdkTracerProvider) {
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn_blocking(move || provider.shutdown()));
    }
}

/// What kind of work a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answering somebody.
    Server,
    /// Asking somebody.
    Client,
    /// Neither.
    Internal,
}

/// One piece of work; it ends when this is dropped. Without a `tracing:` section it is nothing.
#[derive(Debug)]
pub struct Span(Option<Context>);

/// Begins a span below the current one, if there is one. `facts` are asked for only if spans go anywhere.
pub fn span<N, F>(kind: Kind, name: N, facts: F) -> Span
where
    N: Into<Cow<'static, str>>,
    F: FnOnce() -> Vec<(&'static str, String)>,
{
    begin(&Context::current(), kind, name, facts)
}

/// Begins the span of a request that somebody sent, below the span that its headers name.
pub fn answering<N, F>(headers: &HeaderMap, name: N, facts: F) -> Span
where
    N: Into<Cow<'static, str>>,
    F: FnOnce() -> Vec<(&'static str, String)>,
{
    if !ON.load(Ordering::Relaxed) {
        return Span(None);
    }
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers));
    begin(&parent, Kind::Server, name, facts)
}

/// Begins a span below the current one; without one there is none. For what is often done and of little interest alone.
pub fn below<N, F>(kind: Kind, name: N, facts: F) -> Span
where
    N: Into<Cow<'static, str>>,
    F: FnOnce() -> Vec<(&'static str, String)>,
{
    if !ON.load(Ordering::Relaxed) {
        return Span(None);
    }
    let parent = Context::current();
    if parent.has_active_span() { begin(&parent, kind, name, facts) } else { Span(None) }
}

fn begin<N, F>(parent: &Context, kind: Kind, name: N, facts: F) -> Span
where
    N: Into<Cow<'static, str>>,
    F: FnOnce() -> Vec<(&'static str, String)>,
{
    if !ON.load(Ordering::Relaxed) {
        return Span(None);
    }
    let tracer = global::tracer("promesh");
    let kind = match kind {
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
        Kind::Internal => SpanKind::Internal,
    };
    let facts = facts().into_iter().map(|(name, value)| KeyValue::new(name, value)).collect::<Vec<_>>();
    let begun = tracer.span_builder(name).with_kind(kind).with_attributes(facts).start_with_context(&tracer, parent);
    Span(Some(parent.with_span(begun)))
}

impl Span {
    /// States a fact that was not known at the beginning.
    pub fn fact(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(name, value));
        }
    }

    /// The work failed.
    pub fn fail(&self, why: impl std::fmt::Display) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(why.to_string()));
        }
    }

    /// Has a request carry the span's name, so that who answers can continue the trace.
    pub fn name_in(&self, headers: &mut HeaderMap) {
        if let Some(context) = &self.0 {
            TraceContextPropagator::new().inject_context(context, &mut HeaderInjector(headers));
        }
    }

    /// Does work that does not wait below the span.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let _attached = self.0.clone().map(Context::attach);
        work()
    }

    /// Does work below the span.
    pub async fn around<T: Future>(&self, work: T) -> T::Output {
        match &self.0 {
            Some(context) => work.with_context(context.clone()).await,
            None => work.await,
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

#[cfg(test)]
mod tests;
