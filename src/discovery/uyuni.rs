//! `uyuni_sd_configs`: the monitored systems of Uyuni or SUSE Manager.
//!
//! Source: prometheus `discovery/uyuni`; Uyuni's XML-RPC API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use promesh_client::Request;
use promesh_config::prometheus::UyuniSd;
use promesh_model::time::Clock;
use promesh_model::{Labels, Secret, Timestamp};

use crate::api::{self, Api, Meta};
use crate::refresh::Refresh;
use crate::xml::Element;
use crate::{DiscoveryError, TargetGroup};

const TOKEN_LIFE: Duration = Duration::from_secs(600);

pub(crate) struct Poller {
    config: UyuniSd,
    api: Api,
    clock: Arc<dyn Clock>,
    token: Option<(Secret, Timestamp)>,
}

/// An argument of a call.
enum Argument<'a> {
    Text(&'a str),
    Number(u64),
    Numbers(&'a [u64]),
}

impl Argument<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Argument::Text(text) => {
                let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
                out.push_str(&format!("<value><string>{text}</string></value>"));
            }
            Argument::Number(number) => out.push_str(&format!("<value><int>{number}</int></value>")),
            Argument::Numbers(numbers) => {
                out.push_str("<value><array><data>");
                numbers.iter().for_each(|number| Argument::Number(*number).write(out));
                out.push_str("</data></array></value>");
            }
        }
    }
}

/// A field of a structure: its `value` element.
fn field<'a>(value: &'a Element, name: &str) -> Option<&'a Element> {
    let members = value.child("struct").map_or(&[][..], |members| members.children.as_slice());
    members.iter().find(|member| member.at("name") == name)?.child("value")
}

/// A value's text, with or without an element that says its type.
fn scalar(value: Option<&Element>) -> &str {
    let value = value.map(|value| value.children.first().unwrap_or(value));
    value.map_or("", |value| value.text.as_str())
}

fn of(value: &Element, name: &str) -> String {
    scalar(field(value, name)).to_owned()
}

/// The elements of an array.
fn elements(value: Option<&Element>) -> &[Element] {
    value.map_or(&[], |value| value.list("array.data"))
}

impl Poller {
    pub(crate) fn new(config: &UyuniSd, clock: Arc<dyn Clock>) -> Result<Poller, DiscoveryError> {
        Ok(Poller { api: Api::new(&config.http, config.refresh_interval)?, config: config.clone(), clock, token: None })
    }

    async fn call(&self, method: &str, arguments: &[Argument<'_>]) -> Result<Element, DiscoveryError> {
        let mut body = format!("<?xml version=\"1.0\"?><methodCall><methodName>{method}</methodName><params>");
        for argument in arguments {
            body.push_str("<param>");
            argument.write(&mut body);
            body.push_str("</param>");
        }
        body.push_str("</params></methodCall>");
        let url = api::url(&self.config.server, "rpc/api", &[])?;
        let (_, answer) = self.api.send(Request::post(url, "text/xml", body)).await?;
        let root = Element::parse(&answer)?;
        if let Some(fault) = root.child("fault").and_then(|fault| fault.child("value")) {
            let text = of(fault, "faultString");
            return Err(DiscoveryError::Answer(format!("{method}: {text}")));
        }
        let value = root.child("params").and_then(|params| params.child("param")?.child("value")).cloned();
        value.ok_or_else(|| DiscoveryError::Answer(format!("{method}: the answer has no value")))
    }

    async fn token(&mut self) -> Result<Secret, DiscoveryError> {
        let now = self.clock.now().wall;
        if let Some((token, until)) = &self.token
            && now < *until
        {
            return Ok(token.clone());
        }
        let arguments = [
            Argument::Text(&self.config.username),
            Argument::Text(self.config.password.expose()),
            Argument::Number(TOKEN_LIFE.as_secs()),
        ];
        let answer = self
            .call("auth.login", &arguments)
            .await
            .map_err(|error| DiscoveryError::Answer(format!("unable to login to Uyuni API: {error}")))?;
        let token = Secret::new(scalar(Some(&answer)).to_owned());
        self.token = Some((token.clone(), now.after(TOKEN_LIFE / 2)));
        Ok(token)
    }

    async fn targets(&mut self) -> Result<Vec<Labels>, DiscoveryError> {
        let token = self.token().await?;
        let token = Argument::Text(token.expose());
        let entitlement = Argument::Text(&self.config.entitlement);
        let systems = self.call("system.listSystemGroupsForSystemsWithEntitlement", &[token, entitlement]).await?;
        let mut groups: BTreeMap<u64, String> = BTreeMap::new();
        for system in elements(Some(&systems)) {
            let names: Vec<String> =
                elements(field(system, "system_groups")).iter().map(|group| of(group, "name")).collect();
            groups.insert(of(system, "id").parse().unwrap_or(0), names.join(&self.config.separator));
        }
        let ids: Vec<u64> = groups.keys().copied().collect();
        let token = self.token().await?;
        let arguments = || [Argument::Text(token.expose()), Argument::Numbers(&ids)];
        let endpoints = self.call("system.monitoring.listEndpoints", &arguments()).await?;
        let networks = self.call("system.getNetworkForSystems", &arguments()).await?;
        let networks: BTreeMap<String, &Element> =
            elements(Some(&networks)).iter().map(|network| (of(network, "system_id"), network)).collect();
        let target = |endpoint: &Element| {
            let id = of(endpoint, "system_id");
            let network = |name: &str| networks.get(&id).map_or_else(String::new, |network| of(network, name));
            let encrypted = matches!(of(endpoint, "tls_enabled").as_str(), "1" | "true");
            let host = network("hostname");
            let mut meta = Meta::of("uyuni");
            meta.set("minion_hostname", &host).set("primary_fqdn", network("primary_fqdn")).set("system_id", &id);
            meta.set("groups", groups.get(&id.parse().unwrap_or(0)).map_or("", String::as_str));
            for (name, field) in [
                ("endpoint_name", "endpoint_name"),
                ("exporter", "exporter_name"),
                ("proxy_module", "module"),
                ("metrics_path", "path"),
            ] {
                meta.set(name, of(endpoint, field));
            }
            meta.set("scheme", if encrypted { "https" } else { "http" });
            meta.address(format!("{host}:{}", of(endpoint, "port"))).build()
        };
        Ok(elements(Some(&endpoints)).iter().map(target).collect())
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let targets = self.targets().await;
        if targets.is_err() {
            // The token may be what was wrong.
            self.token = None;
        }
        let source = api::url(&self.config.server, "rpc/api", &[])?;
        Ok(api::group(&promesh_client::redacted(&source), targets?))
    }
}
