//! Kinds of values that only this file has.

use std::time::Duration;

use promesh_model::{Secret, duration};

use crate::http::HttpUrl;
use crate::yaml::{Kind, Node, Reader, Show, Yaml};

/// What a secret is shown as.
const MASKED: &str = "<secret>";

/// A span in Go's notation: `10s`, `1m30s`, `1.5h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// Seconds.
    pub const fn seconds(seconds: u64) -> GoDuration {
        GoDuration(Duration::from_secs(seconds))
    }
}

impl Yaml for GoDuration {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let Some(text) = reader.scalar(node, "duration") else { return GoDuration::default() };
        if node.is_null() {
            return GoDuration::default();
        }
        match duration::parse_go(text).ok().and_then(|nanos| u64::try_from(nanos).ok()) {
            Some(nanos) => GoDuration(Duration::from_nanos(nanos)),
            None => {
                reader.problem(node.at, format!("cannot unmarshal {text:?} into time.Duration"));
                GoDuration::default()
            }
        }
    }
    fn show(&self, _: Show) -> Node {
        Node::text(duration::format(self.0))
    }
    fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

/// A URL that is itself a secret: who knows it may post.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretUrl(pub Secret);

impl SecretUrl {
    /// The URL.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl Yaml for SecretUrl {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let secret = Secret::read(node, reader);
        check_url(node, secret.expose(), reader);
        SecretUrl(secret)
    }
    fn show(&self, show: Show) -> Node {
        self.0.show(show)
    }
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
}

/// As [`SecretUrl`], and it may be a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretTemplateUrl(pub Secret);

impl Yaml for SecretTemplateUrl {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let secret = Secret::read(node, reader);
        if !secret.expose().contains("{{") {
            check_url(node, secret.expose(), reader);
        }
        SecretTemplateUrl(secret)
    }
    fn show(&self, show: Show) -> Node {
        self.0.show(show)
    }
    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }
}

fn check_url(node: &Node, text: &str, reader: &mut Reader<'_>) {
    // What the API shows in a secret's place is a URL nowhere else, and a configuration from there may be read again.
    // The value stays out of the message.
    if !text.is_empty() && text != MASKED {
        match HttpUrl::parse(text) {
            Err(reason) => reader.problem(node.at, reason),
            Ok(url) if !matches!(url.url().scheme(), "http" | "https") => {
                reader.problem(node.at, format!("unsupported scheme {:?} for URL", url.url().scheme()));
            }
            Ok(_) => {}
        }
    }
}

/// A host and a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address.
    pub host: String,
    /// A number or a service's name.
    pub port: String,
}

impl Yaml for HostPort {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Self {
        let text = reader.scalar(node, "string").unwrap_or_default();
        if text.is_empty() {
            return HostPort::default();
        }
        let split = match text.strip_prefix('[') {
            Some(rest) => rest.split_once("]:"),
            None => text.rsplit_once(':').filter(|(host, _)| !host.contains(':')),
        };
        match split {
            Some((_, "")) => reader.problem(node.at, format!("address {text:?}: port cannot be empty")),
            Some((host, port)) => return HostPort { host: host.to_owned(), port: port.to_owned() },
            None => reader.problem(node.at, format!("address {text}: missing port in address")),
        }
        HostPort::default()
    }
    fn show(&self, _: Show) -> Node {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        Node::text(format!("{host}:{}", self.port))
    }
    fn is_zero(&self) -> bool {
        self.host.is_empty() && self.port.is_empty()
    }
}

/// Any value: a tree whose texts may be templates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnyValue(pub Option<Node>);

impl Yaml for AnyValue {
    fn read(node: &Node, _: &mut Reader<'_>) -> Self {
        AnyValue((!node.is_null()).then(|| node.clone()))
    }
    fn show(&self, _: Show) -> Node {
        self.0.clone().unwrap_or_else(|| Node::new(Kind::Null))
    }
    fn is_zero(&self) -> bool {
        self.0.is_none()
    }
}
