use std::path::Path;
use std::time::Duration;

use promesh_config::prometheus::{Discoveries, load_text};
use promesh_config::source::MemorySource;
use tokio::sync::watch;

use super::*;

/// A clock at the start of 2026.
pub(crate) struct Standing;

impl promesh_model::time::Clock for Standing {
    fn now(&self) -> promesh_model::Now {
        let wall = promesh_model::Timestamp(1_767_225_600_000);
        promesh_model::Now { wall, ..promesh_model::Now::default() }
    }
}

pub(crate) fn discoveries(text: &str) -> Discoveries {
    let text = format!("scrape_configs:\n- job_name: j\n{text}");
    let loaded = load_text("p.yml", text.as_bytes(), Path::new("/"), &MemorySource::default()).unwrap();
    loaded.jobs[0].discovery.clone()
}

fn addresses(discovered: &Discovered, job: &str) -> Vec<String> {
    let groups = discovered.get(job).cloned().unwrap_or_default();
    groups.iter().flat_map(|group| &group.targets).map(|target| target.value(ADDRESS).to_owned()).collect()
}

async fn until(receiver: &mut watch::Receiver<Arc<Discovered>>, wanted: &[&str]) {
    let wait = async {
        while addresses(&receiver.borrow_and_update(), "j") != wanted {
            receiver.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the targets come");
}

#[tokio::test]
async fn static_targets_are_there_at_once_and_peers_follow() {
    let (tell, peers) = watch::channel::<Arc<[String]>>(Arc::from([]));
    let manager = Manager::new(peers, Arc::new(Standing));
    let mut receiver = manager.subscribe();
    let both = discoveries("  static_configs: [{targets: [a, b]}]\n  peer_sd_configs: [{}]\n");
    manager.apply([("j", &both)]).unwrap();
    assert_eq!(addresses(&receiver.borrow(), "j"), ["a", "b"]);
    tell.send(Arc::from(["y:1".to_owned(), "x:1".to_owned()])).unwrap();
    until(&mut receiver, &["a", "b", "x:1", "y:1"]).await;
    manager.apply([]).unwrap();
    assert!(receiver.borrow().is_empty());
}

#[tokio::test]
async fn files_are_followed_and_broken_ones_keep_their_targets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.json");
    std::fs::write(&file, r#"[{"targets": ["a:1"], "labels": {"x": "y"}}]"#).unwrap();
    let (_tell, peers) = watch::channel::<Arc<[String]>>(Arc::from([]));
    let manager = Manager::new(peers, Arc::new(Standing));
    let mut receiver = manager.subscribe();
    let pattern = folder.path().join("*.json");
    let config = discoveries(&format!("  file_sd_configs: [{{files: ['{}']}}]\n", pattern.display()));
    manager.apply([("j", &config)]).unwrap();
    until(&mut receiver, &["a:1"]).await;
    assert_eq!(receiver.borrow()["j"][0].labels.value("__meta_filepath"), file.to_string_lossy());
    std::fs::write(&file, "[{").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    until(&mut receiver, &["a:1"]).await;
    std::fs::write(&file, r#"[{"targets": ["b:1", "c:1"]}]"#).unwrap();
    until(&mut receiver, &["b:1", "c:1"]).await;
}

#[test]
fn kinds_that_are_not_built_are_refused_by_name() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _entered = runtime.enter();
    let (_tell, peers) = watch::channel::<Arc<[String]>>(Arc::from([]));
    let manager = Manager::new(peers, Arc::new(Standing));
    let error = manager.apply([("j", &discoveries("  rds_sd_configs: [{region: x}]\n"))]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "job \"j\": rds_sd_configs is not supported yet: use http_sd_configs or file_sd_configs"
    );
}

mod conformance {
    use super::*;

    fn folder() -> Option<std::path::PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/sd");
        if !folder.exists() {
            eprintln!("conformance data is absent: these cases did not run");
            return None;
        }
        Some(folder)
    }

    #[test]
    fn files_and_answers_of_upstream_are_read() {
        let Some(folder) = folder() else { return };
        for (name, targets) in [("valid.json", 2), ("valid.yml", 2), ("valid2.yml", 0), ("valid3.yml", 0)] {
            let groups = file::read_groups(&folder.join("file").join(name)).expect(name);
            assert!(groups.iter().map(|group| group.targets.len()).sum::<usize>() >= targets, "{name}");
        }
        for name in ["invalid_nil.json", "invalid_nil.yml"] {
            assert!(file::read_groups(&folder.join("file").join(name)).is_err(), "{name}");
        }
        let answer = std::fs::read(folder.join("http/http_sd.good.json")).unwrap();
        let groups = http::parse(&answer, "http://x/").unwrap();
        assert!(groups.iter().any(|group| !group.targets.is_empty()));
        assert_eq!(groups[0].labels.value("__meta_url"), "http://x/");
    }
}
