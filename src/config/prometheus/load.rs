//! Reading the file and what it names.

use std::collections::BTreeMap;
use std::path::Path;

use promesh_model::LabelsBuilder;

use super::{Config, Loaded, ScrapeConfig};
use crate::Source;
use crate::section;
use crate::yaml::{self, ConfigErrors, FilePath, Node, Position, Problem, Reader, read_section};

/// Reads a configuration file and the files of scrape configurations that it names.
///
/// # Errors
/// Every problem found, each with its place.
pub fn load(path: &Path, source: &dyn Source) -> Result<Loaded, ConfigErrors> {
    let file = path.to_string_lossy();
    let bytes = source.read(path).map_err(|error| {
        let message = format!("cannot read the configuration: {error}");
        ConfigErrors(vec![whole_file(&file, message)])
    })?;
    load_text(&file, &bytes, path.parent().unwrap_or(Path::new("")), source)
}

/// As [`load`], for a text at hand. Relative paths in it mean `dir`.
///
/// # Errors
/// As [`load`].
pub fn load_text(file: &str, text: &[u8], dir: &Path, source: &dyn Source) -> Result<Loaded, ConfigErrors> {
    let node = yaml::parse(file, text).map_err(|problem| ConfigErrors(vec![problem]))?;
    let mut reader = Reader::new(file, text, dir);
    let mut config: Config = read_section(&node, &mut reader);
    check_paths(&config, &node, &mut reader);
    apply_globals(&mut config, &node, &mut reader);
    expand_external_labels(&mut config, source);

    let mut names = BTreeMap::new();
    let jobs_node = node.get("scrape_configs");
    check_job_names(&config.scrape_configs, jobs_node, "", &mut names, &mut reader);
    let (mut unsupported, mut remarks) = (reader.take_unbuilt(), in_order(reader.take_remarks()));
    let mut problems = in_order(reader.into_problems());
    let mut jobs = config.scrape_configs.clone();
    note_unsupported(file, text, &config.scrape_configs, &mut unsupported);
    for manager in &config.alerting.alertmanagers {
        note_unbuilt(file, text, manager.discovery.unbuilt(), &mut unsupported);
    }
    for pattern in &config.scrape_config_files {
        match source.glob(&pattern.0) {
            Ok(paths) => {
                for path in paths {
                    let mut read = ScrapeFileRead {
                        config: &config,
                        names: &mut names,
                        unsupported: &mut unsupported,
                        remarks: &mut remarks,
                    };
                    match read.run(&path, source) {
                        Ok(more) => jobs.extend(more),
                        Err(more) => problems.extend(more),
                    }
                }
            }
            Err(error) => {
                let message = format!("error retrieving scrape config files for {:?}: {error}", pattern.0);
                problems.push(whole_file(file, message));
            }
        }
    }
    if problems.is_empty() {
        return Ok(Loaded { config, jobs, unsupported, remarks });
    }
    // Who mends the file should hear at once what else will be in the way.
    problems.extend(unsupported);
    Err(ConfigErrors(problems))
}

/// As people read the file: rules of a section find their problems after those of the fields.
fn in_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|problem| problem.at);
    problems
}

fn whole_file(file: &str, message: String) -> Problem {
    Problem { file: file.to_owned(), at: Position::default(), message, snippet: String::new() }
}

section! {
    /// A file of scrape configurations.
    pub struct ScrapeConfigFile "scrape_configs" {
        /// The jobs.
        pub scrape_configs: Vec<ScrapeConfig>,
    }
}

struct ScrapeFileRead<'a> {
    config: &'a Config,
    names: &'a mut BTreeMap<String, String>,
    unsupported: &'a mut Vec<Problem>,
    remarks: &'a mut Vec<Problem>,
}

impl ScrapeFileRead<'_> {
    fn run(&mut self, path: &Path, source: &dyn Source) -> Result<Vec<ScrapeConfig>, Vec<Problem>> {
        let file = path.to_string_lossy();
        let text = source
            .read(path)
            .map_err(|error| vec![whole_file(&file, format!("cannot read scrape configurations: {error}"))])?;
        let node = yaml::parse(&file, &text).map_err(|problem| vec![problem])?;
        let mut reader = Reader::new(&file, &text, path.parent().unwrap_or(Path::new("")));
        let mut read: ScrapeConfigFile = read_section(&node, &mut reader);
        let list = node.get("scrape_configs");
        for (job, node) in read.scrape_configs.iter_mut().zip(list.map_or(&[][..], Node::elements)) {
            job.apply_globals(&self.config.global, node, &mut reader);
        }
        check_job_names(&read.scrape_configs, list, &file, self.names, &mut reader);
        note_unsupported(&file, &text, &read.scrape_configs, self.unsupported);
        self.unsupported.append(&mut reader.take_unbuilt());
        self.remarks.append(&mut in_order(reader.take_remarks()));
        let problems = in_order(reader.into_problems());
        if problems.is_empty() { Ok(read.scrape_configs) } else { Err(problems) }
    }
}

