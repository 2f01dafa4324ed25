//! `promesh alertmanager`: Alertmanager's own flags, in terms of a peer's.

use std::time;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use promesh_alerting::Limits;
use promesh_config::alertmanager::MatcherMode;
use promesh_model::duration;

use super::flags::{Fate, Flag, Kind};
use super::values::{bad_value, negation};
use super::{Options, OptionsError, add};

const fn same(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, fate: Fate::Obeyed, hidden: false, help }
}

const fn moot(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag { name, kind, default, fate: Fate::Moot(why), hidden: true, help: why }
}

const fn refused(name: &'static str, kind: Kind, why: &'static str) -> Flag {
    Flag { name, kind, default: "", fate: Fate::Refused(why), hidden: true, help: why }
}

use Kind::{Choice, Duration, Float, Integer, Switch, Text, Texts};

const OWN_PROTOCOL: &str = "the mesh has its own protocol";
const GO_RUNTIME: &str = "it tunes the Go runtime, and there is none here";

/// Alertmanager's flags, and those that a mesh needs beyond them.
///
/// Source: alertmanager cmd/alertmanager/main.go (0.33).
const FLAGS: &[Flag] = &[
    same("config.file", Text, "alertmanager.yml", "Alertmanager configuration file."),
    same("storage.path", Text, "data/", "Folder of all data."),
    moot("data.retention", Duration, "120h", "ended silences and the notification log are kept for 120h"),
    moot("data.maintenance-interval", Duration, "15m", "records are synced before they are acknowledged"),
    same("silences.max-silences", Integer, "0", "Most silences, ended ones that are kept among them; 0: no limit."),
    same("silences.max-silence-size-bytes", Integer, "0", "Most bytes of a silence; 0: no limit."),
    moot("log.silences", Switch, "false", "silences are logged as requests are"),
    moot("alerts.gc-interval", Duration, "30m", "ended alerts are looked for every 30s"),
    same("alerts.per-alertname-limit", Integer, "0", "Most firing alerts of one name; 0: no limit."),
    moot("dispatch.maintenance-interval", Duration, "30s", "groups end with their last alert"),
    moot("dispatch.start-delay", Duration, "0s", "groups that were told before the start are known"),
    refused("web.systemd-socket", Switch, "sockets of systemd are not taken"),
    same("web.listen-address", Texts, ":9093", "Address of the HTTP API. Can be repeated."),
    same("web.config.file", Text, "", "Configuration file for TLS and authentication."),
    same("web.external-url", Text, "", "URL under which this peer is reached from outside."),
    same("web.route-prefix", Text, "", "Prefix of the routes inside. Defaults to the path of --web.external-url."),
    same("web.get-concurrency", Integer, "0", "GET requests at once; 0: the number of cores, at least 8."),
    same("web.timeout", Text, "0s", "How long a request may take; 0: no limit."),
    moot("web.ui-path", Text, "", "the pages are part of the binary"),
    moot("auto-gomemlimit.ratio", Float, "0.9", GO_RUNTIME),
    same("cluster.listen-address", Text, "127.0.0.1:9094", "UDP address where others reach this peer; empty: no mesh."),
    same("cluster.advertise-address", Text, "", "Address told to the others."),
    moot("cluster.peer-name", Text, "", "a peer's name is the UUID in its data folder"),
    same("cluster.peer", Texts, "", "A peer to join through, HOST:PORT. Can be repeated."),
    moot("cluster.peer-timeout", Duration, "15s", "notifications are claimed, not waited for by position"),
    moot("cluster.peers-resolve-timeout", Duration, "15s", "names of seeds are resolved again while alone"),
    moot("cluster.gossip-interval", Duration, "200ms", OWN_PROTOCOL),
    moot("cluster.pushpull-interval", Duration, "1m", OWN_PROTOCOL),
    moot("cluster.tcp-timeout", Duration, "10s", OWN_PROTOCOL),
    moot("cluster.probe-timeout", Duration, "500ms", OWN_PROTOCOL),
    moot("cluster.probe-interval", Duration, "1s", OWN_PROTOCOL),
    moot("cluster.settle-timeout", Duration, "1m", "a peer is ready when it has caught up, not after a time"),
    moot("cluster.reconnect-interval", Duration, "10s", OWN_PROTOCOL),
    moot("cluster.reconnect-timeout", Duration, "6h", OWN_PROTOCOL),
    moot("cluster.allow-insecure-public-advertise-address-discovery", Switch, "false", "addresses are not guessed"),
    same("cluster.tls-config", Text, "", "File naming certificates of an own PKI, in Alertmanager's format."),
    same("cluster.secret-file", Text, "", "File with the secret that all peers share. Not in Alertmanager."),
    same("cluster.label", Text, "", "Name of the mesh; peers of another label are strangers."),
    same("cluster.zone", Text, "", "Where this peer is; electors are spread over zones. Not in Alertmanager."),
    same("cluster.notify-hold", Duration, "10s", "How long notifications wait for a majority. Not in Alertmanager."),
    same("enable-feature", Texts, "", "Comma separated features of Alertmanager."),
    same("log.level", Choice(&["debug", "info", "warn", "error"]), "info", "Log messages of this severity and above."),
    same("log.format", Choice(&["logfmt", "json"]), "logfmt", "Form of the log."),
];

