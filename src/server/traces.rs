//! How traces of ourselves are sent over HTTP: by the product's own client.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry_http::{HttpClient as OtlpClient, HttpError};
use promesh_client::{HttpClient, Request};
use promesh_config::http::HttpClientConfig;
use promesh_config::prometheus::TracingConfig;
use tokio::runtime::Handle;
use url::Url;

/// The longest answer that is read: a collector has little to say.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Our client as the exporter wants it. The exporter has a thread without runtime: requests are sent on the product's.
#[derive(Debug)]
struct Sending {
    client: HttpClient,
    timeout: Duration,
    runtime: Handle,
}

/// A client for a `tracing:` section.
///
/// # Errors
/// When its certificates cannot be read.
pub fn client(section: &TracingConfig, timeout: Duration) -> Result<Arc<dyn OtlpClient>, String> {
    let config = HttpClientConfig { tls_config: section.tls_config.clone(), ..HttpClientConfig::default() };
    let client = HttpClient::new(&config).map_err(|error| error.to_string())?;
    let runtime = Handle::try_current().map_err(|error| error.to_string())?;
    Ok(Arc::new(Sending { client, timeout, runtime }))
}

#[async_trait]
impl OtlpClient for Sending {
    async fn send_bytes(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let url = Url::parse(&head.uri.to_string())?;
        let request = Request { method: head.method, url, headers: head.headers, body };
        let (client, timeout) = (self.client.clone(), self.timeout);
        let asked = self.runtime.spawn(async move { client.fetch(request, timeout, ANSWER_BYTES_MAX).await });
        let (status, headers, body) = asked.await??;
        let mut answer = http::Response::new(Bytes::from(body));
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}
