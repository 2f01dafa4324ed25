//! Bytes of all that peers tell one another about alerts, and of all that lies on disk: what a released build wrote decodes
//! for ever.

use std::collections::{BTreeMap, BTreeSet};

use promesh_model::{Labels, MatchOp, Matcher, PeerId, Timestamp};

use crate::alert::{AlertKey, AlertValue, Notes, PostedAlert, Span};
use crate::claims::{Session, Vote};
use crate::electorate::Electorate;
use crate::message::{
    AlertMessage, Answer, DiskRecord, Intent, LATER_MESSAGE_KIND, MESSAGE_KIND, MapName, Part, RECORD_KIND, Verdict,
    decode_records, encode_records,
};
use crate::nflog::{Ballot, Done, KeyId, LogKey};
use crate::records::{Register, Version, WrittenBy};
use crate::silence::{SilenceBody, SilenceId, SilenceValue};

const HEADER_BYTES: usize = promesh_model::frame::HEADER_BYTES;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ballot() -> Ballot {
    Ballot { number: 3, peer: PeerId(7) }
}

fn alert() -> AlertValue {
    let span = |explicit| Span { ends_at: Timestamp(2_000), explicit, born: Timestamp(1_100) };
    let notes = Notes { annotations: Labels::from_pairs([("n", "m")]), generator_url: "u".to_owned() };
    AlertValue {
        labels: Labels::from_pairs([("a", "b")]),
        spans: BTreeMap::from([(Timestamp(1_000), span(true)), (Timestamp(1_500), span(false))]),
        notes: Register { version: Version { counter: 2, peer: WrittenBy(7) }, value: notes },
        updated_at: Timestamp(1_200),
    }
}

fn silence() -> SilenceValue {
    let ops = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];
    let matchers = ops.map(|op| Matcher::within_lines(op, "a".to_owned(), "b".to_owned()).expect("it compiles"));
    let body = SilenceBody {
        matcher_sets: vec![matchers.into()],
        starts_at: Timestamp(1_000),
        ends_at: Timestamp(2_000),
        updated_at: Timestamp(1_000),
        created_by: "me".to_owned(),
        comment: "why".to_owned(),
        annotations: Labels::from_pairs([("n", "m")]),
    };
    let body = Register { version: Version { counter: 2, peer: WrittenBy(7) }, value: body };
    SilenceValue { body, expired_at: Some(Timestamp(1_500)) }
}

fn done() -> Done {
    let key = LogKey {
        group_key: "{}:{}".to_owned(),
        receiver: "ops".to_owned(),
        integration: "webhook".to_owned(),
        index: 1,
        twin: 2,
    };
    Done {
        key,
        flush: Timestamp(1_000),
        ballot: ballot(),
        at: Timestamp(1_001),
        firing: BTreeSet::from([1]),
        resolved: BTreeSet::from([2]),
        data: BTreeMap::from([("thread".to_owned(), "5".to_owned())]),
    }
}

fn posted() -> PostedAlert {
    PostedAlert {
        labels: Labels::from_pairs([("a", "b")]),
        annotations: Labels::from_pairs([("n", "m")]),
        starts_at: Some(Timestamp(1_000)),
        ends_at: Some(Timestamp(2_000)),
        generator_url: "u".to_owned(),
        own_rule: true,
        evaluated_at: None,
    }
}

/// Every part; the compiler asks for a further one.
fn parts() -> Vec<(&'static str, Part)> {
    let (key, ballot, accepted) = (KeyId(9), ballot(), Some((ballot(), vec![PeerId(1)])));
    let electorate = Electorate { number: 2, members: vec![PeerId(1), PeerId(7)] };
    let intent = Intent {
        key,
        ballot,
        session: Session { peer: PeerId(7), boot: 5 },
        flush: Timestamp(1_000),
        firing: BTreeSet::from([1, 2]),
        resolved: BTreeSet::from([3]),
        electorate: 2,
    };
    let answer = |verdict| Part::Answer(Answer { key, ballot, verdict, done: Some(done()) });
    let sums = |map| Part::Sums { map, sums: vec![1, 2], answer: true };
    let all = vec![
        Part::Beat { boot: 5, sequence: 1, electorate: Some(electorate.clone()), roots: [1, 2, 3] },
        Part::BeatHeard { boot: 5, sequence: 1, caught_up: true },
        Part::Alert(AlertKey(9), alert()),
        Part::Silence(SilenceId(9), silence()),
        Part::Done(key, done()),
        Part::Forward(vec![posted()]),
        Part::AckWanted(1),
        Part::Acked(1),
        sums(MapName::Alerts),
        sums(MapName::Silences),
        sums(MapName::Log),
        Part::Compared(MapName::Log),
        Part::Intent(intent),
        answer(Verdict::Accepted),
        answer(Verdict::Busy),
        answer(Verdict::Behind(4)),
        answer(Verdict::OldElectorate),
        Part::Release(key, ballot),
        Part::Electorate(electorate),
        Part::Prepare { number: 3, ballot },
        Part::Promise { number: 3, ballot, accepted },
        Part::Accept { number: 3, ballot, members: vec![PeerId(1)] },
        Part::Accepted { number: 3, ballot },
        Part::ForwardEvaluated(vec![(posted(), Some(Timestamp(7)))]),
    ];
    let name = |part: &Part| match part {
        Part::Beat { .. } => "beat",
        Part::BeatHeard { .. } => "beat heard",
        Part::Alert(..) => "alert",
        Part::Silence(..) => "silence",
        Part::Done(..) => "done",
        Part::Forward(_) => "forward",
        Part::AckWanted(_) => "ack wanted",
        Part::Acked(_) => "acked",
        Part::Sums { .. } => "sums",
        Part::Compared(_) => "compared",
        Part::Intent(_) => "intent",
        Part::Answer(_) => "answer",
        Part::Release(..) => "release",
        Part::Electorate(_) => "electorate",
        Part::Prepare { .. } => "prepare",
        Part::Promise { .. } => "promise",
        Part::Accept { .. } => "accept",
        Part::Accepted { .. } => "accepted",
        Part::ForwardEvaluated(_) => "forward evaluated",
    };
    all.into_iter().map(|part| (name(&part), part)).collect()
}

