//! `ec2_sd_configs`: instances of Amazon EC2.
//!
//! Source: prometheus `discovery/aws`; Amazon EC2's API, `DescribeInstances`, version 2016-11-15.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use promesh_config::prometheus::Ec2Sd;
use promesh_model::Labels;
use promesh_model::time::Clock;

use crate::api::{self, Meta, PAGES_MAX, host_port};
use crate::aws::{Aws, AwsSettings};
use crate::refresh::Refresh;
use crate::xml::Element;
use crate::{DiscoveryError, TargetGroup};

const VERSION: &str = "2016-11-15";

pub(crate) struct Poller {
    config: Ec2Sd,
    pub(crate) aws: Aws,
    /// The ids of this account's zones, once they could be asked.
    zones: Option<BTreeMap<String, String>>,
}

impl Poller {
    pub(crate) fn new(config: &Ec2Sd, clock: Arc<dyn Clock>) -> Result<Poller, DiscoveryError> {
        let settings = AwsSettings {
            region: config.region.clone(),
            endpoint: config.endpoint.clone(),
            access_key: config.access_key.clone(),
            secret_key: config.secret_key.clone(),
            profile: config.profile.clone(),
            role_arn: config.role_arn.clone(),
            external_id: config.external_id.clone(),
        };
        let aws = Aws::new(settings, &config.http, config.refresh_interval, clock)?;
        Ok(Poller { config: config.clone(), aws, zones: None })
    }

    async fn ask(&mut self, action: &str, more: &[(String, String)]) -> Result<Element, DiscoveryError> {
        let mut form = vec![("Action".to_owned(), action.to_owned()), ("Version".to_owned(), VERSION.to_owned())];
        form.extend_from_slice(more);
        self.aws.form("ec2", &form).await
    }

    fn filters(&self) -> Vec<(String, String)> {
        let mut form = Vec::new();
        for (index, filter) in self.config.filters.iter().enumerate() {
            form.push((format!("Filter.{}.Name", index + 1), filter.name.clone()));
            for (place, value) in filter.values.iter().enumerate() {
                form.push((format!("Filter.{}.Value.{}", index + 1, place + 1), value.clone()));
            }
        }
        form
    }

    /// Zone ids are asked once; an account that may not ask goes without.
    async fn learn_zones(&mut self) {
        if self.zones.is_some() {
            return;
        }
        match self.ask("DescribeAvailabilityZones", &[]).await {
            Ok(answer) => {
                let zones = answer.list("availabilityZoneInfo").iter();
                self.zones =
                    Some(zones.map(|zone| (zone.at("zoneName").to_owned(), zone.at("zoneId").to_owned())).collect());
            }
            Err(error) => tracing::debug!(%error, "unable to describe availability zones"),
        }
    }

    /// `None` for an instance without an address.
    fn target(&self, region: &str, owner: &str, instance: &Element) -> Option<Labels> {
        let six = Addresses::of(instance);
        let private = instance.at("privateIpAddress");
        if private.is_empty() && six.preferred().is_empty() {
            return None;
        }
        let mut meta = Meta::of("ec2");
        meta.set("region", region).set("owner_id", owner).set("default_ipv6_address", six.preferred());
        for (name, path) in [
            ("instance_id", "instanceId"),
            ("private_ip", "privateIpAddress"),
            ("private_dns_name", "privateDnsName"),
            ("platform", "platform"),
            ("ami", "imageId"),
            ("availability_zone", "placement.availabilityZone"),
            ("instance_state", "instanceState.name"),
            ("instance_type", "instanceType"),
            ("instance_lifecycle", "instanceLifecycle"),
            ("architecture", "architecture"),
        ] {
            meta.set(name, instance.at(path));
        }
        if !instance.at("ipAddress").is_empty() {
            meta.set("public_ip", instance.at("ipAddress")).set("public_dns_name", instance.at("dnsName"));
        }
        meta.join("primary_ipv6_addresses", &six.primary, ",").join("ipv6_addresses", &six.all, ",");
        let zone = self.zones.as_ref().and_then(|zones| zones.get(instance.at("placement.availabilityZone")));
        meta.set("availability_zone_id", zone.map_or("", String::as_str));
        if !instance.at("vpcId").is_empty() {
            meta.set("vpc_id", instance.at("vpcId")).set("primary_subnet_id", instance.at("subnetId"));
            let mut subnets: Vec<&str> = Vec::new();
            for subnet in instance.list("networkInterfaceSet").iter().map(|card| card.at("subnetId")) {
                if !subnet.is_empty() && !subnets.contains(&subnet) {
                    subnets.push(subnet);
                }
            }
            meta.set("subnet_id", api::joined(&subnets, ","));
        }
        let tags =
            instance.list("tagSet").iter().filter(|tag| tag.child("key").is_some() && tag.child("value").is_some());
        meta.each("tag_", tags.map(|tag| (tag.at("key"), tag.at("value").to_owned())));
        let host = if private.is_empty() { six.preferred() } else { private };
        Some(meta.address(host_port(host, self.config.port)).build())
    }
}

/// The IPv6 addresses of an instance's cards.
#[derive(Default)]
struct Addresses {
    all: Vec<String>,
    /// By the place of their card; empty where a card has none.
    primary: Vec<String>,
}

/// No instance has as many cards.
const CARDS_MAX: usize = 256;

impl Addresses {
    fn of(instance: &Element) -> Addresses {
        let mut found = Addresses::default();
        for card in instance.list("networkInterfaceSet").iter().filter(|card| !card.at("subnetId").is_empty()) {
            let place: usize = card.at("attachment.deviceIndex").parse().unwrap_or(0);
            for address in card.list("ipv6AddressesSet") {
                let six = address.at("ipv6Address").to_owned();
                if address.at("isPrimaryIpv6") == "true" && place < CARDS_MAX {
                    found.primary.resize(found.primary.len().max(place + 1), String::new());
                    found.primary[place].clone_from(&six);
                }
                found.all.push(six);
            }
        }
        found
    }

    /// The one that is used when nobody says which.
    fn preferred(&self) -> &str {
        self.primary.iter().chain(&self.all).find(|six| !six.is_empty()).map_or("", String::as_str)
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.config.refresh_interval
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let region = self.aws.region().await?;
        self.learn_zones().await;
        let (mut targets, mut token) = (Vec::new(), String::new());
        for _ in 0..PAGES_MAX {
            let mut form = self.filters();
            form.push(("MaxResults".to_owned(), "1000".to_owned()));
            if !token.is_empty() {
                form.push(("NextToken".to_owned(), token));
            }
            let answer = self.ask("DescribeInstances", &form).await?;
            for reservation in answer.list("reservationSet") {
                let instances = reservation.list("instancesSet").iter();
                targets.extend(instances.filter_map(|one| self.target(&region, reservation.at("ownerId"), one)));
            }
            token = answer.at("nextToken").to_owned();
            if token.is_empty() {
                return Ok(api::group(&region, targets));
            }
        }
        Err(DiscoveryError::Answer("the pages of instances do not end".to_owned()))
    }
}
