//! What a scrape configuration can say, against real processes and an exporter whose answers the test writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::stage::{Answer, Asked, Stage};
use crate::support::{Exporter, Peer, escaped, get, mesh, pause};

/// When the series of `/vanishing` vanish, in seconds since the epoch.
static VANISHES_AT: std::sync::OnceLock<f64> = std::sync::OnceLock::new();

/// What the exporter answers under each path.
fn answer(asked: &Asked, elsewhere: &str) -> Answer {
    let path = asked.path.split('?').next().unwrap_or("");
    match path {
        "/huge" => Answer::text((0..1_000).map(|n| format!("huge{{n=\"{n}\"}} 1\n")).collect::<String>()),
        "/many" => Answer::text((0..10).map(|n| format!("m{n} 1\n")).collect::<String>()),
        "/long" => Answer::text("m{a=\"1\",b=\"2\",c=\"3\",long_label_name=\"a long label value\"} 1\n"),
        "/conflict" => Answer::text("m{job=\"theirs\",instance=\"theirs\",x=\"y\"} 1\n"),
        "/timestamps" => Answer::text("m 1 1000\n"),
        "/vanishing" => Answer::text(if asked.at > VANISHES_AT.get().copied().unwrap_or(f64::MAX) {
            "other 1\n".to_owned()
        } else {
            format!("vanishing 1 {}\nplain 1\nother 1\n", (asked.at * 1000.0) as i64)
        }),
        "/blank" => Answer::ok("", "m 1\n"),
        "/html" => Answer::ok("text/html", "<p>no metrics</p>"),
        "/utf8" => Answer::text(b"m{a=\"\xff\"} 1\n".to_vec()),
        "/slow" => Answer { after_ms: 3_000, ..Answer::text("m 1\n") },
        "/away" | "/stay" => Answer::status(302).with("Location", format!("http://{elsewhere}/landed")),
        "/openmetrics" => Answer::ok(
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "# TYPE requests counter\n# HELP requests Requests there were.\n# UNIT requests \nrequests_total 3 # {trace_id=\"abc\"} 0.5\n# EOF\n",
        ),
        "/token" => Answer::json(r#"{"access_token": "granted", "token_type": "Bearer", "expires_in": 3600}"#),
        _ => Answer::text("# HELP level How high.\n# TYPE level gauge\nlevel 1\n"),
    }
}

struct Scene {
    stage: Stage,
    landing: Stage,
    peer: Peer,
    root: tempfile::TempDir,
}

impl Scene {
    /// A peer with these jobs; `STAGE` stands for the exporter's address.
    fn set(jobs: &str) -> Scene {
        let root = tempfile::tempdir().expect("a folder");
        let landing = Stage::start(|_| Answer::text("landed 1\n"));
        let elsewhere = format!("localhost:{}", landing.address.port());
        let stage = Stage::start(move |asked| answer(asked, &elsewhere));
        let jobs = jobs.replace("STAGE", &stage.address.to_string());
        let jobs = jobs.replace("FOLDER", &root.path().display().to_string());
        std::fs::write(root.path().join("password"), "first\n").expect("written");
        let config = format!("global: {{scrape_interval: 1s, scrape_timeout: 900ms}}\nscrape_configs:\n{jobs}");
        let path = root.path().join("prometheus.yml");
        std::fs::write(&path, config).expect("written");
        let mut peer = Peer::new(root.path(), "peer-0", &path, &[]).with("--enable-feature=exemplar-storage");
        peer.start();
        peer.wait_ready();
        Scene { stage, landing, peer, root }
    }

    /// The newest request under a path, waited for.
    fn request(&self, path: &str) -> Asked {
        self.peer.wait(&format!("{path} is asked for"), 15_000, || self.stage.newest(path))
    }

    /// What `/targets` says of the one target of a job, once it has been scraped.
    fn target(&self, job: &str) -> serde_json::Value {
        self.peer.wait(&format!("job {job} was scraped"), 15_000, || {
            let (_, body) = get(self.peer.web, &format!("/api/v1/targets?scrapePool={job}"));
            let answer: serde_json::Value = serde_json::from_str(&body).ok()?;
            let target = answer["data"]["activeTargets"][0].clone();
            (target["health"] != "unknown" && !target.is_null()).then_some(target)
        })
    }

    fn error(&self, job: &str) -> String {
        let target = self.target(job);
        assert_eq!(target["health"], "down", "{job}: {target}");
        target["lastError"].as_str().unwrap_or_default().to_owned()
    }
}

fn job(name: &str, path: &str, more: &str) -> String {
    format!("- job_name: {name}\n  metrics_path: {path}\n  static_configs: [{{targets: [STAGE]}}]\n{more}")
}

#[test]
fn requests_carry_what_the_configuration_says_and_credentials_stay_at_home() {
    let jobs = [
        job("basic", "/basic", "  basic_auth: {username: u, password_file: FOLDER/password}\n"),
        job("bearer", "/bearer", "  authorization: {credentials: tok}\n"),
        job(
            "oauth",
            "/oauth",
            "  oauth2: {client_id: me, client_secret: hidden, token_url: 'http://STAGE/token', scopes: [a, b]}\n",
        ),
        job(
            "headers",
            "/headers",
            "  http_headers: {X-Scope: {values: [one]}, X-Secret: {secrets: [two]}}\n  params: {module: [a, b]}\n",
        ),
        job("away", "/away", "  authorization: {credentials: tok}\n  http_headers: {X-Secret: {secrets: [two]}}\n"),
        job("stay", "/stay", "  follow_redirects: false\n"),
        job("proxied", "/proxied", "  proxy_url: http://STAGE\n").replace("[STAGE]", "['far.example:80']"),
        job("legacy", "/legacy", "  metric_name_validation_scheme: legacy\n"),
    ];
    let scene = Scene::set(&jobs.concat());
    assert_eq!(scene.request("/basic").header("authorization"), "Basic dTpmaXJzdA==");
    // The file is read again: no reload.
    std::fs::write(scene.root.path().join("password"), "second").expect("written");
    scene.peer.wait("the new password is used", 10_000, || {
        (scene.stage.newest("/basic")?.header("authorization") == "Basic dTpzZWNvbmQ=").then_some(())
    });
    assert_eq!(scene.request("/bearer").header("authorization"), "Bearer tok");
    assert_eq!(scene.request("/oauth").header("authorization"), "Bearer granted");
    let token = scene.request("/token");
    assert_eq!(token.method, "POST");
    assert!(token.body.contains("grant_type=client_credentials") && token.body.contains("scope=a+b"), "{token:?}");
    let headers = scene.request("/headers");
    assert_eq!((headers.header("x-scope"), headers.header("x-secret")), ("one", "two"));
    assert_eq!(headers.path, "/headers?module=a&module=b");
    assert_eq!(headers.header("x-prometheus-scrape-timeout-seconds"), "0.9");
    assert!(headers.header("accept").contains("escaping=allow-utf-8"), "{headers:?}");
    assert!(scene.request("/legacy").header("accept").contains("escaping=underscores"));

    assert_eq!(scene.request("/away").header("authorization"), "Bearer tok");
    let landed = scene.peer.wait("the redirect is followed", 15_000, || scene.landing.newest("/landed"));
    assert_eq!((landed.header("authorization"), landed.header("x-secret")), ("", ""), "{landed:?}");
    assert!(scene.error("stay").contains("302"));
    assert_eq!(scene.request("http://far.example").path, "http://far.example/proxied");
    for secret in ["hidden", "tok", "two", "second"] {
        assert!(!scene.peer.log().contains(secret), "{secret} is in the log");
    }
}

#[test]
fn limits_and_bad_answers_say_why_and_are_counted() {
    let jobs = [
        job("samples", "/many", "  sample_limit: 5\n"),
        job("body", "/many", "  body_size_limit: 10B\n"),
        job("labels", "/long", "  label_limit: 3\n"),
        job("names", "/long", "  label_name_length_limit: 10\n"),
        job("values", "/long", "  label_value_length_limit: 16\n"),
        job("targets", "/many", "  target_limit: 1\n").replace("[STAGE]", "[STAGE, 'other:1']"),
        job("blank", "/blank", ""),
        job("fallback", "/blank", "  fallback_scrape_protocol: PrometheusText0.0.4\n"),
        job("html", "/html", "  scrape_failure_log_file: FOLDER/failures.log\n"),
        job("utf8", "/utf8", ""),
        job("slow", "/slow", ""),
    ];
    let scene = Scene::set(&jobs.concat());
    for (job, expected) in [
        ("samples", "sample limit exceeded"),
        ("body", "body size limit exceeded"),
        ("labels", "label_limit exceeded (metric: m, number of labels: 7, limit: 3)"),
        ("names", "label_name_length_limit exceeded (metric: m, label name: long_label_name, length: 15, limit: 10)"),
        ("values", "label_value_length_limit exceeded (metric: m, label name: "),
        ("targets", "target_limit exceeded (number of targets: 2, limit: 1)"),
        (
            "blank",
            "non-compliant scrape target sending blank Content-Type and no fallback_scrape_protocol specified for target",
        ),
        (
            "html",
            "received unsupported Content-Type \"text/html\" and no fallback_scrape_protocol specified for target",
        ),
        ("slow", "context deadline exceeded"),
    ] {
        let error = scene.error(job);
        assert!(error.contains(expected), "{job}: {error}");
    }
    assert_eq!(scene.target("fallback")["health"], "up");
    assert_eq!(scene.target("utf8")["health"], "down");
    assert!(scene.stage.asked("/many").len() < 40, "a job with too many targets is not asked");
    for name in [
        "prometheus_target_scrapes_exceeded_sample_limit_total",
        "prometheus_target_scrapes_exceeded_body_size_limit_total",
        "prometheus_target_scrape_pool_exceeded_label_limits_total",
    ] {
        assert!(scene.peer.metric(name) >= 1.0, "{name}");
    }
    assert_eq!(scene.peer.metric("promesh_scrape_pool_refused{scrape_job=\"targets\"}"), 1.0);
    let log = std::fs::read_to_string(scene.root.path().join("failures.log")).expect("the log is there");
    let line: serde_json::Value = serde_json::from_str(log.lines().next().expect("a line")).expect("JSON");
    assert_eq!(line["job_name"], "html");
    assert!(line["msg"].as_str().unwrap_or_default().contains("text/html"), "{line}");
    assert!(line["target"].as_str().unwrap_or_default().ends_with("/html"), "{line}");
}

#[test]
fn labels_timestamps_and_overrides_mean_what_upstream_means() {
    let overrides = "  static_configs:\n  - targets: [STAGE]\n    labels: {__scrape_interval__: 2s, __scrape_timeout__: 1s, __metrics_path__: /own, __param_x: y, instance: own}\n";
    let jobs = [
        job("conflicting", "/conflict", ""),
        job("honored", "/conflict", "  honor_labels: true\n"),
        job("stamped", "/timestamps", ""),
        job("unstamped", "/timestamps", "  honor_timestamps: false\n"),
        format!("- job_name: own\n{overrides}"),
        job("openmetrics", "/openmetrics", ""),
        job(
            "dropped",
            "/plain",
            "  metric_relabel_configs: [{source_labels: [__name__], regex: level, action: drop}]\n",
        ),
    ];
    let scene = Scene::set(&jobs.concat());
    let only = |query: &str| {
        scene.peer.wait(query, 15_000, || {
            let found = scene.peer.query(query);
            (found.len() == 1).then(|| found[0].clone())
        })
    };
    let metric = only("m{job='conflicting'}")["metric"].clone();
    assert_eq!((&metric["exported_job"], &metric["exported_instance"]), (&"theirs".into(), &"theirs".into()));
    assert_eq!(metric["instance"], scene.stage.address.to_string());
    let stamped = format!("instance=\"{}\"", scene.stage.address);
    assert_eq!(only(&format!("m{{{stamped},job='unstamped'}}"))["value"][1], "1");
    // A timestamp of 1970 is far outside of what the head takes; the scrape itself is good.
    assert_eq!(scene.target("stamped")["health"], "up");
    assert!(scene.peer.query("m{job='stamped'}").is_empty());
    only("m{exported_job='',instance='theirs'}");

    assert_eq!(scene.request("/own").path, "/own?x=y");
    let target = scene.target("own");
    assert_eq!((&target["scrapeInterval"], &target["scrapeTimeout"]), (&"2s".into(), &"1s".into()));
    only("level{job='own',instance='own'}");
    pause(4_500);
    for (name, values) in scene.peer.samples("level{job='own'}", 8) {
        assert!(values.windows(2).all(|pair| pair[1].0 - pair[0].0 == 2_000), "{name}: {values:?}");
    }
    assert!(scene.peer.query("level{job='dropped'}").is_empty());
    assert_eq!(only("scrape_samples_post_metric_relabeling{job='dropped'}")["value"][1], "0");

    only("requests_total");
    let (_, body) = get(scene.peer.web, "/api/v1/metadata?metric=requests");
    assert!(body.contains("Requests there were.") && body.contains("counter"), "{body}");
    let (_, body) = get(scene.peer.web, "/api/v1/targets/metadata?metric=level");
    assert!(body.contains("How high."), "{body}");
    let path = format!("/api/v1/query_exemplars?query={}&start=0&end=4000000000", escaped("requests_total"));
    let (_, body) = get(scene.peer.web, &path);
    assert!(body.contains("\"trace_id\":\"abc\""), "{body}");
}

/// A certificate and its key, in PEM, signed by an issuer or by itself.
fn certificate(name: &str, issuer: Option<&rcgen::CertifiedIssuer<'_, rcgen::KeyPair>>) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let made = match issuer {
        Some(issuer) => params.signed_by(&key, issuer).expect("signed"),
        None => params.self_signed(&key).expect("signed"),
    };
    (made.pem(), key.serialize_pem())
}

