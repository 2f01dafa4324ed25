use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::*;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Every file below `folder` with its path from there, as `web/build.mjs` lists them.
fn files(folder: &Path, within: &str, out: &mut Vec<(String, PathBuf)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = format!("{within}{}", entry.file_name().to_string_lossy());
        if name == "node_modules" {
            continue;
        }
        if entry.path().is_dir() {
            files(&entry.path(), &format!("{name}/"), out);
        } else {
            out.push((name, entry.path()));
        }
    }
}

#[test]
fn what_is_embedded_was_built_from_the_sources() {
    let mut sources = Vec::new();
    files(&folder("web"), "", &mut sources);
    sources.sort();
    assert!(sources.iter().any(|(name, _)| name == "pages/cluster.jsx"), "the sources are there");
    let mut hash = Sha256::new();
    for (name, path) in sources {
        let bytes = fs::read(path).expect("a source");
        hash.update(format!("{name}\0{}\0", bytes.len()));
        hash.update(bytes);
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let recorded = fs::read_to_string(folder("dist/sources.sha256")).expect("a recorded digest");
    assert_eq!(recorded.trim(), digest, "src/ui/web has changed: run `npm ci && npm run build` there");
}

#[test]
fn every_file_of_dist_is_embedded_and_every_address_of_the_page_is_an_asset() {
    let mut found = Vec::new();
    files(&folder("dist"), "", &mut found);
    let mut found: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
    found.retain(|name| !["assets.rs", "index.html", "sources.sha256"].contains(&name.as_str()));
    found.sort();
    let embedded: Vec<&str> = ASSETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(embedded, found);
    let named: Vec<&str> = PAGE.split('"').filter_map(|part| part.strip_prefix("assets/")).collect();
    assert_eq!(named.len(), 4, "licences, mark, style and script");
    for name in named {
        assert!(Pages::asset(name, &HeaderMap::new()).is_some(), "{name} is not embedded");
    }
}

#[test]
fn pages_are_small_and_name_no_other_host() {
    let script_bytes: usize = ASSETS.iter().filter(|(name, _)| name.ends_with(".js")).map(|(_, b)| b.len()).sum();
    assert!(script_bytes < 600_000, "{script_bytes} bytes of script");
    for (name, bytes) in ASSETS.iter().filter(|(name, _)| name.ends_with(".css") || name.ends_with(".svg")) {
        let text = std::str::from_utf8(bytes).expect("text").replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("url(//"), "{name}");
    }
    assert!(!PAGE.contains("://") && !PAGE.contains("<script>") && !PAGE.contains("style="), "{PAGE}");
}

#[test]
fn title_is_text_whatever_it_holds() {
    let pages = Pages::new("</title><script>alert('\"&')", "/");
    let body = pages.page(&HeaderMap::new()).into_body();
    let body = std::str::from_utf8(&body).expect("text");
    assert!(body.contains("<title>&lt;/title&gt;&lt;script&gt;alert(&#39;&#34;&amp;&#39;)</title>"), "{body}");
    assert!(!body.contains("{{"), "{body}");
}

#[test]
fn page_that_has_not_changed_is_not_sent_again() {
    let pages = Pages::new("promesh", "/");
    let first = pages.page(&HeaderMap::new());
    let tag = first.headers()[ETAG].clone();
    let check = |text: &str, status: StatusCode| {
        let mut asked = HeaderMap::new();
        asked.insert(IF_NONE_MATCH, HeaderValue::try_from(text).expect("a value"));
        assert_eq!(pages.page(&asked).status(), status, "{text}");
    };
    let tag = tag.to_str().expect("text");
    check(tag, StatusCode::NOT_MODIFIED);
    check(&format!("\"other\", {tag}"), StatusCode::NOT_MODIFIED);
    check("*", StatusCode::NOT_MODIFIED);
    check("\"other\"", StatusCode::OK);
    assert_ne!(tag, Pages::new("other", "/").tag);
}

#[test]
fn redirects_lead_below_the_external_path() {
    let check = |external: &str, query: Option<&str>, expected: &str| {
        let response = Pages::new("promesh", external).to_query(query);
        assert_eq!(response.status(), StatusCode::FOUND);
        assert_eq!(response.headers()[LOCATION], expected);
    };
    check("/", None, "/query");
    check("/", Some("g0.expr=up"), "/query?g0.expr=up");
    check("/x/", None, "/x/query");
    check("/x/y", Some("g0.expr=a%20b&g0.tab=1"), "/x/y/query?g0.expr=a%20b&g0.tab=1");
    let response = Pages::new("promesh", "/x").without_slash("/alerts/", Some("a=b"));
    assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
    assert_eq!(response.headers()[LOCATION], "/x/alerts?a=b");
}
