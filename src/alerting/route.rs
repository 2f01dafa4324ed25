//! The route tree: which receivers an alert goes to, and in which group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use promesh_config::alertmanager::{AlertmanagerConfig, IntegrationName, Matchers, Route};
use promesh_model::Labels;
use promesh_model::labels::quoted;

/// A node with everything it inherits.
#[derive(Clone, Debug)]
pub struct RouteNode {
    /// Its key, as upstream builds it from the matchers on the way to it.
    pub key: String,
    /// What an alert must be.
    pub matchers: Matchers,
    /// Whether siblings after it are tried too.
    pub continues: bool,
    /// Indices of its children.
    pub children: Vec<usize>,
    /// Who is notified.
    pub receiver: String,
    /// Labels that make groups.
    pub group_by: BTreeSet<String>,
    /// Whether all labels make groups.
    pub group_by_all: bool,
    /// How long a new group gathers. Default 30s.
    pub group_wait: Duration,
    /// How long until news are sent. Default 5m.
    pub group_interval: Duration,
    /// How long until a group without news is sent again. Default 4h.
    pub repeat_interval: Duration,
    /// Intervals in which it is silent.
    pub mute_time_intervals: Vec<String>,
    /// Intervals outside of which it is silent.
    pub active_time_intervals: Vec<String>,
    /// Labels for templates.
    pub labels: Labels,
    /// Ordinal among the nodes that have the same key and receiver.
    pub twin: u32,
}

/// The tree.
#[derive(Clone, Debug)]
pub struct RouteTree {
    nodes: Vec<RouteNode>,
    integrations: BTreeMap<String, Vec<IntegrationName>>,
}

impl RouteTree {
    /// Of a configuration.
    pub fn new(config: &AlertmanagerConfig) -> RouteTree {
        let integrations =
            config.receivers.iter().map(|receiver| (receiver.name.clone(), receiver.integrations())).collect();
        let mut tree = RouteTree { nodes: Vec::new(), integrations };
        let defaults = RouteNode {
            key: String::new(),
            matchers: Matchers::default(),
            continues: false,
            children: Vec::new(),
            receiver: String::new(),
            group_by: BTreeSet::new(),
            group_by_all: false,
            group_wait: Duration::from_secs(30),
            group_interval: Duration::from_secs(300),
            repeat_interval: Duration::from_secs(4 * 3600),
            mute_time_intervals: Vec::new(),
            active_time_intervals: Vec::new(),
            labels: Labels::empty(),
            twin: 0,
        };
        tree.add(config.root(), &defaults, None);
        tree.number_twins();
        tree
    }

    fn add(&mut self, route: &Route, parent: &RouteNode, parent_key: Option<&str>) -> usize {
        let matchers = route.all_matchers();
        let key = parent_key.map_or_else(|| matchers.to_string(), |parent| format!("{parent}/{matchers}"));
        let mut node = RouteNode {
            key: key.clone(),
            matchers,
            continues: route.r#continue,
            children: Vec::new(),
            mute_time_intervals: route.mute_time_intervals.clone(),
            active_time_intervals: route.active_time_intervals.clone(),
            ..parent.clone()
        };
        if !route.receiver.is_empty() {
            node.receiver.clone_from(&route.receiver);
        }
        if let Some(names) = &route.group_by {
            node.group_by_all = names.iter().any(|name| name == "...");
            node.group_by = names.iter().filter(|name| *name != "...").cloned().collect();
        }
        node.group_wait = route.group_wait.unwrap_or(node.group_wait);
        node.group_interval = route.group_interval.unwrap_or(node.group_interval);
        node.repeat_interval = route.repeat_interval.unwrap_or(node.repeat_interval);
        node.labels = parent.labels.iter().chain(route.labels.iter()).collect();
        let at = self.nodes.len();
        self.nodes.push(node.clone());
        let children = route.routes.iter().map(|child| self.add(child, &node, Some(&key))).collect();
        self.nodes[at].children = children;
        at
    }

    fn number_twins(&mut self) {
        let mut seen: BTreeMap<(String, String), u32> = BTreeMap::new();
        for node in &mut self.nodes {
            let count = seen.entry((node.key.clone(), node.receiver.clone())).or_default();
            node.twin = *count;
            *count += 1;
        }
    }

