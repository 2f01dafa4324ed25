use std::collections::BTreeMap;

use promesh_model::{Labels, PeerId};
use proptest::prelude::*;

use super::*;

const ME: PeerId = PeerId(1);

fn key(path: &str) -> Labels {
    grouping_key(path).expect("a key")
}

fn push(groups: &mut Groups, path: &str, body: &str, replace: bool, at: i64) -> Result<(), PushError> {
    let key = key(path);
    let families = read_families(body.as_bytes(), Format::Text, &key).expect("it parses");
    match groups.push(&key, families, replace, ME, at) {
        Ok(word) => groups.merge([word]),
        Err(error) => {
            let word = groups.failure(&key, ME, at);
            groups.merge([word]);
            return Err(error);
        }
    }
    Ok(())
}

#[test]
fn a_group_is_exposed_with_its_own_labels_and_its_times() {
    let mut groups = Groups::default();
    let body = "# HELP a_seconds How \\\\long.\n# TYPE a_seconds histogram\na_seconds_bucket{le=\"1\"} 2\n\
                a_seconds_bucket{le=\"+Inf\"} 3\na_seconds_sum 4.5\na_seconds_count 3\nplain{job=\"other\",x=\"\\\"\"} NaN\n";
    push(&mut groups, "job/nightly", body, false, 1_500).expect("taken");
    push(&mut groups, "job/daily/instance/i", "# TYPE g gauge\ng 1e7\n", false, 2_000).expect("taken");
    let expected = "\
# HELP a_seconds How \\\\long.
# TYPE a_seconds histogram
a_seconds_bucket{instance=\"\",job=\"nightly\",le=\"1.0\"} 2
a_seconds_bucket{instance=\"\",job=\"nightly\",le=\"+Inf\"} 3
a_seconds_sum{instance=\"\",job=\"nightly\"} 4.5
a_seconds_count{instance=\"\",job=\"nightly\"} 3
# TYPE g gauge
g{instance=\"i\",job=\"daily\"} 1e+07
# TYPE plain untyped
plain{instance=\"\",job=\"nightly\",x=\"\\\"\"} NaN
# HELP push_failure_time_seconds Last Unix time when changing this group in the Pushgateway failed.
# TYPE push_failure_time_seconds gauge
push_failure_time_seconds{instance=\"i\",job=\"daily\"} 0
push_failure_time_seconds{instance=\"\",job=\"nightly\"} 0
# HELP push_time_seconds Last Unix time when changing this group in the Pushgateway succeeded.
# TYPE push_time_seconds gauge
push_time_seconds{instance=\"i\",job=\"daily\"} 2
push_time_seconds{instance=\"\",job=\"nightly\"} 1.5
";
    assert_eq!(groups.exposition(), expected);
    // What is exposed reads as what was pushed.
    read_families(groups.exposition().as_bytes(), Format::Text, &Labels::empty()).expect("it parses");
}

fn names(groups: &Groups) -> Vec<String> {
    groups.iter().flat_map(|group| group.families.keys().cloned()).collect()
}

#[test]
fn post_replaces_families_put_the_group_and_delete_ends_it() {
    let mut groups = Groups::default();
    push(&mut groups, "job/a", "x 1\ny 1\n", false, 1).expect("taken");
    push(&mut groups, "job/a", "y 2\nz 2\n", false, 2).expect("taken");
    assert_eq!(names(&groups), ["x", "y", "z"]);
    assert!(groups.exposition().contains("y{instance=\"\",job=\"a\"} 2\n"));
    push(&mut groups, "job/a", "x 3\n", true, 3).expect("taken");
    assert_eq!(names(&groups), ["x"]);
    push(&mut groups, "job/a", "", true, 4).expect("taken");
    assert_eq!((names(&groups).len(), groups.iter().count()), (0, 1));
    let word = groups.delete(&key("job/a"), ME, 5);
    groups.merge([word]);
    assert_eq!(groups.exposition(), "");
    push(&mut groups, "job/a", "w 1\n", false, 6).expect("taken");
    assert_eq!(names(&groups), ["w"]);
    // A deleted group is forgotten after a while, a living one never.
    let word = groups.delete(&key("job/b"), ME, 7);
    groups.merge([word]);
    assert!(!groups.forget_before(7));
    assert!(groups.forget_before(8));
    assert_eq!(groups.len(), 1);
}

#[test]
fn what_contradicts_is_refused_and_the_failure_shows() {
    let mut groups = Groups::default();
    push(&mut groups, "job/a", "# TYPE x counter\nx 1\n", false, 1_000).expect("taken");
    let refused = |groups: &mut Groups, path: &str, body: &str| push(groups, path, body, false, 2_000).expect_err("no");
    let error = refused(&mut groups, "job/b", "# TYPE x gauge\nx 1\n");
    assert!(error.to_string().ends_with(r#"x is a gauge, and a counter in the group {job="a"}"#), "{error}");
    assert_eq!(refused(&mut groups, "job/a", "x 1 1000\n"), PushError::Stamped);
    assert!(matches!(refused(&mut groups, "job/a", "y{a=\"b\"} 1\ny{a=\"b\"} 2\n"), PushError::Twice(_)));
    // The group's labels stand, so these are one series.
    assert!(matches!(refused(&mut groups, "job/a", "y{job=\"1\"} 1\ny{job=\"2\"} 2\n"), PushError::Twice(_)));
    let shown = groups.exposition();
    assert!(shown.contains("push_failure_time_seconds{instance=\"\",job=\"a\"} 2\n"), "{shown}");
    assert!(shown.contains("push_time_seconds{instance=\"\",job=\"a\"} 1\n"), "{shown}");
    assert!(shown.contains("push_failure_time_seconds{instance=\"\",job=\"b\"} 2\n"), "{shown}");
    // Its own group may change its mind.
    push(&mut groups, "job/a", "# TYPE x gauge\nx 1\n", false, 3_000).expect("taken");
    assert!(groups.iter().next().is_some_and(Group::last_push_succeeded));
}

#[test]
fn a_word_outlives_being_written_down() {
    let mut groups = Groups::default();
    push(&mut groups, "job/a/b/c", "# TYPE x counter\nx{d=\"e\"} NaN\ny +Inf\n", true, 1).expect("taken");
    let text = serde_json::to_string(&groups.all().collect::<Vec<_>>()).expect("JSON");
    let mut again = Groups::default();
    again.merge(serde_json::from_str::<Vec<Group>>(&text).expect("reads"));
    assert_eq!(again, groups);
}

/// Something that happens to one of two groups, at one of three peers.
#[derive(Clone, Debug)]
enum Act {
    Push(u8, u8, bool),
    Fail(u8),
    Delete(u8),
    Tell(u8),
}

fn acts() -> impl Strategy<Value = Vec<(u8, Act)>> {
    let act = prop_oneof![
        (0..2u8, 0..3u8, any::<bool>()).prop_map(|(group, family, replace)| Act::Push(group, family, replace)),
        (0..2u8).prop_map(Act::Fail),
        (0..2u8).prop_map(Act::Delete),
        (0..3u8).prop_map(Act::Tell),
    ];
    proptest::collection::vec((0..3u8, act), 1..30)
}

proptest! {
    #[test]
    fn peers_that_told_each_other_all_agree(acts in acts(), order in proptest::sample::subsequence((0..30usize).collect::<Vec<_>>(), 0..30)) {
        let mut peers: Vec<Groups> = vec![Groups::default(); 3];
        let mut words = Vec::new();
        for (at, (peer, act)) in acts.into_iter().enumerate() {
            let at = at as i64;
            let labels = |group: u8| Labels::from_pairs([("job", &format!("j{group}"))]);
            let me = PeerId(u128::from(peer) + 1);
            let groups = peers[usize::from(peer)].clone();
            let word = match act {
                Act::Push(group, family, replace) => {
                    let key = labels(group);
                    let families: BTreeMap<_, _> =
                        read_families(format!("f{family} {at}\n").as_bytes(), Format::Text, &key).expect("parses");
                    groups.push(&key, families, replace, me, at).expect("all untyped")
                }
                Act::Fail(group) => groups.failure(&labels(group), me, at),
                Act::Delete(group) => groups.delete(&labels(group), me, at),
                Act::Tell(to) => {
                    let all: Vec<Group> = groups.all().cloned().collect();
                    peers[usize::from(to)].merge(all);
                    continue;
                }
            };
            peers[usize::from(peer)].merge([word.clone()]);
            words.push(word);
        }
        // Every order of the words, repeats among them, ends alike.
        let mut straight = Groups::default();
        straight.merge(words.clone());
        let mut other = Groups::default();
        other.merge(order.iter().filter_map(|at| words.get(*at)).cloned());
        other.merge(words.iter().rev().cloned());
        prop_assert_eq!(&straight, &other);
        let all: Vec<Group> = peers.iter().flat_map(|groups| groups.all().cloned()).collect();
        for groups in &mut peers {
            groups.merge(all.clone());
            prop_assert_eq!(&*groups, &straight);
        }
    }
}
