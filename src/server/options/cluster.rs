//! The mesh's own flags.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::OptionsError;
use super::values::{Values, bad_value, parse_seed};

/// The port of the mesh when a seed names none.
pub const CLUSTER_PORT: u16 = 9094;
/// A weight is so many virtual copies of a peer at most.
const WEIGHT_MAX: u32 = 64;
const REPLICATION_FACTOR_MAX: u32 = 16;
const TEXT_BYTES_MAX: usize = 64;

/// How peers prove that they belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustOptions {
    /// A file with a secret that all share.
    SecretFile(PathBuf),
    /// A file that names the certificates of an own PKI.
    TlsConfig(PathBuf),
    /// The key that every build knows; loopback addresses only.
    Development,
}

/// `--cluster.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterOptions {
    /// The UDP address to listen on.
    pub listen: SocketAddr,
    /// What the others are told; `None` for the listen address.
    pub advertise: Option<SocketAddr>,
    /// `HOST:PORT` of peers to join through; names are resolved again while alone.
    pub seeds: Vec<String>,
    /// The mesh's name.
    pub label: String,
    /// How peers prove that they belong together.
    pub trust: TrustOptions,
    /// Where this peer is; empty if not said.
    pub zone: String,
    /// Copies of every sample, 1 to 16. The majority's value counts.
    pub replication_factor: u32,
    /// Virtual copies of this peer in the ranking, 1 to 64.
    pub weight: u32,
    /// How long notifications wait for a majority.
    pub notify_hold: Duration,
    /// How long a starting peer waits for the peers it knows.
    pub start_hold: Duration,
    /// How long a peer may be down before its copies are made elsewhere.
    pub replace_after: Duration,
    /// Whether UDP segmentation offload may be used.
    pub segmentation_offload: bool,
}

impl ClusterOptions {
    /// `None` when the mesh is switched off.
    pub(crate) fn new(values: &Values) -> Result<Option<ClusterOptions>, OptionsError> {
        if values.text("cluster.listen-address").is_empty() {
            return Ok(None);
        }
        let seed = |text: &String| parse_seed(text, CLUSTER_PORT).map_err(|error| bad_value("cluster.peer", error));
        let advertise = match values.text("cluster.advertise-address") {
            "" => None,
            _ => Some(values.address("cluster.advertise-address")?),
        };
        let options = ClusterOptions {
            listen: values.address("cluster.listen-address")?,
            advertise,
            seeds: values.texts("cluster.peer").iter().map(seed).collect::<Result<_, _>>()?,
            label: name(values, "cluster.label")?,
            trust: trust(values)?,
            zone: name(values, "cluster.zone")?,
            replication_factor: bounded(values, "cluster.replication-factor", REPLICATION_FACTOR_MAX)?,
            weight: bounded(values, "cluster.weight", WEIGHT_MAX)?,
            notify_hold: values.duration("cluster.notify-hold")?,
            start_hold: values.duration("cluster.start-hold")?,
            replace_after: values.duration("cluster.replace-after")?,
            segmentation_offload: values.switch("cluster.segmentation-offload"),
        };
        options.check_trust()?;
        Ok(Some(options))
    }

    /// The key that every build knows protects nothing, so it is for addresses that no other machine reaches.
    fn check_trust(&self) -> Result<(), OptionsError> {
        if self.trust != TrustOptions::Development {
            return Ok(());
        }
        let advertised = self.advertise.map(|address| ("advertise", address));
        let reachable = advertised.into_iter().chain([("listen", self.listen)]).find(|(_, a)| !a.ip().is_loopback());
        match reachable {
            None => Ok(()),
            Some((which, address)) => Err(OptionsError::usage(format!(
                "--cluster.{which}-address={address} can be reached from other machines, and a mesh without a secret \
                 is for loopback addresses only.\nMake a secret once:\n  promesh cluster secret > cluster.secret\nand \
                 start every peer with:\n  --cluster.secret-file=cluster.secret\n(To run without a mesh: \
                 --cluster.listen-address=)"
            ))),
        }
    }
}

fn trust(values: &Values) -> Result<TrustOptions, OptionsError> {
    match (values.text("cluster.secret-file"), values.text("cluster.tls-config")) {
        ("", "") => Ok(TrustOptions::Development),
        (secret, "") => Ok(TrustOptions::SecretFile(secret.into())),
        ("", tls) => Ok(TrustOptions::TlsConfig(tls.into())),
        _ => Err(OptionsError::usage("--cluster.secret-file and --cluster.tls-config exclude each other".to_owned())),
    }
}

fn name(values: &Values, flag: &'static str) -> Result<String, OptionsError> {
    let text = values.text(flag);
    if text.len() > TEXT_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(bad_value(flag, format!("at most {TEXT_BYTES_MAX} bytes, without control characters")));
    }
    Ok(text.to_owned())
}

fn bounded(values: &Values, flag: &'static str, max: u32) -> Result<u32, OptionsError> {
    let value = values.number(flag)?;
    if (1..=max).contains(&value) { Ok(value) } else { Err(bad_value(flag, format!("{value} is not in 1 to {max}"))) }
}
