//! `serverset_sd_configs` and `nerve_sd_configs`: members that registered below paths of ZooKeeper.
//!
//! The trees are read anew at every session's timeout; upstream holds watches, which tell sooner.
//!
//! Source: prometheus `discovery/zookeeper`, `util/treecache`; ZooKeeper's wire protocol, `zookeeper.jute`.

use std::io;
use std::time::Duration;

use promesh_config::prometheus::{NerveSd, ServersetSd};
use promesh_model::Labels;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::api::{Meta, host_port, pairs, text};
use crate::refresh::Refresh;
use crate::{DiscoveryError, TargetGroup};

/// ZooKeeper refuses nodes above 1 MiB; a list of children may be longer.
const PACKET_BYTES_MAX: usize = 64 << 20;
const NODES_MAX: usize = 100_000;
const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;
const CLOSE: i32 = -11;
const NO_NODE: i32 = -101;

type Parse = fn(&Value, &str) -> Labels;

pub(crate) struct Poller {
    kind: &'static str,
    servers: Vec<String>,
    paths: Vec<String>,
    timeout: Duration,
    parse: Parse,
    /// Which server answered last.
    turn: usize,
}

impl Poller {
    pub(crate) fn serverset(config: &ServersetSd) -> Poller {
        let (servers, paths) = (config.servers.clone(), config.paths.clone());
        Poller { kind: "serverset", servers, paths, timeout: config.timeout, parse: serverset_member, turn: 0 }
    }

    pub(crate) fn nerve(config: &NerveSd) -> Poller {
        let (servers, paths) = (config.servers.clone(), config.paths.clone());
        Poller { kind: "nerve", servers, paths, timeout: config.timeout, parse: nerve_member, turn: 0 }
    }

    async fn read_all(&self, server: &str) -> io::Result<Vec<TargetGroup>> {
        let mut session = Session::open(server, self.timeout).await?;
        let mut groups = Vec::new();
        let mut waiting = self.paths.clone();
        let mut seen = 0;
        while let Some(path) = waiting.pop() {
            seen += 1;
            if seen > NODES_MAX {
                return Err(io::Error::other(format!("more than {NODES_MAX} nodes below the paths")));
            }
            let Some(data) = session.data(&path).await? else { continue };
            // Nodes on the way to members hold nothing, or something else.
            if let Ok(member @ Value::Object(_)) = serde_json::from_slice(&data) {
                let targets = vec![(self.parse)(&member, &path)];
                groups.push(TargetGroup { source: path.clone(), targets, labels: Labels::empty() });
            }
            let children = session.children(&path).await?;
            waiting.extend(children.into_iter().map(|child| format!("{}/{child}", path.trim_end_matches('/'))));
        }
        session.close().await;
        groups.sort_by(|a, b| a.source.cmp(&b.source));
        Ok(groups)
    }
}

impl Refresh for Poller {
    fn interval(&self) -> Duration {
        self.timeout.max(Duration::from_secs(1))
    }

    async fn refresh(&mut self) -> Result<Vec<TargetGroup>, DiscoveryError> {
        let mut failures = Vec::new();
        for attempt in 0..self.servers.len() {
            let turn = (self.turn + attempt) % self.servers.len();
            let server = &self.servers[turn];
            let whole = tokio::time::timeout(self.timeout.max(Duration::from_secs(1)), self.read_all(server));
            match whole.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(groups) => {
                    self.turn = turn;
                    return Ok(groups);
                }
                Err(error) => failures.push(format!("{server}: {error}")),
            }
        }
        Err(DiscoveryError::Answer(format!("{}: no ZooKeeper server answered: {}", self.kind, failures.join("; "))))
    }
}

fn serverset_member(member: &Value, path: &str) -> Labels {
    let endpoint = |endpoint: &Value| (text(endpoint, "host"), endpoint["port"].as_i64().unwrap_or(0).to_string());
    let (host, port) = endpoint(&member["serviceEndpoint"]);
    let mut meta = Meta::of("serverset");
    meta.set("path", path).set("endpoint_host", &host).set("endpoint_port", &port);
    for (name, additional) in pairs(member, "additionalEndpoints") {
        let (host, port) = endpoint(additional);
        meta.each("endpoint_host_", [(name, host)]).each("endpoint_port_", [(name, port)]);
    }
    meta.set("status", text(member, "status")).set("shard", member["shard"].as_i64().unwrap_or(0).to_string());
    meta.address(host_port(&host, port)).build()
}

