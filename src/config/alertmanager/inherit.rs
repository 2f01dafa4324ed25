//! The rules of the file as a whole: what receivers inherit, which names exist.

use std::collections::BTreeSet;

use promesh_model::Secret;

use promesh_model::labels::quoted;

use super::{AlertmanagerConfig, Global, Receiver, Route};
use crate::http::{Authorization, HttpClientConfig, HttpUrl};
use crate::yaml::{FilePath, Node, Reader};

fn both(first: (&str, bool), second: (&str, bool), node: &Node, reader: &mut Reader<'_>) {
    if first.1 && second.1 {
        let text = format!("at most one of {} & {} must be configured", first.0, second.0);
        reader.problem(node.at_key(second.0), text);
    }
}

pub(super) fn check_global(global: &mut Global, node: &Node, reader: &mut Reader<'_>) {
    macro_rules! not_both {
        ($($value:ident, $file:ident, $given:expr;)*) => {
            $( both((stringify!($value), $given), (stringify!($file), !global.$file.is_empty()), node, reader); )*
        };
    }
    not_both! {
        slack_app_token, slack_app_token_file, !global.slack_app_token.is_empty();
        slack_api_url, slack_api_url_file, !global.slack_api_url.0.is_empty();
        opsgenie_api_key, opsgenie_api_key_file, !global.opsgenie_api_key.is_empty();
        victorops_api_key, victorops_api_key_file, !global.victorops_api_key.is_empty();
        telegram_bot_token, telegram_bot_token_file, !global.telegram_bot_token.is_empty();
        smtp_auth_password, smtp_auth_password_file, !global.smtp_auth_password.is_empty();
        rocketchat_token, rocketchat_token_file, global.rocketchat_token.is_some();
        rocketchat_token_id, rocketchat_token_id_file, global.rocketchat_token_id.is_some();
        smtp_auth_secret, smtp_auth_secret_file, !global.smtp_auth_secret.is_empty();
        wechat_api_secret, wechat_api_secret_file, !global.wechat_api_secret.is_empty();
        mattermost_webhook_url, mattermost_webhook_url_file, !global.mattermost_webhook_url.0.is_empty();
    }
    let token = !global.slack_app_token.is_empty() || !global.slack_app_token_file.is_empty();
    let url = !global.slack_api_url.0.is_empty() || !global.slack_api_url_file.is_empty();
    // Some give the application's own URL twice; that is no contradiction.
    let same = global.slack_app_url.as_ref().is_some_and(|app| app.url().as_str() == global.slack_api_url.expose());
    if token && url && !same {
        reader.problem(
            node.at_key("slack_app_token"),
            "at most one of slack_app_token/slack_app_token_file & slack_api_url/slack_api_url_file must be configured",
        );
    }
}

pub(super) fn check_receiver(receiver: &mut Receiver, node: &Node, reader: &mut Reader<'_>) {
    if receiver.name.is_empty() {
        reader.problem(node.at, "missing name in receiver");
    }
    if let Some(given) = receiver.labels.get("name").filter(|given| **given != receiver.name) {
        let text = format!(
            "receiver label \"name\" must match receiver name {}, got {}",
            quoted(&receiver.name),
            quoted(given)
        );
        reader.problem(node.at_key("labels"), text);
    }
    receiver.labels.insert("name".to_owned(), receiver.name.clone());
}

pub(super) fn check_config(config: &mut AlertmanagerConfig, node: &Node, reader: &mut Reader<'_>) {
    if config.event_recorder.0.is_some() {
        reader.remark(node.at_key("event_recorder"), "event_recorder has no effect: events are in the log");
    }
    let mut names = BTreeSet::new();
    let nodes = node.get("receivers").map_or(&[][..], Node::elements);
    for (index, receiver) in config.receivers.iter_mut().enumerate() {
        let at = nodes.get(index).unwrap_or(node);
        if !names.insert(receiver.name.clone()) {
            let text = format!("notification config name {} is not unique", quoted(&receiver.name));
            reader.problem(at.at, text);
        }
        inherit(receiver, &config.global, at, reader);
    }
    let intervals = interval_names(config, node, reader);
    let Some(root) = &config.route else { return reader.problem(node.at, "no routes provided") };
    let at = node.get("route").unwrap_or(node);
    check_root(root, at, reader);
    check_tree(root, at, &names, &intervals, reader);
}