#[test]
fn targets_that_want_a_certificate_get_it_over_either_http() {
    let root = tempfile::tempdir().expect("a folder");
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().expect("a key"));
    let issuer = issuer.expect("signed");
    let put = |name: &str, text: &str| std::fs::write(root.path().join(name), text).expect("written");
    put("ca.crt", &issuer.pem());
    for (name, host, by) in
        [("server", "127.0.0.1", Some(&issuer)), ("ours", "us.example", Some(&issuer)), ("strange", "us.example", None)]
    {
        let (cert, key) = certificate(host, by);
        put(&format!("{name}.crt"), &cert);
        put(&format!("{name}.key"), &key);
    }
    put(
        "web.yml",
        "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert}\n",
    );
    put("empty.yml", "scrape_configs: []\n");
    let web = format!("--web.config.file={}", root.path().join("web.yml").display());
    let mut target = Peer::new(root.path(), "target", &root.path().join("empty.yml"), &[]).with(web);
    target.start();
    let of = |name: &str| format!("cert_file: FOLDER/{name}.crt, key_file: FOLDER/{name}.key");
    let job = |name: &str, tls: String, more: &str| {
        let tls = tls.replace("FOLDER", &root.path().display().to_string());
        format!(
            "- {{job_name: {name}, scheme: https, tls_config: {{{tls}}}, static_configs: [{{targets: ['127.0.0.1:{}']}}]{more}}}\n",
            target.web
        )
    };
    let trusted = "ca_file: FOLDER/ca.crt";
    let jobs = [
        job("second", format!("{trusted}, {}", of("ours")), ""),
        job("first", format!("{trusted}, {}", of("ours")), ", enable_http2: false"),
        job("strange", format!("{trusted}, {}", of("strange")), ""),
        job("without", trusted.to_owned(), ""),
        job("untrusting", of("ours"), ""),
        job("misnamed", format!("{trusted}, server_name: other.example, {}", of("ours")), ""),
    ];
    let scene = Scene::set(&jobs.concat());
    scene.peer.wait("those with the right certificate are scraped", 30_000, || {
        (scene.peer.query("up{job=~'first|second'} == 1").len() == 2).then_some(())
    });
    for (job, reason) in [
        ("strange", "alert"),
        ("without", "alert"),
        ("untrusting", "UnknownIssuer"),
        ("misnamed", "not valid for name"),
    ] {
        let error = scene.error(job);
        assert!(error.contains(reason), "{job}: {error}");
    }
    assert!(!scene.peer.log().contains("PRIVATE KEY"));
}

