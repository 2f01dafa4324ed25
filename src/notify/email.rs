//! Mail: a head with the user's headers, a text and an HTML part.
//!
//! Source: alertmanager notify/email; RFC 5322, RFC 2047 (words in headers), RFC 2045 (quoted-printable).

use promesh_alerting::Outcome;
use promesh_client::{Gate, Inside, Tls};
use promesh_config::alertmanager::EmailConfig;
use promesh_template::clock::Time;

use crate::call::secret_of;
use crate::message::Message;
use crate::smtp::{self, Login, Mail, Server, SmtpError};

/// The subject unless there is another.
const SUBJECT: &str = "{{ template \"email.default.subject\" . }}";
/// The port of TLS from the first byte on.
const IMPLICIT_TLS_PORT: &str = "465";
/// The longest line of a quoted-printable body.
const LINE_BYTES_MAX: usize = 76;
/// The longest encoded word of a header.
const WORD_BYTES_MAX: usize = 75;

/// Tells.
pub async fn deliver(config: &EmailConfig, message: &Message<'_>, lease: &Gate) -> Outcome {
    let refused = |why: String| Outcome::Refused { why: format!("email: {why}") };
    let (password, secret) = match (
        secret_of(&config.auth_password, &config.auth_password_file).await,
        secret_of(&config.auth_secret, &config.auth_secret_file).await,
    ) {
        (Ok(password), Ok(secret)) => (password, secret),
        (Err(why), _) | (_, Err(why)) => return refused(why),
    };
    let from = match addresses(&message.text(&config.from)).as_deref() {
        Ok([from]) => from.clone(),
        Ok(_) => return refused("must be exactly one 'from' address".to_owned()),
        Err(why) => return refused(format!("parse 'from' addresses: {why}")),
    };
    let to = match addresses(&message.text(&config.to)) {
        Ok(to) => to,
        Err(why) => return refused(format!("parse 'to' addresses: {why}")),
    };
    let tls = match Tls::new(&config.tls_config.clone().unwrap_or_default(), Inside::Other) {
        Ok(tls) => tls,
        Err(error) => return refused(error.to_string()),
    };
    let data = mail(config, message, &from);
    let hello = if config.hello.is_empty() { "localhost" } else { &config.hello };
    let server = Server {
        host: &config.smarthost.host,
        port: &config.smarthost.port,
        hello,
        implicit_tls: config.force_implicit_tls.unwrap_or(config.smarthost.port == IMPLICIT_TLS_PORT),
        require_tls: config.require_tls.unwrap_or(true),
        tls: &tls,
        login: Login {
            username: &config.auth_username,
            password: &password,
            secret: &secret,
            identity: &config.auth_identity,
        },
    };
    match smtp::send(&server, &Mail { from: &from, to: &to, data: data.as_bytes() }, lease).await {
        Ok(()) => Outcome::Sent { data: Default::default() },
        Err(SmtpError::Closed) => Outcome::Expired,
        // Upstream tries again whatever the server says: mail servers refuse for passing reasons.
        Err(SmtpError::Failed(why)) => Outcome::Retry { after: None, why: format!("email: {why}") },
    }
}

/// Head and body.
pub fn mail(config: &EmailConfig, message: &Message<'_>, from: &str) -> String {
    let mut head = String::new();
    let mut put = |name: &str, value: &str| head.push_str(&format!("{name}: {}\r\n", encoded(value)));
    let defaults = [("From", &*config.from), ("Subject", SUBJECT), ("To", &*config.to)];
    for (name, text) in defaults.into_iter().filter(|(name, _)| !config.headers.contains_key(*name)) {
        put(name, &message.text(text));
    }
    for (name, text) in &config.headers {
        put(name, &message.text(text));
    }
    let domain = from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let name = &message.notification.idempotency_key;
    if !config.headers.contains_key("Message-Id") {
        // The same for every attempt, so that a mailbox can drop repeats.
        put("Message-Id", &format!("<{name}@{domain}>"));
    }
    let now = Time::from(message.notification.now);
    if config.threading.enabled {
        let day = if config.threading.thread_by_date == "none" { String::new() } else { now.format("2006-01-02") };
        let root = format!("<alert-{}-{day}@alertmanager>", &message.key_hash()[..16]);
        put("References", &root);
        put("In-Reply-To", &root);
    }
    if message.notification.degraded {
        put("X-Promesh-Degraded", "true");
    }
    put("Date", &now.format("Mon, 02 Jan 2006 15:04:05 -0700"));
    let boundary = format!("promesh-{name}");
    head.push_str(&format!("Content-Type: multipart/alternative;  boundary={boundary}\r\nMIME-Version: 1.0\r\n\r\n"));
    let mut part = |kind: &str, text: &str| {
        head.push_str(&format!(
            "--{boundary}\r\nContent-Transfer-Encoding: quoted-printable\r\nContent-Type: {kind}; charset=UTF-8\r\n\r\n"
        ));
        head.push_str(&quoted_printable(text));
        head.push_str("\r\n");
    };
    if !config.text.is_empty() {
        part("text/plain", &message.text(&config.text));
    }
    if !config.html.is_empty() {
        // The preferred form stands last.
        part("text/html", &message.html(&config.html));
    }
    head.push_str(&format!("--{boundary}--\r\n"));
    head
}