fn nerve_member(member: &Value, path: &str) -> Labels {
    let port = member["port"].as_i64().unwrap_or(0).to_string();
    let mut meta = Meta::of("nerve");
    meta.set("path", path).set("endpoint_port", &port);
    meta.take(member, &[("endpoint_host", "host"), ("endpoint_name", "name")]);
    meta.address(host_port(&text(member, "host"), port)).build()
}

/// A connection to one server.
struct Session {
    stream: TcpStream,
    xid: i32,
}

impl Session {
    async fn open(server: &str, timeout: Duration) -> io::Result<Session> {
        let address = if server.contains(':') { server.to_owned() } else { format!("{server}:2181") };
        let mut session = Session { stream: TcpStream::connect(address).await?, xid: 0 };
        let mut packet = Vec::new();
        packet.extend_from_slice(&0i32.to_be_bytes());
        packet.extend_from_slice(&0i64.to_be_bytes());
        packet.extend_from_slice(&i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).to_be_bytes());
        packet.extend_from_slice(&0i64.to_be_bytes());
        packet.extend_from_slice(&16i32.to_be_bytes());
        packet.extend_from_slice(&[0; 16]);
        session.write(&packet).await?;
        session.read().await?;
        Ok(session)
    }

    async fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        self.stream.write_all(&(packet.len() as u32).to_be_bytes()).await?;
        self.stream.write_all(packet).await
    }

    async fn read(&mut self) -> io::Result<Vec<u8>> {
        let length = self.stream.read_u32().await? as usize;
        if length > PACKET_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a packet of {length} bytes")));
        }
        let mut packet = vec![0; length];
        self.stream.read_exact(&mut packet).await?;
        Ok(packet)
    }

    /// What is after the header of an answer; `None` when there is no such node.
    async fn ask(&mut self, kind: i32, path: &str) -> io::Result<Option<Vec<u8>>> {
        self.xid += 1;
        let mut packet = Vec::new();
        packet.extend_from_slice(&self.xid.to_be_bytes());
        packet.extend_from_slice(&kind.to_be_bytes());
        packet.extend_from_slice(&(path.len() as u32).to_be_bytes());
        packet.extend_from_slice(path.as_bytes());
        packet.push(0);
        self.write(&packet).await?;
        let answer = self.read().await?;
        let mut rest = Reading(&answer);
        let xid = rest.number()?;
        rest.take(8)?;
        match (xid == self.xid, rest.number()?) {
            (true, 0) => Ok(Some(rest.0.to_vec())),
            (true, NO_NODE) => Ok(None),
            (true, error) => Err(io::Error::other(format!("{path}: ZooKeeper's error {error}"))),
            (false, _) => Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to another question")),
        }
    }

    async fn data(&mut self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(answer) = self.ask(GET_DATA, path).await? else { return Ok(None) };
        Ok(Some(Reading(&answer).buffer()?.to_vec()))
    }

    async fn children(&mut self, path: &str) -> io::Result<Vec<String>> {
        let Some(answer) = self.ask(GET_CHILDREN, path).await? else { return Ok(Vec::new()) };
        let mut rest = Reading(&answer);
        let count = rest.number()?;
        (0..count).map(|_| Ok(String::from_utf8_lossy(rest.buffer()?).into_owned())).collect()
    }

    async fn close(mut self) {
        let packet = [i32::MAX.to_be_bytes(), CLOSE.to_be_bytes()].concat();
        // The session ends with the connection anyway.
        let _ = self.write(&packet).await;
    }
}

struct Reading<'a>(&'a [u8]);

impl<'a> Reading<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> io::Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    /// Bytes after their count; a count of -1 is no bytes.
    fn buffer(&mut self) -> io::Result<&'a [u8]> {
        let count = self.number()?;
        self.take(usize::try_from(count).unwrap_or(0))
    }
}
