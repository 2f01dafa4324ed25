//! `puppetdb_sd_configs`: the resources that a query of PuppetDB finds.
//!
//! Source: prometheus `discovery/puppetdb`; PuppetDB's query API v4.

use std::time::Duration;

use promesh_client::Request;
use promesh_config::prometheus::PuppetDbSd;
use promesh_model::Labels;
use serde_json::{Value, json};
use url::Url;

use crate::api::{self, Api, Meta, host_port, text, texts};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup, label_name};

pub(crate) struct Poller {
    config: PuppetDbSd,
    api: Api,
    url: Url,
}

impl Poller {
    pub(crate) fn new(config: &PuppetDbSd) -> Result<Poller, DiscoveryError> {
        let url = api::url(&config.url, "pdb/query/v4", &[])?;
        Ok(Poller { api: Api::new(&config.http, config.refresh_interval)?, url, config: config.clone() })
    }

    fn target(&self, resource: &Value) -> Labels {
        let mut meta = Meta::of("puppetdb");
        meta.set("query", &self.config.query);
        meta.take(
            resource,
            &[
                ("certname", "certname"),
                ("resource", "resource"),
                ("type", "type"),
                ("title", "title"),
                ("exported", "exported"),
                ("file", "file"),
                ("environment", "environment"),
            ],
        );
        meta.join("tags", &texts(resource, "tags"), ",");
        if self.config.include_parameters {
            let mut found = Vec::new();
            parameters("", &resource["parameters"], &mut found);
            meta.each("parameter_", found);
        }
        meta.address(host_port(&text(resource, "certname"), self.config.port)).build()
    }
}

/// Names and values of parameters; those of an object's fields are joined to its own.
fn parameters(prefix: &str, object: &Value, found: &mut Vec<(String, String)>) {
    for (name, value) in object.as_object().into_iter().flatten() {
        let full = format!("{prefix}{}", label_name(name));
        match value {
            Value::Object(_) => parameters(&format!("{full}_"), value, found),
            Value::Array(values) => found.push((full, values.iter().map(scalar).collect::<Vec<_>>().join(","))),
            other => found.push((full, scalar(other))),
        }
    }
}

/// As Go prints it: numbers without a needless fraction.
fn scalar(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 && number.abs() < 1e15 => format!("{}", number as i64),
        _ => api::shown(value),
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let body = json!({"query": self.config.query}).to_string();
        let resources = self.api.json(Request::post(self.url.clone(), "application/json", body)).await?;
        let resources =
            resources.as_array().ok_or_else(|| DiscoveryError::Answer("puppetdb answered with no list".to_owned()))?;
        let source = format!("{}?query={}", promesh_client::redacted(&self.url), self.config.query);
        Ok(api::group(&source, resources.iter().map(|resource| self.target(resource)).collect()))
    }
}
