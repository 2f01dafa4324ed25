//! What takes room in a block.

use std::collections::BTreeMap;
use std::path::Path;

use clap::ArgMatches;

use super::super::{Done, Failure};
use super::{go_duration, open};

/// Why there is no block to look at, and what to do instead.
fn not_found(path: &Path, wanted: Option<&String>) -> Failure {
    let folder = path.display();
    match wanted {
        Some(name) => {
            Failure::new(format!("{folder}: block {name} not found; `promesh tsdb list {folder}` lists them"))
        }
        None => Failure::new(format!(
            "{folder}: no block yet: the first is made after two hours or more, what is newer is in the log. Ask the \
             peer for that: /api/v1/status/tsdb, or have it make a block: POST /api/v1/admin/tsdb/snapshot and look \
             below {folder}/snapshots"
        )),
    }
}

pub(super) fn run(path: &Path, matches: &ArgMatches) -> Done {
    let limit = *matches.get_one::<usize>("limit").expect("an argument with a default");
    let blocks = open(path)?;
    let wanted = matches.get_one::<String>("block");
    let block = match wanted {
        Some(name) => blocks.iter().find(|block| block.meta().ulid.to_string() == *name),
        None => blocks.last(),
    };
    let Some(block) = block else { return Err(not_found(path, wanted)) };
    let meta = block.meta();
    println!("Block ID: {}", meta.ulid);
    println!("Duration: {}", go_duration(meta.max_time - meta.min_time));
    println!("Total Series: {}", meta.stats.series);
    println!("Label names: {}", block.index().names().count());

    let span = (meta.max_time - meta.min_time).max(1) as f64;
    let mut pairs: BTreeMap<(String, String), (u64, f64)> = BTreeMap::new();
    let mut bytes_of: BTreeMap<String, u64> = BTreeMap::new();
    let (mut chunks, mut chunk_bytes, mut samples) = (0u64, 0u64, 0u64);
    let failed = |damage: promesh_tsdb::block::Damage| Failure::new(damage.to_string());
    for series in block.all_series().map_err(failed)? {
        let (labels, metas) = block.read_series(series).map_err(failed)?;
        let (first, last) = (metas.first().map_or(0, |meta| meta.min), metas.last().map_or(0, |meta| meta.max));
        // What is missing of the block's span is churn.
        let uncovered = 1.0 - ((last - first) as f64 / span).clamp(0.0, 1.0);
        for (name, value) in labels.iter() {
            let pair = pairs.entry((name.to_owned(), value.to_owned())).or_default();
            pair.0 += 1;
            pair.1 += uncovered;
            *bytes_of.entry(name.to_owned()).or_default() += value.len() as u64;
        }
        for meta in &metas {
            let chunk = block.chunk(meta).map_err(failed)?;
            chunks += 1;
            chunk_bytes += chunk.bytes.len() as u64;
            samples += chunk.bytes.get(..2).map_or(0, |count| u64::from(u16::from_be_bytes([count[0], count[1]])));
        }
    }
    println!("Postings (unique label pairs): {}", pairs.len());
    println!("Postings entries (total label pairs): {}", pairs.values().map(|pair| pair.0).sum::<u64>());
    println!("Chunks: {chunks} of {chunk_bytes} bytes, {:.1} samples each", samples as f64 / chunks.max(1) as f64);

    let by_pair = |of: fn(&(u64, f64)) -> f64| -> Vec<(f64, String)> {
        pairs.iter().map(|((name, value), pair)| (of(pair), format!("{name}={value}"))).collect()
    };
    let mut churn_by_name: BTreeMap<&str, f64> = BTreeMap::new();
    let mut values_of: BTreeMap<&str, u64> = BTreeMap::new();
    for ((name, _), pair) in &pairs {
        *churn_by_name.entry(name).or_default() += pair.1;
        *values_of.entry(name).or_default() += 1;
    }
    let named = |map: &BTreeMap<&str, f64>| map.iter().map(|(name, v)| (*v, (*name).to_owned())).collect::<Vec<_>>();
    let print = |title: &str, mut list: Vec<(f64, String)>| {
        println!("\n{title}");
        list.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        for (figure, what) in list.into_iter().take(limit) {
            println!("{} {what}", figure.round() as u64);
        }
    };
    print("Label pairs most involved in churning:", by_pair(|pair| pair.1));
    print("Label names most involved in churning:", named(&churn_by_name));
    print("Most common label pairs:", by_pair(|pair| pair.0 as f64));
    print(
        "Label names with highest cumulative label value length:",
        bytes_of.iter().map(|(name, bytes)| (*bytes as f64, name.clone())).collect(),
    );
    print(
        "Highest cardinality labels:",
        values_of.iter().map(|(name, count)| (*count as f64, (*name).to_owned())).collect(),
    );
    let metrics = pairs.iter().filter(|((name, _), _)| name == "__name__");
    print("Highest cardinality metric names:", metrics.map(|((_, v), pair)| (pair.0 as f64, v.clone())).collect());
    Ok(())
}
