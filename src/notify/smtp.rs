//! A conversation with a mail server: greeting, TLS, authentication, one message.
//!
//! lettre knows neither CRAM-MD5 nor the TLS settings of the configuration, nor can it ask a lease between the server's
//! go-ahead and the message. Source: RFC 5321, RFC 3207 (STARTTLS), RFC 4954 (AUTH), RFC 2195 (CRAM-MD5).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;
use promesh_client::{Gate, Tls};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The longest reply that is read.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// How to reach a mail server and who one is.
pub struct Server<'a> {
    /// A name or an address.
    pub host: &'a str,
    /// A number.
    pub port: &'a str,
    /// What one calls oneself.
    pub hello: &'a str,
    /// TLS from the first byte on.
    pub implicit_tls: bool,
    /// No message without TLS.
    pub require_tls: bool,
    /// Whom to trust.
    pub tls: &'a Tls,
    /// Who logs in; nobody when the name is empty.
    pub login: Login<'a>,
}

/// Who logs in.
pub struct Login<'a> {
    /// The name; empty for nobody.
    pub username: &'a str,
    /// For PLAIN and LOGIN.
    pub password: &'a str,
    /// For CRAM-MD5.
    pub secret: &'a str,
    /// On whose behalf.
    pub identity: &'a str,
}

/// What is to be sent.
pub struct Mail<'a> {
    /// The sender's address.
    pub from: &'a str,
    /// The recipients' addresses.
    pub to: &'a [String],
    /// Head and body, lines ended by CRLF.
    pub data: &'a [u8],
}

