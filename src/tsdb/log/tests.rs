use promesh_model::frame::HEADER_BYTES;
use proptest::prelude::*;

use super::*;
use crate::fs::{Fault, FaultyFs};

fn frame_of(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write(&mut out, 7, payload);
    out
}

fn open(fs: &FaultyFs) -> (Log, ScanReport, Vec<Vec<u8>>) {
    let mut found = Vec::new();
    let (log, report) =
        Log::open(Arc::new(fs.clone()), Path::new("log"), |frame| found.push(frame.payload().to_vec())).expect("opens");
    (log, report, found)
}

#[test]
fn frames_come_back_in_order_across_segments() {
    let fs = FaultyFs::new();
    let (log, _, _) = open(&fs);
    log.append(&frame_of(b"one"), Timestamp(5), None).expect("appends");
    let first = log.segment();
    log.cut().expect("cuts");
    assert!(matches!(log.append(&frame_of(b"x"), Timestamp(6), Some(first)), Err(LogError::SegmentCut { .. })));
    log.append(&frame_of(b"two"), Timestamp(6), Some(log.segment())).expect("appends");
    let (mut position, mut seen) = (LogPosition::default(), Vec::new());
    loop {
        let read = log.read(position, 1).expect("reads");
        if read.frames.is_empty() && read.next == position {
            break;
        }
        seen.extend_from_slice(&read.frames);
        position = read.next;
    }
    assert_eq!(seen, [frame_of(b"one"), frame_of(b"two")].concat());
    assert_eq!(position, log.end());
    drop(log);
    assert_eq!(open(&fs).2, [b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn removed_segments_are_named_when_asked_for() {
    let fs = FaultyFs::new();
    let (log, _, _) = open(&fs);
    let position = log.append(&frame_of(b"one"), Timestamp(5), None).expect("appends");
    log.cut().expect("cuts");
    assert_eq!(log.remove_through(u64::MAX).expect("removes"), 1);
    assert!(matches!(log.read(position, 100), Err(LogError::NoSuchPosition { .. })));
}

#[test]
fn a_full_disk_refuses_and_forgets_nothing() {
    let fs = FaultyFs::new();
    let (log, _, _) = open(&fs);
    log.append(&frame_of(b"kept"), Timestamp(1), None).expect("appends");
    fs.set_bytes_free(Some(5));
    assert!(matches!(log.append(&frame_of(b"refused"), Timestamp(2), None), Err(LogError::Disk { .. })));
    fs.set_bytes_free(None);
    log.append(&frame_of(b"after"), Timestamp(3), None).expect("space is back");
    drop(log);
    let (_, report, found) = open(&fs);
    assert_eq!(found, [b"kept".to_vec(), b"after".to_vec()]);
    assert_eq!((report.torn_bytes, report.damaged_places), (0, 0));
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let fs = FaultyFs::new();
    let (log, _, _) = open(&fs);
    log.append(&frame_of(b"one"), Timestamp(1), None).expect("appends");
    let before = log.sync().expect("syncs");
    let lost = log.append(&frame_of(b"two"), Timestamp(2), None).expect("appends");
    fs.fail_after(1, Fault::Io);
    assert!(log.sync().is_err());
    assert_eq!(log.synced_to(), before);
    // The system reports a lost write once: a second sync of the same file would say that all is well.
    log.sync().expect("the segment is written anew");
    assert!(log.synced_to() > lost);
    log.append(&frame_of(b"six"), Timestamp(3), None).expect("appends");
    log.sync().expect("syncs");
    drop(log);
    fs.crash(|_| 0);
    assert_eq!(open(&fs).2, [b"one".to_vec(), b"two".to_vec(), b"six".to_vec()]);
}

#[test]
fn a_failed_sync_is_remembered_beyond_the_process() {
    let fs = FaultyFs::new();
    let (log, _, _) = open(&fs);
    log.append(&frame_of(b"one"), Timestamp(1), None).expect("appends");
    fs.fail_after(1, Fault::Io);
    assert!(log.sync().is_err());
    drop(log);
    // The next process finds a file that reads well, and whose sync would have nothing left to do.
    let (log, _, found) = open(&fs);
    assert_eq!(found, [b"one".to_vec()]);
    log.append(&frame_of(b"two"), Timestamp(2), None).expect("appends");
    assert_eq!(log.sync().expect("syncs"), log.end());
    drop(log);
    fs.crash(|_| 0);
    assert_eq!(open(&fs).2, [b"one".to_vec(), b"two".to_vec()]);
    assert!(fs.files().iter().all(|path| path.extension().is_none()), "{:?}", fs.files());
}

#[test]
fn bytes_that_cannot_be_read_back_are_never_called_durable() {
    let fs = FaultyFs::new();
    let (log, _, _) = open(&fs);
    let lost = log.append(&frame_of(b"one"), Timestamp(1), None).expect("appends");
    fs.fail_after(1, Fault::Io);
    assert!(log.sync().is_err());
    fs.damage(&segment_path(Path::new("log"), lost.segment), |bytes| bytes[8 + HEADER_BYTES] ^= 1);
    log.append(&frame_of(b"two"), Timestamp(2), None).expect("appends");
    for _ in 0..3 {
        assert!(log.sync().is_err());
        assert!(log.synced_to() <= lost);
    }
    // Its samples are in a block now: nothing waits for it any more.
    log.remove_through(lost.segment).expect("removes");
    assert_eq!(log.sync().expect("syncs"), log.end());
}

#[test]
fn a_flipped_bit_costs_one_frame() {
    let fs = FaultyFs::new();
    let (log, _, _) = open(&fs);
    for payload in [b"one", b"two", b"six"] {
        log.append(&frame_of(payload), Timestamp(1), None).expect("appends");
    }
    drop(log);
    fs.damage(&segment_path(Path::new("log"), 1), |bytes| bytes[8 + HEADER_BYTES + 3 + HEADER_BYTES] ^= 1);
    let (_, report, found) = open(&fs);
    assert_eq!(found, [b"one".to_vec(), b"six".to_vec()]);
    assert_eq!((report.damaged_places, report.damaged_bytes), (1, (HEADER_BYTES + 3) as u64));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What was synced is there after a power cut, and what is there is a prefix of what was written.
    #[test]
    fn a_power_cut_loses_only_what_was_not_synced(
        steps in proptest::collection::vec((0u8..10, 0usize..80), 1..60),
        fault in proptest::option::of((1u64..40, any::<bool>())),
        keep in 0usize..200,
    ) {
        let fs = FaultyFs::new();
        let (log, _, _) = open(&fs);
        if let Some((after, crash)) = fault {
            fs.fail_after(after, if crash { Fault::Crash } else { Fault::Io });
        }
        let (mut written, mut synced) = (Vec::new(), 0);
        for (index, (what, length)) in steps.into_iter().enumerate() {
            match what {
                0 => drop(log.cut()),
                1..=3 => if log.sync().is_ok() { synced = written.len() },
                _ => {
                    let mut payload = vec![index as u8; length];
                    payload.push(index as u8);
                    if log.append(&frame_of(&payload), Timestamp(0), None).is_ok() {
                        written.push(payload);
                    }
                }
            }
        }
        drop(log);
        fs.crash(|tail| keep.min(tail));
        let (log, _, found) = open(&fs);
        let durable = &written[..synced];
        prop_assert!(found.len() >= synced && found[..synced] == *durable, "{} of {synced} synced", found.len());
        // A segment whose name or bytes were lost may be followed by one whose bytes the disk had already.
        let mut rest = written.iter();
        prop_assert!(found.iter().all(|payload| rest.any(|other| other == payload)));
        log.append(&frame_of(b"goes on"), Timestamp(0), None).expect("appends");
    }
}
