//! What notification templates see: Alertmanager's `Data`.

use std::collections::BTreeMap;
use std::sync::Arc;

use promesh_model::Labels;

use crate::clock::Time;
use crate::value::{ListKind, Map, MapKind, Value};

/// One alert of a notification.
#[derive(Clone, Debug)]
pub struct Alert {
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// Whether it fires; else it is resolved.
    pub firing: bool,
    /// Since when.
    pub starts_at: Time,
    /// Until when; Go's zero time while that is unknown.
    pub ends_at: Time,
    /// Where it came from.
    pub generator_url: String,
    /// Alertmanager's fingerprint of its labels, 16 hexadecimal digits.
    pub fingerprint: String,
}

/// A notification's data.
#[derive(Clone, Debug)]
pub struct Data {
    /// The receiver's name as written; regular-expression characters are escaped on the way into templates, as upstream.
    pub receiver: String,
    /// Its alerts, in the order in which receivers get them.
    pub alerts: Vec<Alert>,
    /// Why it is sent.
    pub reason: String,
    /// The labels the group was made by.
    pub group_labels: Labels,
    /// Labels that the route adds.
    pub route_labels: Labels,
    /// The URL under which people reach this server.
    pub external_url: String,
}

impl Data {
    /// `firing` while any alert fires.
    pub fn status(&self) -> &'static str {
        if self.alerts.iter().any(|alert| alert.firing) { "firing" } else { "resolved" }
    }

    /// What all alerts have in common: labels, annotations.
    pub fn common(&self) -> (Labels, Labels) {
        let common = |pick: fn(&Alert) -> &Labels| {
            let Some(first) = self.alerts.first() else { return Labels::empty() };
            let shared = |(name, value): &(&str, &str)| {
                self.alerts[1..].iter().all(|alert| pick(alert).get(name) == Some(*value))
            };
            Labels::from_sorted(pick(first).iter().filter(shared))
        };
        (common(|alert| &alert.labels), common(|alert| &alert.annotations))
    }

    /// The value that templates take as their dot.
    pub fn to_value(&self) -> Value {
        let (labels, annotations) = self.common();
        let alerts = self.alerts.iter().map(Alert::to_value).collect();
        Value::record(
            "*template.Data",
            vec![
                ("Receiver", "receiver", Value::text(quote_meta(&self.receiver))),
                ("Status", "status", Value::text(self.status())),
                ("Alerts", "alerts", Value::list(ListKind::Alerts, alerts)),
                ("NotificationReason", "notification_reason", Value::text(&self.reason)),
                ("GroupLabels", "groupLabels", kv(&self.group_labels)),
                ("CommonLabels", "commonLabels", kv(&labels)),
                ("CommonAnnotations", "commonAnnotations", kv(&annotations)),
                ("RouteLabels", "routeLabels", kv(&self.route_labels)),
                ("ExternalURL", "externalURL", Value::text(&self.external_url)),
            ],
        )
    }
}

impl Alert {
    /// `firing` or `resolved`.
    pub fn status(&self) -> &'static str {
        if self.firing { "firing" } else { "resolved" }
    }

    /// The value that templates see.
    pub fn to_value(&self) -> Value {
        Value::record(
            "template.Alert",
            vec![
                ("Status", "status", Value::text(self.status())),
                ("Labels", "labels", kv(&self.labels)),
                ("Annotations", "annotations", kv(&self.annotations)),
                ("StartsAt", "startsAt", Value::Time(self.starts_at.clone())),
                ("EndsAt", "endsAt", Value::Time(self.ends_at.clone())),
                ("GeneratorURL", "generatorURL", Value::text(&self.generator_url)),
                ("Fingerprint", "fingerprint", Value::text(&self.fingerprint)),
            ],
        )
    }
}

/// Labels as a `template.KV`.
pub fn kv(labels: &Labels) -> Value {
    Value::map(MapKind::Kv, labels.iter())
}

/// Go's nil `template.KV`.
pub fn nil_kv() -> Value {
    Value::Map(Arc::new(Map { kind: MapKind::Kv, is_nil: true, entries: BTreeMap::new() }))
}

/// Go's `regexp.QuoteMeta`.
pub fn quote_meta(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The route label of a name in a notification's data.
pub fn route_label<'a>(data: &'a Value, name: &str) -> Option<&'a str> {
    let Value::Struct(record) = data else { return None };
    match crate::methods::field(record, "RouteLabels")? {
        Value::Map(map) => map.entries.get(name)?.as_text(),
        _ => None,
    }
}
