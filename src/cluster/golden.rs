//! Bytes of what members say to each other: what a released build wrote decodes for ever.
//!
//! SWIM's words are foca's types in our codec, so a new release of foca may change them without a word of ours changing.

use std::net::SocketAddr;

use foca::{Codec, Header, Member, Message, State};
use promesh_model::codec::{self, RPC_BYTES_MAX};
use promesh_model::{Generation, Monotonic, Now, PeerId, Timestamp};

use crate::membership::{Membership, Snapshot};
use crate::record::{PeerRecord, PeerState};
use crate::swim::{Node, SwimCodec};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn node(id: u128, address: &str) -> Node {
    Node { id: PeerId(id), generation: Generation(300), renewal: 2, address: address.parse().expect("an address") }
}

/// Every message, by name; the compiler asks for a further one.
fn messages() -> Vec<(&'static str, Message<Node>)> {
    let (other, probe_number) = (node(7, "[::1]:9094"), 9);
    let all = [
        Message::Ping(9),
        Message::Ack(9),
        Message::PingReq { target: other, probe_number },
        Message::IndirectPing { origin: other, probe_number },
        Message::IndirectAck { target: other, probe_number },
        Message::ForwardedAck { origin: other, probe_number },
        Message::Announce,
        Message::Feed,
        Message::Gossip,
        Message::Broadcast,
        Message::TurnUndead,
    ];
    let name = |message: &Message<Node>| match message {
        Message::Ping(_) => "ping",
        Message::Ack(_) => "ack",
        Message::PingReq { .. } => "ping-req",
        Message::IndirectPing { .. } => "indirect-ping",
        Message::IndirectAck { .. } => "indirect-ack",
        Message::ForwardedAck { .. } => "forwarded-ack",
        Message::Announce => "announce",
        Message::Feed => "feed",
        Message::Gossip => "gossip",
        Message::Broadcast => "broadcast",
        Message::TurnUndead => "turn-undead",
    };
    all.into_iter().map(|message| (name(&message), message)).collect()
}

#[test]
fn packets_of_swim_have_golden_bytes() {
    let mut seen = String::new();
    for (name, message) in messages() {
        let (src, dst) = (node(1, "10.0.0.1:9094"), node(2, "10.0.0.2:9094"));
        let header = Header { src, src_incarnation: 4, dst, message };
        let mut bytes = Vec::new();
        SwimCodec.encode_header(&header, &mut bytes).expect("there is room");
        assert_eq!(SwimCodec.decode_header(&bytes[..]).expect("own bytes"), header);
        // Sender and receiver are alike in all of them.
        let shown = if name == "ping" { &bytes[..] } else { &bytes[bytes.len().min(27)..] };
        seen.push_str(&format!("{name} {} {}\n", bytes.len(), hex(shown)));
    }
    for (name, state) in [("alive", State::Alive), ("suspect", State::Suspect), ("down", State::Down)] {
        let member = Member::new(node(1, "10.0.0.1:9094"), 4, state);
        let mut bytes = Vec::new();
        SwimCodec.encode_member(&member, &mut bytes).expect("there is room");
        assert_eq!(SwimCodec.decode_member(&bytes[..]).expect("own bytes"), member);
        seen.push_str(&format!("{name} {}\n", hex(&bytes)));
    }
    expect_test::expect![[r#"
        ping 29 01fb2c0102000a000001fb86230402fb2c0102000a000002fb86230009
        ack 29 0109
        ping-req 54 0207fb2c01020100000000000000000000000000000001fb862309
        indirect-ping 54 0307fb2c01020100000000000000000000000000000001fb862309
        indirect-ack 54 0407fb2c01020100000000000000000000000000000001fb862309
        forwarded-ack 54 0507fb2c01020100000000000000000000000000000001fb862309
        announce 28 06
        feed 28 07
        gossip 28 08
        broadcast 28 09
        turn-undead 28 0a
        alive 01fb2c0102000a000001fb86230400
        suspect 01fb2c0102000a000001fb86230401
        down 01fb2c0102000a000001fb86230402
    "#]]
    .assert_eq(&seen);
}

fn record(state: PeerState, web_address: Option<SocketAddr>) -> PeerRecord {
    PeerRecord {
        id: PeerId(1),
        generation: Generation(300),
        version: 5,
        state,
        zone: "a".to_owned(),
        weight: 4,
        protocol: (1, 1),
        web_address,
        root: 0x1234,
    }
}

#[test]
fn records_of_peers_have_golden_bytes() {
    let web = "10.0.0.1:9090".parse().ok();
    let all = [
        PeerState::Joining,
        PeerState::Syncing,
        PeerState::Ready,
        PeerState::Leaving,
        PeerState::Skewed,
        PeerState::Full,
    ];
    let mut seen = String::new();
    for state in all {
        // The compiler asks for a further state, which is a further form.
        let web_address = match state {
            PeerState::Joining | PeerState::Syncing => None,
            PeerState::Ready | PeerState::Leaving | PeerState::Skewed | PeerState::Full => web,
        };
        let record = record(state, web_address);
        let bytes = codec::encode(&record);
        assert_eq!(codec::decode::<PeerRecord, RPC_BYTES_MAX>(&bytes).expect("own bytes"), record);
        seen.push_str(&format!("{state} {}\n", hex(&bytes)));
    }
    expect_test::expect![[r#"
        joining 01fb2c010500016104010100fb3412
        syncing 01fb2c010501016104010100fb3412
        ready 01fb2c010502016104010101000a000001fb8223fb3412
        leaving 01fb2c010503016104010101000a000001fb8223fb3412
        skewed 01fb2c010504016104010101000a000001fb8223fb3412
        full 01fb2c010505016104010101000a000001fb8223fb3412
    "#]]
    .assert_eq(&seen);
}

/// It rides in SWIM's packets, beside others.
#[test]
fn the_largest_record_fits_in_250_bytes() {
    let largest = PeerRecord {
        id: PeerId(u128::MAX),
        generation: Generation(u64::MAX),
        version: u64::MAX,
        zone: "z".repeat(64),
        weight: 64,
        protocol: (u8::MAX, u8::MAX),
        root: u128::MAX,
        ..record(PeerState::Full, "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().ok())
    };
    let bytes = codec::encode(&largest).len();
    assert!(bytes <= 250, "{bytes}");
}

/// What two peers exchange over a stream, as the asker says it and as it is answered.
#[test]
fn a_snapshot_has_golden_bytes() {
    let now = Now { monotonic: Monotonic(0), wall: Timestamp(0) };
    let record = record(PeerState::Ready, None);
    let snapshot = Membership::new(record, "10.0.0.1:9094".parse().expect("an address"), 1, now).snapshot();
    let bytes = codec::encode(&snapshot);
    let again = codec::decode::<Snapshot, RPC_BYTES_MAX>(&bytes).expect("own bytes");
    assert_eq!(codec::encode(&again), bytes);
    expect_test::expect!["0101fb2c0100000a000001fb862300000101fb2c010502016104010100fb3412"].assert_eq(&hex(&bytes));
}
