//! Redis and memcached, asked over bare connections: a request is bytes written, an answer bytes compared, so that no
//! client library stands in their way.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    keys::{self, KEYS},
    sides::{self, Ended, asking_in_batches},
};
use crate::clock::Stopwatch;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A server that isn't there by then won't be.
const START_TIMEOUT: Duration = Duration::from_secs(10);

const START_RETRY_AFTER: Duration = Duration::from_millis(10);

/// Keys that are written before their answers are read.
const LOAD_BATCH: u64 = 100;

#[derive(Clone, Copy)]
pub(crate) enum Wire {
    Redis,
    Memcached,
}

impl Wire {
    /// The server, with nothing written to disk and one thread that serves.
    fn command(self, port: u16) -> Command {
        let port = port.to_string();
        let arguments = match self {
            Self::Redis => [
                "redis-server",
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--io-threads",
                "1",
                "--port",
            ]
            .to_vec(),
            Self::Memcached => {
                ["memcached", "-l", "127.0.0.1", "-U", "0", "-t", "1", "-m", "2048", "-u", "nobody", "-p"].to_vec()
            }
        };
        let mut command = Command::new(arguments[0]);
        command.args(&arguments[1..]).arg(port).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn write_get(self, out: &mut Vec<u8>, index: u64) {
        let key = keys::key(index);
        match self {
            Self::Redis => {
                out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$16\r\n");
                out.extend_from_slice(&key);
            }
            Self::Memcached => {
                out.extend_from_slice(b"get ");
                out.extend_from_slice(&key);
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_set(self, out: &mut Vec<u8>, index: u64, value_len: usize) {
        let key = keys::key(index);
        let key = keys::text(&key);
        let head = match self {
            Self::Redis => format!("*3\r\n$3\r\nSET\r\n$16\r\n{key}\r\n${value_len}\r\n"),
            Self::Memcached => format!("set {key} 0 0 {value_len}\r\n"),
        };
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&keys::value(index, value_len));
        out.extend_from_slice(b"\r\n");
    }

    fn stored(self) -> &'static [u8] {
        match self {
            Self::Redis => b"+OK\r\n",
            Self::Memcached => b"STORED\r\n",
        }
    }

    /// A question for the server's counters, the name of its count of keys that it found, and the last thing it answers.
    fn statistics(self) -> (&'static [u8], &'static str, &'static [u8]) {
        match self {
            Self::Redis => (b"INFO stats\r\n", "keyspace_hits:", b"\r\n\r\n"),
            Self::Memcached => (b"stats\r\n", "STAT get_hits ", b"END\r\n"),
        }
    }
}

/// What stands before and behind each value in an answer.
struct Frame {
    wire: Wire,
    value_len: usize,
    /// Of a memcached answer, without the key.
    head: Vec<u8>,
    len: usize,
}

impl Frame {
    fn new(wire: Wire, value_len: usize) -> Self {
        let (head, key_len, tail_len) = match wire {
            Wire::Redis => (format!("${value_len}\r\n"), 0, 2),
            Wire::Memcached => (format!(" 0 {value_len}\r\n"), b"VALUE ".len() + keys::KEY_LEN, b"\r\nEND\r\n".len()),
        };
        let len = key_len + head.len() + value_len + tail_len;
        Self { wire, value_len, head: head.into_bytes(), len }
    }

    /// Whether `answer`, of the right length, is the one to the get of this key.
    fn is_right(&self, index: u64, answer: &[u8]) -> bool {
        let rest = match self.wire {
            Wire::Redis => Some(answer),
            Wire::Memcached => answer.strip_prefix(b"VALUE ").and_then(|rest| rest.strip_prefix(&keys::key(index))),
        };
        let value = rest.and_then(|rest| rest.strip_prefix(&self.head[..]));
        value.is_some_and(|value| keys::is_right(index, self.value_len, &value[..self.value_len]))
    }
}

/// Runs the server with every key in it. Dropped, it ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

pub(crate) fn serve(wire: Wire, value_len: usize) -> Ended {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = wire.command(port);
    let program = command.get_program().to_string_lossy().into_owned();
    let server = Server(command.spawn().map_err(|error| format!("{program} could not be started: {error}"))?);
    let address = format!("127.0.0.1:{port}");
    let mut connection = connect(&address)?;
    load(wire, &mut connection, value_len)?;
    sides::serving_beside(server.0.id(), &address, || answered(wire, &mut connection))
}

#[expect(clippy::disallowed_methods, reason = "this process has nothing else to do, and the server says nothing")]
fn connect(address: &str) -> Outcome<TcpStream> {
    let watch = Stopwatch::start();
    loop {
        match TcpStream::connect(address) {
            Ok(connection) => return Ok(connection),
            Err(error) if watch.elapsed() > START_TIMEOUT => return Err(error.into()),
            Err(_) => std::thread::sleep(START_RETRY_AFTER),
        }
    }
}

fn load(wire: Wire, connection: &mut TcpStream, value_len: usize) -> Outcome<()> {
    let mut out = Vec::new();
    for first in (0..KEYS).step_by(LOAD_BATCH as usize) {
        out.clear();
        (first..first + LOAD_BATCH).for_each(|index| wire.write_set(&mut out, index, value_len));
        connection.write_all(&out)?;
        let mut answers = vec![0; wire.stored().len() * LOAD_BATCH as usize];
        connection.read_exact(&mut answers)?;
        if answers.chunks(wire.stored().len()).any(|answer| answer != wire.stored()) {
            return Err("a server did not take its keys".into());
        }
    }
    Ok(())
}

fn answered(wire: Wire, connection: &mut TcpStream) -> Outcome<u64> {
    let (question, name, end) = wire.statistics();
    connection.write_all(question)?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while !answer.ends_with(end) {
        match connection.read(&mut part)? {
            0 => return Err("a server ended early".into()),
            len => answer.extend_from_slice(&part[..len]),
        }
    }
    let answer = String::from_utf8(answer)?;
    let count = answer.lines().find_map(|line| line.strip_prefix(name)).ok_or("a server does not count its gets")?;
    Ok(count.trim().parse()?)
}

/// Asks over a connection for each caller, which sends so many gets at once and reads all their answers before it
/// sends more.
pub(crate) async fn ask(wire: Wire, pipeline: usize, address: &str, value_len: usize) -> Ended {
    let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
    let address: Arc<str> = address.into();
    asking_in_batches(pipeline as u64, move |index| {
        let (idle, address) = (idle.clone(), address.clone());
        async move {
            let connection = idle.lock().pop();
            let mut connection = match connection {
                Some(connection) => connection,
                None => match Connection::open(wire, &address, pipeline, value_len).await {
                    Ok(connection) => connection,
                    Err(_) => return false,
                },
            };
            let is_right = connection.get(index).await.unwrap_or(false);
            if is_right {
                idle.lock().push(connection);
            }
            is_right
        }
    })
    .await
}

struct Connection {
    stream: tokio::net::TcpStream,
    frame: Frame,
    pipeline: usize,
    rng: Rng,
    asked: Vec<u64>,
    out: Vec<u8>,
    answers: Vec<u8>,
}

impl Connection {
    async fn open(wire: Wire, address: &str, pipeline: usize, value_len: usize) -> std::io::Result<Self> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let rng = Rng::with_seed(u64::from(stream.local_addr()?.port()));
        let frame = Frame::new(wire, value_len);
        Ok(Self { stream, frame, pipeline, rng, asked: Vec::new(), out: Vec::new(), answers: Vec::new() })
    }

    /// Whether the values of this key, and of as many others as go with it, came.
    async fn get(&mut self, index: u64) -> std::io::Result<bool> {
        self.asked.clear();
        self.asked.push(index);
        self.asked.extend((1..self.pipeline).map(|_| self.rng.u64(..KEYS)));
        self.out.clear();
        self.asked.iter().for_each(|index| self.frame.wire.write_get(&mut self.out, *index));
        self.stream.write_all(&self.out).await?;
        let len = self.frame.len * self.pipeline;
        self.answers.clear();
        self.answers.reserve(len);
        while self.answers.len() < len {
            if self.stream.read_buf(&mut self.answers).await? == 0 {
                return Ok(false);
            }
        }
        let mut answers = self.asked.iter().zip(self.answers.chunks(self.frame.len));
        Ok(self.answers.len() == len && answers.all(|(index, answer)| self.frame.is_right(*index, answer)))
    }
}
