//! The pages, as a browser gets them from the real binary.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::{Exporter, Peer, get};

/// The whole answer, head and body.
fn answer(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").expect("sent");
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("an answer");
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn the_pages_and_what_they_ask_for_are_below_the_prefix_of_the_external_url() {
    let root = tempfile::tempdir().expect("a folder");
    let config = root.path().join("prometheus.yml");
    std::fs::write(&config, Exporter::start().config(1, "1s", "900ms")).expect("written");
    let mut peer = Peer::new(root.path(), "peer-0", &config, &[])
        .with("--web.external-url=http://shown.example/mesh/")
        .with("--web.page-title=Mesh <one>");
    peer.start();
    peer.wait("it is ready", 60_000, || (get(peer.web, "/mesh/-/ready").0 == 200).then_some(()));

    let home = answer(peer.web, "/mesh/");
    assert!(home.starts_with("HTTP/1.1 302") || home.starts_with("HTTP/1.0 302"), "{home}");
    assert!(home.contains("location: /mesh/query\r\n"), "{home}");
    let old = answer(peer.web, "/mesh/graph?g0.expr=up&g0.tab=1");
    assert!(old.contains("location: /mesh/query?g0.expr=up&g0.tab=1\r\n"), "{old}");
    assert!(answer(peer.web, "/").contains("location: /mesh/\r\n"));

    let (status, page) = get(peer.web, "/mesh/cluster");
    assert_eq!(status, 200);
    assert!(page.contains("<title>Mesh &lt;one&gt;</title>"), "{page}");
    let mut scripts: Vec<String> =
        page.split('"').filter(|part| part.starts_with("assets/")).map(str::to_owned).collect();
    // What the script loads later stands in it by name.
    let app = scripts.iter().find(|name| name.ends_with(".js")).expect("a script").clone();
    let (_, text) = get(peer.web, &format!("/mesh/{app}"));
    let later = text.split(['"', '`', '\'']).find_map(|part| part.strip_prefix("./editor-")).expect("the editor");
    scripts.push(format!("assets/editor-{later}"));
    for name in scripts {
        let (status, body) = get(peer.web, &format!("/mesh/{name}"));
        assert!(status == 200 && !body.is_empty(), "{name}: {status}");
    }
    // Every path of the API that the pages ask for is there.
    for path in text.split(['"', '`', '\'']).filter(|part| part.starts_with("api/v1/") && !part.contains('$')) {
        let (status, body) = get(peer.web, &format!("/mesh/{path}?query=up&start=0&end=1&step=1"));
        assert_eq!(status, 200, "{path}: {body}");
    }
    assert_eq!(get(peer.web, "/mesh/consoles/node.html").0, 404);
    assert_eq!(get(peer.web, "/query").0, 404);
    assert_eq!(peer.terminate(), Some(0));
}
