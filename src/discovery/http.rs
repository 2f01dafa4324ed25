//! `http_sd_configs`: a URL that answers with groups in JSON.
//!
//! Source: prometheus `discovery/http`.

use std::time::Duration;

use ::http::{HeaderValue, header};
use promesh_client::{HttpClient, Request};
use promesh_config::http::HttpUrl;
use promesh_config::prometheus::HttpSd;
use promesh_model::LabelsBuilder;

use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup, WrittenGroup};

const ANSWER_BYTES_MAX: usize = 256 << 20;

pub(crate) struct Poller {
    client: HttpClient,
    url: HttpUrl,
    interval: Duration,
    /// How many groups the last answer had: those that vanished are published empty.
    groups: usize,
}

impl Poller {
    pub(crate) fn new(config: &HttpSd) -> Result<Poller, DiscoveryError> {
        let url = HttpUrl::parse(&config.url).map_err(DiscoveryError::Settings)?;
        Ok(Poller { client: HttpClient::new(&config.http)?, url, interval: config.refresh_interval, groups: 0 })
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let mut request = Request::get(self.url.url().clone());
        request.headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        request.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let seconds = self.interval.as_secs_f64().to_string();
        if let Ok(value) = HeaderValue::from_str(&seconds) {
            request.headers.insert("x-prometheus-refresh-interval-seconds", value);
        }
        let (status, headers, body) = self.client.fetch(request, self.interval, ANSWER_BYTES_MAX).await?;
        if status != ::http::StatusCode::OK {
            return Err(DiscoveryError::Answer(format!("server returned HTTP status {status}")));
        }
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        if !is_json(content_type) {
            return Err(DiscoveryError::Answer(format!("unsupported content type {content_type:?}")));
        }
        let groups = parse(&body, &self.url.redacted())?;
        self.groups = groups.len();
        Ok(groups)
    }
}

fn is_json(content_type: &str) -> bool {
    let lower = content_type.to_ascii_lowercase().replace(' ', "");
    matches!(
        lower.as_str(),
        "application/json" | "application/json;charset=utf-8" | "application/json;charset=\"utf-8\""
    )
}

/// The groups of an answer, each marked with the URL that it came from.
pub(crate) fn parse(body: &[u8], url: &str) -> Result<Vec<TargetGroup>, DiscoveryError> {
    let written: Vec<Option<WrittenGroup>> =
        serde_json::from_slice(body).map_err(|error| DiscoveryError::Answer(error.to_string()))?;
    written
        .into_iter()
        .enumerate()
        .map(|(index, group)| {
            let group = group.ok_or_else(|| DiscoveryError::Answer("nil target group item found".to_owned()))?;
            let mut group = group.into_group(format!("{url}:{index}"))?;
            let mut labels: LabelsBuilder = group.labels.to_builder();
            labels.set("__meta_url", url);
            group.labels = labels.build();
            Ok(group)
        })
        .collect()
}