#[test]
fn series_with_timestamps_of_their_own_end_only_if_they_are_tracked() {
    let jobs =
        [job("untracked", "/vanishing", ""), job("tracked", "/vanishing", "  track_timestamps_staleness: true\n")];
    let scene = Scene::set(&jobs.concat());
    scene.peer.wait("all are there", 15_000, || (scene.peer.query("vanishing + plain").len() == 2).then_some(()));
    VANISHES_AT.set(crate::support::wall()).expect("set once");
    scene
        .peer
        .wait("what has no instants of its own ends", 15_000, || scene.peer.query("plain").is_empty().then_some(()));
    assert!(scene.peer.query("vanishing{job='tracked'}").is_empty());
    assert_eq!(scene.peer.query("vanishing{job='untracked'}").len(), 1);
    assert_eq!(scene.peer.query("other").len(), 2);
}

#[test]
fn a_target_with_more_than_its_part_of_the_series_is_named() {
    let scene = Scene::set(&[job("huge", "/huge", ""), job("small", "/plain", "")].concat());
    scene.target("small");
    let heavy = scene.peer.wait("the huge target is named", 15_000, || {
        let named = scene.peer.cluster()["heavyTargets"].clone();
        (named[0]["series"].as_u64()? > 1_000).then_some(named)
    });
    assert_eq!(heavy.as_array().map(Vec::len), Some(1), "{heavy}");
    assert_eq!((&heavy[0]["job"], &heavy[0]["instance"]), (&"huge".into(), &scene.stage.address.to_string().into()));
    assert!(heavy[0]["share"].as_f64().is_some_and(|share| share > 0.9), "{heavy}");
}

