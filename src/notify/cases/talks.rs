//! Receivers that want a conversation, against stubs that check what the service would.

use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::*;

/// Answers by what is asked: "METHOD path" to status and JSON. Gives what was asked, with bodies.
async fn service(answers: Vec<(&'static str, u16, &'static str)>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        let mut asked = Vec::new();
        for (wanted, status, body) in answers {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let request = read_request(&mut stream).await;
            let line = request.lines().next().unwrap_or_default().to_owned();
            let found = line.starts_with(wanted);
            let (status, body) = if found { (status, body) } else { (404, "{}") };
            let answer = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.expect("writable");
            let (_, body) = request.split_once("\r\n\r\n").unwrap_or_default();
            asked.push(if found { format!("{line} {body}") } else { format!("unexpected {line}, not {wanted}") });
        }
        asked
    });
    (format!("http://{address}"), task)
}

fn open() -> Gate {
    Gate::new(|| true)
}

#[tokio::test]
async fn wechat_takes_a_token_and_then_the_message() {
    let (url, task) = service(vec![
        ("GET /cgi-bin/gettoken?corpid=c&corpsecret=s ", 200, r#"{"errcode":0,"access_token":"tok"}"#),
        ("POST /cgi-bin/message/send?access_token=tok ", 200, r#"{"errcode":0,"errmsg":"ok"}"#),
    ])
    .await;
    let notifiers = notifiers(&format!(
        "  wechat_configs: [{{api_url: '{url}/cgi-bin/', api_secret: s, corp_id: c, to_user: u, agent_id: '7', message: '{{{{ .Status }}}}'}}]"
    ));
    let outcome = notifiers.deliver(&notification("wechat"), open()).await;
    assert_eq!(outcome, Outcome::Sent { data: Default::default() });
    let asked = task.await.expect("the stub ends");
    let body = asked[1].rsplit_once(" HTTP/1.1 ").expect("a body").1;
    expect_test::expect![[r#"{"text":{"content":"firing"},"msgtype":"text","safe":"0","markdown":{"content":""},"touser":"u","agentid":"7"}"#]]
        .assert_eq(body);
}

#[tokio::test]
async fn wechat_says_what_it_does_not_take() {
    for (answer, retries) in
        [(r#"{"errcode":42001,"errmsg":"expired"}"#, true), (r#"{"errcode":1,"errmsg":"no"}"#, false)]
    {
        let (url, task) = service(vec![("GET ", 200, r#"{"access_token":"tok"}"#), ("POST ", 200, answer)]).await;
        let notifiers = notifiers(&format!("  wechat_configs: [{{api_url: '{url}/', api_secret: s, corp_id: c}}]"));
        let outcome = notifiers.deliver(&notification("wechat"), open()).await;
        assert_eq!(matches!(outcome, Outcome::Retry { .. }), retries, "{outcome:?}");
        assert_eq!(matches!(outcome, Outcome::Refused { .. }), !retries, "{outcome:?}");
        task.await.expect("the stub ends");
    }
}

const JIRA: &str = "project: P, issue_type: Bug, summary: '{{ .Status }}', description: d, labels: [b], priority: High, \
                    resolve_transition: Close, reopen_transition: Reopen, reopen_duration: 1h, fields: {customfield_1: {value: '{{ .Status }}'}}";

#[tokio::test]
async fn jira_writes_an_issue_and_finds_it_again() {
    let (url, task) = service(vec![
        ("POST /rest/api/2/search ", 200, r#"{"issues":[]}"#),
        ("POST /rest/api/2/issue ", 201, r#"{"key":"P-1"}"#),
    ])
    .await;
    let config = |url: &str| notifiers(&format!("  jira_configs: [{{api_url: '{url}/rest/api/2/', {JIRA}}}]"));
    let outcome = config(&url).deliver(&notification("jira"), open()).await;
    assert_eq!(outcome, Outcome::Sent { data: Default::default() });
    let mut all = task.await.expect("the stub ends").join("\n");

    let done = r#"{"issues":[{"key":"P-1","fields":{"status":{"statusCategory":{"key":"done"}}}}]}"#;
    let (url, task) = service(vec![
        ("POST /rest/api/2/search ", 200, done),
        ("PUT /rest/api/2/issue/P-1 ", 204, ""),
        ("GET /rest/api/2/issue/P-1/transitions ", 200, r#"{"transitions":[{"id":"4","name":"Reopen"}]}"#),
        ("POST /rest/api/2/issue/P-1/transitions ", 204, ""),
    ])
    .await;
    let outcome = config(&url).deliver(&notification("jira"), open()).await;
    assert_eq!(outcome, Outcome::Sent { data: Default::default() });
    all.push('\n');
    all.push_str(&task.await.expect("the stub ends").join("\n"));
    expect_test::expect![[r#"
        POST /rest/api/2/search HTTP/1.1 {"jql":"(resolutiondate is EMPTY OR resolutiondate >= -60m) and project=\"P\" and labels=\"ALERT{af94c9e8f6a3043625e36c6f472fe6be85ac23a9117184ee4cb7b4ad7401a47e}\" order by status ASC,resolutiondate DESC","maxResults":2,"fields":["status"]}
        POST /rest/api/2/issue HTTP/1.1 {"fields":{"customfield_1":{"value":"firing"},"project":{"key":"P"},"issuetype":{"name":"Bug"},"summary":"firing","description":"d","labels":["ALERT{af94c9e8f6a3043625e36c6f472fe6be85ac23a9117184ee4cb7b4ad7401a47e}","b"],"priority":{"name":"High"}}}
        POST /rest/api/2/search HTTP/1.1 {"jql":"(resolutiondate is EMPTY OR resolutiondate >= -60m) and project=\"P\" and labels=\"ALERT{af94c9e8f6a3043625e36c6f472fe6be85ac23a9117184ee4cb7b4ad7401a47e}\" order by status ASC,resolutiondate DESC","maxResults":2,"fields":["status"]}
        PUT /rest/api/2/issue/P-1 HTTP/1.1 {"fields":{"customfield_1":{"value":"firing"},"project":{"key":"P"},"issuetype":{"name":"Bug"},"summary":"firing","description":"d","labels":["ALERT{af94c9e8f6a3043625e36c6f472fe6be85ac23a9117184ee4cb7b4ad7401a47e}","b"],"priority":{"name":"High"}}}
        GET /rest/api/2/issue/P-1/transitions HTTP/1.1 
        POST /rest/api/2/issue/P-1/transitions HTTP/1.1 {"transition":{"id":"4"}}"#]]
    .assert_eq(&all);
}

#[tokio::test]
async fn sns_gets_a_signed_form() {
    let body = shown(
        "  sns_configs: [{api_url: 'http://sns.local:4566/', topic_arn: 'arn:x.fifo', sigv4: {region: eu-central-1, access_key: AK, secret_key: SK}, subject: s, message: m, attributes: {a: '{{ .Status }}'}}]",
        "sns",
    )
    .await;
    expect_test::expect![[r#"
        POST http://sns.local:4566/
        x-amz-date: 20240101T081600Z
        authorization: AWS4-HMAC-SHA256 Credential=AK/20240101/eu-central-1/sns/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature=0363b34591eabf11566440a15123d7b1949e428750f155546d4b2344fd038a5a
        Action=Publish&Version=2010-03-31&TopicArn=arn%3Ax.fifo&MessageDeduplicationId=00ff&MessageGroupId=af94c9e8f6a3043625e36c6f472fe6be85ac23a9117184ee4cb7b4ad7401a47e&Message=m&Subject=s&MessageAttributes.entry.1.Name=a&MessageAttributes.entry.1.Value.DataType=String&MessageAttributes.entry.1.Value.StringValue=firing"#]]
    .assert_eq(&body);
    let receiver = "  sns_configs: [{topic_arn: t, sigv4: {region: r, access_key: a, secret_key: s, role_arn: x}}]";
    let outcome = notifiers(receiver).deliver(&notification("sns"), open()).await;
    assert!(matches!(&outcome, Outcome::Refused { why } if why.contains("sigv4.role_arn is not built")), "{outcome:?}");
}

/// A mail server that insists on the order of things; gives the whole conversation.
async fn mail_server(auth: &'static str) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut said = Vec::new();
        let mut in_data = false;
        write.write_all(b"220 stub ready\r\n").await.expect("writable");
        while let Ok(Some(line)) = lines.next_line().await {
            let answer = match line.split(' ').next().unwrap_or_default() {
                "." if in_data => {
                    in_data = false;
                    "250 taken"
                }
                _ if in_data => "",
                "EHLO" => auth,
                "AUTH" if line == "AUTH CRAM-MD5" => "334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+",
                "AUTH" if line == "AUTH LOGIN" => "334 VXNlcm5hbWU6",
                "AUTH" => "235 welcome",
                "MAIL" | "RCPT" => "250 ok",
                "DATA" => {
                    in_data = true;
                    "354 go ahead"
                }
                "QUIT" => "221 bye",
                _ if said.last().is_some_and(|last: &String| last == "AUTH LOGIN") => "334 UGFzc3dvcmQ6",
                _ => "235 welcome",
            };
            said.push(line);
            if !answer.is_empty() {
                write.write_all(format!("{answer}\r\n").as_bytes()).await.expect("writable");
            }
        }
        said
    });
    (port, task)
}

fn mailer(port: u16, more: &str) -> Notifiers {
    notifiers(&format!(
        "  email_configs: [{{to: 'Ops <ops@example.com>, b@example.com', from: am@example.com, smarthost: '127.0.0.1:{port}', require_tls: false, html: '<b>{{{{ .CommonAnnotations.summary }}}}</b>', text: '.dot', {more}}}]"
    ))
}

#[tokio::test]
async fn a_mail_goes_out_whole() {
    let (port, task) = mail_server("250-stub\r\n250 AUTH PLAIN").await;
    let notifiers = mailer(
        port,
        "hello: me, auth_username: u, auth_password: p, headers: {subject: 'Störung {{ .Status }}', x-team: t}, threading: {enabled: true, thread_by_date: daily}",
    );
    let outcome = notifiers.deliver(&notification("email"), open()).await;
    assert_eq!(outcome, Outcome::Sent { data: Default::default() });
    let said = task.await.expect("the stub ends").join("\n");
    expect_test::expect![[r#"
        EHLO me
        AUTH PLAIN AHUAcA==
        MAIL FROM:<am@example.com>
        RCPT TO:<ops@example.com>
        RCPT TO:<b@example.com>
        DATA
        From: am@example.com
        To: Ops <ops@example.com>, b@example.com
        Subject: =?utf-8?q?St=C3=B6rung_firing?=
        X-Team: t
        Message-Id: <00ff@example.com>
        References: <alert-af94c9e8f6a30436-2024-01-01@alertmanager>
        In-Reply-To: <alert-af94c9e8f6a30436-2024-01-01@alertmanager>
        Date: Mon, 01 Jan 2024 08:16:00 +0000
        Content-Type: multipart/alternative;  boundary=promesh-00ff
        MIME-Version: 1.0

        --promesh-00ff
        Content-Transfer-Encoding: quoted-printable
        Content-Type: text/plain; charset=UTF-8

        ..dot
        --promesh-00ff
        Content-Transfer-Encoding: quoted-printable
        Content-Type: text/html; charset=UTF-8

        <b>it is &lt;down&gt;</b>
        --promesh-00ff--
        .
        QUIT"#]]
    .assert_eq(&said);
}

#[tokio::test]
async fn mail_servers_authenticate_by_what_they_offer() {
    // The challenge and the answer of RFC 2195.
    let (port, task) = mail_server("250-stub\r\n250 AUTH CRAM-MD5 PLAIN").await;
    let login = "auth_username: tim, auth_secret: tanstaaftanstaaf";
    assert_eq!(
        mailer(port, login).deliver(&notification("email"), open()).await,
        Outcome::Sent { data: Default::default() }
    );
    let said = task.await.expect("the stub ends");
    assert_eq!(STANDARD.decode(&said[2]).expect("base64"), b"tim b913a602c7eda7a495b4e6e7334d3890");

    let (port, task) = mail_server("250-stub\r\n250 AUTH LOGIN").await;
    let login = "auth_username: u, auth_password: p";
    assert_eq!(
        mailer(port, login).deliver(&notification("email"), open()).await,
        Outcome::Sent { data: Default::default() }
    );
    assert_eq!(task.await.expect("the stub ends")[1..4], ["AUTH LOGIN", "dQ==", "cA=="]);

    let (port, _task) = mail_server("250-stub\r\n250 AUTH GSSAPI").await;
    let outcome = mailer(port, login).deliver(&notification("email"), open()).await;
    assert!(matches!(&outcome, Outcome::Retry { why, .. } if why.contains("unknown auth mechanism")), "{outcome:?}");
}

#[tokio::test]
async fn no_mail_goes_out_without_the_tls_that_is_required_nor_after_the_lease() {
    let (port, _task) = mail_server("250 stub").await;
    let receiver = format!("  email_configs: [{{to: a@b, from: c@d, smarthost: '127.0.0.1:{port}'}}]");
    let outcome = notifiers(&receiver).deliver(&notification("email"), open()).await;
    let said =
        matches!(&outcome, Outcome::Retry { why, .. } if why.contains("does not advertise the STARTTLS extension"));
    assert!(said, "{outcome:?}");
    let (port, task) = mail_server("250 stub").await;
    let outcome = mailer(port, "").deliver(&notification("email"), Gate::new(|| false)).await;
    assert_eq!(outcome, Outcome::Expired);
    let said = task.await.expect("the stub ends");
    assert_eq!(said.last().map(String::as_str), Some("DATA"), "nothing of the message was said");
}

/// A real SMTP server (Debian's python3-aiosmtpd, or PyPI's) with STARTTLS by a certificate of its own, that takes mails
/// only from who logs in.
#[tokio::test]
async fn a_real_mail_server_takes_our_mail() {
    const SERVER: &str = r#"
import asyncio, ssl, sys
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, SMTP
from email import message_from_bytes, policy
class Handler:
    async def handle_DATA(self, server, session, envelope):
        mail = message_from_bytes(envelope.content, policy=policy.default)
        html = mail.get_body(('html',)).get_content().strip()
        print('MAIL', envelope.mail_from, ','.join(envelope.rcpt_tos), mail['subject'], session.ssl is not None, html, flush=True)
        return '250 taken'
def login(server, session, envelope, mechanism, data):
    good = mechanism in ('LOGIN', 'PLAIN') and (data.login, data.password) == (b'u', b'p')
    return AuthResult(success=good, handled=False)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
controller = Controller(Handler(), hostname='127.0.0.1', port=int(sys.argv[3]), tls_context=context, require_starttls=True, auth_required=True, authenticator=login)
controller.start()
print('READY', flush=True)
sys.stdin.read()
controller.stop()
"#;
    let imports = std::process::Command::new("python3").args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status();
    if !imports.is_ok_and(|status| status.success()) {
        println!("skipped: no python3 with aiosmtpd here (apt-get install python3-aiosmtpd)");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let pair = rcgen::generate_simple_self_signed(vec!["mail.example".to_owned()]).expect("a certificate");
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, pair.cert.pem()).expect("written");
    std::fs::write(&key, pair.signing_key.serialize_pem()).expect("written");
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound").port();
    let port = free.to_string();
    let mut server = tokio::process::Command::new("python3")
        .args(["-c", SERVER, cert.to_str().expect("UTF-8"), key.to_str().expect("UTF-8"), &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    let ready = lines.next_line().await.expect("readable");
    assert_eq!(ready.as_deref(), Some("READY"));
    let receiver = |password: &str, ca: &str| {
        notifiers(&format!(
            "  email_configs: [{{to: ops@example.com, from: am@example.com, smarthost: '127.0.0.1:{port}', auth_username: u, auth_password: {password}, html: '<b>{{{{ .Status }}}}</b>', headers: {{Subject: 'Störung'}}, tls_config: {{{ca} server_name: mail.example}}}}]"
        ))
    };
    let ca = format!("ca_file: '{}',", cert.display());
    let outcome = receiver("p", &ca).deliver(&notification("email"), open()).await;
    assert_eq!(outcome, Outcome::Sent { data: Default::default() });
    let line = lines.next_line().await.expect("readable").expect("a line");
    assert_eq!(line, "MAIL am@example.com ops@example.com Störung True <b>firing</b>");
    let outcome = receiver("wrong", &ca).deliver(&notification("email"), open()).await;
    assert!(matches!(&outcome, Outcome::Retry { why, .. } if why.contains("auth: 535")), "{outcome:?}");
    let outcome = receiver("p", "").deliver(&notification("email"), open()).await;
    assert!(matches!(&outcome, Outcome::Retry { why, .. } if why.contains("TLS handshake")), "{outcome:?}");
}
