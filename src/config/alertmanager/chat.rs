//! Receivers that write into chats. Field names and defaults are upstream's.
//!
//! Source: alertmanager config/notifiers.go, notify/*/config.go.

use promesh_model::Secret;

use super::values::{GoDuration, SecretUrl};
use crate::http::{HttpClientConfig, HttpUrl};
use crate::section;
use crate::yaml::{FilePath, Node, Reader};
use promesh_model::labels::quoted;

section! {
    /// Slack.
    pub struct SlackConfig "slack_config" => check_slack {
        /// Whether the end of an alert is told too.
        pub send_resolved: bool = false,
        pub http_config: Option<HttpClientConfig>,
        /// An incoming webhook, or the API's own URL.
        pub api_url: SecretUrl,
        pub api_url_file: FilePath,
        /// A bot's token.
        pub app_token: Secret,
        pub app_token_file: FilePath,
        pub app_url: Option<HttpUrl>,
        pub channel: String,
        pub username: String = "{{ template \"slack.default.username\" . }}".to_owned(),
        pub color: String = "{{ template \"slack.default.color\" . }}".to_owned(),
        pub title: String = "{{ template \"slack.default.title\" . }}".to_owned(),
        pub title_link: String = "{{ template \"slack.default.titlelink\" . }}".to_owned(),
        pub pretext: String = "{{ template \"slack.default.pretext\" . }}".to_owned(),
        pub text: String = "{{ template \"slack.default.text\" . }}".to_owned(),
        pub message_text: String,
        pub fields: Vec<SlackField>,
        pub short_fields: bool,
        pub footer: String = "{{ template \"slack.default.footer\" . }}".to_owned(),
        pub fallback: String = "{{ template \"slack.default.fallback\" . }}".to_owned(),
        pub callback_id: String = "{{ template \"slack.default.callbackid\" . }}".to_owned(),
        pub icon_emoji: String = "{{ template \"slack.default.iconemoji\" . }}".to_owned(),
        pub icon_url: String = "{{ template \"slack.default.iconurl\" . }}".to_owned(),
        pub image_url: String,
        pub thumb_url: String,
        pub link_names: bool,
        pub mrkdwn_in: Vec<String>,
        pub actions: Vec<SlackAction>,
        /// Whether later news change the first message instead of adding one.
        pub update_message: bool,
        pub timeout: GoDuration,
    }
}

section! {
    /// A field of a Slack attachment.
    pub struct SlackField "slack_field" => check_slack_field {
        pub title: String,
        pub value: String,
        pub short: Option<bool>,
    }
}

section! {
    /// A button of a Slack attachment.
    pub struct SlackAction "slack_action" => check_slack_action {
        pub r#type: String,
        pub text: String,
        pub url: String,
        pub style: String,
        pub name: String,
        pub value: String,
        pub confirm: Option<SlackConfirmation>,
    }
}

section! {
    /// What Slack asks before a button acts.
    pub struct SlackConfirmation "slack_confirmation" => check_slack_confirmation {
        pub text: String,
        pub title: String,
        pub ok_text: String,
        pub dismiss_text: String,
    }
}

/// The API's own URL, the only one where messages can be changed.
pub const SLACK_POST_MESSAGE: &str = "https://slack.com/api/chat.postMessage";

fn check_slack(slack: &mut SlackConfig, node: &Node, reader: &mut Reader<'_>) {
    let (url, url_file) = (!slack.api_url.0.is_empty(), !slack.api_url_file.is_empty());
    let (token, token_file) = (!slack.app_token.is_empty(), !slack.app_token_file.is_empty());
    if url && url_file {
        reader.problem(node.at_key("api_url_file"), "at most one of api_url & api_url_file must be configured");
    }
    if token && token_file {
        reader.problem(node.at_key("app_token_file"), "at most one of app_token & app_token_file must be configured");
    }
    if (url || url_file) && (token || token_file) {
        reader.problem(node.at, "at most one of api_url/api_url_file & app_token/app_token_file must be configured");
    }
    if slack.update_message && slack.api_url.expose() != SLACK_POST_MESSAGE {
        let message =
            format!("update_message can only be used with bot tokens. api_url must be set to {SLACK_POST_MESSAGE}");
        reader.problem(node.at_key("update_message"), message);
    }
}

