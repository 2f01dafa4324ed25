//! `kuma_sd_configs`: the data planes that Kuma assigns for monitoring.
//!
//! The server holds a request until something changed, for at most `fetch_timeout`.
//!
//! Source: prometheus `discovery/xds`; Kuma's monitoring assignment discovery service, v1, over HTTP.

use std::time::Duration;

use ::http::StatusCode;
use promesh_client::{HttpClient, Request};
use promesh_config::prometheus::KumaSd;
use promesh_model::Labels;
use serde_json::{Value, json};

use crate::api::{self, Api, Meta, list, pairs, shown, text};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

const TYPE: &str = "type.googleapis.com/kuma.observability.v1.MonitoringAssignment";

pub(crate) struct Poller {
    config: KumaSd,
    api: Api,
    version: String,
    nonce: String,
    last: Vec<Labels>,
}

impl Poller {
    pub(crate) fn new(config: &KumaSd) -> Result<Poller, DiscoveryError> {
        // Beside what it may hold the request for, time to make a connection.
        let timeout = config.fetch_timeout + Duration::from_secs(15);
        let api = Api::over(HttpClient::new(&config.http)?, timeout);
        Ok(Poller { api, config: config.clone(), version: String::new(), nonce: String::new(), last: Vec::new() })
    }

    fn client_id(&self) -> String {
        match self.config.client_id.as_str() {
            "" => std::env::var("HOSTNAME").unwrap_or_else(|_| "prometheus".to_owned()),
            given => given.to_owned(),
        }
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let held = promesh_model::duration::format(self.config.fetch_timeout);
        let query = [("fetch-timeout", held.as_str())];
        let url = api::url(&self.config.server, "v3/discovery:monitoringassignments", &query)?;
        let body = json!({
            "version_info": self.version, "response_nonce": self.nonce, "type_url": TYPE, "resource_names": [],
            "node": {"id": self.client_id()},
        });
        let request = Request::post(url, "application/json", body.to_string());
        let (status, _, body) = self.api.exchange(request).await?;
        if status == StatusCode::NOT_MODIFIED {
            return Ok(api::group("kuma", self.last.clone()));
        }
        if status != StatusCode::OK {
            return Err(DiscoveryError::Answer(format!("non 200 status '{status}' response during xDS fetch")));
        }
        let answer: Value =
            serde_json::from_slice(&body).map_err(|error| DiscoveryError::Answer(format!("kuma: {error}")))?;
        // Protobuf's JSON has both forms of names.
        let field = |camel: &str, snake: &str| {
            let found = text(&answer, camel);
            if found.is_empty() { text(&answer, snake) } else { found }
        };
        let kind = field("typeUrl", "type_url");
        if !kind.is_empty() && kind != TYPE {
            return Err(DiscoveryError::Answer(format!("received invalid typeURL for Kuma MADS v1 Resource: {kind}")));
        }
        self.last = list(&answer, "resources").iter().flat_map(targets).collect();
        (self.version, self.nonce) = (field("versionInfo", "version_info"), text(&answer, "nonce"));
        Ok(api::group("kuma", self.last.clone()))
    }
}

fn targets(assignment: &Value) -> Vec<Labels> {
    let user = |value: &'static str, of: &Value| -> Vec<(String, String)> {
        pairs(of, value).map(|(name, value)| (name.to_owned(), shown(value))).collect()
    };
    let target = |target: &Value| {
        let mut meta = Meta::of("kuma");
        meta.each("label_", user("labels", target)).each("label_", user("labels", assignment));
        meta.take(assignment, &[("mesh", "mesh"), ("service", "service")]).set("dataplane", text(target, "name"));
        meta.plain("instance", text(target, "name")).plain("__scheme__", text(target, "scheme"));
        let path = [text(target, "metricsPath"), text(target, "metrics_path")].concat();
        meta.plain("__metrics_path__", path).address(text(target, "address")).build()
    };
    list(assignment, "targets").iter().map(target).collect()
}