fn interval_names(config: &AlertmanagerConfig, node: &Node, reader: &mut Reader<'_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let lists = [
        ("mute_time_intervals", "mute time interval", &config.mute_time_intervals),
        ("time_intervals", "time interval", &config.time_intervals),
    ];
    for (key, what, intervals) in lists {
        for interval in intervals {
            if !names.insert(interval.name.clone()) {
                reader.problem(node.at_key(key), format!("{what} {} is not unique", quoted(&interval.name)));
            }
        }
    }
    names
}

fn check_root(root: &Route, at: &Node, reader: &mut Reader<'_>) {
    if root.receiver.is_empty() {
        reader.problem(at.at, "root route must specify a default receiver");
    }
    if root.has_matchers() {
        reader.problem(at.at, "root route must not have any matchers");
    }
    if !root.mute_time_intervals.is_empty() {
        reader.problem(at.at_key("mute_time_intervals"), "root route must not have any mute time intervals");
    }
    if !root.active_time_intervals.is_empty() {
        reader.problem(at.at_key("active_time_intervals"), "root route must not have any active time intervals");
    }
    if root.r#continue {
        reader.problem(at.at_key("continue"), "cannot have continue in root route");
    }
}

fn check_tree(
    route: &Route,
    at: &Node,
    receivers: &BTreeSet<String>,
    intervals: &BTreeSet<String>,
    reader: &mut Reader<'_>,
) {
    if !route.receiver.is_empty() && !receivers.contains(&route.receiver) {
        let text = format!("undefined receiver {} used in route", quoted(&route.receiver));
        reader.problem(at.at_key("receiver"), text);
    }
    let used =
        [("active_time_intervals", &route.active_time_intervals), ("mute_time_intervals", &route.mute_time_intervals)];
    for (key, names) in used {
        for name in names.iter().filter(|name| !intervals.contains(*name)) {
            reader.problem(at.at_key(key), format!("undefined time interval {} used in route", quoted(name)));
        }
    }
    let nodes = at.get("routes").map_or(&[][..], Node::elements);
    for (child, node) in route.routes.iter().zip(nodes) {
        check_tree(child, node, receivers, intervals, reader);
    }
}

/// A value, or the file with it, from the global section where the receiver has neither.
fn secret_or_file(secret: &mut Secret, file: &mut FilePath, global: (&Secret, &FilePath)) -> bool {
    if secret.is_empty() && file.is_empty() {
        secret.clone_from(global.0);
        file.clone_from(global.1);
    }
    !secret.is_empty() || !file.is_empty()
}

fn with_slash(url: &mut Option<HttpUrl>) {
    if let Some(given) = url
        && !given.url().path().ends_with('/')
    {
        let mut changed = given.url().clone();
        changed.set_path(&format!("{}/", given.url().path()));
        *url = HttpUrl::parse(changed.as_str()).ok();
    }
}

fn inherit(receiver: &mut Receiver, global: &Global, node: &Node, reader: &mut Reader<'_>) {
    macro_rules! http {
        ($($field:ident),*) => {
            $( for config in &mut receiver.$field { config.http_config.get_or_insert_with(|| global.http_config.clone()); } )*
        };
    }
    inherit_slack(receiver, global, node, reader);
    for teams in receiver.msteamsv2_configs.iter_mut().filter_map(|teams| teams.http_config.as_mut()) {
        if teams.proxy.proxy_url.is_none() {
            teams.proxy.proxy_url.clone_from(&global.http_config.proxy.proxy_url);
        }
    }
    http!(
        discord_configs,
        incidentio_configs,
        pagerduty_configs,
        webhook_configs,
        opsgenie_configs,
        wechat_configs,
        pushover_configs,
        victorops_configs,
        sns_configs,
        telegram_configs,
        webex_configs,
        msteams_configs,
        msteamsv2_configs,
        jira_configs,
        rocketchat_configs,
        mattermost_configs
    );
    inherit_email(receiver, global, node, reader);
    inherit_pagers(receiver, global, node, reader);
    inherit_chats(receiver, global, node, reader);
}

