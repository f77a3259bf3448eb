//! turmoil's network in the place of TCP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use cairn_client::transport::{ByteStream, Dialer};
use cairn_node::listener::Accept;
use turmoil::net::{TcpListener, TcpStream};

/// A port of a simulated host.
pub struct Port(TcpListener);

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Port").field(&self.0.local_addr()).finish()
    }
}

impl Port {
    /// Opens the port on the host that this is called on.
    ///
    /// # Errors
    /// Where it is in use.
    pub async fn bind(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        Ok(Self(listener))
    }
}

impl Accept for Port {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn prepare(stream: &TcpStream) -> io::Result<SocketAddr> {
        stream.local_addr()
    }

    fn send_now(stream: &TcpStream, words: &[u8]) {
        // Whoever is refused sees at least the close.
        let _ = stream.try_write(words);
    }
}

/// Dials from the simulated host that it is used on.
#[must_use]
pub fn dialer() -> Dialer {
    Dialer {
        connect: Some(Arc::new(|host, port| {
            let host = host.to_owned();
            Box::pin(async move {
                let stream = TcpStream::connect((host, port)).await?;
                let stream: Box<dyn ByteStream> = Box::new(stream);
                Ok(stream)
            })
        })),
        ..Dialer::default()
    }
}