/// Features that are as if switched on, or change nothing here.
const FEATURES: [&str; 6] = [
    "event-recorder",
    "receiver-name-in-metrics",
    "alert-names-in-metrics",
    "auto-gomemlimit",
    "auto-gomaxprocs",
    "group-key-in-metrics",
];

/// The command as clap knows it.
pub fn command() -> Command {
    let about = "Run the alerting half alone, with Alertmanager's own flags";
    add(FLAGS, Command::new("alertmanager").about(about).next_line_help(true))
}

impl Options {
    /// A peer that delivers alerts and neither scrapes nor evaluates.
    ///
    /// # Errors
    /// As for a peer's own flags.
    pub fn of_alertmanager(matches: &ArgMatches) -> Result<Options, OptionsError> {
        let mut arguments = vec!["promesh".to_owned()];
        let mut warnings = Vec::new();
        let mut own = Own::default();
        for flag in FLAGS {
            let given = written(flag, matches);
            let values: Vec<String> = match &given {
                Some(values) => values.clone(),
                None if flag.default.is_empty() => Vec::new(),
                None => vec![flag.default.to_owned()],
            };
            match flag.fate {
                Fate::Obeyed if flag.name == "enable-feature" => {
                    warnings.extend(features(&values, &mut own.limits.matchers)?);
                }
                Fate::Obeyed if own.takes(flag.name, values.last().map_or("", String::as_str))? => {}
                Fate::Obeyed => {
                    let name = name_of_peer(flag.name);
                    arguments.extend(values.iter().map(|value| format!("--{name}={value}")));
                }
                Fate::Moot(why) if given.as_ref().is_some_and(|given| *given != [flag.default]) => {
                    warnings.push(format!("--{} has no effect: {why}", flag.name));
                }
                Fate::Refused(why) if given.is_some() => return Err(bad_value(flag.name, why)),
                Fate::Moot(_) | Fate::Refused(_) | Fate::AgentOnly => {}
            }
        }
        arguments.push("--web.enable-lifecycle".to_owned());
        let mut options = Options::parse(arguments)?;
        options.alerting_only = true;
        options.alertmanager.limits = own.limits;
        options.web.timeout = own.timeout;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        options.web.get_concurrency = if own.get_concurrency > 0 { own.get_concurrency } else { cores.max(8) };
        options.warnings.extend(warnings);
        Ok(options)
    }
}

/// What a peer has no flag for.
#[derive(Default)]
struct Own {
    limits: Limits,
    get_concurrency: usize,
    timeout: time::Duration,
}

impl Own {
    /// Whether it is one of these.
    fn takes(&mut self, name: &'static str, text: &str) -> Result<bool, OptionsError> {
        if name == "web.timeout" {
            let nanos = duration::parse_go(text).map_err(|error| bad_value(name, error))?;
            self.timeout = time::Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
            return Ok(true);
        }
        let number = match name {
            "silences.max-silences" => &mut self.limits.silences_max,
            "silences.max-silence-size-bytes" => &mut self.limits.silence_bytes_max,
            "alerts.per-alertname-limit" => &mut self.limits.alerts_per_name_max,
            "web.get-concurrency" => &mut self.get_concurrency,
            _ => return Ok(false),
        };
        // Less than nothing is no limit, as upstream.
        let given: i64 = text.parse().map_err(|error| bad_value(name, format!("{text:?}: {error}")))?;
        *number = usize::try_from(given).unwrap_or(0);
        Ok(true)
    }
}

/// What the command line says; `None` when it does not.
fn written(flag: &Flag, matches: &ArgMatches) -> Option<Vec<String>> {
    let on_command_line = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    if flag.kind == Switch && on_command_line(&negation(flag.name)) {
        return Some(vec!["false".to_owned()]);
    }
    let values = matches.get_many::<String>(flag.name).filter(|_| on_command_line(flag.name))?;
    Some(values.cloned().collect())
}

