//! From a configured discovery to something that runs.

use std::pin::Pin;
use std::sync::Arc;

use promesh_config::prometheus::{Discovery, StaticGroup};
use promesh_model::time::Clock;
use tokio::sync::watch;

use crate::manager::Sink;
use crate::refresh::{self, Refresh};
use crate::{DiscoveryError, TargetGroup};

/// A discovery about to run.
pub(crate) type Run = Box<dyn FnOnce(Sink) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// What kinds need beside their settings.
#[derive(Clone)]
pub(crate) struct Means {
    /// For signatures and tokens.
    pub(crate) clock: Arc<dyn Clock>,
    /// The web addresses of all peers.
    pub(crate) peers: watch::Receiver<Arc<[String]>>,
}

/// Where in a mesh a kind is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// By one peer, which tells the others.
    Once,
    /// By every peer: what it says is this peer's own, or costs nothing.
    ByEach,
}

/// Where a kind is asked.
pub(crate) fn asked(discovery: &Discovery) -> Asked {
    match discovery {
        Discovery::Static(_) | Discovery::File(_) | Discovery::Peer(_) | Discovery::Everywhere(_) => Asked::ByEach,
        _ => Asked::Once,
    }
}

/// Groups written in the configuration.
pub fn written(groups: &[StaticGroup]) -> Vec<TargetGroup> {
    let group = |(index, group): (usize, &StaticGroup)| {
        let addresses = group.targets.iter().map(String::as_str);
        TargetGroup::of_addresses(&index.to_string(), addresses, &group.labels)
    };
    groups.iter().enumerate().map(group).collect()
}

fn polled(poller: impl Refresh) -> Run {
    Box::new(|sink| Box::pin(refresh::run(poller, sink)))
}

/// Prepares a discovery.
///
/// # Errors
/// Settings that cannot be used.
pub(crate) fn prepare(discovery: &Discovery, means: &Means) -> Result<Run, DiscoveryError> {
    let clock = || Arc::clone(&means.clock);
    Ok(match discovery {
        Discovery::Static(groups) => {
            let groups = written(groups);
            Box::new(|sink| Box::pin(async move { sink.publish(groups) }))
        }
        Discovery::File(file) => {
            let file = (**file).clone();
            Box::new(|sink| Box::pin(crate::file::run(file, sink)))
        }
        Discovery::Peer(peer) => {
            let (peer, peers) = ((**peer).clone(), means.peers.clone());
            Box::new(|sink| Box::pin(crate::peer::run(peer, peers, sink)))
        }
        Discovery::Kubernetes(config) => {
            let follower = crate::kubernetes::Follower::new(config)?;
            Box::new(|sink| Box::pin(follower.run(sink)))
        }
        Discovery::Everywhere(inner) => return prepare(inner, means),
        Discovery::Http(config) => polled(crate::http::Poller::new(config)?),
        Discovery::Dns(config) => polled(crate::dns::Poller::new(config)?),
        Discovery::Consul(config) => polled(crate::consul::Poller::new(config)?),
        Discovery::Docker(config) => polled(crate::docker::Poller::new(config)?),
        Discovery::DockerSwarm(config) => polled(crate::dockerswarm::Poller::new(config)?),
        Discovery::Ec2(config) => polled(crate::ec2::Poller::new(config, clock())?),
        Discovery::Lightsail(config) => polled(crate::lightsail::Poller::new(config, clock())?),
        Discovery::Gce(config) => polled(crate::gce::Poller::new(config, clock())?),
        Discovery::Azure(config) => polled(crate::azure::Poller::new(config, clock())?),
        Discovery::Nomad(config) => polled(crate::nomad::Poller::new(config)?),
        Discovery::OpenStack(config) => polled(crate::openstack::Poller::new(config)?),
        Discovery::Hetzner(config) => polled(crate::hetzner::Poller::new(config)?),
        Discovery::DigitalOcean(config) => polled(crate::digitalocean::Poller::new(config)?),
        Discovery::Linode(config) => polled(crate::linode::Poller::new(config)?),
        Discovery::Scaleway(config) => polled(crate::scaleway::Poller::new(config)?),
        Discovery::Eureka(config) => polled(crate::eureka::Poller::new(config)?),
        Discovery::PuppetDb(config) => polled(crate::puppetdb::Poller::new(config)?),
        Discovery::Ionos(config) => polled(crate::ionos::Poller::new(config)?),
        Discovery::OvhCloud(config) => polled(crate::ovhcloud::Poller::new(config, clock())?),
        Discovery::Kuma(config) => polled(crate::kuma::Poller::new(config)?),
        Discovery::Marathon(config) => polled(crate::marathon::Poller::new(config)?),
        Discovery::Nerve(config) => polled(crate::zookeeper::Poller::nerve(config)),
        Discovery::Serverset(config) => polled(crate::zookeeper::Poller::serverset(config)),
        Discovery::Triton(config) => polled(crate::triton::Poller::new(config)?),
        Discovery::Uyuni(config) => polled(crate::uyuni::Poller::new(config, clock())?),
        Discovery::Vultr(config) => polled(crate::vultr::Poller::new(config)?),
        Discovery::Stackit(config) => polled(crate::stackit::Poller::new(config, clock())?),
        Discovery::Outscale(config) => polled(crate::outscale::Poller::new(config, clock())?),
        Discovery::Unbuilt(unbuilt) => {
            return Err(DiscoveryError::Settings(format!(
                "{}_sd_configs is not supported yet: use http_sd_configs or file_sd_configs",
                unbuilt.kind
            )));
        }
    })
}
