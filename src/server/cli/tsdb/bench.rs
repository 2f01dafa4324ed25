//! Measuring how fast samples are written.

use std::path::Path;
use std::sync::Arc;

use clap::ArgMatches;
use promesh_model::ingest::{Batch, SeriesIndex as _};
use promesh_model::{Labels, Timestamp};
use promesh_tsdb::{Db, DbOptions, Intake, ReplayDecoder};

use super::super::progress::Progress;
use super::super::{Done, Failure};
use crate::clock;
use crate::ingest::{Lanes, LogDecoder};

pub(super) fn run(matches: &ArgMatches) -> Done {
    let count = |name: &str| *matches.get_one::<usize>(name).expect("an argument with a default");
    let out = matches.get_one::<String>("out").expect("an argument with a default");
    let (series, scrapes) = (count("metrics"), count("scrapes"));
    let failed = |error: &dyn std::fmt::Display| Failure::new(error.to_string());
    let lanes = Arc::new(Lanes::default());
    let decoders = || -> Box<dyn ReplayDecoder> { Box::new(LogDecoder(Arc::clone(&lanes))) };
    let began = clock::now();
    let (db, _) = Db::open(Path::new(out), DbOptions::default(), &decoders, began).map_err(|error| failed(&error))?;
    let labels = |n: usize| Labels::from_pairs([("__name__", "bench"), ("series", &n.to_string())]);
    let resolved: Result<Vec<_>, _> = (0..series).map(|n| db.resolve(&labels(n))).collect();
    let refs = resolved.map_err(|error| failed(&error))?;
    let mut progress = Progress::new("scrapes written", scrapes as u64);
    let first = clock::wall();
    let started = clock::monotonic();
    for scrape in 0..scrapes {
        let slot = Timestamp(first.ms() + scrape as i64 * 15_000);
        let values = (0..series).map(|n| (n + scrape) as f64).collect();
        let batch = Batch { slot, series: refs.clone(), values, ..Batch::default() };
        db.write_as(&[], Intake::Append(&batch), None).map_err(|error| failed(&error))?;
        progress.advance(1);
    }
    db.sync().map_err(|error| failed(&error))?;
    drop(progress);
    let took = clock::monotonic().since(started).as_secs_f64();
    let samples = series * scrapes;
    println!("ingestion completed");
    println!(" > total samples: {samples}");
    println!(" > samples/sec: {:.0}", samples as f64 / took.max(1e-9));
    Ok(())
}
