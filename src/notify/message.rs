//! A notification as templates and receivers see it.

use std::sync::{Mutex, PoisonError};

use promesh_alerting::Notification;
use promesh_alerting::alert::fingerprint;
use promesh_model::{Labels, Timestamp};
use promesh_template::clock::Time;
use promesh_template::data::{Alert, Data};
use promesh_template::{Environment, Limits, Template, Value};
use sha2::{Digest, Sha256};

/// A notification with the data that templates take.
pub struct Message<'a> {
    /// What is to be told.
    pub notification: &'a Notification,
    /// The same, for templates.
    pub data: Data,
    value: Value,
    template: &'a Template,
    /// What went wrong in templates.
    errors: Mutex<Vec<String>>,
}

impl<'a> Message<'a> {
    /// Of a notification.
    pub fn new(notification: &'a Notification, template: &'a Template, external_url: &str) -> Message<'a> {
        let alerts = notification.alerts.iter().map(|alert| Alert {
            labels: alert.labels.clone(),
            annotations: alert.annotations.clone(),
            firing: alert.ends_at.is_none(),
            starts_at: Time::from(alert.starts_at),
            ends_at: alert.ends_at.map_or_else(Time::zero, Time::from),
            generator_url: alert.generator_url.clone(),
            fingerprint: fingerprint(&alert.labels),
        });
        let data = Data {
            receiver: notification.key.receiver.clone(),
            alerts: alerts.collect(),
            reason: notification.reason.to_owned(),
            group_labels: notification.group_labels.clone(),
            route_labels: notification.route_labels.clone(),
            external_url: external_url.to_owned(),
        };
        let mut message =
            Message { notification, value: data.to_value(), data, template, errors: Mutex::new(Vec::new()) };
        message.render_route_labels();
        message
    }

    /// Route labels may be templates; everything after sees their texts.
    fn render_route_labels(&mut self) {
        if !self.data.route_labels.iter().any(|(_, text)| text.contains("{{")) {
            return;
        }
        let environment = Environment { external_url: &self.data.external_url, ..Environment::at(self.now()) };
        let rendered: Labels =
            self.data.route_labels.iter().map(|(name, text)| (name, self.render(text, &environment, false))).collect();
        self.data.route_labels = rendered;
        self.value = self.data.to_value();
    }

    fn now(&self) -> Timestamp {
        self.notification.now
    }

    fn render(&self, text: &str, environment: &Environment<'_>, html: bool) -> String {
        if !text.contains("{{") {
            return text.to_owned();
        }
        let rendered = self.template.with_text("", text).and_then(|template| {
            let limits = Limits::default();
            if html {
                template.render_html(&self.value, environment, &limits)
            } else {
                template.render(&self.value, environment, &limits)
            }
        });
        rendered.unwrap_or_else(|error| {
            let fallback = format!("[template failed: {error}] {}", self.fallback());
            self.errors.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
            if html { promesh_template::html::escape_html(&fallback) } else { fallback }
        })
    }

    fn environment(&self) -> Environment<'_> {
        Environment {
            external_url: &self.data.external_url,
            route_labels_rendered: true,
            ..Environment::at(self.now())
        }
    }

    /// A field's text. Where its template fails the text says so, and what the notification is about.
    pub fn text(&self, text: &str) -> String {
        self.render(text, &self.environment(), false)
    }

    /// As [`Message::text`], escaped as HTML.
    pub fn html(&self, text: &str) -> String {
        self.render(text, &self.environment(), true)
    }

    /// What went wrong in templates so far.
    pub fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the notification is about, without any template.
    fn fallback(&self) -> String {
        format!("{} {}", self.data.status(), self.data.group_labels)
    }

    /// Whether any alert fires.
    pub fn is_firing(&self) -> bool {
        self.data.status() == "firing"
    }

    /// The group key's SHA-256, by which receivers know the group.
    pub fn key_hash(&self) -> String {
        let digest = Sha256::digest(self.notification.key.group_key.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// At most so many characters, the last of them an ellipsis when some are left out.
pub fn truncated(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    let kept = if chars_max <= 3 { chars_max } else { chars_max - 1 };
    let mut out: String = text.chars().take(kept).collect();
    if chars_max > 3 {
        out.push('…');
    }
    out
}
