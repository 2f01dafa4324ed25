//! `dns_sd_configs`: names of the DNS.
//!
//! Source: prometheus `discovery/dns`.

use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};
use promesh_config::prometheus::{DnsRecord, DnsSd};
use promesh_model::Labels;
use tracing::warn;

use crate::refresh::Refresh;
use crate::{ADDRESS, DiscoveryError, TargetGroup};

pub(crate) struct Poller {
    config: DnsSd,
    resolver: TokioResolver,
    /// What each name gave last: a name that fails keeps it.
    last: Vec<Option<TargetGroup>>,
}

impl Poller {
    pub(crate) fn new(config: &DnsSd) -> Result<Poller, DiscoveryError> {
        let unreadable = |error: &dyn std::fmt::Display| {
            DiscoveryError::Settings(format!("dns_sd_configs: cannot read the system's resolver settings: {error}"))
        };
        let builder = TokioResolver::builder_tokio().map_err(|error| unreadable(&error))?;
        let resolver = builder.build().map_err(|error| unreadable(&error))?;
        Ok(Poller::with_resolver(config, resolver))
    }

    pub(crate) fn with_resolver(config: &DnsSd, resolver: TokioResolver) -> Poller {
        Poller { config: config.clone(), resolver, last: vec![None; config.names.len()] }
    }

    async fn ask(&self, name: &str) -> Result<TargetGroup, DiscoveryError> {
        let kind = match self.config.r#type {
            DnsRecord::Srv => RecordType::SRV,
            DnsRecord::A => RecordType::A,
            DnsRecord::Aaaa => RecordType::AAAA,
            DnsRecord::Mx => RecordType::MX,
            DnsRecord::Ns => RecordType::NS,
        };
        let group = |targets| TargetGroup { source: name.to_owned(), targets, labels: Labels::empty() };
        match self.resolver.lookup(name, kind).await {
            Ok(found) => {
                let targets = found.answers().iter().filter_map(|record| target(name, &record.data, self.config.port));
                Ok(group(targets.collect()))
            }
            // The name is there without such records, or is not there at all: both are answers.
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => Ok(group(Vec::new())),
            Err(error) => Err(DiscoveryError::Answer(format!("{name}: {error}"))),
        }
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        for index in 0..self.config.names.len() {
            let name = self.config.names[index].clone();
            match self.ask(&name).await {
                Ok(group) => self.last[index] = Some(group),
                Err(error) => warn!(%error, "asking the DNS failed, the name's last targets stay"),
            }
        }
        Ok(self.last.iter().flatten().cloned().collect())
    }
}

fn target(name: &str, data: &RData, port: u16) -> Option<Labels> {
    let rooted = |host: &str| host.trim_end_matches('.').to_owned();
    let mut labels = vec![("__meta_dns_name", name.to_owned())];
    let (host, port) = match data {
        RData::SRV(record) => {
            labels.push(("__meta_dns_srv_record_target", record.target.to_string()));
            labels.push(("__meta_dns_srv_record_port", record.port.to_string()));
            (rooted(&record.target.to_string()), record.port)
        }
        RData::MX(record) => {
            labels.push(("__meta_dns_mx_record_target", record.exchange.to_string()));
            (rooted(&record.exchange.to_string()), port)
        }
        RData::NS(record) => {
            labels.push(("__meta_dns_ns_record_target", record.0.to_string()));
            (rooted(&record.0.to_string()), port)
        }
        RData::A(address) => (address.to_string(), port),
        RData::AAAA(address) => (format!("[{address}]"), port),
        _ => return None,
    };
    labels.push((ADDRESS, format!("{host}:{port}")));
    Some(Labels::from_pairs(labels))
}
