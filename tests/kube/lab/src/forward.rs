//! Passes connections from the machine's loopback on to the API server, which only the lab's
//! own network reaches.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::layout;
use crate::namespaces;

/// How long the API server may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// Serves until the process ends.
pub fn serve(listener: TcpListener, control_plane: u32) {
    thread::spawn(move || {
        for client in listener.incoming() {
            // Where there are no more descriptors, the next connection may find one.
            let Ok(client) = client else { continue };
            thread::spawn(move || {
                // The client sees the end of its connection, whatever the reason.
                let _ = pass_on(&client, control_plane);
            });
        }
    });
}

fn pass_on(client: &TcpStream, control_plane: u32) -> Result<()> {
    namespaces::join_network(control_plane)?;
    let address = SocketAddr::from((layout::control_plane(), layout::API_PORT));
    let server = TcpStream::connect_timeout(&address, CONNECT)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client);
    });
    Ok(())
}

/// Copies until one of the two ends, and passes that on.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
