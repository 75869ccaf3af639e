//! For tests: a server with canned answers, on threads of its own.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use crate::http::Origin;

/// What was asked: `GET /path`, and the body.
#[derive(Debug)]
pub struct Asked {
    pub what: String,
    pub authorization: Option<String>,
    pub idempotency_key: Option<String>,
    pub body: String,
}

/// The bytes to answer with. An answer that says it is longer than it is, is cut off after it.
pub struct Canned {
    bytes: String,
    then_close: bool,
}

// === impl Canned ===

impl Canned {
    pub fn json(status: u16, body: &str) -> Self {
        Self::with_headers(status, "content-type: application/json", body)
    }

    /// `headers` are whole lines, without the last line's end.
    pub fn with_headers(status: u16, headers: &str, body: &str) -> Self {
        let head = format!("HTTP/1.1 {status} Canned\r\n{headers}\r\ncontent-length: {}\r\n\r\n", body.len());
        Self { bytes: head + body, then_close: false }
    }

    /// The same, without its last byte.
    pub fn cut(mut self) -> Self {
        self.bytes.pop();
        self.then_close = true;
        self
    }
}

/// Serves until the process ends.
pub fn serve(answer: impl Fn(Asked) -> Canned + Send + Sync + 'static) -> Origin {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            thread::spawn(move || talk(stream, &*answer));
        }
    });
    Origin::local(port)
}

fn talk(mut stream: TcpStream, answer: &(dyn Fn(Asked) -> Canned + Send + Sync)) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let canned = answer(read(&mut reader)?);
        stream.write_all(canned.bytes.as_bytes()).ok()?;
        if canned.then_close {
            return None;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|&read| read > 0)?;
    let (mut length, mut authorization, mut idempotency_key) = (0, None, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            "idempotency-key" => idempotency_key = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let what = first.rsplit_once(' ')?.0.to_owned();
    Some(Asked { what, authorization, idempotency_key, body: String::from_utf8(body).ok()? })
}

/// Runs a future on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
