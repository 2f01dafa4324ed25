//! Where alerts go.

use std::time::Duration;

use promesh_model::relabel::{NameScheme, Rule};

use super::discovery::Discoveries;
use super::relabel::check_rules;
use super::remote::SigV4Config;
use crate::http::HttpClientConfig;
use crate::section;
use crate::yaml::{Node, Reader};

section! {
    /// Where alerts go.
    pub struct AlertingConfig "alerting" {
        /// Rules over every alert.
        pub alert_relabel_configs: Vec<Rule>,
        /// Alertmanagers outside the mesh.
        pub alertmanagers: Vec<AlertmanagerConfig>,
    }
}

section! {
    /// A set of Alertmanagers.
    pub struct AlertmanagerConfig "alertmanager_config" => check_alertmanager {
        /// Signed requests to AWS.
        pub sigv4: Option<SigV4Config>,
        /// `http` or `https`. Default `http`.
        pub scheme: String = "http".to_owned(),
        /// What stands before `/api/v2/alerts`.
        pub path_prefix: String,
        /// How long a request may take. Default 10s.
        pub timeout: Duration = Duration::from_secs(10),
        /// Always `v2`.
        pub api_version: String = "v2".to_owned(),
        /// Rules over discovered Alertmanagers.
        pub relabel_configs: Vec<Rule>,
        /// Rules over alerts sent to these.
        pub alert_relabel_configs: Vec<Rule>,
        ; inline {
            /// Where they come from.
            pub discovery: Discoveries,
            /// How they are asked.
            pub http: HttpClientConfig,
        }
    }
}

fn check_alertmanager(manager: &mut AlertmanagerConfig, node: &Node, reader: &mut Reader<'_>) {
    if manager.api_version != "v2" {
        let message = format!("expected Alertmanager api version to be one of [v2] but got {}", manager.api_version);
        reader.problem(node.at_key("api_version"), message);
    }
    let http = &manager.http;
    if manager.sigv4.is_some() && (http.basic_auth.is_some() || http.authorization.is_some() || http.oauth2.is_some()) {
        let message = "at most one of basic_auth, authorization, oauth2, & sigv4 must be configured";
        reader.problem(node.at_key("sigv4"), message);
    }
    if manager.relabel_configs.is_empty() {
        manager.discovery.check_static_addresses(node, reader);
    }
}

impl AlertingConfig {
    pub(super) fn apply_globals(&mut self, names: NameScheme, node: &Node, reader: &mut Reader<'_>) {
        let what = "alert relabeling rule";
        check_rules(&mut self.alert_relabel_configs, node.get("alert_relabel_configs"), what, names, reader);
        let Some(list) = node.get("alertmanagers") else { return };
        for (manager, node) in self.alertmanagers.iter_mut().zip(list.elements()) {
            let what = "Alertmanager target relabeling rule";
            check_rules(&mut manager.relabel_configs, node.get("relabel_configs"), what, names, reader);
            let what = "Alertmanager alert relabeling rule";
            check_rules(&mut manager.alert_relabel_configs, node.get("alert_relabel_configs"), what, names, reader);
        }
    }
}