fn missing(value: &str, what: &str, node: &Node, reader: &mut Reader<'_>) {
    if value.is_empty() {
        reader.problem(node.at, format!("missing {what}"));
    }
}

fn check_slack_field(field: &mut SlackField, node: &Node, reader: &mut Reader<'_>) {
    missing(&field.title, "title in Slack field configuration", node, reader);
    missing(&field.value, "value in Slack field configuration", node, reader);
}

fn check_slack_confirmation(confirmation: &mut SlackConfirmation, node: &Node, reader: &mut Reader<'_>) {
    missing(&confirmation.text, "text in Slack confirmation configuration", node, reader);
}

fn check_slack_action(action: &mut SlackAction, node: &Node, reader: &mut Reader<'_>) {
    missing(&action.r#type, "type in Slack action configuration", node, reader);
    missing(&action.text, "text in Slack action configuration", node, reader);
    if !action.url.is_empty() {
        action.name.clear();
        action.value.clear();
        action.confirm = None;
    } else if action.name.is_empty() {
        reader.problem(node.at, "missing name or url in Slack action configuration");
    }
}

section! {
    /// Discord.
    pub struct DiscordConfig "discord_config" => check_discord {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub webhook_url: SecretUrl,
        pub webhook_url_file: FilePath,
        pub content: String,
        pub title: String = "{{ template \"discord.default.title\" . }}".to_owned(),
        pub message: String = "{{ template \"discord.default.message\" . }}".to_owned(),
        pub username: String,
        pub avatar_url: String,
    }
}

fn check_discord(discord: &mut DiscordConfig, node: &Node, reader: &mut Reader<'_>) {
    one_url(&discord.webhook_url, &discord.webhook_url_file, node, reader);
}

/// Exactly one of a webhook's URL and the file with it.
fn one_url(url: &SecretUrl, file: &FilePath, node: &Node, reader: &mut Reader<'_>) {
    if url.0.is_empty() && file.is_empty() {
        reader.problem(node.at, "one of webhook_url or webhook_url_file must be configured");
    }
    at_most_one_url(url, file, node, reader);
}

fn at_most_one_url(url: &SecretUrl, file: &FilePath, node: &Node, reader: &mut Reader<'_>) {
    if !url.0.is_empty() && !file.is_empty() {
        let at = node.at_key("webhook_url_file");
        reader.problem(at, "at most one of webhook_url & webhook_url_file must be configured");
    }
}

section! {
    /// Microsoft Teams by a connector.
    pub struct MsTeamsConfig "msteams_config" => check_msteams {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub webhook_url: SecretUrl,
        pub webhook_url_file: FilePath,
        pub title: String = "{{ template \"msteams.default.title\" . }}".to_owned(),
        pub summary: String = "{{ template \"msteams.default.summary\" . }}".to_owned(),
        pub text: String = "{{ template \"msteams.default.text\" . }}".to_owned(),
    }
}

fn check_msteams(teams: &mut MsTeamsConfig, node: &Node, reader: &mut Reader<'_>) {
    one_url(&teams.webhook_url, &teams.webhook_url_file, node, reader);
}

section! {
    /// Microsoft Teams by a workflow.
    pub struct MsTeamsV2Config "msteamsv2_config" => check_msteamsv2 {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub webhook_url: SecretUrl,
        pub webhook_url_file: FilePath,
        pub title: String = "{{ template \"msteamsv2.default.title\" . }}".to_owned(),
        pub text: String = "{{ template \"msteamsv2.default.text\" . }}".to_owned(),
    }
}

fn check_msteamsv2(teams: &mut MsTeamsV2Config, node: &Node, reader: &mut Reader<'_>) {
    one_url(&teams.webhook_url, &teams.webhook_url_file, node, reader);
}

section! {
    /// Webex.
    pub struct WebexConfig "webex_config" => check_webex {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub api_url: Option<HttpUrl>,
        pub message: String = "{{ template \"webex.default.message\" . }}".to_owned(),
        pub room_id: String,
    }
}

fn check_webex(webex: &mut WebexConfig, node: &Node, reader: &mut Reader<'_>) {
    missing(&webex.room_id, "room_id on webex_config", node, reader);
    if webex.http_config.as_ref().is_none_or(|http| http.authorization.is_none()) {
        reader.problem(node.at, "missing webex_configs.http_config.authorization");
    }
}

section! {
    /// Telegram.
    pub struct TelegramConfig "telegram_config" => check_telegram {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub api_url: Option<HttpUrl>,
        pub bot_token: Secret,
        pub bot_token_file: FilePath,
        pub chat_id: i64,
        pub chat_id_file: FilePath,
        pub message_thread_id: i64,
        pub message: String = "{{ template \"telegram.default.message\" . }}".to_owned(),
        pub disable_notifications: bool,
        pub parse_mode: String = "HTML".to_owned(),
    }
}

fn check_telegram(telegram: &mut TelegramConfig, node: &Node, reader: &mut Reader<'_>) {
    if !telegram.bot_token.is_empty() && !telegram.bot_token_file.is_empty() {
        reader.problem(node.at_key("bot_token_file"), "at most one of bot_token & bot_token_file must be configured");
    }
    match (telegram.chat_id != 0, !telegram.chat_id_file.is_empty()) {
        (false, false) => reader.problem(node.at, "missing chat_id or chat_id_file on telegram_config"),
        (true, true) => reader.problem(node.at, "at most one of chat_id & chat_id_file must be configured"),
        _ => {}
    }
    if !matches!(telegram.parse_mode.as_str(), "" | "Markdown" | "MarkdownV2" | "HTML") {
        reader.problem(
            node.at_key("parse_mode"),
            "unknown parse_mode on telegram_config, must be Markdown, MarkdownV2, HTML or empty string",
        );
    }
}

section! {
    /// WeChat.
    pub struct WechatConfig "wechat_config" => check_wechat {
        pub send_resolved: bool = false,
        pub http_config: Option<HttpClientConfig>,
        pub api_secret: Secret,
        pub api_secret_file: FilePath,
        pub corp_id: String,
        pub message: String = "{{ template \"wechat.default.message\" . }}".to_owned(),
        pub api_url: Option<HttpUrl>,
        pub to_user: String = "{{ template \"wechat.default.to_user\" . }}".to_owned(),
        pub to_party: String = "{{ template \"wechat.default.to_party\" . }}".to_owned(),
        pub to_tag: String = "{{ template \"wechat.default.to_tag\" . }}".to_owned(),
        pub agent_id: String = "{{ template \"wechat.default.agent_id\" . }}".to_owned(),
        pub message_type: String,
    }
}

fn check_wechat(wechat: &mut WechatConfig, node: &Node, reader: &mut Reader<'_>) {
    if wechat.message_type.is_empty() {
        wechat.message_type = "text".to_owned();
    }
    if !matches!(wechat.message_type.as_str(), "text" | "markdown") {
        let given = quoted(&wechat.message_type);
        reader.problem(
            node.at_key("message_type"),
            format!("weChat message type {given} does not match valid options ^(text|markdown)$"),
        );
    }
    if !wechat.api_secret.is_empty() && !wechat.api_secret_file.is_empty() {
        reader
            .problem(node.at_key("api_secret_file"), "at most one of api_secret & api_secret_file must be configured");
    }
}

section! {
    /// Rocket.Chat.
    pub struct RocketchatConfig "rocketchat_config" => check_rocketchat {
        pub send_resolved: bool = false,
        pub http_config: Option<HttpClientConfig>,
        pub api_url: Option<HttpUrl>,
        pub token_id: Option<Secret>,
        pub token_id_file: FilePath,
        pub token: Option<Secret>,
        pub token_file: FilePath,
        pub channel: String,
        pub color: String = "{{ if eq .Status \"firing\" }}red{{ else }}green{{ end }}".to_owned(),
        pub title: String = "{{ template \"rocketchat.default.title\" . }}".to_owned(),
        pub title_link: String = "{{ template \"rocketchat.default.titlelink\" . }}".to_owned(),
        pub text: String = "{{ template \"rocketchat.default.text\" . }}".to_owned(),
        pub fields: Vec<RocketchatField>,
        pub short_fields: bool,
        pub emoji: String = "{{ template \"rocketchat.default.emoji\" . }}".to_owned(),
        pub icon_url: String = "{{ template \"rocketchat.default.iconurl\" . }}".to_owned(),
        pub image_url: String,
        pub thumb_url: String,
        pub link_names: bool,
        pub actions: Vec<RocketchatAction>,
    }
}

section! {
    /// A field of a Rocket.Chat attachment.
    pub struct RocketchatField "rocketchat_field" {
        pub short: Option<bool>,
        pub title: String,
        pub value: String,
    }
}

section! {
    /// A button of a Rocket.Chat attachment. Upstream's names are Go's, lower case.
    pub struct RocketchatAction "rocketchat_action" {
        pub r#type: String,
        pub text: String,
        pub url: String,
        pub imageurl: String,
        pub iswebview: bool,
        pub webviewheightratio: String,
        pub msg: String,
        pub msginchatwindow: bool,
        pub msgprocessingtype: String,
    }
}

fn check_rocketchat(rocketchat: &mut RocketchatConfig, node: &Node, reader: &mut Reader<'_>) {
    if rocketchat.token.is_some() && !rocketchat.token_file.is_empty() {
        reader.problem(node.at_key("token_file"), "at most one of token & token_file must be configured");
    }
    if rocketchat.token_id.is_some() && !rocketchat.token_id_file.is_empty() {
        reader.problem(node.at_key("token_id_file"), "at most one of token_id & token_id_file must be configured");
    }
}

section! {
    /// Mattermost.
    pub struct MattermostConfig "mattermost_config" => check_mattermost {
        pub send_resolved: bool = true,
        pub http_config: Option<HttpClientConfig>,
        pub webhook_url: SecretUrl,
        pub webhook_url_file: FilePath,
        pub channel: String,
        pub username: String = "{{ template \"mattermost.default.username\" . }}".to_owned(),
        pub icon_url: String,
        pub icon_emoji: String,
        pub r#type: String,
        pub props: Option<MattermostProps>,
        pub priority: Option<MattermostPriority>,
        pub attachments: Vec<MattermostAttachment>,
        pub text: String = "{{ template \"mattermost.default.text\" . }}".to_owned(),
        pub fallback: String = "{{ template \"mattermost.default.fallback\" . }}".to_owned(),
        pub color: String = "{{ template \"mattermost.default.color\" . }}".to_owned(),
        pub title: String = "{{ template \"mattermost.default.title\" . }}".to_owned(),
        pub title_link: String = "{{ template \"mattermost.default.titlelink\" . }}".to_owned(),
        pub pretext: String,
        pub author_name: String,
        pub author_link: String,
        pub author_icon: String,
        pub fields: Vec<MattermostField>,
        pub thumb_url: String,
        pub footer: String,
        pub footer_icon: String,
        pub image_url: String,
    }
}

section! {
    /// Further text of a Mattermost post.
    pub struct MattermostProps "mattermost_props" {
        pub card: String,
    }
}

section! {
    /// How urgent a Mattermost post is.
    pub struct MattermostPriority "mattermost_priority" {
        pub priority: String,
        pub requested_ack: bool,
        pub persistent_notifications: bool,
    }
}

section! {
    /// An attachment of a Mattermost post.
    pub struct MattermostAttachment "mattermost_attachment" {
        pub fallback: String,
        pub color: String,
        pub pretext: String,
        pub text: String,
        pub author_name: String,
        pub author_link: String,
        pub author_icon: String,
        pub title: String,
        pub title_link: String,
        pub fields: Vec<MattermostField>,
        pub thumb_url: String,
        pub footer: String,
        pub footer_icon: String,
        pub image_url: String,
    }
}

section! {
    /// A field of a Mattermost attachment.
    pub struct MattermostField "mattermost_field" => check_mattermost_field {
        pub title: String,
        pub value: String,
        pub short: Option<bool>,
    }
}

fn check_mattermost_field(field: &mut MattermostField, node: &Node, reader: &mut Reader<'_>) {
    missing(&field.title, "title in Mattermost field configuration", node, reader);
    missing(&field.value, "value in Mattermost field configuration", node, reader);
}

fn check_mattermost(mattermost: &mut MattermostConfig, node: &Node, reader: &mut Reader<'_>) {
    at_most_one_url(&mattermost.webhook_url, &mattermost.webhook_url_file, node, reader);
}