#[test]
fn every_part_of_a_message_has_golden_bytes() {
    let mut seen = String::new();
    for (name, part) in parts() {
        let kind = if part.is_later() { LATER_MESSAGE_KIND } else { MESSAGE_KIND };
        let message = AlertMessage { parts: vec![part] };
        let bytes = message.encode();
        assert_eq!(AlertMessage::decode(&bytes).expect("own bytes"), message);
        seen.push_str(&format!("{kind:#04x} {name} {}\n", hex(&bytes[HEADER_BYTES..])));
    }
    expect_test::expect![[r#"
        0x41 beat 010005010102020107010203
        0x41 beat heard 0101050101
        0x41 alert 010209040161016202fbd007fba00f01fb9808fbb80bfba00f00fb9808020704016e016d0175fb6009
        0x41 silence 010309020701040001610162010161016202016101620301610162fbd007fba00ffbd007026d650377687904016e016d01fbb80b
        0x41 done 010409057b7d3a7b7d036f707307776562686f6f6b0102fbd0070307fbd2070101010201067468726561640135
        0x41 forward 010501040161016204016e016d01fbd00701fba00f017501
        0x41 ack wanted 010601
        0x41 acked 010701
        0x41 sums 01080002010201
        0x41 sums 01080102010201
        0x41 sums 01080202010201
        0x41 compared 010902
        0x41 intent 010a0903070705fbd007020102010302
        0x41 answer 010b0903070001057b7d3a7b7d036f707307776562686f6f6b0102fbd0070307fbd2070101010201067468726561640135
        0x41 answer 010b0903070101057b7d3a7b7d036f707307776562686f6f6b0102fbd0070307fbd2070101010201067468726561640135
        0x41 answer 010b090307020401057b7d3a7b7d036f707307776562686f6f6b0102fbd0070307fbd2070101010201067468726561640135
        0x41 answer 010b0903070301057b7d3a7b7d036f707307776562686f6f6b0102fbd0070307fbd2070101010201067468726561640135
        0x41 release 010c090307
        0x41 electorate 010d02020107
        0x41 prepare 010e030307
        0x41 promise 010f0303070103070101
        0x41 accept 01100303070101
        0x41 accepted 0111030307
        0x5a forward evaluated 011201040161016204016e016d01fbd00701fba00f017501010e
    "#]].assert_eq(&seen);
}

#[test]
fn every_record_on_disk_has_golden_bytes() {
    let (key, ballot) = (KeyId(9), ballot());
    let session = Session { peer: PeerId(7), boot: 5 };
    let all = vec![
        DiskRecord::Alert(AlertKey(9), alert()),
        DiskRecord::Silence(SilenceId(9), silence()),
        DiskRecord::Done(key, done()),
        DiskRecord::Vote(key, Vote { ballot, session, flush: Timestamp(1_000), released: true, electorate: 0 }),
        DiskRecord::Electorate(Electorate { number: 2, members: vec![PeerId(1)] }),
        DiskRecord::Paxos { number: 3, promised: ballot, accepted: Some((ballot, vec![PeerId(1)])) },
    ];
    let mut seen = String::new();
    for record in all {
        // The compiler asks for a further one.
        let name = match &record {
            DiskRecord::Alert(..) => "alert",
            DiskRecord::Silence(..) => "silence",
            DiskRecord::Done(..) => "done",
            DiskRecord::Vote(..) => "vote",
            DiskRecord::Electorate(_) => "electorate",
            DiskRecord::Paxos { .. } => "paxos",
        };
        let records = vec![record];
        let bytes = encode_records(&records);
        assert_eq!(decode_records(&bytes).expect("own bytes"), records);
        seen.push_str(&format!("{RECORD_KIND:#04x} {name} {}\n", hex(&bytes[HEADER_BYTES..])));
    }
    expect_test::expect![[r#"
        0x42 alert 010009040161016202fbd007fba00f01fb9808fbb80bfba00f00fb9808020704016e016d0175fb6009
        0x42 silence 010109020701040001610162010161016202016101620301610162fbd007fba00ffbd007026d650377687904016e016d01fbb80b
        0x42 done 010209057b7d3a7b7d036f707307776562686f6f6b0102fbd0070307fbd2070101010201067468726561640135
        0x42 vote 01030903070705fbd00701
        0x42 electorate 0104020101
        0x42 paxos 01050303070103070101
    "#]].assert_eq(&seen);
}
