//! Taking over the folder of an Alertmanager: its `nflog` and `silences` become records of ours, once.
//!
//! The files are read and left as they are. What they give is durable before [`MARK`] says so; a crash in between has them
//! read again, which changes nothing. A file that has changed since, because an Alertmanager ran on the folder again, is
//! read again too: of two tellings the later stands, of two versions of a silence the last written.

use std::io::{self, Write as _};
use std::path::Path;

use promesh_alerting::inherit::{InheritError, Inherited, notification_log, silences};
use promesh_alerting::message::{DiskRecord, encode_records};
use promesh_alerting::route::RouteTree;
use promesh_model::Timestamp;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::records::{FOLDER, RecordLog};

/// What has been taken over.
const MARK: &str = "inherited.json";
/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Records of one frame.
const FRAME_RECORDS: usize = 256;

/// Digests of the files that have been read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Mark {
    nflog: String,
    silences: String,
}

/// Reads the files of an Alertmanager in a data directory, if they are there and were not read before; makes what they
/// give durable, and returns it.
///
/// # Errors
/// What is wrong with which file, and what to do: as an Alertmanager, a peer does not start over a log that it cannot read,
/// since it would page everybody again.
pub fn take_over(
    data: &Path,
    log: &mut RecordLog,
    tree: &RouteTree,
    now: Timestamp,
) -> Result<Vec<DiskRecord>, String> {
    let mark_path = data.join(FOLDER).join(MARK);
    let known: Mark = match std::fs::read(&mark_path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => Mark::default(),
    };
    let mut mark = known.clone();
    let mut records = Vec::new();
    let mut read = |name: &str, digest: &mut String, parse: &dyn Fn(&[u8]) -> Result<Inherited, InheritError>| {
        let path = data.join(name);
        let explained = |why: &dyn std::fmt::Display| {
            let what = "it is taken for what an Alertmanager left. Without it receivers are told again, and silences are \
                        gone: move it away to start so";
            format!("{}: {why}; {what}", path.display())
        };
        let Some(content) = content(&path).map_err(|error| explained(&error))? else { return Ok(()) };
        let found = format!("{:032x}", xxh3_128(&content));
        if *digest == found {
            return Ok(());
        }
        let inherited = parse(&content).map_err(|error| explained(&error))?;
        for why in &inherited.left_out {
            tracing::warn!(file = %path.display(), why, "left out of what an Alertmanager left");
        }
        tracing::info!(file = %path.display(), records = inherited.records.len(), "taken over from an Alertmanager");
        records.extend(inherited.records);
        *digest = found;
        Ok::<(), String>(())
    };
    read("nflog", &mut mark.nflog, &|content| notification_log(content, tree, now))?;
    read("silences", &mut mark.silences, &|content| silences(content, now))?;
    if mark == known {
        return Ok(records);
    }
    let frames: Vec<Vec<u8>> = records.chunks(FRAME_RECORDS).map(encode_records).collect();
    let mut keep = || -> io::Result<()> {
        if !frames.is_empty() {
            log.append(&frames)?;
        }
        write_durably(&mark_path, &serde_json::to_vec(&mark).expect("texts only"))
    };
    keep().map_err(|error| format!("{}: {error}", mark_path.display()))?;
    Ok(records)
}

/// A file's content; `None` if there is no such file.
fn content(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Ok(None),
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{} bytes are more than 1 GiB", found.len())))
        }
        Ok(_) => std::fs::read(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> RouteTree {
        let text = b"route: {receiver: a}\nreceivers: [{name: a}]\n";
        RouteTree::new(&promesh_config::alertmanager::load("a.yml", text, Path::new("")).expect("it loads"))
    }

    #[test]
    fn files_are_read_once_and_stay_as_they_are() {
        let data = tempfile::tempdir().expect("a folder");
        let at = Timestamp(0);
        let open = || RecordLog::open(data.path()).expect("opened");
        let (mut log, _) = open();
        assert_eq!(take_over(data.path(), &mut log, &tree(), at), Ok(Vec::new()), "nothing is there");
        // A silence `a="b"` from 0 to 1 s, kept until 2 s: written by hand after silence.proto.
        let id = "11111111-2222-4333-8444-555555555555";
        let mut silence = [&[0x0a, 36], id.as_bytes(), &[0x12, 6, 0x12, 1, b'a', 0x1a, 1, b'b']].concat();
        silence.extend([0x1a, 2, 0x10, 1, 0x22, 2, 0x08, 1]);
        let mut file = vec![silence.len() as u8 + 6, 0x0a, silence.len() as u8];
        file.extend(&silence);
        file.extend([0x12, 2, 0x08, 2]);
        std::fs::write(data.path().join("silences"), &file).expect("written");
        let taken = take_over(data.path(), &mut log, &tree(), at).expect("it is good");
        let [DiskRecord::Silence(taken_id, value)] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!((taken_id.to_string().as_str(), value.ends_at()), (id, Timestamp(1000)));
        assert_eq!(take_over(data.path(), &mut log, &tree(), at), Ok(Vec::new()), "it was read before");
        assert_eq!(open().1, taken, "it is durable");
        assert_eq!(std::fs::read(data.path().join("silences")).expect("there"), file);
        std::fs::write(data.path().join("nflog"), [5, 1]).expect("written");
        let error = take_over(data.path(), &mut log, &tree(), at).unwrap_err();
        assert!(error.contains("nflog: message 1, at byte 0: it should have 5 bytes"), "{error}");
        assert_eq!(open().1, taken);
    }
}
