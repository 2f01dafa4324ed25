//! A server that stands for the services behind receivers: it keeps requests whole, and answers as these services do.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::hook::read_request;
use super::{pause, wall};

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// `POST /path`
    pub what: String,
    /// Names in lower case, sorted.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

#[derive(Clone, Debug)]
pub struct Stub {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Stub {
    pub fn start() -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stub = Stub { address: listener.local_addr().expect("bound"), asked: Arc::default() };
        let served = stub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                std::thread::spawn(move || served.serve(stream));
            }
        });
        stub
    }

    /// Everything that came.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many came.
    pub fn wait(&self, count: usize, seconds: f64) -> Vec<Asked> {
        let until = wall() + seconds;
        while self.asked().len() < count && wall() < until {
            pause(50);
        }
        self.asked()
    }

    fn serve(&self, stream: TcpStream) {
        let mut writer = stream.try_clone().expect("a socket can be cloned");
        let mut reader = BufReader::new(stream);
        while let Some((head, body)) = read_request(&mut reader) {
            let what = head[0].rsplit_once(' ').map_or("", |(what, _)| what).to_owned();
            let header = |line: &String| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim().to_owned()))
            };
            let mut headers: Vec<_> = head[1..].iter().filter_map(header).collect();
            headers.sort();
            let body = String::from_utf8_lossy(&body).into_owned();
            let (status, kind, answer) = answer(&what);
            self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(Asked { what, headers, body });
            let length = answer.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
            if writer.write_all((head + answer).as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// What the service behind a path says when all is well.
fn answer(what: &str) -> (u16, &'static str, &'static str) {
    let json = "application/json";
    match what {
        what if what.contains("/slack") => (200, "text/plain", "ok"),
        what if what.contains("/mattermost") => (200, "text/plain", "ok"),
        what if what.contains("/gettoken") => (200, json, r#"{"errcode":0,"errmsg":"ok","access_token":"TOKEN"}"#),
        what if what.contains("/message/send") => (200, json, r#"{"errcode":0,"errmsg":"ok"}"#),
        what if what.contains("/sendMessage") => {
            let sent = r#"{"ok":true,"result":{"message_id":1,"date":1,"chat":{"id":1,"type":"private"}}}"#;
            (200, json, sent)
        }
        what if what.contains("/search") => (200, json, r#"{"total":0,"issues":[]}"#),
        what if what.contains("/rest/api/") => (201, json, r#"{"id":"1","key":"OPS-1"}"#),
        what if what.contains("/chat.postMessage") => (200, json, r#"{"success":true}"#),
        what if what.contains("/opsgenie") => (202, json, r#"{"result":"ok"}"#),
        what if what.contains("/sns") => (
            200,
            "text/xml",
            "<PublishResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishResult><MessageId>m</MessageId>\
             </PublishResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></PublishResponse>",
        ),
        _ => (200, json, "{}"),
    }
}