fn name_of_peer(name: &'static str) -> &'static str {
    match name {
        "config.file" => "alertmanager.config.file",
        "storage.path" => "storage.tsdb.path",
        other => other,
    }
}

/// WARNs for features that are not known.
fn features(lists: &[String], mode: &mut MatcherMode) -> Result<Vec<String>, OptionsError> {
    let mut warnings = Vec::new();
    for feature in lists.iter().flat_map(|list| list.split(',')).filter(|feature| !feature.is_empty()) {
        match feature {
            "classic-mode" | "utf8-strict-mode" => {
                let asked = if feature == "classic-mode" { MatcherMode::Classic } else { MatcherMode::Utf8Strict };
                if *mode != MatcherMode::Fallback && *mode != asked {
                    let why = "cannot have both classic-mode and utf8-strict-mode";
                    return Err(bad_value("enable-feature", why));
                }
                *mode = asked;
            }
            known if FEATURES.contains(&known) => warnings.push(format!("feature {known} has no effect here")),
            unknown => return Err(bad_value("enable-feature", format!("unknown option {unknown:?}"))),
        }
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Result<Options, OptionsError> {
        let all = ["alertmanager"].iter().chain(arguments);
        Options::of_alertmanager(&command().try_get_matches_from(all).expect("clap takes them"))
    }

    #[test]
    fn alertmanagers_flags_are_a_peers() {
        let options = options(&[
            "--config.file=x.yml",
            "--storage.path=/s",
            "--web.listen-address=127.0.0.1:0",
            "--cluster.listen-address=127.0.0.1:0",
            "--cluster.peer=a:1",
            "--cluster.peer=b",
            "--cluster.label=l",
            "--cluster.settle-timeout=5s",
            "--data.retention=120h",
            "--web.route-prefix=/am/",
            "--no-log.silences",
        ])
        .expect("they are good");
        assert!(options.alerting_only && options.web.enable_lifecycle && options.alertmanager.config_file.is_given);
        assert_eq!(options.alertmanager.config_file.path.to_str(), Some("x.yml"));
        assert_eq!(options.storage.path.to_str(), Some("/s"));
        assert_eq!(options.web.route_prefix, "/am");
        let cluster = options.cluster.expect("a mesh");
        assert_eq!((cluster.label.as_str(), cluster.seeds.len()), ("l", 2));
        let moot: Vec<_> = options.warnings.iter().filter(|warning| warning.contains("no effect")).collect();
        assert_eq!(moot.len(), 1, "{moot:?}");
    }

    #[test]
    fn limits_and_modes_are_alertmanagers() {
        let given = options(&[
            "--silences.max-silences=3",
            "--silences.max-silence-size-bytes=-1",
            "--alerts.per-alertname-limit=5",
            "--web.get-concurrency=2",
            "--web.timeout=1m30s",
            "--enable-feature=classic-mode",
        ]);
        let given = given.expect("they are good");
        let limits =
            Limits { silences_max: 3, silence_bytes_max: 0, alerts_per_name_max: 5, matchers: MatcherMode::Classic };
        assert_eq!(given.alertmanager.limits, limits);
        assert_eq!((given.web.get_concurrency, given.web.timeout), (2, time::Duration::from_secs(90)));
        assert!(options(&[]).expect("they are good").web.get_concurrency >= 8);
    }

    #[test]
    fn without_flags_it_listens_where_alertmanager_does() {
        let options = options(&[]).expect("they are good");
        assert_eq!(options.web.listen[0].to_string(), "0.0.0.0:9093");
        assert_eq!(options.storage.path.to_str(), Some("data/"));
        assert!(options.cluster.is_some());
        assert!(command().try_get_matches_from(["alertmanager", "--cluster.per=x"]).is_err());
    }

    #[test]
    fn what_would_not_be_obeyed_is_refused() {
        for wrong in [
            "--enable-feature=classic-mode,utf8-strict-mode",
            "--enable-feature=no-such",
            "--web.systemd-socket",
            "--silences.max-silences=many",
            "--web.timeout=soon",
        ] {
            assert_eq!(options(&[wrong]).map(drop).map_err(|error| error.exit_code), Err(2), "{wrong}");
        }
        assert!(options(&["--cluster.listen-address=0.0.0.0:9094"]).is_err(), "no secret");
    }
}
