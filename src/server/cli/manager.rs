//! amtool's work: alerts, silences, routes and templates of a running server or of files.
//!
//! Flags, defaults, output and exit codes are amtool's; so are the files in which it looks for defaults. Only the address
//! of the server has a default here, a peer's.
//!
//! Source: alertmanager cli/root.go, cli/config/config.go (0.33).

mod alerts;
mod format;
mod rendering;
mod routes;
mod silences;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use http::StatusCode;
use promesh_client::{HttpClient, Request};
use promesh_config::alertmanager::matchers::{MatcherMode, parse_one};
use promesh_config::http::{HttpClientConfig, load_http_config};
use promesh_config::yaml::{self, Kind};
use promesh_model::labels::quoted;
use promesh_model::{MatchOp, Matcher, duration};
use url::Url;

use super::{Done, Failure};
use format::Form;

const MATCHERS: &str = "matchers.enable-feature";
const URL_DEFAULT: &str = "http://127.0.0.1:9090";
const DATE_DEFAULT: &str = "2006-01-02 15:04:05 MST";
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 30;

pub(super) fn commands() -> [Command; 4] {
    [alerts::command(), silences::command(), routes::command(), rendering::command()]
}

pub(super) fn run(name: &str, matches: &ArgMatches) -> Done {
    match name {
        "alerts" => alerts::run(matches),
        "silences" => silences::run(matches),
        "config" => routes::run(matches),
        "template" => rendering::run(matches),
        other => unreachable!("not one of `commands()`: {other:?}"),
    }
}

/// amtool's own flags, for every command below `command`.
fn with_common(command: Command) -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).global(true).help(help)
    };
    command.args([
        text(
            "alertmanager.url",
            "URL",
            "Server to talk to: a peer, or an Alertmanager [default: http://127.0.0.1:9090]",
        )
        .visible_alias("url"),
        text("output", "FORM", "How to print it [default: simple]")
            .short('o')
            .value_parser(["simple", "extended", "json"]),
        text("timeout", "DURATION", "How long the whole command may take [default: 30s]"),
        text("http.config.file", "FILE", "HTTP client settings: TLS, authentication, proxy"),
        text("date.format", "LAYOUT", "How to print instants, as a layout of Go [default: 2006-01-02 15:04:05 MST]"),
        // A name of its own: values of a global flag would mix with those of the peer's flag.
        text(MATCHERS, "FEATURES", "classic-mode or utf8-strict-mode: how matchers are read").long("enable-feature"),
        // Taken so that scripts for amtool run; versions are not compared.
        Arg::new("version-check").long("version-check").action(ArgAction::SetTrue).global(true).hide(true),
        Arg::new("no-version-check").long("no-version-check").action(ArgAction::SetTrue).global(true).hide(true),
        Arg::new("verbose").long("verbose").short('v').action(ArgAction::SetTrue).global(true).hide(true),
    ])
}

/// What amtool's flags say, and where they say nothing its files.
struct Common {
    url: String,
    form: Form,
    timeout: Duration,
    http: HttpClientConfig,
    mode: MatcherMode,
    files: BTreeMap<String, String>,
}

impl Common {
    fn of(matches: &ArgMatches) -> Result<Common, Failure> {
        let files = defaults_of_files()?;
        let text = |name: &str| matches.get_one::<String>(name).or_else(|| files.get(name)).cloned();
        let timeout = text("timeout").unwrap_or_else(|| "30s".to_owned());
        let timeout = duration::parse_go(&timeout)
            .ok()
            .and_then(|nanos| u64::try_from(nanos).ok())
            .ok_or_else(|| Failure::usage(format!("--timeout: {timeout:?} is not a duration")))?;
        let http = match text("http.config.file") {
            None => HttpClientConfig::default(),
            Some(file) => {
                let path = PathBuf::from(&file);
                let content = std::fs::read(&path).map_err(|error| Failure::new(format!("{file}: {error}")))?;
                let folder = path.parent().map(PathBuf::from).unwrap_or_default();
                load_http_config(&file, &content, &folder).map_err(|errors| Failure::new(errors.to_string()))?
            }
        };
        let dates = text("date.format").unwrap_or_else(|| DATE_DEFAULT.to_owned());
        let form = Form::of(&text("output").unwrap_or_else(|| "simple".to_owned()), dates)?;
        let mode = match text(MATCHERS).as_deref() {
            None | Some("") => MatcherMode::Fallback,
            Some("classic-mode") => MatcherMode::Classic,
            Some("utf8-strict-mode") => MatcherMode::Utf8Strict,
            Some(other) => return Err(Failure::new(format!("--enable-feature: unknown option {other:?}"))),
        };
        let url = text("alertmanager.url").unwrap_or_else(|| URL_DEFAULT.to_owned());
        Ok(Common { url, form, timeout: Duration::from_nanos(timeout), http, mode, files })
    }

