//! One rule group: its rules in order, one slot at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use promesh_model::histogram::FloatHistogram;
use promesh_model::labels::METRIC_NAME;
use promesh_model::{Labels, Monotonic, Now, ShardId, Timestamp};
use promesh_template::Query;

use crate::alert::{AlertingRule, OutgoingAlert, Round};
use crate::restore::{RestoreRequest, RestoredSeries, restore};
use crate::spec::{GroupSpec, RecordingSpec, RuleSpec, Settings, SpecError};
use crate::view::Health;

/// Between two tries of an evaluation whose read was incomplete.
const INCOMPLETE_RETRY: Duration = Duration::from_millis(200);
/// A slot may be stamped until so long after it, or half the interval.
///
/// Source: design, "Slots and writers".
const STAMP_MAX: Duration = Duration::from_millis(7500);

/// A series and its value at the queried instant.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultSample {
    /// Its labels.
    pub labels: Labels,
    /// Its value.
    pub value: SampleValue,
}

/// A float or a histogram.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleValue {
    /// A float; a staleness marker says that the series ended.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<FloatHistogram>),
}

/// A sample to append.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its series.
    pub labels: Labels,
    /// Its instant.
    pub at: Timestamp,
    /// Its value.
    pub value: SampleValue,
}

/// What a read saw.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Coverage {
    /// Every shard has a peer that answers for now.
    #[default]
    Whole,
    /// These have none.
    Missing(Vec<ShardId>),
}

/// The answer to an expression.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Evaluation {
    /// Its series.
    pub vector: Vec<ResultSample>,
    /// What it saw of the mesh.
    pub coverage: Coverage,
}

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// All of it is stored.
    Stored,
    /// The reason why some of it is not.
    Failed(String),
}

/// Names one piece of work; an answer that carries an old one is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What a group wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Query an expression at an instant; answer with [`Group::evaluated`].
    Evaluate {
        /// To be given back.
        token: Token,
        /// Index of the rule.
        rule: usize,
        /// PromQL.
        expression: String,
        /// The instant.
        at: Timestamp,
    },
    /// Append a rule's samples as one batch of the pseudo-target (file, group, rule); answer with [`Group::appended`].
    Append {
        /// To be given back.
        token: Token,
        /// Index of the rule.
        rule: usize,
        /// The slot of the batch.
        slot: Timestamp,
        /// The samples, staleness markers among them.
        samples: Vec<Sample>,
    },
    /// Alerts to hand to the alerting half.
    Alerts(Vec<OutgoingAlert>),
    /// Read back what an earlier owner wrote; answer with [`Group::restored`].
    Restore(RestoreRequest),
    /// The slot is done with.
    Finished {
        /// Which.
        slot: Timestamp,
        /// Whether it was evaluated; else it was missed.
        evaluated: bool,
    },
}

/// A rule with its state.
#[derive(Clone, Debug)]
pub(crate) enum RuleKind {
    Alerting(Box<AlertingRule>),
    Recording(RecordingSpec),
}

/// A rule, its health, and the series of its last evaluation.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub kind: RuleKind,
    pub previous: Vec<Labels>,
    pub health: Health,
    pub last_error: String,
    pub evaluation_time: Duration,
    pub last_evaluation: Option<Timestamp>,
    /// Whether state of an earlier owner is still to be read.
    pub restore_pending: bool,
}

/// What a group is doing.
#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Idle,
    Restoring { rule: usize, token: Token },
    Evaluating { rule: usize, token: Token, since: Monotonic },
    Waiting { rule: usize, until: Monotonic },
    Appending { rule: usize, token: Token },
}

/// A rule group.
#[derive(Clone, Debug)]
pub struct Group {
    pub(crate) spec: GroupSpec,
    settings: Arc<Settings>,
    pub(crate) rules: Vec<Rule>,
    phase: Phase,
    slot: Timestamp,
    outputs: VecDeque<Output>,
    next_token: u64,
    /// Since when reads miss shards.
    gap_since: Option<Monotonic>,
    started: Monotonic,
    pub(crate) evaluation_time: Duration,
    pub(crate) last_evaluation: Option<Timestamp>,
    /// Series of rules that a reload removed: to be marked stale.
    orphans: Vec<Labels>,
    missed: u64,
}