/// A pattern of files may have a star in its last part only.
fn check_paths(config: &Config, node: &Node, reader: &mut Reader<'_>) {
    for (key, what, paths) in [
        ("rule_files", "rule", &config.rule_files),
        ("scrape_config_files", "scrape config", &config.scrape_config_files),
    ] {
        let elements = node.get(key).map_or(&[][..], Node::elements);
        for (FilePath(path), element) in paths.iter().zip(elements) {
            let after_star = path.find('*').map_or("", |star| &path[star + 1..]);
            if after_star.contains('/') {
                reader.problem(element.at, format!("invalid {what} file path {path:?}"));
            }
        }
    }
}

fn apply_globals(config: &mut Config, node: &Node, reader: &mut Reader<'_>) {
    let elements = |key: &str| node.get(key).map_or(&[][..], Node::elements);
    for (job, node) in config.scrape_configs.iter_mut().zip(elements("scrape_configs")) {
        job.apply_globals(&config.global, node, reader);
    }
    let names = config.global.scheme();
    if let Some(node) = node.get("alerting") {
        config.alerting.apply_globals(names, node, reader);
    }
    for (write, node) in config.remote_write.iter_mut().zip(elements("remote_write")) {
        write.apply_globals(names, node, reader);
    }
    let strategy = config.otlp.translation_strategy.as_str();
    if names == promesh_model::relabel::NameScheme::Legacy
        && matches!(strategy, "NoTranslation" | "NoUTF8EscapingWithSuffixes")
    {
        let at = node.get("otlp").map_or(node.at, |otlp| otlp.at_key("translation_strategy"));
        reader.problem(at, format!("OTLP translation strategy {strategy:?} is not allowed when UTF8 is disabled"));
    }
    let writes: Vec<&str> = config.remote_write.iter().map(|write| write.name.as_str()).collect();
    check_unique("remote write configs", &writes, elements("remote_write"), reader);
    let reads: Vec<&str> = config.remote_read.iter().map(|read| read.name.as_str()).collect();
    check_unique("remote read configs", &reads, elements("remote_read"), reader);
}

fn check_unique(what: &str, names: &[&str], nodes: &[Node], reader: &mut Reader<'_>) {
    for (index, (name, node)) in names.iter().zip(nodes).enumerate() {
        if !name.is_empty() && names[..index].contains(name) {
            reader.problem(node.at_key("name"), format!("found multiple {what} with job name {name:?}"));
        }
    }
}

/// `names` holds where each job was found first: empty for the main file.
fn check_job_names(
    jobs: &[ScrapeConfig],
    list: Option<&Node>,
    file: &str,
    names: &mut BTreeMap<String, String>,
    reader: &mut Reader<'_>,
) {
    for (job, node) in jobs.iter().zip(list.map_or(&[][..], Node::elements)) {
        let Some(first) = names.insert(job.job_name.clone(), file.to_owned()) else { continue };
        let mut message = format!("found multiple scrape configs with job name {:?}", job.job_name);
        if !file.is_empty() {
            let place = if first.is_empty() { "main config file".to_owned() } else { format!("{first:?}") };
            message.push_str(&format!(", first found in {place}"));
        }
        reader.problem(node.at_key("job_name"), message);
    }
}

fn note_unsupported(file: &str, text: &[u8], jobs: &[ScrapeConfig], unsupported: &mut Vec<Problem>) {
    for job in jobs {
        note_unbuilt(file, text, job.discovery.unbuilt(), unsupported);
    }
}

fn note_unbuilt<'a>(
    file: &str,
    text: &[u8],
    unbuilt: impl Iterator<Item = &'a super::UnbuiltSd>,
    unsupported: &mut Vec<Problem>,
) {
    let mut reader = Reader::new(file, text, Path::new(""));
    for unbuilt in unbuilt {
        let kind = &unbuilt.kind;
        reader.problem(
            unbuilt.at,
            format!("{kind}_sd_configs is not supported yet: use http_sd_configs or file_sd_configs"),
        );
    }
    unsupported.extend(reader.into_problems());
}

/// `$NAME` and `${NAME}` in external labels are variables of the environment, `$$` is a dollar sign.
///
/// Source: Go `os.Expand`.
fn expand_external_labels(config: &mut Config, source: &dyn Source) {
    let mut builder = LabelsBuilder::default();
    for (name, value) in config.global.external_labels.iter() {
        builder.set(name, &expand_variables(value, source));
    }
    config.global.external_labels = builder.build();
}

fn expand_variables(text: &str, source: &dyn Source) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = rest.strip_prefix('{').and_then(|body| body.split_once('}')) {
            // `${$}` is a dollar sign as well.
            let value = if name == "$" { Some("$".to_owned()) } else { source.variable(name) };
            out.push_str(&value.unwrap_or_default());
            rest = tail;
        } else {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
            if end == 0 {
                out.push('$');
                continue;
            }
            out.push_str(&source.variable(&rest[..end]).unwrap_or_default());
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}
