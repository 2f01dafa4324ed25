//! Upstream's `.test` scripts, unchanged.

use std::fs;
use std::path::PathBuf;

use promesh_promql::script::{ScriptOptions, run};

fn scripts() -> Option<Vec<PathBuf>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/conformance/promql");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).ok()?.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    Some(files)
}

#[test]
fn upstreams_scripts_pass() {
    let Some(files) = scripts() else {
        println!("the conformance data is absent: nothing was compared");
        return;
    };
    let mut failed = 0;
    for file in files {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("scripts are readable");
        let report = run(&text, &ScriptOptions::default());
        println!("{name:28} {:5} evals {:5} failed", report.evals, report.failures.len());
        for failure in &report.failures {
            println!("  {name}:{}: {}", failure.line, failure.message);
        }
        failed += report.failures.len();
    }
    assert_eq!(failed, 0, "evaluations that differ from upstream, see above");
}
