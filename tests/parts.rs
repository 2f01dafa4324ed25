//! A mesh computes aggregations where their samples are.

use crate::support::{Exporter, beside_other_meshes, mesh, pause};

#[test]
fn an_aggregation_is_computed_by_the_peers_that_have_its_samples() {
    let _shared = beside_other_meshes();
    let root = tempfile::tempdir().expect("a folder");
    let exporter = Exporter::start();
    let peers = mesh(root.path(), 3, &exporter.config(20, "1s", "1s"));
    let asker = &peers[0];
    asker.wait("all series", 30_000, || (asker.query("level").len() == 40).then_some(()));
    pause(2_000);
    // Under load a part may be late and be computed from samples: then the answer is the same, and is asked for again.
    asker.wait("a part computed by another peer", 30_000, || {
        let value = |query: &str| {
            let found = asker.query(query);
            assert_eq!(found.len(), 1, "{query}: {found:?}");
            found[0]["value"][1].as_str().map(str::to_owned)
        };
        assert_eq!(value("count(level)").as_deref(), Some("40"));
        assert_eq!(value("sum(level)").as_deref(), Some("70"));
        assert_eq!(value("max(level * 2) - min(level)").as_deref(), Some("2.5"));
        assert_eq!(asker.query("sum by (instance) (level)").len(), 20);
        (asker.metric("promesh_query_parts_answered_total") >= 4.0).then_some(())
    });
    assert!(asker.metric("promesh_query_parts_answered_bytes_total") > 0.0);
    let served: f64 = peers[1..].iter().map(|peer| peer.metric("promesh_query_parts_served_total")).sum();
    assert!(served >= 4.0, "{served} parts served by the others");
}