#[test]
fn relabelling_is_shown_step_by_step() {
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let config = format!(
        "scrape_configs:\n- job_name: j\n  static_configs: [{{targets: ['{}'], labels: {{env: prod}}}}]\n  relabel_configs:\n  \
         - {{source_labels: [env], target_label: stage}}\n  - {{regex: env, action: labeldrop}}\n",
        exporter.address
    );
    let peers = mesh(root.path(), 1, &config);
    let labels = escaped(r#"{"__address__": "a:1", "env": "x"}"#);
    let (status, body) = get(peers[0].web, &format!("/api/v1/targets/relabel_steps?scrapePool=j&labels={labels}"));
    let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let steps = &answer["data"]["steps"];
    assert_eq!((status, &steps[0]["output"]["stage"], &steps[1]["keep"]), (200, &"x".into(), &true.into()), "{body}");
    assert!(steps[1]["output"]["env"].is_null() && steps[0]["rule"]["target_label"] == "stage", "{body}");
    let (status, body) = get(peers[0].web, &format!("/api/v1/targets/relabel_steps?scrapePool=none&labels={labels}"));
    assert!(status == 400 && body.contains("scrape pool \\\"none\\\" not found"), "{body}");

    let promesh = |arguments: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_promesh")).args(arguments).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let file = root.path().join("prometheus.yml").display().to_string();
    let (code, text) = promesh(&["relabel", "--config.file", &file, "j", "a:1", "env=y"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("+ stage=\"y\"") && text.contains("scraped at http://a:1/metrics"), "{text}");
    peers[0].wait("the target is known", 20_000, || {
        get(peers[0].web, "/api/v1/targets").1.contains(&exporter.address.to_string()).then_some(())
    });
    let url = format!("http://127.0.0.1:{}", peers[0].web);
    let (code, text) = promesh(&["relabel", "--url", &url, "j", &exporter.address.to_string()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("+ stage=\"prod\"") && text.contains("kept with"), "{text}");
    let (code, text) = promesh(&["relabel", "--config.file", &file, "none", "a:1"]);
    assert!(code == Some(1) && text.contains("no job \"none\"; it has: j"), "{text}");
}

#[test]
fn series_of_other_instances_end_with_the_target_that_named_them() {
    let answers = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&answers);
    let body: String = (0..20).map(|n| format!("federated{{instance=\"i{n}\",job=\"other\"}} {n}\n")).collect();
    let stage =
        Stage::start(
            move |_| {
                if says.load(Ordering::Relaxed) { Answer::text(body.clone()) } else { Answer::status(500) }
            },
        );
    let root = tempfile::tempdir().expect("a folder");
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- {{job_name: f, honor_labels: true, \
         static_configs: [{{targets: ['{}']}}]}}\n",
        stage.address
    );
    let config = crate::support::paging::write(root.path().join("prometheus.yml"), &config);
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[]);
    peer.start();
    peer.wait_ready();
    let wait_for = |expected: usize| {
        let found = || (peer.query("federated").len() == expected).then_some(());
        peer.wait(&format!("there are {expected} series"), 10_000, found);
    };
    for (says, expected) in [(true, 20), (false, 0), (true, 20)] {
        answers.store(says, Ordering::Relaxed);
        wait_for(expected);
    }
}
