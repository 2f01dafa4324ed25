//! Managers that share, as two peers do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use promesh_model::shard::ShardSet;
use promesh_model::{Generation, PeerId, SHARD_COUNT, ShardId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::tests::{Standing, discoveries};
use crate::{Asker, Manager};

/// An endpoint of one group, and how often it was asked.
async fn endpoint() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while let Ok(1..) = socket.read(&mut request).await {
                    counted.fetch_add(1, Ordering::Relaxed);
                    let body = r#"[{"targets": ["a:1"]}]"#;
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = socket.write_all(head.as_bytes()).await;
                }
            });
        }
    });
    (address, count)
}

fn manager(id: u128) -> Manager {
    let (tell, peers) = watch::channel::<Arc<[String]>>(Arc::from([]));
    std::mem::forget(tell);
    let manager = Manager::new(peers, Arc::new(Standing));
    manager.share(Asker { peer: PeerId(id), generation: Generation(1) });
    manager
}

fn count(manager: &Manager) -> usize {
    manager.subscribe().borrow().values().flatten().map(|group| group.targets.len()).sum()
}

async fn until(what: &str, check: impl Fn() -> bool) {
    for _ in 0..300 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never came that {what}");
}

#[tokio::test]
async fn one_asks_and_the_other_hears_and_takes_over_in_the_same_rhythm() {
    let (url, asked) = endpoint().await;
    let all: ShardSet = (0..SHARD_COUNT as u16).map(ShardId).collect();
    let config = discoveries(&format!("  http_sd_configs: [{{url: '{url}', refresh_interval: 1h}}]\n"));
    let (one, other) = (manager(1), manager(2));
    for manager in [&one, &other] {
        manager.apply([("j", &config)]).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody acts yet");
    one.act_for(&all);
    until("the targets are found", || count(&one) == 1).await;
    let mut known = BTreeMap::new();
    assert!(other.tell(&mut BTreeMap::new()).is_empty(), "who does not ask has nothing to tell");
    let told = one.tell(&mut known);
    assert_eq!(told.len(), 1);
    assert!(one.tell(&mut known).is_empty(), "it was told");
    other.hear(told.into_iter().next().unwrap());
    until("the other knows", || count(&other) == 1).await;
    // The clock stands still: an hour has not passed, so nobody is asked, and the targets stay.
    one.act_for(&ShardSet::default());
    other.act_for(&all);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((asked.load(Ordering::Relaxed), count(&one), count(&other)), (1, 1, 1));
}

#[tokio::test]
async fn what_every_peer_has_for_itself_is_asked_by_each_and_marked() {
    let (url, asked) = endpoint().await;
    let config =
        discoveries(&format!("  http_sd_configs: [{{url: '{url}', mesh_scope: everywhere, refresh_interval: 1h}}]\n"));
    let (one, other) = (manager(1), manager(2));
    for manager in [&one, &other] {
        manager.apply([("j", &config)]).unwrap();
        until("the targets are found", || count(manager) == 1).await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(one.subscribe().borrow()["j"][0].labels.value(crate::MESH_SCOPE), "everywhere");
}

#[tokio::test]
async fn a_changed_discovery_keeps_the_targets_until_it_has_answered() {
    let (url, _) = endpoint().await;
    let (tell, peers) = watch::channel::<Arc<[String]>>(Arc::from([]));
    std::mem::forget(tell);
    let manager = Manager::new(peers, Arc::new(Standing));
    let config = |parameter: &str| discoveries(&format!("  http_sd_configs: [{{url: '{url}{parameter}'}}]\n"));
    manager.apply([("j", &config(""))]).unwrap();
    until("the targets are found", || count(&manager) == 1).await;
    manager.apply([("j", &config("?x=1"))]).unwrap();
    assert_eq!(count(&manager), 1, "the former ones are shown at once");
    until("the new ones are there alone", || {
        let found = manager.subscribe().borrow()["j"].clone();
        found.len() == 1 && found[0].labels.value("__meta_url").ends_with("?x=1")
    })
    .await;
}
