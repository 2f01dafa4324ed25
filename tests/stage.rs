//! An HTTP server whose answers a test writes, and which remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// What came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When, in seconds since the epoch.
    pub at: f64,
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What goes back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Waited before.
    pub after_ms: u64,
}

impl Answer {
    pub fn ok(content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        let headers = vec![("Content-Type", content_type.to_owned())];
        Answer { status: 200, headers, body: body.into(), after_ms: 0 }
    }

    pub fn text(body: impl Into<Vec<u8>>) -> Answer {
        Answer::ok("text/plain; version=0.0.4", body)
    }

    pub fn json(body: impl Into<Vec<u8>>) -> Answer {
        Answer::ok("application/json", body)
    }

    pub fn status(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

type Script = dyn Fn(&Asked) -> Answer + Send + Sync;

/// The server. It serves until the test process ends.
#[derive(Clone)]
pub struct Stage {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stage {
    pub fn start(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Stage {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stage = Stage { address: listener.local_addr().expect("bound"), asked: Arc::default() };
        let (asked, script): (_, Arc<Script>) = (Arc::clone(&stage.asked), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, script) = (Arc::clone(&asked), Arc::clone(&script));
                std::thread::spawn(move || serve(stream, &asked, &*script));
            }
        });
        stage
    }

    /// Everything asked so far under paths with this prefix.
    pub fn asked(&self, prefix: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|asked| asked.path.starts_with(prefix)).cloned().collect()
    }

    /// The newest request under a prefix.
    pub fn newest(&self, prefix: &str) -> Option<Asked> {
        self.asked(prefix).pop()
    }
}

fn serve(stream: TcpStream, record: &Mutex<Vec<Asked>>, script: &Script) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let asked = read(&mut reader)?;
        record.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
        let answer = script(&asked);
        crate::support::pause(answer.after_ms);
        let mut head = format!("HTTP/1.1 {} Status\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(&answer.body).ok()?;
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    (reader.read_line(&mut line).ok()? > 0).then_some(())?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then_some(())?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Some(Asked { at: crate::support::wall(), method, path, headers, body })
}