    /// Whether a server was named: else the default is meant, which routes of a file do without.
    fn names_a_server(&self, matches: &ArgMatches) -> bool {
        matches.get_one::<String>("alertmanager.url").is_some() || self.files.contains_key("alertmanager.url")
    }

    fn server(&self) -> Result<Server, Failure> {
        let text = if self.url.contains("://") { self.url.clone() } else { format!("http://{}", self.url) };
        let base =
            Url::parse(&text).map_err(|error| Failure::usage(format!("{:?} is not a URL: {error}", self.url)))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(format!("cannot start: {error}")))?;
        let client = HttpClient::new(&self.http).map_err(|error| Failure::new(error.to_string()))?;
        Ok(Server { base, client, timeout: self.timeout, runtime })
    }

    /// Matchers as people write them: a first one without an operator is the alert's name.
    fn matchers(&self, matches: &ArgMatches, name: &str) -> Result<Vec<Matcher>, Failure> {
        let mut texts: Vec<String> = matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
        if let Some(first) = texts.first_mut()
            && parse_one(first, self.mode).is_err()
        {
            *first = format!("alertname={}", quoted(first));
        }
        texts.iter().map(|text| parse_one(text, self.mode).map_err(Failure::new)).collect()
    }

    /// `name=value` pairs; `what` they are, for the error.
    fn pairs(&self, matches: &ArgMatches, name: &str, what: &str) -> Result<BTreeMap<String, String>, Failure> {
        let mut pairs = BTreeMap::new();
        for text in matches.get_many::<String>(name).into_iter().flatten() {
            let matcher = parse_one(text, self.mode).map_err(Failure::new)?;
            add_pair(&mut pairs, matcher, what)?;
        }
        Ok(pairs)
    }
}

fn add_pair(pairs: &mut BTreeMap<String, String>, matcher: Matcher, what: &str) -> Result<(), Failure> {
    if matcher.op != MatchOp::Equal {
        return Err(Failure::new(format!("{what} must be specified as key=value pairs")));
    }
    pairs.insert(matcher.name, matcher.value);
    Ok(())
}

/// amtool's configuration files: the first that says something about a flag counts.
fn defaults_of_files() -> Result<BTreeMap<String, String>, Failure> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config/amtool/config.yml"));
    let mut defaults = BTreeMap::new();
    for path in home.into_iter().chain([PathBuf::from("/etc/amtool/config.yml")]) {
        let Ok(content) = std::fs::read(&path) else { continue };
        let name = path.to_string_lossy();
        let node = yaml::parse(&name, &content).map_err(|problem| Failure::new(problem.to_string()))?;
        let Kind::Map(entries) = &node.kind else { continue };
        for (key, value) in entries {
            let key = if key.text == "comment_required" { "require-comment" } else { &key.text };
            if let Kind::Scalar { text, .. } = &value.kind {
                defaults.entry(key.to_owned()).or_insert_with(|| text.clone());
            }
        }
    }
    Ok(defaults)
}

/// The server that is asked.
struct Server {
    base: Url,
    client: HttpClient,
    timeout: Duration,
    runtime: tokio::runtime::Runtime,
}

impl Server {
    fn url(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/api/v2{path}", url.path().trim_end_matches('/')));
        url.set_query(None);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// What answers a request; an error unless the status says that it was done.
    fn ask(&self, request: Request) -> Result<Vec<u8>, Failure> {
        let method = request.method.clone();
        let shown = request.url.path().to_owned();
        let answer = self.runtime.block_on(self.client.fetch(request, self.timeout, ANSWER_BYTES_MAX));
        let (status, _, body) = answer.map_err(|error| Failure::new(error.to_string()))?;
        done(status, body).map_err(|why| Failure::new(format!("[{method} {shown}] {why}")))
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<u8>, Failure> {
        self.ask(Request::get(self.url(path, query)))
    }

    fn post(&self, path: &str, body: String) -> Result<Vec<u8>, Failure> {
        self.ask(Request::post(self.url(path, &[]), "application/json", body))
    }
}

fn done(status: StatusCode, body: Vec<u8>) -> Result<Vec<u8>, String> {
    if status.is_success() {
        return Ok(body);
    }
    let text: String = serde_json::from_slice::<serde_json::Value>(&body).map_or_else(
        |_| String::from_utf8_lossy(&body).chars().take(500).collect(),
        |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    );
    Err(format!("{status}: {text}"))
}
