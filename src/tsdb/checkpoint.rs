//! `checkpoint.json`: what of the log is in blocks, and what the log says only once.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use promesh_model::ingest::Metadata;
use serde::{Deserialize, Serialize};

use crate::fs::{Fs, replace_file};
use crate::head::HeadTombstone;
use crate::replay::Flushed;

/// The checkpoint of a data directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// What is in blocks.
    pub flushed: Flushed,
    /// Metadata of metric families: segments that said it go.
    #[serde(default)]
    pub metadata: BTreeMap<String, Metadata>,
    /// What was deleted from the head.
    #[serde(default)]
    pub tombstones: Vec<HeadTombstone>,
}

#[derive(Serialize, Deserialize)]
struct Checksummed {
    crc32c: u32,
    checkpoint: Box<serde_json::value::RawValue>,
}

const NAME: &str = "checkpoint.json";

impl Checkpoint {
    /// Reads it; the empty one when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read: going on would count blocks' samples twice or lose deletions.
    pub fn load(fs: &dyn Fs, dir: &Path) -> io::Result<Checkpoint> {
        let path = dir.join(NAME);
        if !fs.exists(&path) {
            return Ok(Checkpoint::default());
        }
        let bytes = fs.map(&path)?;
        let checked: Checksummed = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
        let text = checked.checkpoint.get();
        if crc32c::crc32c(text.as_bytes()) != checked.crc32c {
            return Err(io::Error::other("checksum does not match"));
        }
        serde_json::from_str(text).map_err(io::Error::other)
    }

    /// Writes it.
    ///
    /// # Errors
    /// As the system says; the older one stays.
    pub fn save(&self, fs: &dyn Fs, dir: &Path) -> io::Result<()> {
        let text = serde_json::value::to_raw_value(self).map_err(io::Error::other)?;
        let checked = Checksummed { crc32c: crc32c::crc32c(text.get().as_bytes()), checkpoint: text };
        replace_file(fs, &dir.join(NAME), &serde_json::to_vec(&checked).map_err(io::Error::other)?)
    }
}
