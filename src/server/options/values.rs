//! Flags' values as texts become what they mean, or an error that names the flag.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use promesh_model::duration;

use super::OptionsError;
use super::flags::{FLAGS, Flag, Kind};

/// The flags as they were written, with the defaults of the others.
#[derive(Debug)]
pub(crate) struct Values {
    texts: BTreeMap<&'static str, Vec<String>>,
    given: BTreeMap<&'static str, bool>,
}

impl Values {
    pub fn new(matches: &ArgMatches) -> Values {
        let mut texts = BTreeMap::new();
        let mut given = BTreeMap::new();
        for flag in FLAGS {
            let (values, was_given) = read(flag, matches);
            texts.insert(flag.name, values);
            given.insert(flag.name, was_given);
        }
        Values { texts, given }
    }

    /// Whether the command line has it.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.get(name).copied().unwrap_or(false)
    }

    /// Every flag's value, for `/api/v1/status/flags`.
    pub fn table(&self) -> BTreeMap<String, String> {
        self.texts.iter().map(|(name, values)| ((*name).to_owned(), values.join(","))).collect()
    }

    pub fn texts(&self, name: &str) -> &[String] {
        self.texts.get(name).expect("every name asked for is in FLAGS: a test asks for all of them")
    }

    pub fn text(&self, name: &str) -> &str {
        self.texts(name).first().map_or("", String::as_str)
    }

    pub fn switch(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    pub fn duration(&self, name: &'static str) -> Result<Duration, OptionsError> {
        duration::parse(self.text(name)).map_err(|error| bad_value(name, error))
    }

    pub fn duration_if_given(&self, name: &'static str) -> Result<Option<Duration>, OptionsError> {
        if self.text(name).is_empty() { Ok(None) } else { self.duration(name).map(Some) }
    }

    pub fn number<T: FromStr<Err: std::fmt::Display>>(&self, name: &'static str) -> Result<T, OptionsError> {
        self.text(name).parse().map_err(|error| bad_value(name, format!("{:?}: {error}", self.text(name))))
    }

    pub fn size_if_given(&self, name: &'static str) -> Result<Option<u64>, OptionsError> {
        let text = self.text(name);
        if text.is_empty() { Ok(None) } else { parse_size(text).map(Some).map_err(|error| bad_value(name, error)) }
    }

    pub fn address(&self, name: &'static str) -> Result<SocketAddr, OptionsError> {
        parse_address(self.text(name)).map_err(|error| bad_value(name, error))
    }
}

fn read(flag: &Flag, matches: &ArgMatches) -> (Vec<String>, bool) {
    let on_command_line = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    if flag.kind == Kind::Switch {
        let negated = negation(flag.name);
        if on_command_line(&negated) {
            return (vec!["false".to_owned()], true);
        }
    }
    let given = on_command_line(flag.name);
    let values = matches.get_many::<String>(flag.name).map(|values| values.cloned().collect()).unwrap_or_default();
    (values, given)
}

/// kingpin's `--no-x`.
pub(crate) fn negation(name: &str) -> String {
    format!("no-{name}")
}

pub(crate) fn bad_value(name: &str, why: impl std::fmt::Display) -> OptionsError {
    OptionsError::usage(format!("--{name}: {why}"))
}

/// A number of bytes: `512MB`; powers of two, a unit is required.
///
/// Source: alecthomas/units `ParseBase2Bytes`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let invalid = || format!("{text:?} is not a size such as 512MB (units B, KB, MB, GB, TB, PB, EB)");
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let unit = unit.strip_suffix('B').map(|unit| unit.strip_suffix('i').unwrap_or(unit)).ok_or_else(invalid)?;
    let power = ["", "K", "M", "G", "T", "P", "E"].iter().position(|name| *name == unit).ok_or_else(invalid)?;
    let bytes = number * 1024f64.powi(power as i32);
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(format!("{text:?} is more than 2^64 bytes")) }
}

/// `HOST:PORT` with an address for a host; `:PORT` for all IPv4 addresses, as `[::]:PORT` is for both families.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Some(port) = text.strip_prefix(':') {
        let port = port.parse().map_err(|_| format!("{text:?} has no valid port"))?;
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port));
    }
    let named = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    named.as_deref().unwrap_or(text).parse().map_err(|_| format!("{text:?} is not ADDRESS:PORT"))
}

/// `HOST:PORT` or `HOST` with a name or address for a host.
pub(crate) fn parse_seed(text: &str, default_port: u16) -> Result<String, String> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, default_port).to_string());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| format!("{text:?} has no valid port"))?),
        None => (text, default_port),
    };
    if host.is_empty() || host.contains(['/', ' ']) {
        return Err(format!("{text:?} is not HOST:PORT"));
    }
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two_and_need_a_unit() {
        for (text, bytes) in [("512MB", 512 << 20), ("1KB", 1024), ("0B", 0), ("1.5GB", 3 << 29), ("2GiB", 2 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "512", "MB", "12XB", "99999999EB", "-1MB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, address) in [
            (":9090", "0.0.0.0:9090"),
            ("localhost:1", "127.0.0.1:1"),
            ("[::]:9090", "[::]:9090"),
            ("1.2.3.4:5", "1.2.3.4:5"),
        ] {
            assert_eq!(parse_address(text).expect(text).to_string(), address);
        }
        assert!(parse_address("example.org:80").is_err() && parse_address("1.2.3.4").is_err());
    }

    #[test]
    fn seeds_may_be_names() {
        for (text, seed) in [
            ("host", "host:9094"),
            ("host:1", "host:1"),
            ("::1", "[::1]:9094"),
            ("[::1]:5", "[::1]:5"),
            ("1.2.3.4", "1.2.3.4:9094"),
        ] {
            assert_eq!(parse_seed(text, 9094).as_deref(), Ok(seed), "{text}");
        }
        assert!(parse_seed(":9094", 9094).is_err() && parse_seed("http://x", 9094).is_err());
    }
}
