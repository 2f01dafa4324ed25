//! The pages: where they are, what they bring, where they are not.

use super::*;

async fn place(router: &Router, path: &str) -> (StatusCode, String) {
    let reply = get(router, path).await;
    (reply.status, reply.header("location").to_owned())
}

#[tokio::test]
async fn every_page_is_there_under_any_prefix_and_before_the_peer_is_ready() {
    for prefix in ["", "/mesh", "/a/b"] {
        let route_prefix = if prefix.is_empty() { "/".to_owned() } else { prefix.to_owned() };
        let options = ApiOptions { external_path: route_prefix.clone(), route_prefix, ..options() };
        let starting = Fixture { readiness: Readiness::Starting, ..Fixture::default() };
        let router = router(Arc::new(starting), options);
        for path in promesh_ui::PATHS {
            let reply = get(&router, &format!("{prefix}{path}?search=x")).await;
            assert_eq!(reply.status, StatusCode::OK, "{prefix}{path}");
            assert_eq!(reply.header("content-type"), "text/html; charset=utf-8");
            assert_eq!(reply.header("cache-control"), "no-cache");
            assert!(reply.header("content-security-policy").contains("script-src 'self';"), "{path}");
            assert!(reply.text().contains("src=\"assets/app-"), "addresses are relative: {}", reply.text());
            let slash = place(&router, &format!("{prefix}{path}/?a=b")).await;
            assert_eq!(slash, (StatusCode::MOVED_PERMANENTLY, format!("{prefix}{path}?a=b")));
        }
        let found = |to: &str| (StatusCode::FOUND, format!("{prefix}{to}"));
        assert_eq!(place(&router, &format!("{prefix}/")).await, found("/query"));
        let old = format!("{prefix}/graph?g0.expr=up%20%3D%3D%200&g0.tab=1");
        assert_eq!(place(&router, &old).await, found("/query?g0.expr=up%20%3D%3D%200&g0.tab=1"));
        if !prefix.is_empty() {
            assert_eq!(place(&router, "/").await, found("/"), "the way in");
            assert_eq!(place(&router, prefix).await, found("/query"));
            assert_eq!(place(&router, "/query").await.0, StatusCode::NOT_FOUND, "not without the prefix");
        }
    }
}

#[tokio::test]
async fn redirects_lead_where_a_proxy_shows_the_pages() {
    let router = over_with(ApiOptions { external_path: "/shown/".to_owned(), ..options() });
    assert_eq!(place(&router, "/").await, (StatusCode::FOUND, "/shown/query".to_owned()));
    assert_eq!(place(&router, "/rules/").await, (StatusCode::MOVED_PERMANENTLY, "/shown/rules".to_owned()));
}

#[tokio::test]
async fn assets_are_for_ever_compressed_and_typed() {
    let router = over_with(options());
    let page = get(&router, "/query").await.text();
    let mut types = Vec::new();
    for name in page.split('"').filter(|part| part.starts_with("assets/")) {
        let asked = request(Method::GET, &format!("/{name}")).header("accept-encoding", "gzip");
        let reply = send(&router, asked.body(Body::empty()).expect("a request")).await;
        assert_eq!(reply.status, StatusCode::OK, "{name}");
        assert_eq!(reply.header("cache-control"), "public, max-age=31536000, immutable");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("content-encoding"), "gzip", "{name}");
        types.push(reply.header("content-type").to_owned());
        let again = request(Method::GET, &format!("/{name}")).header("if-none-match", reply.header("etag"));
        let again = send(&router, again.body(Body::empty()).expect("a request")).await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0), "{name}");
    }
    types.sort();
    let expected =
        ["image/svg+xml", "text/css; charset=utf-8", "text/javascript; charset=utf-8", "text/plain; charset=utf-8"];
    assert_eq!(types, expected);
}

#[tokio::test]
async fn what_is_not_there_is_prometheus_404() {
    let router = over_with(options());
    let paths = [
        "/nothing",
        "/queryx",
        "/query/x",
        "/assets/",
        "/assets/none.js",
        "/assets/index.html",
        "/assets/sources.sha256",
        "/assets/..%2F..%2Fweb%2Fapp.jsx",
        "/assets/%2e%2e/lib.rs",
        "/assets/%2Fetc%2Fpasswd",
        "/assets/app-%00.js",
    ];
    for path in paths {
        let reply = get(&router, path).await;
        assert_eq!((reply.status, reply.text().as_str()), (StatusCode::NOT_FOUND, "404 page not found\n"), "{path}");
    }
    for (path, place) in [
        ("/assets/../Cargo.toml", "/Cargo.toml"),
        ("/assets//etc/passwd", "/assets/etc/passwd"),
        ("/../query", "/query"),
    ] {
        let reply = get(&router, path).await;
        let location = reply.headers.get("location").and_then(|value| value.to_str().ok());
        assert_eq!((reply.status, location), (StatusCode::MOVED_PERMANENTLY, Some(place)), "{path}");
    }
    let reply = send(&router, request(Method::POST, "/query").body(Body::empty()).expect("a request")).await;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n"));
    for path in ["/consoles", "/consoles/", "/consoles/node.html", "/consoles/../x"] {
        let reply = get(&router, path).await;
        let says = reply.text() == format!("{}\n", promesh_ui::NO_CONSOLES);
        assert!(reply.status == StatusCode::NOT_FOUND && says, "{path}: {}", reply.text());
    }
}

#[tokio::test]
async fn the_title_is_the_flags() {
    let router = over_with(ApiOptions { page_title: "Pages of <b>".to_owned(), ..options() });
    let page = get(&router, "/alerts").await.text();
    assert!(page.contains("<title>Pages of &lt;b&gt;</title>"), "{page}");
}
