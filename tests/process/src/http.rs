//! Just enough HTTP/1.1 to ask a node's health and metrics.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

const PATIENCE: Duration = Duration::from_secs(2);
const BODY_MAX: u64 = 16 << 20;

/// Status code and body, over TLS where the node speaks it.
///
/// # Errors
/// Where there is no answer, or none that is HTTP.
pub fn get(
    address: SocketAddr,
    path: &str,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let text = match tls {
        None => exchange(stream, address, path)?,
        Some(config) => {
            let name = address.ip().into();
            let session = ClientConnection::new(config.clone(), name)?;
            exchange(StreamOwned::new(session, stream), address, path)?
        }
    };
    let text = String::from_utf8_lossy(&text);
    let (head, body) = text.split_once("\r\n\r\n").context("no end of headers")?;
    let status = head
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status code")?;
    Ok((status, body.to_owned()))
}

fn exchange(mut stream: impl Read + Write, address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    stream.flush()?;
    let mut text = Vec::new();
    match stream.take(BODY_MAX).read_to_end(&mut text) {
        // A session that ended without saying so; what came is judged by its form.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        read => {
            read?;
        }
    }
    Ok(text)
}
