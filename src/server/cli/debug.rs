//! `promesh debug`: what a peer says of itself, in one archive to send to somebody.
//!
//! A tar of a dozen small files is written by hand: 512 bytes of header a file.

use std::io::Write as _;

use clap::{Arg, ArgMatches, Command};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Done, Failure, http};

/// The file's name in the archive, and where it comes from.
const PAGES: [(&str, &str); 9] = [
    ("metrics.txt", "/metrics"),
    ("buildinfo.json", "/api/v1/status/buildinfo"),
    ("runtimeinfo.json", "/api/v1/status/runtimeinfo"),
    ("flags.json", "/api/v1/status/flags"),
    ("config.json", "/api/v1/status/config"),
    ("tsdb.json", "/api/v1/status/tsdb"),
    ("cluster.json", "/api/v1/cluster"),
    ("targets.json", "/api/v1/targets"),
    ("rules.json", "/api/v1/rules"),
];

pub(super) fn command() -> Command {
    let server = || Arg::new("server").required(true).help("HTTP address of a peer");
    let output = || Arg::new("output").long("output").default_value("debug.tar.gz").help("The archive");
    Command::new("debug")
        .about("Fetch debug information; secrets are masked by the peer")
        .subcommand_required(true)
        .subcommand(Command::new("all").about("Everything").args([server(), output()]))
        .subcommand(Command::new("metrics").about("Metrics alone").args([server(), output()]))
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    let text = |name: &str| matches.get_one::<String>(name).expect("a required argument or one with a default");
    let (server, output) = (text("server"), text("output"));
    println!("collecting: {server}");
    let wanted = if name == "metrics" { &PAGES[..1] } else { &PAGES[..] };
    let mut archive = GzEncoder::new(Vec::new(), Compression::default());
    let failed = |error: std::io::Error| Failure::new(format!("{output}: {error}"));
    for (file, path) in wanted {
        let (status, body) = http::fetch_text(server, path)?;
        let content = if status.is_success() { body } else { format!("{status}\n{body}") };
        archive.write_all(&entry(file, content.as_bytes())).map_err(failed)?;
    }
    // Two empty records end a tar.
    archive.write_all(&[0; 1024]).map_err(failed)?;
    let bytes = archive.finish().map_err(failed)?;
    std::fs::write(output, bytes).map_err(failed)?;
    println!("Compiling debug information complete, all files written in {output:?}.");
    Ok(())
}

/// A file as a tar holds it: a ustar header, the content, zeros up to a multiple of 512.
fn entry(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut entry = header.to_vec();
    entry.extend_from_slice(content);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The machine's own tar reads it.
    #[test]
    fn tar_reads_the_archive() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.tar");
        let mut bytes = entry("one.txt", b"hello\n");
        bytes.extend(entry("two.txt", &[b'x'; 1000]));
        bytes.extend([0; 1024]);
        std::fs::write(&path, bytes).expect("written");
        let Ok(listed) = std::process::Command::new("tar").arg("-xOf").arg(&path).arg("one.txt").output() else {
            eprintln!("there is no tar here: this case did not run");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "hello\n");
    }
}
