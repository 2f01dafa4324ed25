//! A process from its first breath to its last.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use promesh_tsdb::{Db, DbOptions, ReplayDecoder, ReplayProgress, SetAside};

use crate::assembling::Assembly;
use crate::clock;
use crate::failure::{StartError, context};
use crate::identity::PeerFolder;
use crate::ingest::{Lanes, LogDecoder};
use crate::joining::join;
use crate::options::Options;
use crate::serving::Serving;
use crate::settings;

/// Runs a peer until it is told to stop.
pub fn run(options: Options) -> ExitCode {
    for warning in &options.warnings {
        tracing::warn!("{warning}");
    }
    // Another provider in the tree would make TLS ambiguous; ours is named everywhere and installed for the rest.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let workers = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the system gives no threads");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(live(options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(StartError(error)) => {
            for line in error.lines() {
                tracing::error!("{line}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn live(options: Options) -> Result<(), StartError> {
    let (settings, delivery) = settings::load(&options)?;
    let guard = settings::guard(&options)?;
    let mut stop = Signals::new()?;
    let progress = Arc::new(ReplayProgress::default());
    let mut serving = Serving::start(&options, guard.as_ref(), &progress).await?;
    let lanes = Arc::new(Lanes::default());
    let (db, set_aside, folder) = open(&options, &lanes, progress).await?;
    let (id, generation) = folder.next_life(clock::wall()).map_err(context("this peer's identity"))?;
    let joined = match &options.cluster {
        Some(cluster) => Some(join(cluster, id, &folder).await?),
        None => None,
    };
    let assembly = Assembly {
        options: Arc::new(options),
        settings,
        delivery,
        db,
        set_aside,
        lanes,
        folder,
        id,
        generation,
        web_address: serving.address,
    };
    let peer = Arc::new(assembly.assemble(joined)?);
    peer.tell_facts().await;
    serving.hand_over(&peer);
    peer.accompany();
    tracing::info!(peer = %id, generation = generation.0, configuration = %peer.options.config_file.path.display(), "started: ready once it holds what it should");
    loop {
        tokio::select! {
            _ = stop.terminate.recv() => break,
            _ = stop.interrupt.recv() => break,
            () = peer.quit_asked() => break,
            why = peer.refused() => return Err(StartError(why)),
            _ = stop.hangup.recv() => {
                // Said and counted where it happens.
                let _ = peer.reload().await;
            }
        }
    }
    peer.stop().await;
    drop(serving);
    Ok(())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

async fn open(
    options: &Options,
    lanes: &Arc<Lanes>,
    progress: Arc<ReplayProgress>,
) -> Result<(Arc<Db>, Vec<SetAside>, PeerFolder), StartError> {
    let path = options.storage.path.clone();
    let lanes = Arc::clone(lanes);
    let storage = &options.storage;
    let mut db_options = DbOptions {
        retention: Some(storage.retention_time),
        retention_bytes: storage.retention_bytes,
        block_span_max: storage.block_span_max,
        seed: uuid::Uuid::new_v4().as_u128() as u64,
        progress: Arc::clone(&progress),
        ..DbOptions::default()
    };
    if !options.features.exemplar_storage {
        db_options.head.exemplars_max = 0;
    }
    if let Some(bytes) = storage.wal_bytes_max {
        db_options.log_bytes_max = bytes;
    }
    let opened = tokio::task::spawn_blocking(move || {
        let decoders = || -> Box<dyn ReplayDecoder> { Box::new(LogDecoder(Arc::clone(&lanes))) };
        let began = clock::now();
        let opened = Db::open(&path, db_options, &decoders, began);
        opened.map(|(db, report)| (db, report, clock::monotonic().since(began.monotonic)))
    });
    let (db, report, took) = say_progress(&progress, opened).await?.map_err(context("the data directory"))?;
    let replay = &report.replay;
    tracing::info!(samples = replay.samples, series = db.head().series_count(), ?took, "Log replay completed");
    if let Some(error) = &replay.first_error {
        tracing::warn!(frames = replay.undecodable, error, "frames of the log could not be read back");
    }
    let folder = PeerFolder::open(db.dir()).map_err(context("this peer's folder"))?;
    Ok((Arc::new(db), report.set_aside, folder))
}

/// How often somebody who waits for the log hears how far it is.
const PROGRESS_PERIOD: Duration = Duration::from_secs(2);

/// Says how far the log is read back for as long as `work` takes.
async fn say_progress<T>(progress: &ReplayProgress, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(PROGRESS_PERIOD) => {
                let [first, last, current] = progress.segments();
                tracing::info!(first, last, current, "reading the log back: not ready yet");
            }
        }
    }
}