/// Why a mail did not go out.
#[derive(Debug, PartialEq, Eq)]
pub enum SmtpError {
    /// The lease had run out.
    Closed,
    /// All else; never with a password in it.
    Failed(String),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

struct Talk {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
    encrypted: bool,
}

/// Sends one mail; the lease is asked after the server's go-ahead, before the message's first byte.
///
/// # Errors
/// As [`SmtpError`] says. What the server has not confirmed may have been sent all the same.
pub async fn send(server: &Server<'_>, mail: &Mail<'_>, lease: &Gate) -> Result<(), SmtpError> {
    let address = format!("{}:{}", bracketed(server.host), server.port);
    let stream = TcpStream::connect(&address).await.map_err(|e| failed(&format!("connect to {address}"), &e))?;
    let mut talk = Talk { stream: Box::new(stream), read: Vec::new(), encrypted: false };
    if server.implicit_tls {
        talk = talk.encrypt(server).await?;
    }
    talk.expect("greeting", 220).await?;
    let mut extensions = talk.hello(server.hello).await?;
    if server.require_tls && !server.implicit_tls {
        if !extensions.iter().any(|line| line.eq_ignore_ascii_case("STARTTLS")) {
            return Err(SmtpError::Failed(format!(
                "'require_tls' is true (default) but {address:?} does not advertise the STARTTLS extension"
            )));
        }
        talk.command("STARTTLS", "STARTTLS", 220).await?;
        if !talk.read.is_empty() {
            // What came in the clear behind the go-ahead must not count as encrypted.
            return Err(SmtpError::Failed("the server spoke before TLS began".to_owned()));
        }
        talk = talk.encrypt(server).await?;
        extensions = talk.hello(server.hello).await?;
    }
    talk.log_in(&server.login, server.host, &extensions).await?;
    talk.command("MAIL", &format!("MAIL FROM:<{}>", mail.from), 250).await?;
    for to in mail.to {
        talk.command("RCPT", &format!("RCPT TO:<{to}>"), 250).await?;
    }
    talk.command("DATA", "DATA", 354).await?;
    if !lease.is_open() {
        return Err(SmtpError::Closed);
    }
    talk.write(&stuffed(mail.data)).await?;
    talk.expect("delivery", 250).await?;
    // It is taken; whether the server also says goodbye is all the same.
    drop(talk.command("QUIT", "QUIT", 221).await);
    Ok(())
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> SmtpError {
    SmtpError::Failed(format!("{what}: {error}"))
}

/// Lines that begin with a dot get another one; a dot alone ends the message.
fn stuffed(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 16);
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

impl Talk {
    async fn encrypt(self, server: &Server<'_>) -> Result<Talk, SmtpError> {
        let config = server.tls.current().map_err(|error| failed("TLS", &error))?;
        let name = server.tls.server_name(server.host).map_err(|error| failed("TLS", &error))?;
        let stream = TlsConnector::from(config).connect(name, self.stream).await;
        let stream = stream.map_err(|error| failed("TLS handshake", &error))?;
        Ok(Talk { stream: Box::new(stream), read: Vec::new(), encrypted: true })
    }

    /// Says hello; gives the extensions.
    async fn hello(&mut self, name: &str) -> Result<Vec<String>, SmtpError> {
        self.write(format!("EHLO {name}\r\n").as_bytes()).await?;
        let (code, lines) = self.reply().await?;
        if code == 250 {
            return Ok(lines.into_iter().skip(1).collect());
        }
        self.command("HELO", &format!("HELO {name}"), 250).await?;
        Ok(Vec::new())
    }

    async fn log_in(&mut self, login: &Login<'_>, host: &str, extensions: &[String]) -> Result<(), SmtpError> {
        let offered = extensions.iter().find_map(|line| {
            let (name, rest) = line.split_once([' ', '='])?;
            name.eq_ignore_ascii_case("AUTH").then(|| rest.to_ascii_uppercase())
        });
        let Some(offered) = offered.filter(|_| !login.username.is_empty()) else { return Ok(()) };
        let mut missing = Vec::new();
        for mechanism in offered.split_whitespace() {
            match mechanism {
                "CRAM-MD5" if login.secret.is_empty() => missing.push("missing secret for CRAM-MD5 auth mechanism"),
                "PLAIN" | "LOGIN" if login.password.is_empty() => missing.push("missing password for PLAIN or LOGIN"),
                "CRAM-MD5" => return self.cram_md5(login).await,
                // A password does not go over an open line, unless it stays on this machine.
                "PLAIN" | "LOGIN" if !self.encrypted && !matches!(host, "localhost" | "127.0.0.1" | "::1") => {
                    return Err(SmtpError::Failed(format!("{mechanism} auth: unencrypted connection")));
                }
                "PLAIN" => {
                    let text = format!("{}\0{}\0{}", login.identity, login.username, login.password);
                    return self.command("PLAIN auth", &format!("AUTH PLAIN {}", STANDARD.encode(text)), 235).await;
                }
                "LOGIN" => {
                    self.command("LOGIN auth", "AUTH LOGIN", 334).await?;
                    self.command("LOGIN auth", &STANDARD.encode(login.username), 334).await?;
                    return self.command("LOGIN auth", &STANDARD.encode(login.password), 235).await;
                }
                _ => {}
            }
        }
        if missing.is_empty() {
            missing.push("unknown auth mechanism");
        }
        Err(SmtpError::Failed(format!("find auth mechanism: {} (offered: {offered})", missing.join("; "))))
    }

    async fn cram_md5(&mut self, login: &Login<'_>) -> Result<(), SmtpError> {
        self.write(b"AUTH CRAM-MD5\r\n").await?;
        let (code, lines) = self.reply().await?;
        let challenge = lines.first().and_then(|line| STANDARD.decode(line.trim()).ok());
        let Some(challenge) = challenge.filter(|_| code == 334) else {
            return Err(SmtpError::Failed(format!("CRAM-MD5 auth: {code} {}", lines.join(" "))));
        };
        let mut mac = Hmac::<Md5>::new_from_slice(login.secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(&challenge);
        let digest: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        self.command("CRAM-MD5 auth", &STANDARD.encode(format!("{} {digest}", login.username)), 235).await
    }

    /// One command, which may hold a password: only `what` is told.
    async fn command(&mut self, what: &str, line: &str, code: u16) -> Result<(), SmtpError> {
        if line.contains(['\r', '\n']) {
            return Err(SmtpError::Failed(format!("{what}: a line break inside the command")));
        }
        self.write(format!("{line}\r\n").as_bytes()).await?;
        self.expect(what, code).await
    }

    async fn expect(&mut self, what: &str, code: u16) -> Result<(), SmtpError> {
        let (given, lines) = self.reply().await?;
        // 251: will forward.
        if given == code || (code == 250 && given == 251) {
            return Ok(());
        }
        let text: String = lines.join(" ").chars().take(300).collect();
        Err(SmtpError::Failed(format!("{what}: {given} {text}")))
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), SmtpError> {
        self.stream.write_all(bytes).await.map_err(|error| failed("write", &error))?;
        self.stream.flush().await.map_err(|error| failed("write", &error))
    }

    async fn reply(&mut self) -> Result<(u16, Vec<String>), SmtpError> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        loop {
            let line = self.line().await?;
            bytes += line.len();
            let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
            let (Some(code), true) = (code, bytes < REPLY_BYTES_MAX) else {
                return Err(SmtpError::Failed("the server does not speak SMTP".to_owned()));
            };
            lines.push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok((code, lines));
            }
        }
    }

    async fn line(&mut self) -> Result<String, SmtpError> {
        let mut buffer = [0; 2048];
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            let read = self.stream.read(&mut buffer).await.map_err(|error| failed("read", &error))?;
            if read == 0 || self.read.len() > REPLY_BYTES_MAX {
                return Err(SmtpError::Failed("the server ended the conversation".to_owned()));
            }
            self.read.extend_from_slice(&buffer[..read]);
        }
    }
}
