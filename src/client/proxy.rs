//! Which proxy a request takes.
//!
//! Source: Go `golang.org/x/net/http/httpproxy`; curl's conventions for the environment.

use std::net::IpAddr;

use promesh_config::http::ProxyConfig;
use url::Url;

/// The proxies of one client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    direct: Vec<Direct>,
    /// From the environment, requests to this machine itself never take a proxy.
    spare_loopback: bool,
}

/// One entry of `no_proxy`.
#[derive(Clone, Debug, PartialEq)]
enum Direct {
    All,
    Address(IpAddr, Option<u16>),
    Network(IpAddr, u8),
    Domain { name: String, subdomains_only: bool, port: Option<u16> },
}

impl Proxies {
    pub(crate) fn new(config: &ProxyConfig) -> Proxies {
        if config.proxy_from_environment {
            return Proxies::from_environment(|name| {
                std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase())).ok()
            });
        }
        let proxy = config.proxy_url.as_ref().map(|url| url.url().clone());
        Proxies { http: proxy.clone(), https: proxy, direct: parse_direct(&config.no_proxy), spare_loopback: false }
    }

    fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Proxies {
        let proxy = |name: &str| {
            let text = variable(name).filter(|text| !text.is_empty())?;
            Url::parse(&text).ok().filter(Url::has_host).or_else(|| Url::parse(&format!("http://{text}")).ok())
        };
        Proxies {
            http: proxy("HTTP_PROXY"),
            https: proxy("HTTPS_PROXY"),
            direct: parse_direct(&variable("NO_PROXY").unwrap_or_default()),
            spare_loopback: true,
        }
    }

    /// The proxy for a URL's parts, if any.
    pub(crate) fn choose(&self, https: bool, host: &str, port: u16) -> Option<&Url> {
        let proxy = if https { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        if self.spare_loopback && (host == "localhost" || address.is_some_and(|address| address.is_loopback())) {
            return None;
        }
        (!self.direct.iter().any(|direct| direct.covers(&host, address, port))).then_some(proxy)
    }
}

impl Direct {
    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match self {
            Direct::All => true,
            Direct::Address(wanted, wanted_port) => {
                address == Some(*wanted) && wanted_port.is_none_or(|wanted| wanted == port)
            }
            Direct::Network(network, bits) => address.is_some_and(|address| in_network(address, *network, *bits)),
            Direct::Domain { name, subdomains_only, port: wanted_port } => {
                let within = host.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
                (within || (!subdomains_only && host == name)) && wanted_port.is_none_or(|wanted| wanted == port)
            }
        }
    }
}

fn in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            u32::from(address) & mask == u32::from(network) & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            u128::from(address) & mask == u128::from(network) & mask
        }
        _ => false,
    }
}

fn parse_direct(list: &str) -> Vec<Direct> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(parse_entry).collect()
}

fn parse_entry(entry: &str) -> Direct {
    let entry = entry.to_ascii_lowercase();
    if entry == "*" {
        return Direct::All;
    }
    if let Some((network, bits)) = entry.split_once('/')
        && let (Ok(network), Ok(bits)) = (network.parse(), bits.parse())
    {
        return Direct::Network(network, bits);
    }
    if let Ok(address) = entry.trim_matches(['[', ']']).parse() {
        return Direct::Address(address, None);
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse().ok()),
        _ => (entry.as_str(), None),
    };
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Direct::Address(address, port);
    }
    let (name, subdomains_only) = match host.strip_prefix("*.").or_else(|| host.strip_prefix('.')) {
        Some(name) => (name, true),
        None => (host, false),
    };
    Direct::Domain { name: name.to_owned(), subdomains_only, port }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_covers_domains_networks_and_ports() {
        let proxies = Proxies {
            http: Url::parse("http://proxy:3128").ok(),
            direct: parse_direct("example.com, .only.sub, 10.0.0.0/8, 192.168.1.1:8080, [::1]"),
            ..Proxies::default()
        };
        for (host, port, direct) in [
            ("example.com", 80, true),
            ("a.example.com", 80, true),
            ("notexample.com", 80, false),
            ("only.sub", 80, false),
            ("a.only.sub", 80, true),
            ("10.1.2.3", 80, true),
            ("11.1.2.3", 80, false),
            ("192.168.1.1", 8080, true),
            ("192.168.1.1", 80, false),
            ("[::1]", 80, true),
        ] {
            assert_eq!(proxies.choose(false, host, port).is_none(), direct, "{host}:{port}");
        }
        assert!(proxies.choose(true, "far.away", 443).is_none());
    }

    #[test]
    fn the_environment_spares_loopback() {
        let proxies = Proxies::from_environment(|name| (name == "HTTP_PROXY").then(|| "proxy:3128".to_owned()));
        assert!(proxies.choose(false, "localhost", 80).is_none());
        assert_eq!(proxies.choose(false, "a", 80).map(Url::as_str), Some("http://proxy:3128/"));
    }
}
