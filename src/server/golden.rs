//! Bytes of what peers say to each other in few words: what a released build wrote decodes for ever. Longer forms have
//! theirs beside them; `tests/tidy.rs` looks that each kind has some.

use std::collections::BTreeMap;

use promesh_model::codec::{self, RPC_BYTES_MAX};
use promesh_model::shard::ShardSet;
use promesh_model::{Generation, Labels, Matcher, PeerId, ShardId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::asking::{Did, ITEMS, Question};
use crate::deletes::Delete;
use crate::hands::{CHITCHAT, EXCHANGE, SUBSCRIBE};
use crate::live::LIVE;
use crate::paging::{ALERTING, MESSAGE};
use crate::ruling::RULES;
use crate::sending::PROGRESS;
use crate::subscribed::{self, SUBSCRIBED};
use crate::twins::{TWIN, WHO};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> String {
    let bytes = codec::encode(value);
    assert_eq!(codec::decode::<T, RPC_BYTES_MAX>(&bytes).expect("own bytes"), *value);
    hex(&bytes)
}

#[test]
fn short_words_have_golden_bytes() {
    let shards: ShardSet = [ShardId(0), ShardId(70)].into_iter().collect();
    let mark = subscribed::mark(&codec::encode(&shards));
    let progress = BTreeMap::from([("receiver".to_owned(), 1_767_225_600_000_i64)]);
    let mut seen = String::new();
    for (kind, name, bytes) in [
        (WHO, "who is there", shown(&(PeerId(7), Generation(300)))),
        (TWIN, "a twin is refused", shown(&"why".to_owned())),
        (LIVE, "the live stream opens", String::new()),
        (SUBSCRIBE, "send me these", shown(&shards)),
        (SUBSCRIBED, "from here on", shown(&mark)),
        (PROGRESS, "so far", shown(&progress)),
        (ALERTING, "the stream of alerting opens", String::new()),
    ] {
        seen.push_str(&format!("{kind} {name}: {bytes}\n"));
    }
    expect_test::expect![[r#"
        28 who is there: 07fb2c01
        29 a twin is refused: 03776879
        32 the live stream opens: 
        33 send me these: 00020046
        73 from here on: fdb3e80bf95b10fbf7
        67 so far: 01087265636569766572fd0050b5ed36030000
        40 the stream of alerting opens: 
    "#]]
    .assert_eq(&seen);
}

/// Whose content is another crate's, which has golden bytes of it: snapshots (`cluster`), messages of alerting, and what
/// chitchat's own library writes, which decides nothing. Groups of rules are JSON of the API's own types.
#[test]
fn kinds_of_golden_content_keep_their_numbers() {
    assert_eq!([EXCHANGE, CHITCHAT, RULES, MESSAGE], [34, 35, 39, 41]);
}

/// Questions are JSON, so that a newer peer may ask more.
#[test]
fn questions_and_answers_have_golden_texts() {
    let matcher = Matcher::new(promesh_model::MatchOp::Equal, "a", "b").expect("it compiles");
    let delete = Delete { id: "d".to_owned(), matchers: vec![matcher.clone()], start: 1, end: 2, cut_off: 3 };
    let all = [
        Question::Targets,
        Question::Metadata,
        Question::Exemplars { selectors: vec![vec![matcher]], start: 1, end: 2 },
        Question::Delete(delete),
        Question::CleanTombstones,
        Question::Reload,
        Question::Groups(Vec::new()),
    ];
    let mut seen = String::new();
    for question in &all {
        // The compiler asks for a further question.
        match question {
            Question::Targets | Question::Metadata | Question::Exemplars { .. } | Question::Delete(_) => {}
            Question::CleanTombstones | Question::Reload | Question::Groups(_) => {}
        }
        let text = serde_json::to_string(question).expect("it is plain data");
        let again: Question = serde_json::from_str(&text).expect("own text");
        assert_eq!(serde_json::to_value(&again).ok(), serde_json::from_str::<Value>(&text).ok());
        seen.push_str(&format!("{} {text}\n", crate::asking::ASK));
    }
    let news = [
        serde_json::to_string(&vec![Did { error: "why".to_owned() }]),
        serde_json::to_string(&vec![crate::asking::TargetNews {
            labels: Labels::from_pairs([("a", "b")]),
            pool: "p".to_owned(),
            at: 1,
            duration: 0.5,
            error: String::new(),
        }]),
        serde_json::to_string(&vec![crate::asking::MetadataNews {
            labels: Labels::from_pairs([("a", "b")]),
            at: 1,
            families: vec![("f".to_owned(), promesh_model::ingest::Metadata::default())],
        }]),
    ];
    for text in news {
        seen.push_str(&format!("{ITEMS} {}\n", text.expect("it is plain data")));
    }
    expect_test::expect![[r#"
        65 "Targets"
        65 "Metadata"
        65 {"Exemplars":{"selectors":[[["Equal","a","b"]]],"start":1,"end":2}}
        65 {"Delete":{"id":"d","matchers":[["Equal","a","b"]],"start":1,"end":2,"cut_off":3}}
        65 "CleanTombstones"
        65 "Reload"
        65 {"Groups":[]}
        66 [{"error":"why"}]
        66 [{"labels":{"a":"b"},"pool":"p","at":1,"duration":0.5,"error":""}]
        66 [{"labels":{"a":"b"},"at":1,"families":[["f",{"kind":"","unit":"","help":""}]]}]
    "#]]
    .assert_eq(&seen);
}
