//! A webhook that counts: it keeps what comes, and can be slow, refuse, or say when a request has begun.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::wall;

/// One request that was answered, or is being.
#[derive(Clone, Debug)]
pub struct Told {
    /// When it came, in seconds.
    pub at: f64,
    /// Its body.
    pub body: Value,
    /// The header that names the message.
    pub key: String,
    /// Whether it was sent without a majority.
    pub degraded: bool,
    /// What was answered; 0 before it is.
    pub status: u16,
    /// The sender's end of the connection.
    pub from: SocketAddr,
}

impl Told {
    /// `firing` or `resolved`, and the group's labels.
    pub fn what(&self) -> String {
        format!("{} {}", self.body["status"].as_str().unwrap_or(""), self.body["groupLabels"])
    }
}

/// How requests are answered.
#[derive(Clone, Debug)]
pub enum Manner {
    /// With 200, at once.
    Kind,
    /// With 200, after so long.
    #[allow(dead_code)] // the soak's
    Slow(Duration),
    /// With 500.
    Failing,
    /// Not at all until it is told otherwise: a request that waits for this is held.
    Holding,
}

#[derive(Debug)]
struct State {
    told: Vec<Told>,
    manner: Manner,
}

/// The webhook.
#[derive(Clone, Debug)]
pub struct Hook {
    pub address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Hook {
    pub fn start() -> Hook {
        Hook::start_on("127.0.0.1")
    }

    /// On an address of this machine.
    pub fn start_on(address: &str) -> Hook {
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new((Mutex::new(State { told: Vec::new(), manner: Manner::Kind }), Condvar::new()));
        let hook = Hook { address, state };
        let served = hook.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = served.clone();
                let spawned = std::thread::Builder::new().stack_size(128 << 10).spawn(move || served.serve(stream));
                drop(spawned);
            }
        });
        hook
    }

    /// An `alertmanager.yml` whose only receiver it is.
    pub fn config(&self, route: &str) -> String {
        let address = self.address;
        format!(
            "route: {{receiver: hook, {route}}}\nreceivers:\n- name: hook\n  webhook_configs:\n  - url: \
             http://{address}/\n"
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on it answers so; requests that are held are answered so, too.
    pub fn answer(&self, manner: Manner) {
        self.lock().manner = manner;
        self.state.1.notify_all();
    }

    /// Everything that came.
    pub fn told(&self) -> Vec<Told> {
        self.lock().told.clone()
    }

    /// What was taken, with 200: status and group labels, in order.
    pub fn taken(&self) -> Vec<String> {
        self.lock().told.iter().filter(|told| told.status == 200).map(Told::what).collect()
    }

    /// Waits until so many requests have come, answered or not.
    pub fn wait_for(&self, count: usize, seconds: f64) -> Vec<Told> {
        let until = wall() + seconds;
        let mut state = self.lock();
        while state.told.len() < count {
            let left = until - wall();
            assert!(left > 0.0, "{count} requests never came: {:?}", state.told);
            state = self
                .state
                .1
                .wait_timeout(state, Duration::from_secs_f64(left.min(0.5)))
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .0;
        }
        state.told.clone()
    }

    /// Waits until so many were answered with 200; gives them as [`Hook::taken`] does.
    pub fn wait_taken(&self, count: usize, seconds: f64) -> Vec<String> {
        let until = wall() + seconds;
        loop {
            let taken = self.taken();
            if taken.len() >= count {
                return taken;
            }
            assert!(wall() < until, "{count} were never taken: {:?}", self.told());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(from) = stream.peer_addr() else { return };
        let mut writer = stream.try_clone().expect("a socket can be cloned");
        let mut reader = BufReader::new(stream);
        while let Some((head, body)) = read_request(&mut reader) {
            let header = |name: &str| {
                let line = head.iter().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
                Some(line.split_once(':')?.1.trim().to_owned())
            };
            let told = Told {
                at: wall(),
                body: serde_json::from_slice(&body).unwrap_or(Value::Null),
                key: header("idempotency-key").unwrap_or_default(),
                degraded: header("x-promesh-degraded").is_some(),
                status: 0,
                from,
            };
            let index = {
                let mut state = self.lock();
                state.told.push(told);
                self.state.1.notify_all();
                state.told.len() - 1
            };
            let status = self.settled();
            self.lock().told[index].status = status;
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Waits as its manner says; gives the status.
    fn settled(&self) -> u16 {
        let mut state = self.lock();
        loop {
            match state.manner.clone() {
                Manner::Kind => return 200,
                Manner::Failing => return 500,
                Manner::Slow(delay) => {
                    drop(state);
                    std::thread::sleep(delay);
                    return 200;
                }
                Manner::Holding => {
                    state = self.state.1.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
            }
        }
    }
}

/// A request's lines and its body.
pub fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(Vec<String>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let length =
        head.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// A port in front of a webhook that completes no connection until it is opened: who connects to it waits, and sends
/// nothing meanwhile.
pub struct ClogEnd {
    pub address: SocketAddr,
    hook: Hook,
    listener: TcpListener,
    filling: Vec<Socket>,
}

impl ClogEnd {
    pub fn start(hook: Hook) -> ClogEnd {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        socket.listen(0).expect("it listens");
        let address = socket.local_addr().expect("bound").as_socket().expect("an IP address");
        // The queue holds one; what comes after waits in SYN_SENT.
        let fill = |_| {
            let filling = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            filling.set_nonblocking(true).expect("set");
            let _ = filling.connect(&address.into());
            filling
        };
        let filling = (0..4).map(fill).collect();
        ClogEnd { address, hook, listener: socket.into(), filling }
    }

    /// From now on it is the webhook.
    pub fn open(mut self) {
        self.filling.clear();
        std::thread::spawn(move || {
            for stream in self.listener.incoming().flatten() {
                let hook = self.hook.clone();
                std::thread::spawn(move || hook.serve(stream));
            }
        });
    }
}
