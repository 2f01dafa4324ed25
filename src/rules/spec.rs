//! Rule groups as meant.

use std::time::Duration;

use promesh_model::Labels;
use promesh_template::{Functions, Template, TemplateError};

/// What all groups of a peer share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Labels of everything that leaves this mesh; templates see them as `$externalLabels`.
    pub external_labels: Labels,
    /// The URL under which people reach this server.
    pub external_url: String,
    /// The least time between two sends of one firing alert. Default 1m, as in Prometheus.
    pub resend_delay: Duration,
    /// The `query_offset` of groups that have none. Default 0.
    pub query_offset: Duration,
    /// An alert restored after an outage fires no sooner than this. Default 10m, as in Prometheus.
    pub for_grace_period: Duration,
    /// After a longer outage nothing is restored. Default 1h, as in Prometheus.
    pub for_outage_tolerance: Duration,
    /// How long reads may miss shards before groups run on what is there. Default 1m.
    pub incomplete_hold: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            external_labels: Labels::empty(),
            external_url: String::new(),
            resend_delay: Duration::from_secs(60),
            query_offset: Duration::ZERO,
            for_grace_period: Duration::from_secs(600),
            for_outage_tolerance: Duration::from_secs(3600),
            incomplete_hold: Duration::from_secs(60),
        }
    }
}

/// A group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSpec {
    /// The rule file, relative to the configuration's folder, so that peers with other folders agree.
    pub file: String,
    /// Its name, once per file.
    pub name: String,
    /// Between two evaluations; not zero.
    pub interval: Duration,
    /// Series or alerts that one rule may produce; 0 for any number.
    pub limit: usize,
    /// How far before its slot a rule looks.
    pub query_offset: Option<Duration>,
    /// Its rules, in order.
    pub rules: Vec<RuleSpec>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleSpec {
    /// Fires alerts.
    Alerting(AlertingSpec),
    /// Records series.
    Recording(RecordingSpec),
}

impl RuleSpec {
    /// The alert's or the recorded metric's name.
    pub fn name(&self) -> &str {
        match self {
            RuleSpec::Alerting(rule) => &rule.alert,
            RuleSpec::Recording(rule) => &rule.record,
        }
    }

    /// The expression.
    pub fn expression(&self) -> &str {
        match self {
            RuleSpec::Alerting(rule) => &rule.expression,
            RuleSpec::Recording(rule) => &rule.expression,
        }
    }

    /// Labels that it adds.
    pub fn labels(&self) -> &Labels {
        match self {
            RuleSpec::Alerting(rule) => &rule.labels,
            RuleSpec::Recording(rule) => &rule.labels,
        }
    }
}

/// An alerting rule.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertingSpec {
    /// The alert's name.
    pub alert: String,
    /// PromQL; each series of its answer is an alert.
    pub expression: String,
    /// How long a series must stand before its alert fires.
    pub hold: Duration,
    /// How long an alert goes on firing after its series is gone.
    pub keep_firing_for: Duration,
    /// Labels that it adds; values are templates.
    pub labels: Labels,
    /// Annotations; values are templates.
    pub annotations: Labels,
}

/// A recording rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordingSpec {
    /// The metric's name.
    pub record: String,
    /// PromQL.
    pub expression: String,
    /// Labels that it sets.
    pub labels: Labels,
}

/// Why a rule cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// The rule's name.
    pub rule: String,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rule {:?}: {}", self.rule, self.reason)
    }
}

impl std::error::Error for SpecError {}

/// What every text of an alerting rule starts with.
///
/// Source: prometheus rules/alerting.go.
const VARIABLES: &str =
    "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}";

/// A label or annotation whose value may be a template.
#[derive(Clone, Debug)]
pub(crate) enum Text {
    /// No action in it: it costs nothing.
    Plain(String),
    /// Parsed once.
    Template(Box<Template>),
}

impl Text {
    pub(crate) fn parse(alert: &str, text: &str) -> Result<Text, TemplateError> {
        if !text.contains("{{") {
            return Ok(Text::Plain(text.to_owned()));
        }
        let name = format!("__alert_{alert}");
        let template = Template::parse(&name, &format!("{VARIABLES}{text}"), Functions::Prometheus)?;
        Ok(Text::Template(Box::new(template)))
    }
}

/// The parsed texts of an alerting rule.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    pub labels: Vec<(String, Text)>,
    pub annotations: Vec<(String, Text)>,
}

impl Texts {
    pub(crate) fn parse(rule: &AlertingSpec) -> Result<Texts, SpecError> {
        let parse = |what: &str, labels: &Labels| {
            let each = labels.iter().map(|(name, text)| match Text::parse(&rule.alert, text) {
                Ok(parsed) => Ok((name.to_owned(), parsed)),
                Err(error) => Err(SpecError {
                    rule: rule.alert.clone(),
                    reason: format!("{what} {name:?}, template {text:?}: {error}"),
                }),
            });
            each.collect::<Result<Vec<_>, _>>()
        };
        Ok(Texts { labels: parse("label", &rule.labels)?, annotations: parse("annotation", &rule.annotations)? })
    }
}

impl AlertingSpec {
    /// Checks the templates of labels and annotations, as loading a rule file does.
    ///
    /// # Errors
    /// The first that does not parse.
    pub fn check(&self) -> Result<(), SpecError> {
        Texts::parse(self).map(|_| ())
    }
}
