//! What a target is asked for and what it answered.

use promesh_config::prometheus::{ScrapeConfig, ScrapeProtocol};

/// The `Accept` header of a job: its protocols, falling in weight, then anything.
///
/// Source: prometheus `scrape.acceptHeader`.
pub(crate) fn accept_header(job: &ScrapeConfig) -> String {
    let mut weight = 6;
    let mut header = String::new();
    for protocol in &job.scrape_protocols {
        header.push_str(protocol.media_type());
        if matches!(protocol, ScrapeProtocol::PrometheusText1_0_0 | ScrapeProtocol::OpenMetricsText1_0_0) {
            header.push_str(";escaping=");
            header.push_str(job.escaping().name());
        }
        header.push_str(&format!(";q=0.{weight},"));
        weight -= 1;
    }
    header.push_str(&format!("*/*;q=0.{weight}"));
    header
}

/// A format that can be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    OpenMetrics,
    Protobuf,
}

/// The format of an answer by its content type, else by what the job falls back to.
///
/// # Errors
/// In upstream's words, when neither says.
pub(crate) fn format_of(content_type: &str, fallback: Option<&ScrapeProtocol>) -> Result<Format, String> {
    let media_type = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let fallen_back = || {
        fallback.map(|protocol| match protocol {
            ScrapeProtocol::PrometheusProto => Format::Protobuf,
            ScrapeProtocol::OpenMetricsText0_0_1 | ScrapeProtocol::OpenMetricsText1_0_0 => Format::OpenMetrics,
            _ => Format::Text,
        })
    };
    let why = match media_type.as_str() {
        "application/openmetrics-text" => return Ok(Format::OpenMetrics),
        "application/vnd.google.protobuf" => return Ok(Format::Protobuf),
        "text/plain" => return Ok(Format::Text),
        "" => "non-compliant scrape target sending blank Content-Type".to_owned(),
        other if !other.contains('/') => format!("cannot parse Content-Type {content_type:?}"),
        _ => format!("received unsupported Content-Type {content_type:?}"),
    };
    fallen_back().ok_or_else(|| format!("{why} and no fallback_scrape_protocol specified for target"))
}