fn inherit_slack(receiver: &mut Receiver, global: &Global, node: &Node, reader: &mut Reader<'_>) {
    for slack in &mut receiver.slack_configs {
        if slack.app_url.is_none() {
            slack.app_url.clone_from(&global.slack_app_url);
        }
        let authorized = slack.http_config.as_ref().is_some_and(|http| http.authorization.is_some());
        if !authorized && slack.api_url.0.is_empty() {
            secret_or_file(
                &mut slack.app_token,
                &mut slack.app_token_file,
                (&global.slack_app_token, &global.slack_app_token_file),
            );
        }
        let global_url = (&global.slack_api_url.0, &global.slack_api_url_file);
        let has_url = secret_or_file(&mut slack.api_url.0, &mut slack.api_url_file, global_url);
        let has_token = !slack.app_token.is_empty() || !slack.app_token_file.is_empty();
        if !has_url && !has_token {
            reader.problem(node.at, "no Slack API URL nor App token set either inline or in a file");
        }
        let http = slack.http_config.get_or_insert_with(|| global.http_config.clone());
        if has_token {
            if http.authorization.is_some() {
                reader.problem(node.at, "http authorization can't be set when using Slack App tokens");
            }
            authorize(http, &slack.app_token, &slack.app_token_file);
            if let Some(url) = &slack.app_url {
                slack.api_url.0 = Secret::new(url.url().as_str());
                slack.api_url_file = FilePath::default();
            }
        }
    }
}

fn authorize(http: &mut HttpClientConfig, token: &Secret, file: &FilePath) {
    http.authorization = Some(Authorization {
        r#type: "Bearer".to_owned(),
        credentials: token.clone(),
        credentials_file: file.clone(),
        credentials_ref: String::new(),
    });
}

fn inherit_email(receiver: &mut Receiver, global: &Global, node: &Node, reader: &mut Reader<'_>) {
    let text = |own: &mut String, global: &String| {
        if own.is_empty() {
            own.clone_from(global);
        }
    };
    for email in &mut receiver.email_configs {
        email.tls_config.get_or_insert_with(|| global.smtp_tls_config.clone());
        if email.smarthost.host.is_empty() && email.smarthost.port.is_empty() {
            email.smarthost.clone_from(&global.smtp_smarthost);
        }
        if email.smarthost.port.is_empty() {
            reader.problem(node.at, "no global SMTP smarthost set");
        }
        text(&mut email.from, &global.smtp_from);
        if email.from.is_empty() {
            reader.problem(node.at, "no global SMTP from set");
        }
        text(&mut email.hello, &global.smtp_hello);
        text(&mut email.auth_username, &global.smtp_auth_username);
        text(&mut email.auth_identity, &global.smtp_auth_identity);
        let password = (&global.smtp_auth_password, &global.smtp_auth_password_file);
        secret_or_file(&mut email.auth_password, &mut email.auth_password_file, password);
        let secret = (&global.smtp_auth_secret, &global.smtp_auth_secret_file);
        secret_or_file(&mut email.auth_secret, &mut email.auth_secret_file, secret);
        email.require_tls.get_or_insert(global.smtp_require_tls);
        email.force_implicit_tls = email.force_implicit_tls.or(global.smtp_force_implicit_tls);
    }
}