    /// How many nodes send groups of this key to this receiver: upstream's log has one entry for all of them.
    pub fn twins(&self, group_key: &str, receiver: &str) -> u32 {
        let of_key = |node: &&RouteNode| {
            let labels = group_key.strip_prefix(node.key.as_str());
            node.receiver == receiver && labels.is_some_and(|labels| labels.starts_with(":{"))
        };
        self.nodes.iter().filter(of_key).count() as u32
    }

    /// A node.
    pub fn node(&self, index: usize) -> &RouteNode {
        &self.nodes[index]
    }

    /// How a receiver is reached.
    pub fn integrations(&self, receiver: &str) -> &[IntegrationName] {
        self.integrations.get(receiver).map_or(&[], Vec::as_slice)
    }

    /// The names of all receivers.
    pub fn receivers(&self) -> impl Iterator<Item = &str> {
        self.integrations.keys().map(String::as_str)
    }

    /// The nodes that an alert comes to rest at, depth first, left to right.
    pub fn matching(&self, labels: &Labels) -> Vec<usize> {
        let mut found = Vec::new();
        self.descend(0, labels, &mut found);
        found
    }

    fn descend(&self, at: usize, labels: &Labels, found: &mut Vec<usize>) -> bool {
        let node = &self.nodes[at];
        if !node.matchers.matches(labels) {
            return false;
        }
        let before = found.len();
        for child in &node.children {
            if self.descend(*child, labels, found) && !self.nodes[*child].continues {
                break;
            }
        }
        if found.len() == before {
            found.push(at);
        }
        true
    }
}

impl RouteNode {
    /// The labels of the group that an alert falls into here.
    pub fn group_labels(&self, labels: &Labels) -> Labels {
        labels.iter().filter(|(name, _)| self.group_by_all || self.group_by.contains(*name)).collect()
    }

    /// Upstream's group key, byte for byte: PagerDuty, Opsgenie and others hash it.
    pub fn group_key(&self, group_labels: &Labels) -> String {
        let pair = |(name, value): (&str, &str)| format!("{name}={}", quoted(value));
        let labels: Vec<String> = group_labels.iter().map(pair).collect();
        format!("{}:{{{}}}", self.key, labels.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tree(text: &str) -> RouteTree {
        let config = promesh_config::alertmanager::load("a.yml", text.as_bytes(), Path::new("")).expect("it loads");
        RouteTree::new(&config)
    }

    const TEXT: &str = "
route:
  receiver: a
  group_by: [alertname]
  labels: {team: x}
  routes:
  - matchers: ['job=\"node\"', 'env=~\"p.*\"']
    receiver: b
    continue: true
    group_wait: 1s
    routes:
    - match: {severity: page}
      group_by: ['...']
  - matchers: [job=node]
    labels: {team: y, more: z}
  - matchers: [job=node]
receivers: [{name: a}, {name: b}]
";

    #[test]
    fn alerts_come_to_rest_where_upstream_says() {
        let tree = tree(TEXT);
        let at = |pairs: &[(&str, &str)]| tree.matching(&Labels::from_pairs(pairs.iter().copied()));
        assert_eq!(at(&[("job", "x")]), [0]);
        assert_eq!(at(&[("job", "node"), ("env", "prod")]), [1, 3]);
        assert_eq!(at(&[("job", "node"), ("env", "prod"), ("severity", "page")]), [2, 3]);
        let node = tree.node(2);
        assert_eq!((node.receiver.as_str(), node.group_wait, node.group_by_all), ("b", Duration::from_secs(1), true));
        assert_eq!(tree.node(3).labels, Labels::from_pairs([("team", "y"), ("more", "z")]));
        assert_eq!((tree.node(3).twin, tree.node(4).twin), (0, 1));
    }

    #[test]
    fn group_keys_are_upstreams_bytes() {
        let tree = tree(TEXT);
        let labels = Labels::from_pairs([("alertname", "a\"b"), ("job", "node"), ("ü", "x")]);
        let key = |at: usize| tree.node(at).group_key(&tree.node(at).group_labels(&labels));
        assert_eq!(key(0), r#"{}:{alertname="a\"b"}"#);
        assert_eq!(key(2), r#"{}/{env=~"p.*",job="node"}/{severity="page"}:{alertname="a\"b", job="node", ü="x"}"#);
    }
}