impl Group {
    /// A group whose state, if another peer had any, is read back at its first evaluation.
    ///
    /// # Errors
    /// When a label or annotation is no template.
    pub fn new(spec: GroupSpec, settings: Arc<Settings>) -> Result<Group, SpecError> {
        let rules = spec.rules.iter().map(Rule::new).collect::<Result<Vec<_>, _>>()?;
        Ok(Group {
            spec,
            settings,
            rules,
            phase: Phase::Idle,
            slot: Timestamp::MIN,
            outputs: VecDeque::new(),
            next_token: 0,
            gap_since: None,
            started: Monotonic(0),
            evaluation_time: Duration::ZERO,
            last_evaluation: None,
            orphans: Vec::new(),
            missed: 0,
        })
    }

    /// What it was made from.
    pub fn spec(&self) -> &GroupSpec {
        &self.spec
    }

    /// Whether a slot is being evaluated.
    pub fn is_busy(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// Slots that were not evaluated: the group was busy, or shards were missing.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether it runs on what is there, because shards have been missing for longer than the hold.
    pub fn is_degraded(&self, now: Now) -> bool {
        self.gap_since.is_some_and(|since| now.monotonic.since(since) >= self.settings.incomplete_hold)
    }

    /// Ownership was gained and nobody handed state over: read it back before the next evaluation.
    pub fn restore_next(&mut self) {
        for rule in &mut self.rules {
            rule.restore_pending = matches!(rule.kind, RuleKind::Alerting(_));
        }
    }

    /// Begins the evaluation of a slot. A slot that comes while another runs is missed.
    pub fn begin(&mut self, slot: Timestamp, now: Now) {
        if matches!(self.phase, Phase::Waiting { .. }) && slot > self.slot {
            self.missed += 1;
            self.finish(false, now);
        }
        if self.is_busy() || slot <= self.slot {
            self.missed += 1;
            self.outputs.push_back(Output::Finished { slot, evaluated: false });
            return;
        }
        self.slot = slot;
        self.started = now.monotonic;
        self.start_rule(0, now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Group::timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        match self.phase {
            Phase::Waiting { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Time has passed.
    pub fn timeout(&mut self, now: Now) {
        if let Phase::Waiting { rule, until } = self.phase
            && now.monotonic >= until
        {
            self.evaluate(rule, now);
        }
    }

    pub(crate) fn last_slot(&self) -> Timestamp {
        self.slot
    }

    pub(crate) fn set_last_slot(&mut self, slot: Timestamp) {
        self.slot = self.slot.max(slot);
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    fn query_offset(&self) -> Duration {
        self.spec.query_offset.unwrap_or(self.settings.query_offset)
    }

    fn sample_at(&self) -> Timestamp {
        self.slot.before(self.query_offset())
    }

    fn start_rule(&mut self, rule: usize, now: Now) {
        let Some(state) = self.rules.get(rule) else { return self.finish(true, now) };
        if state.restore_pending
            && let RuleKind::Alerting(alerting) = &state.kind
        {
            let request = RestoreRequest::of(&alerting.spec, self.sample_at(), self.settings.for_outage_tolerance);
            let token = self.token();
            self.phase = Phase::Restoring { rule, token };
            self.outputs.push_back(Output::Restore(RestoreRequest { token, rule, ..request }));
            return;
        }
        self.evaluate(rule, now);
    }

    fn evaluate(&mut self, rule: usize, now: Now) {
        let token = self.token();
        self.phase = Phase::Evaluating { rule, token, since: now.monotonic };
        let expression = self.spec.rules[rule].expression().to_owned();
        let at = self.sample_at();
        self.outputs.push_back(Output::Evaluate { token, rule, expression, at });
    }

    /// The series that an earlier owner wrote; `None` when they could not be read: then the next evaluation asks again.
    pub fn restored(&mut self, token: Token, series: Option<&[RestoredSeries]>, now: Now) {
        let Phase::Restoring { rule, token: wanted } = self.phase else { return };
        if token != wanted {
            return;
        }
        let (slot, interval) = (self.sample_at(), self.spec.interval);
        if let Some(series) = series {
            let state = &mut self.rules[rule];
            state.restore_pending = false;
            if let RuleKind::Alerting(alerting) = &mut state.kind {
                let previous = restore(alerting, series, slot, interval, &self.settings);
                state.previous.extend(previous);
            }
        }
        self.evaluate(rule, now);
    }

    /// The answer to an expression. `query` serves the `query` function of templates.
    pub fn evaluated(&mut self, token: Token, result: Result<Evaluation, String>, query: Option<&Query<'_>>, now: Now) {
        let Phase::Evaluating { rule, token: wanted, since } = self.phase else { return };
        if token != wanted {
            return;
        }
        self.rules[rule].evaluation_time = now.monotonic.since(since);
        self.rules[rule].last_evaluation = Some(now.wall);
        let evaluation = match result {
            Ok(evaluation) => evaluation,
            Err(reason) => return self.failed(rule, reason, now),
        };
        match &evaluation.coverage {
            Coverage::Whole => self.gap_since = None,
            Coverage::Missing(_) => {
                self.gap_since.get_or_insert(now.monotonic);
                if !self.is_degraded(now) {
                    return self.wait(rule, now);
                }
            }
        }
        let samples = match self.results(rule, &evaluation, query) {
            Ok(samples) => samples,
            Err(reason) => return self.failed(rule, reason, now),
        };
        let samples = self.with_markers(rule, samples, &evaluation.coverage);
        let token = self.token();
        self.phase = Phase::Appending { rule, token };
        self.outputs.push_back(Output::Append { token, rule, slot: self.slot, samples });
    }

    /// An incomplete read: tried again while the slot may still be stamped, else the slot is missed with all state kept.
    fn wait(&mut self, rule: usize, now: Now) {
        let stampable = self.slot.after(STAMP_MAX.min(self.spec.interval / 2));
        if now.wall.after(INCOMPLETE_RETRY) <= stampable {
            self.phase = Phase::Waiting { rule, until: now.monotonic + INCOMPLETE_RETRY };
        } else {
            self.missed += 1;
            self.finish(false, now);
        }
    }

    fn results(
        &mut self,
        rule: usize,
        evaluation: &Evaluation,
        query: Option<&Query<'_>>,
    ) -> Result<Vec<Sample>, String> {
        let settings = Arc::clone(&self.settings);
        let round = Round {
            slot: self.slot,
            sample_at: self.sample_at(),
            settings: &settings,
            limit: self.spec.limit,
            coverage: &evaluation.coverage,
            query,
        };
        match &mut self.rules[rule].kind {
            RuleKind::Alerting(alerting) => {
                let samples = alerting.evaluated(&evaluation.vector, &round)?;
                let alerts = alerting.take_due(round.slot, self.spec.interval, settings.resend_delay);
                if !alerts.is_empty() {
                    self.outputs.push_back(Output::Alerts(alerts));
                }
                Ok(samples)
            }
            RuleKind::Recording(recording) => recorded(recording, &evaluation.vector, &round),
        }
    }

    /// Adds staleness markers for series that were in the last evaluation and are not in this one. While shards are
    /// missing nothing is marked: what is not seen may be there.
    fn with_markers(&mut self, rule: usize, mut samples: Vec<Sample>, coverage: &Coverage) -> Vec<Sample> {
        let mut current: Vec<Labels> = samples.iter().map(|sample| sample.labels.clone()).collect();
        current.sort_unstable();
        let at = self.sample_at();
        let stale =
            |labels: Labels| Sample { labels, at, value: SampleValue::Float(promesh_model::value::stale_nan()) };
        let state = &mut self.rules[rule];
        let previous = std::mem::take(&mut state.previous);
        if *coverage == Coverage::Whole {
            let gone = previous.into_iter().filter(|labels| current.binary_search(labels).is_err());
            samples.extend(gone.map(stale));
            if rule == 0 {
                samples.extend(self.orphans.drain(..).map(stale));
            }
        } else {
            current.extend(previous);
            current.sort_unstable();
            current.dedup();
        }
        self.rules[rule].previous = current;
        samples
    }

    /// What became of the append of a rule's samples.
    pub fn appended(&mut self, token: Token, result: &Appended, now: Now) {
        let Phase::Appending { rule, token: wanted } = self.phase else { return };
        if token != wanted {
            return;
        }
        let state = &mut self.rules[rule];
        match result {
            Appended::Stored => {
                state.health = Health::Ok;
                state.last_error.clear();
            }
            Appended::Failed(reason) => {
                state.health = Health::Err;
                state.last_error.clone_from(reason);
            }
        }
        self.start_rule(rule + 1, now);
    }

    fn failed(&mut self, rule: usize, reason: String, now: Now) {
        let state = &mut self.rules[rule];
        state.health = Health::Err;
        state.last_error = reason;
        self.start_rule(rule + 1, now);
    }

    fn finish(&mut self, evaluated: bool, now: Now) {
        self.phase = Phase::Idle;
        if evaluated {
            self.evaluation_time = now.monotonic.since(self.started);
            self.last_evaluation = Some(now.wall);
        }
        self.outputs.push_back(Output::Finished { slot: self.slot, evaluated });
    }

    /// Ownership was lost: what runs is dropped. Its state was handed over by [`Group::state`], or is restored there.
    pub fn stop(&mut self) {
        self.phase = Phase::Idle;
        self.outputs.clear();
    }

    /// A reload: takes over the state of rules with the same name and labels, first with first; series of rules that
    /// are gone are marked stale at the next evaluation.
    ///
    /// Source: prometheus rules/group.go `CopyState`.
    pub fn adopt(&mut self, old: Group) {
        let mut old_rules: Vec<Option<(RuleSpec, Rule)>> =
            old.spec.rules.into_iter().zip(old.rules).map(Some).collect();
        for (spec, rule) in self.spec.rules.iter().zip(&mut self.rules) {
            let same = |(other, _): &(RuleSpec, Rule)| other.name() == spec.name() && other.labels() == spec.labels();
            let Some(slot) = old_rules.iter_mut().find(|old| old.as_ref().is_some_and(same)) else { continue };
            let (_, from) = slot.take().expect("found above");
            rule.previous = from.previous;
            rule.restore_pending = from.restore_pending;
            if let (RuleKind::Alerting(to), RuleKind::Alerting(from)) = (&mut rule.kind, from.kind) {
                to.active = from.active;
            }
        }
        self.orphans = old.orphans;
        self.orphans.extend(old_rules.into_iter().flatten().flat_map(|(_, rule)| rule.previous));
        self.slot = old.slot;
        self.gap_since = old.gap_since;
        self.missed = old.missed;
        self.evaluation_time = old.evaluation_time;
        self.last_evaluation = old.last_evaluation;
    }
}

impl Rule {
    fn new(spec: &RuleSpec) -> Result<Rule, SpecError> {
        let kind = match spec {
            RuleSpec::Alerting(alerting) => RuleKind::Alerting(Box::new(AlertingRule::new(alerting.clone())?)),
            RuleSpec::Recording(recording) => RuleKind::Recording(recording.clone()),
        };
        let restore_pending = matches!(kind, RuleKind::Alerting(_));
        Ok(Rule {
            kind,
            previous: Vec::new(),
            health: Health::Unknown,
            last_error: String::new(),
            evaluation_time: Duration::ZERO,
            last_evaluation: None,
            restore_pending,
        })
    }
}

/// The samples of a recording rule.
fn recorded(rule: &RecordingSpec, vector: &[ResultSample], round: &Round<'_>) -> Result<Vec<Sample>, String> {
    let mut samples: Vec<Sample> = vector
        .iter()
        .map(|sample| {
            let mut labels = sample.labels.to_builder();
            labels.set(METRIC_NAME, &rule.record);
            for (name, value) in rule.labels.iter() {
                labels.set(name, value);
            }
            Sample { labels: labels.build(), at: round.sample_at, value: sample.value.clone() }
        })
        .collect();
    samples.sort_by(|a, b| a.labels.cmp(&b.labels));
    if samples.windows(2).any(|pair| pair[0].labels == pair[1].labels) {
        return Err("vector contains metrics with the same labelset after applying rule labels".to_owned());
    }
    if round.limit > 0 && samples.len() > round.limit {
        return Err(format!("exceeded limit of {} with {} series", round.limit, samples.len()));
    }
    Ok(samples)
}
