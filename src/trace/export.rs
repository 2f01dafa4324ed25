//! Where spans go: OTLP over gRPC or HTTP, in batches, from a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::TraceError;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{Compression, SpanExporter, WithExportConfig as _, WithHttpConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData};
use promesh_config::http::TlsConfig;
use promesh_config::prometheus::TracingConfig;

/// How long a request may take where the section does not say. Source: the exporter's own default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What takes spans and sends them. Roots are sampled by the section's share, others as who began them was.
pub(crate) fn provider(section: &TracingConfig, client: MakeClient<'_>) -> Result<SdkTracerProvider, TraceError> {
    let exporter = match section.client_type.as_str() {
        "http" => over_http(section, client)?,
        _ => over_grpc(section)?,
    };
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(section.sampling_fraction)));
    let resource = Resource::builder()
        .with_service_name("promesh")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(Watched { exporter, failed: AtomicBool::new(false) })
        .with_sampler(sampler)
        .with_resource(resource)
        .build())
}

/// Makes what sends over HTTP, each request within the time given.
pub type MakeClient<'a> = &'a dyn Fn(&TracingConfig, Duration) -> Result<Arc<dyn HttpClient>, String>;

/// An exporter of which the log says when it fails, and when it does so no longer.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    failed: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        match (&result, self.failed.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "traces cannot be sent: they are lost until this is mended"),
            (Ok(()), true) => tracing::info!("traces are sent again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

fn timeout(section: &TracingConfig) -> Duration {
    if section.timeout.is_zero() { TIMEOUT } else { section.timeout }
}

fn scheme(section: &TracingConfig) -> &'static str {
    if section.insecure { "http" } else { "https" }
}

fn failed(error: impl std::fmt::Display) -> TraceError {
    TraceError(error.to_string())
}

fn over_http(section: &TracingConfig, client: MakeClient<'_>) -> Result<SpanExporter, TraceError> {
    let client = client(section, timeout(section)).map_err(failed)?;
    let mut builder = SpanExporter::builder()
        .with_http()
        .with_shared_http_client(client)
        .with_endpoint(format!("{}://{}/v1/traces", scheme(section), section.endpoint))
        .with_timeout(timeout(section))
        .with_headers(section.headers.clone().into_iter().collect());
    if section.compression == "gzip" {
        builder = builder.with_compression(Compression::Gzip);
    }
    builder.build().map_err(failed)
}

fn over_grpc(section: &TracingConfig) -> Result<SpanExporter, TraceError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &section.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(failed)?;
        headers.insert(name, HeaderValue::from_str(value).map_err(failed)?);
    }
    let mut builder = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(format!("{}://{}", scheme(section), section.endpoint))
        .with_timeout(timeout(section))
        .with_metadata(MetadataMap::from_headers(headers));
    if !section.insecure {
        builder = builder.with_tls_config(tls(&section.tls_config)?);
    }
    if section.compression == "gzip" {
        builder = builder.with_compression(Compression::Gzip);
    }
    builder.build().map_err(failed)
}

/// TLS of a gRPC client, read once.
fn tls(config: &TlsConfig) -> Result<ClientTlsConfig, TraceError> {
    if config.insecure_skip_verify {
        return Err(failed(
            "insecure_skip_verify is not supported yet with client_type grpc: use ca_file, or client_type http",
        ));
    }
    let text = |given: &str, file: &promesh_config::yaml::FilePath| -> Result<String, TraceError> {
        let path = file.as_path();
        if !given.is_empty() || path.as_os_str().is_empty() {
            return Ok(given.to_owned());
        }
        std::fs::read_to_string(path).map_err(|error| failed(format!("{}: {error}", path.display())))
    };
    let mut tls = ClientTlsConfig::new();
    let ca = text(&config.ca, &config.ca_file)?;
    tls = if ca.is_empty() { tls.with_native_roots() } else { tls.ca_certificate(Certificate::from_pem(ca)) };
    let cert = text(&config.cert, &config.cert_file)?;
    if !cert.is_empty() {
        tls = tls.identity(Identity::from_pem(cert, text(config.key.expose(), &config.key_file)?));
    }
    if !config.server_name.is_empty() {
        tls = tls.domain_name(config.server_name.clone());
    }
    Ok(tls)
}
