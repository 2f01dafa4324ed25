//! `meta.json`: what a block is and what it was made of.

use serde::{Deserialize, Serialize};

use super::Damage;
use super::ulid::Ulid;

/// A block's description, field for field as Prometheus writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockMeta {
    /// Its name.
    pub ulid: Ulid,
    /// The first instant it may hold, in ms.
    #[serde(rename = "minTime")]
    pub min_time: i64,
    /// The first instant after it, in ms.
    #[serde(rename = "maxTime")]
    pub max_time: i64,
    /// Counts.
    #[serde(default)]
    pub stats: BlockStats,
    /// Where it came from.
    #[serde(default)]
    pub compaction: BlockCompaction,
    /// The version of the description: 1.
    pub version: u64,
    /// What others added (Thanos); kept as it is.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStats {
    /// Samples.
    #[serde(rename = "numSamples", default, skip_serializing_if = "is_zero")]
    pub samples: u64,
    /// Float samples among them.
    #[serde(rename = "numFloatSamples", default, skip_serializing_if = "is_zero")]
    pub float_samples: u64,
    /// Histogram samples among them.
    #[serde(rename = "numHistogramSamples", default, skip_serializing_if = "is_zero")]
    pub histogram_samples: u64,
    /// Series.
    #[serde(rename = "numSeries", default, skip_serializing_if = "is_zero")]
    pub series: u64,
    /// Chunks.
    #[serde(rename = "numChunks", default, skip_serializing_if = "is_zero")]
    pub chunks: u64,
    /// Deleted spans.
    #[serde(rename = "numTombstones", default, skip_serializing_if = "is_zero")]
    pub tombstones: u64,
}

/// Where a block came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCompaction {
    /// 1 for a block made from the head, one more for each merge.
    pub level: u32,
    /// The level 1 blocks in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Ulid>,
    /// Nothing of it is left: it may go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deletable: bool,
    /// The blocks it was merged from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<BlockDesc>,
    /// Merging it failed before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// `from-out-of-order` and the like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// A block that was merged into another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDesc {
    /// Its name.
    pub ulid: Ulid,
    /// Its first instant.
    #[serde(rename = "minTime")]
    pub min_time: i64,
    /// The first instant after it.
    #[serde(rename = "maxTime")]
    pub max_time: i64,
}

/// The hint of blocks made of late samples.
pub const HINT_OUT_OF_ORDER: &str = "from-out-of-order";

impl BlockMeta {
    /// Reads `meta.json`.
    ///
    /// # Errors
    /// When it is no JSON, not version 1, or its span is none.
    pub fn parse(bytes: &[u8]) -> Result<BlockMeta, Damage> {
        let meta: BlockMeta = serde_json::from_slice(bytes).map_err(|error| Damage::new(0, error.to_string()))?;
        if meta.version != 1 {
            return Err(Damage::new(0, format!("meta version {}, not 1", meta.version)));
        }
        if meta.min_time > meta.max_time {
            return Err(Damage::new(0, "minTime is after maxTime"));
        }
        Ok(meta)
    }

    /// Writes `meta.json` as Prometheus does.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
        self.serialize(&mut serializer).expect("plain data");
        out
    }

    /// The description for a block that this one is merged into.
    pub fn desc(&self) -> BlockDesc {
        BlockDesc { ulid: self.ulid, min_time: self.min_time, max_time: self.max_time }
    }

    /// Whether it was made of late samples.
    pub fn is_out_of_order(&self) -> bool {
        self.compaction.hints.iter().any(|hint| hint == HINT_OUT_OF_ORDER)
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