/// The addresses of a list such as `Ops <ops@example.com>, b@example.com`.
fn addresses(list: &str) -> Result<Vec<String>, String> {
    let (mut parts, mut quoted, mut part) = (Vec::new(), false, String::new());
    for c in list.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
    }
    parts.push(part);
    let address = |part: String| -> Result<String, String> {
        let inner = part.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(address, _)| address);
        let address = inner.unwrap_or(&part).trim();
        // A name with a line break in it is an attack, even where only the address is used.
        let is_clean = !part.chars().any(char::is_control);
        let is_plain =
            is_clean && address.chars().all(|c| !c.is_control() && !c.is_whitespace() && !matches!(c, '<' | '>'));
        match address.rsplit_once('@') {
            Some((local, domain)) if is_plain && !local.is_empty() && !domain.is_empty() => Ok(address.to_owned()),
            _ => Err(format!("{:?} is no mail address", part.trim())),
        }
    };
    parts.into_iter().map(address).collect()
}

/// A header's value: as it is, or as words in Q encoding where it holds more than printable ASCII. No line break passes.
fn encoded(value: &str) -> String {
    if value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return value.to_owned();
    }
    let (begin, end) = ("=?utf-8?q?", "?=");
    let mut out = begin.to_owned();
    let mut used = begin.len() + end.len();
    for c in value.chars() {
        let mut text = String::new();
        let mut bytes = [0; 4];
        for byte in c.encode_utf8(&mut bytes).bytes() {
            match byte {
                b' ' => text.push('_'),
                b'!'..=b'~' if !matches!(byte, b'=' | b'?' | b'_') => text.push(char::from(byte)),
                _ => text.push_str(&format!("={byte:02X}")),
            }
        }
        if used + text.len() > WORD_BYTES_MAX {
            out.push_str(&format!("{end}\r\n {begin}"));
            used = begin.len() + end.len();
        }
        used += text.len();
        out.push_str(&text);
    }
    out.push_str(end);
    out
}

/// A text in quoted-printable, its lines ended by CRLF.
fn quoted_printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for (at, line) in text.replace("\r\n", "\n").split('\n').enumerate() {
        if at > 0 {
            out.push_str("\r\n");
        }
        let mut used = 0;
        for (index, byte) in line.bytes().enumerate() {
            let is_last = index + 1 == line.len();
            let piece = match byte {
                b' ' | b'\t' if is_last => format!("={byte:02X}"),
                b'\t' | b' '..=b'<' | b'>'..=b'~' => char::from(byte).to_string(),
                _ => format!("={byte:02X}"),
            };
            if used + piece.len() >= LINE_BYTES_MAX {
                out.push_str("=\r\n");
                used = 0;
            }
            used += piece.len();
            out.push_str(&piece);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_bodies_are_encoded_as_mail_wants_them() {
        assert_eq!(encoded("plain text"), "plain text");
        assert_eq!(encoded("Störung\nBcc: x@y"), "=?utf-8?q?St=C3=B6rung=0ABcc:_x@y?=");
        let long = encoded(&"ä".repeat(40));
        assert!(long.split("\r\n ").count() > 1 && long.split("\r\n ").all(|word| word.len() <= WORD_BYTES_MAX));
        assert_eq!(quoted_printable("a=b\nä \n.x"), "a=3Db\r\n=C3=A4=20\r\n.x");
        assert!(quoted_printable(&"x".repeat(400)).split("\r\n").all(|line| line.len() <= LINE_BYTES_MAX));
    }

    #[test]
    fn addresses_are_read_from_lists() {
        let list = addresses("Ops <ops@a.b>, \"B, C\" <c@d.e>,f@g");
        assert_eq!(list, Ok(vec!["ops@a.b".to_owned(), "c@d.e".to_owned(), "f@g".to_owned()]));
        for bad in ["", "x", "a@b,", "a@b\r\nRCPT TO:<c@d>", "@b"] {
            assert!(addresses(bad).is_err(), "{bad}");
        }
    }
}