fn inherit_pagers(receiver: &mut Receiver, global: &Global, node: &Node, reader: &mut Reader<'_>) {
    for pagerduty in &mut receiver.pagerduty_configs {
        pagerduty.url = pagerduty.url.take().or_else(|| global.pagerduty_url.clone());
    }
    for opsgenie in &mut receiver.opsgenie_configs {
        opsgenie.api_url = opsgenie.api_url.take().or_else(|| global.opsgenie_api_url.clone());
        with_slash(&mut opsgenie.api_url);
        let key = (&global.opsgenie_api_key, &global.opsgenie_api_key_file);
        if !secret_or_file(&mut opsgenie.api_key, &mut opsgenie.api_key_file, key) {
            reader.problem(node.at, "no global OpsGenie API Key set either inline or in a file");
        }
    }
    for victorops in &mut receiver.victorops_configs {
        victorops.api_url = victorops.api_url.take().or_else(|| global.victorops_api_url.clone());
        with_slash(&mut victorops.api_url);
        let key = (&global.victorops_api_key, &global.victorops_api_key_file);
        if !secret_or_file(&mut victorops.api_key, &mut victorops.api_key_file, key) {
            reader.problem(node.at, "no global VictorOps API Key set");
        }
    }
    for jira in &mut receiver.jira_configs {
        jira.api_url = jira.api_url.take().or_else(|| global.jira_api_url.clone());
        if jira.api_url.is_none() {
            reader.problem(node.at, "no global Jira Cloud URL set");
        }
    }
}

fn inherit_chats(receiver: &mut Receiver, global: &Global, node: &Node, reader: &mut Reader<'_>) {
    for wechat in &mut receiver.wechat_configs {
        wechat.api_url = wechat.api_url.take().or_else(|| global.wechat_api_url.clone());
        with_slash(&mut wechat.api_url);
        let secret = (&global.wechat_api_secret, &global.wechat_api_secret_file);
        if !secret_or_file(&mut wechat.api_secret, &mut wechat.api_secret_file, secret) {
            reader.problem(node.at, "no global Wechat Api Secret set either inline or in a file");
        }
        if wechat.corp_id.is_empty() {
            wechat.corp_id.clone_from(&global.wechat_api_corp_id);
        }
        if wechat.corp_id.is_empty() {
            reader.problem(node.at, "no global Wechat CorpID set");
        }
    }
    for telegram in &mut receiver.telegram_configs {
        telegram.api_url = telegram.api_url.take().or_else(|| global.telegram_api_url.clone());
        let token = (&global.telegram_bot_token, &global.telegram_bot_token_file);
        if !secret_or_file(&mut telegram.bot_token, &mut telegram.bot_token_file, token) {
            reader.problem(node.at, "missing bot_token or bot_token_file on telegram_config");
        }
    }
    for webex in &mut receiver.webex_configs {
        webex.api_url = webex.api_url.take().or_else(|| global.webex_api_url.clone());
    }
    for mattermost in &mut receiver.mattermost_configs {
        let url = (&global.mattermost_webhook_url.0, &global.mattermost_webhook_url_file);
        if !secret_or_file(&mut mattermost.webhook_url.0, &mut mattermost.webhook_url_file, url) {
            reader.problem(node.at, "missing webhook_url or webhook_url_file on mattermost_config");
        }
    }
    for rocketchat in &mut receiver.rocketchat_configs {
        rocketchat.api_url = rocketchat.api_url.take().or_else(|| global.rocketchat_api_url.clone());
        rocketchat.token_id = rocketchat.token_id.take().or_else(|| global.rocketchat_token_id.clone());
        if rocketchat.token_id.is_none() && rocketchat.token_id_file.is_empty() {
            rocketchat.token_id_file.clone_from(&global.rocketchat_token_id_file);
        }
        if rocketchat.token_id.is_none() && rocketchat.token_id_file.is_empty() {
            reader.problem(node.at, "no global Rocketchat TokenID set either inline or in a file");
        }
        rocketchat.token = rocketchat.token.take().or_else(|| global.rocketchat_token.clone());
        if rocketchat.token.is_none() && rocketchat.token_file.is_empty() {
            rocketchat.token_file.clone_from(&global.rocketchat_token_file);
        }
        if rocketchat.token.is_none() && rocketchat.token_file.is_empty() {
            reader.problem(node.at, "no global Rocketchat Token set either inline or in a file");
        }
    }
}
