//! A server of HTTPS under an authority of its own, and a proxy that leads to it.

use std::io::{BufRead, BufReader, Read, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The answer to a path: a header and a body.
struct Answer {
    path: String,
    header: (&'static str, String),
    body: Vec<u8>,
}

/// The answers of a server. Every other path is answered with status 404.
#[derive(Default)]
pub(crate) struct Answers(Vec<Answer>);

impl Answers {
    pub(crate) fn add(&mut self, path: &str, header: (&'static str, String), body: Vec<u8>) {
        self.0.push(Answer { path: path.to_owned(), header, body });
    }

    /// Removes the answer to a path, and returns its body.
    pub(crate) fn remove(&mut self, path: &str) -> Vec<u8> {
        let at = self.0.iter().position(|answer| answer.path == path).unwrap();
        self.0.remove(at).body
    }

    /// Changes the body of the answer to the path that contains a text.
    pub(crate) fn replace(&mut self, part: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let answer = self.0.iter_mut().find(|answer| answer.path.contains(part)).unwrap();
        change(&mut answer.body);
    }

    fn response(&self, path: &str) -> Vec<u8> {
        let Some(answer) = self.0.iter().find(|answer| answer.path == path) else {
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                .to_vec();
        };
        let (name, value) = &answer.header;
        let head = format!(
            "HTTP/1.1 200 OK\r\n{name}: {value}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            answer.body.len()
        );
        [head.as_bytes(), &answer.body].concat()
    }
}

/// A server that runs until the test ends.
pub(crate) struct Server {
    pub(crate) port: u16,
    /// The certificate of its authority, in PEM.
    pub(crate) authority: String,
}

impl Server {
    /// Starts a server whose certificate has these names.
    pub(crate) fn start(names: &[&str], answers: Answers) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(names).unwrap();
        leaf.distinguished_name = rcgen::DistinguishedName::new();
        let certificate = leaf.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("localhost:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that refuses the certificate ends the connection.
                let _ = serve(stream, &config, &answers);
            }
        });
        Self { port, authority: authority.pem() }
    }
}

/// Answers one request.
fn serve(stream: TcpStream, config: &Arc<ServerConfig>, answers: &Answers) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let connection = ServerConnection::new(Arc::clone(config)).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    let path = request(&mut stream)?;
    let stream = stream.get_mut();
    stream.write_all(&answers.response(&path))?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Reads the head of a request. Returns the second word of its first line.
fn request(stream: &mut impl BufRead) -> std::io::Result<String> {
    let mut first = String::new();
    stream.take(8192).read_line(&mut first)?;
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        line.clear();
    }
    Ok(first.split(' ').nth(1).unwrap_or_default().to_owned())
}

/// Starts a proxy that connects to this port, whichever host a client asks for. Returns the proxy's port, and the hosts
/// that were asked for.
pub(crate) fn proxy(to: u16) -> (u16, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("localhost:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let hosts = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = tunnel(stream, to, &hosts);
        }
    });
    (port, seen)
}

fn tunnel(client: TcpStream, to: u16, hosts: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    hosts.lock().unwrap().push(request(&mut reader)?);
    let server = TcpStream::connect(("localhost", to))?;
    (&client).write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client);
    thread::spawn(move || {
        let _ = copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let mut to_server = server;
    // What the reader holds already belongs to the server.
    thread::spawn(move || copy(&mut reader, &mut to_server));
    Ok(())
}
