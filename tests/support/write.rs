//! Messages of remote write, made and read by the letter of their protobuf definitions.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Content types of both versions.
pub const V1: &str = "application/x-protobuf";
pub const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

/// The bits that say that a series has ended.
pub const STALE: u64 = 0x7ff0_0000_0000_0002;

/// A native histogram as upstream's compliance cases make them.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    pub positive: bool,
    pub negative: bool,
    pub zero: bool,
    pub custom: bool,
    pub bad_count: bool,
}

/// An exemplar: its labels and value.
pub type Exemplar = (&'static [(&'static str, &'static str)], f64);

/// One series of a request; instants are ms before the request's own, `start` likewise.
#[derive(Clone, Debug, Default)]
pub struct Series {
    pub labels: Vec<(String, String)>,
    /// When, value, since when.
    pub samples: Vec<(i64, f64, Option<i64>)>,
    pub histograms: Vec<(i64, Histogram, Option<i64>)>,
    pub exemplars: Vec<Exemplar>,
    /// Type, help and unit.
    pub metadata: Option<(u64, &'static str, &'static str)>,
}

impl Series {
    pub fn of(labels: &[(&str, &str)]) -> Series {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Series { labels, ..Series::default() }
    }

    pub fn named(name: &str) -> Series {
        Series::of(&[("__name__", name)])
    }

    pub fn at(mut self, before: i64, value: f64) -> Series {
        self.samples.push((before, value, None));
        self
    }

    pub fn counting_since(mut self, before: i64, value: f64, start: i64) -> Series {
        self.samples.push((before, value, Some(start)));
        self
    }

    pub fn histogram(mut self, histogram: Histogram) -> Series {
        self.histograms.push((0, histogram, None));
        self
    }

    pub fn exemplar(mut self, labels: &'static [(&'static str, &'static str)], value: f64) -> Series {
        self.exemplars.push((labels, value));
        self
    }

    pub fn metadata(mut self, kind: u64, help: &'static str, unit: &'static str) -> Series {
        self.metadata = Some((kind, help, unit));
        self
    }
}

/// Bytes of protobuf.
#[derive(Clone, Debug, Default)]
pub struct Proto(pub Vec<u8>);

impl Proto {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, number: u64, wire: u64) {
        self.varint(number << 3 | wire);
    }

    pub fn number(&mut self, number: u64, value: u64) {
        self.key(number, 0);
        self.varint(value);
    }

    pub fn double(&mut self, number: u64, value: f64) {
        self.key(number, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.key(number, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub fn packed(&mut self, number: u64, values: impl IntoIterator<Item = u64>) {
        let mut inner = Proto::default();
        values.into_iter().for_each(|value| inner.varint(value));
        self.bytes(number, &inner.0);
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn histogram(is: &Histogram, at: i64, start: Option<i64>) -> Proto {
    let mut out = Proto::default();
    let spans = |out: &mut Proto, number: u64, spans: &[(i64, u64)]| {
        for (offset, length) in spans {
            let mut span = Proto::default();
            span.number(1, zigzag(*offset));
            span.number(2, *length);
            out.bytes(number, &span.0);
        }
    };
    let mut count = u64::from(is.zero);
    if is.custom {
        count = 30;
        spans(&mut out, 11, &[(0, 6)]);
        out.packed(12, [2, 1, 2, 3, -1, -2].map(zigzag));
        for bound in [0.1, 0.5, 1.0, 2.5, 5.0, 10.0] {
            out.double(16, bound);
        }
        out.number(4, zigzag(-53));
    } else if is.positive {
        count += 23;
        spans(&mut out, 11, &[(0, 3), (2, 2)]);
        out.packed(12, [1, 2, 1, 3, 1].map(zigzag));
    }
    if is.negative {
        count += 3;
        spans(&mut out, 8, &[(0, 2)]);
        out.packed(9, [1, 1].map(zigzag));
    }
    if is.zero && !is.custom {
        out.number(6, 1);
    }
    out.number(1, if is.bad_count { 99 } else { count });
    out.double(3, 1.5);
    out.number(15, at as u64);
    if let Some(start) = start {
        out.number(17, start as u64);
    }
    out
}

/// A message of 2.0, not compressed.
pub fn v2(all: &[Series], now: i64) -> Vec<u8> {
    let mut symbols = vec![String::new()];
    let mut place = |text: &str| -> u64 {
        let known = symbols.iter().position(|known| known == text);
        known.unwrap_or_else(|| {
            symbols.push(text.to_owned());
            symbols.len() - 1
        }) as u64
    };
    let mut series = Proto::default();
    for one in all {
        let mut message = Proto::default();
        let refs: Vec<u64> = one.labels.iter().flat_map(|(name, value)| [place(name), place(value)]).collect();
        message.packed(1, refs);
        for (before, value, start) in &one.samples {
            let mut sample = Proto::default();
            sample.double(1, *value);
            sample.number(2, (now - before) as u64);
            if let Some(start) = start {
                sample.number(3, (now - start) as u64);
            }
            message.bytes(2, &sample.0);
        }
        for (before, is, start) in &one.histograms {
            message.bytes(3, &histogram(is, now - before, start.map(|start| now - start)).0);
        }
        for (labels, value) in &one.exemplars {
            let mut exemplar = Proto::default();
            let refs: Vec<u64> = labels.iter().flat_map(|(name, value)| [place(name), place(value)]).collect();
            exemplar.packed(1, refs);
            exemplar.double(2, *value);
            exemplar.number(3, now as u64);
            message.bytes(4, &exemplar.0);
        }
        if let Some((kind, help, unit)) = one.metadata {
            let mut metadata = Proto::default();
            metadata.number(1, kind);
            metadata.number(3, place(help));
            metadata.number(4, place(unit));
            message.bytes(5, &metadata.0);
        }
        series.bytes(5, &message.0);
    }
    let mut request = Proto::default();
    symbols.iter().for_each(|symbol| request.bytes(4, symbol.as_bytes()));
    request.0.extend_from_slice(&series.0);
    request.0
}

/// A message of 1.0, not compressed.
pub fn v1(all: &[Series], now: i64) -> Vec<u8> {
    let label = |name: &str, value: &str| {
        let mut label = Proto::default();
        label.bytes(1, name.as_bytes());
        label.bytes(2, value.as_bytes());
        label.0
    };
    let mut request = Proto::default();
    for one in all {
        let mut message = Proto::default();
        one.labels.iter().for_each(|(name, value)| message.bytes(1, &label(name, value)));
        for (before, value, _) in &one.samples {
            let mut sample = Proto::default();
            sample.double(1, *value);
            sample.number(2, (now - before) as u64);
            message.bytes(2, &sample.0);
        }
        for (labels, value) in &one.exemplars {
            let mut exemplar = Proto::default();
            labels.iter().for_each(|(name, value)| exemplar.bytes(1, &label(name, value)));
            exemplar.double(2, *value);
            exemplar.number(3, now as u64);
            message.bytes(3, &exemplar.0);
        }
        for (before, is, _) in &one.histograms {
            message.bytes(4, &histogram(is, now - before, None).0);
        }
        request.bytes(1, &message.0);
        if let Some((kind, help, unit)) = one.metadata {
            let mut metadata = Proto::default();
            let name = one.labels.iter().find(|(name, _)| name == "__name__").map_or("", |(_, name)| name);
            metadata.number(1, kind);
            metadata.bytes(2, name.as_bytes());
            metadata.bytes(4, help.as_bytes());
            metadata.bytes(5, unit.as_bytes());
            request.bytes(3, &metadata.0);
        }
    }
    request.0
}

pub fn snappy(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(message).expect("compresses")
}

/// An answer: status, headers by lower-case name, body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    /// How many samples, histograms and exemplars it says were written; zero where it says nothing.
    pub fn written(&self) -> [u64; 3] {
        ["samples", "histograms", "exemplars"].map(|what| {
            let header = self.headers.get(&format!("x-prometheus-remote-write-{what}-written"));
            header.and_then(|count| count.parse().ok()).unwrap_or(0)
        })
    }
}

/// Sends a request and reads its answer whole.
pub fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: test\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    // Whoever refuses a request by its head need not read its body.
    let _ = stream.write_all(&[head.as_bytes(), b"\r\n", body].concat());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Answer { status, headers, body: body.to_owned() }
}

/// A field as it is read: its number and what it holds.
enum Read<'a> {
    Number(u64),
    Double(f64),
    Bytes(&'a [u8]),
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Read<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let read = match key & 7 {
            0 => Read::Number(varint(&mut bytes)),
            1 => {
                let (double, rest) = bytes.split_at(8);
                bytes = rest;
                Read::Double(f64::from_le_bytes(double.try_into().expect("eight bytes")))
            }
            2 => {
                let length = varint(&mut bytes) as usize;
                let (inner, rest) = bytes.split_at(length);
                bytes = rest;
                Read::Bytes(inner)
            }
            other => panic!("wire type {other} in a message of remote write"),
        };
        all.push((key >> 3, read));
    }
    all
}

/// Names and values.
pub type Pairs = Vec<(String, String)>;

/// A series as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// In the order in which they came.
    pub labels: Vec<(String, String)>,
    /// When, value, since when.
    pub samples: Vec<(i64, f64, i64)>,
    /// When, count, sum, schema, since when.
    pub histograms: Vec<(i64, f64, f64, i64, i64)>,
    /// Labels, value, when.
    pub exemplars: Vec<(Pairs, f64, i64)>,
    /// Type, help and unit.
    pub metadata: (u64, String, String),
}

impl Arrived {
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

fn numbers(bytes: &[u8]) -> Vec<u64> {
    let (mut all, mut value, mut shift) = (Vec::new(), 0u64, 0);
    for byte in bytes {
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if *byte < 0x80 {
            all.push(value);
            (value, shift) = (0, 0);
        }
    }
    all
}

/// A message of 2.0 as it arrived: its symbols and its series. Panics where it is no such message.
pub fn read_v2(message: &[u8]) -> (Vec<String>, Vec<Arrived>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("symbols are UTF-8");
    let all = fields(message);
    let symbols: Vec<String> = all
        .iter()
        .filter_map(|field| match field {
            (4, Read::Bytes(symbol)) => Some(text(symbol)),
            _ => None,
        })
        .collect();
    let pairs = |refs: &[u8]| -> Vec<(String, String)> {
        let refs = numbers(refs);
        assert_eq!(refs.len() % 2, 0, "label references come in pairs");
        refs.chunks(2).map(|pair| (symbols[pair[0] as usize].clone(), symbols[pair[1] as usize].clone())).collect()
    };
    let mut series = Vec::new();
    for field in &all {
        let (5, Read::Bytes(message)) = field else { continue };
        let mut arrived = Arrived::default();
        for field in fields(message) {
            match field {
                (1, Read::Bytes(refs)) => arrived.labels = pairs(refs),
                (2, Read::Bytes(sample)) => {
                    let mut read = (0, 0.0, 0);
                    for field in fields(sample) {
                        match field {
                            (1, Read::Double(value)) => read.1 = value,
                            (2, Read::Number(at)) => read.0 = at as i64,
                            (3, Read::Number(start)) => read.2 = start as i64,
                            _ => {}
                        }
                    }
                    arrived.samples.push(read);
                }
                (3, Read::Bytes(histogram)) => {
                    let mut read = (0, 0.0, 0.0, 0, 0);
                    for field in fields(histogram) {
                        match field {
                            (1, Read::Number(count)) => read.1 = count as f64,
                            (2, Read::Double(count)) => read.1 = count,
                            (3, Read::Double(sum)) => read.2 = sum,
                            (4, Read::Number(schema)) => read.3 = (schema >> 1) as i64 ^ -((schema & 1) as i64),
                            (15, Read::Number(at)) => read.0 = at as i64,
                            (17, Read::Number(start)) => read.4 = start as i64,
                            _ => {}
                        }
                    }
                    arrived.histograms.push(read);
                }
                (4, Read::Bytes(exemplar)) => {
                    let mut read = (Vec::new(), 0.0, 0);
                    for field in fields(exemplar) {
                        match field {
                            (1, Read::Bytes(refs)) => read.0 = pairs(refs),
                            (2, Read::Double(value)) => read.1 = value,
                            (3, Read::Number(at)) => read.2 = at as i64,
                            _ => {}
                        }
                    }
                    arrived.exemplars.push(read);
                }
                (5, Read::Bytes(metadata)) => {
                    for field in fields(metadata) {
                        match field {
                            (1, Read::Number(kind)) => arrived.metadata.0 = kind,
                            (3, Read::Number(help)) => arrived.metadata.1.clone_from(&symbols[help as usize]),
                            (4, Read::Number(unit)) => arrived.metadata.2.clone_from(&symbols[unit as usize]),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        series.push(arrived);
    }
    (symbols, series)
}

/// Series of a message of 1.0 as they arrived: labels and samples, and how many histograms.
pub fn read_v1(message: &[u8]) -> (Vec<Arrived>, usize) {
    let (mut all, mut families) = (Vec::new(), 0);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    for field in fields(message) {
        match field {
            (1, Read::Bytes(message)) => {
                let mut arrived = Arrived::default();
                for field in fields(message) {
                    match field {
                        (1, Read::Bytes(label)) => {
                            let mut pair = (String::new(), String::new());
                            for field in fields(label) {
                                match field {
                                    (1, Read::Bytes(name)) => pair.0 = text(name),
                                    (2, Read::Bytes(value)) => pair.1 = text(value),
                                    _ => {}
                                }
                            }
                            arrived.labels.push(pair);
                        }
                        (2, Read::Bytes(sample)) => {
                            let mut read = (0, 0.0, 0);
                            for field in fields(sample) {
                                match field {
                                    (1, Read::Double(value)) => read.1 = value,
                                    (2, Read::Number(at)) => read.0 = at as i64,
                                    (number, _) => panic!("field {number} in a sample of 1.0"),
                                }
                            }
                            arrived.samples.push(read);
                        }
                        (4, Read::Bytes(_)) => arrived.histograms.push((0, 0.0, 0.0, 0, 0)),
                        _ => {}
                    }
                }
                all.push(arrived);
            }
            (3, Read::Bytes(_)) => families += 1,
            (number, _) => panic!("field {number} in a message of 1.0"),
        }
    }
    (all, families)
}
