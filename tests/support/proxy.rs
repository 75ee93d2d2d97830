//! A wire between a client and a server, on which things go wrong.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Passes,
    /// Nothing gets through for now, as when packets are lost.
    Held,
    /// What the server answers is lost for good.
    AnswersLost,
    /// Either end talks to nobody, and is not told so.
    HalfOpen,
    /// Both ends are told that it has ended.
    Cut,
}

/// Listens for clients, and connects each to the server.
pub struct Proxy {
    port: u16,
    wires: Arc<Wires>,
}

struct Wires {
    /// Of connections to come.
    newcomers: Mutex<Fate>,
    open: Mutex<Vec<watch::Sender<Fate>>>,
}

impl Proxy {
    pub async fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let wires = Arc::new(Wires { newcomers: Mutex::new(Fate::Passes), open: Mutex::default() });
        tokio::spawn(wires.clone().connect(listener, server_port));
        Self { port, wires }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections that are open get this fate; later ones pass.
    pub fn now(&self, fate: Fate) {
        let mut open = self.wires.open.lock().expect("no panic");
        open.retain(|wire| wire.send(fate).is_ok());
    }

    /// Connections that are open get this fate, and so do those to come until something else is said.
    pub fn for_all(&self, fate: Fate) {
        *self.wires.newcomers.lock().expect("no panic") = fate;
        self.now(fate);
    }
}

impl Wires {
    async fn connect(self: Arc<Self>, listener: TcpListener, server_port: u16) {
        loop {
            let (client, _) = listener.accept().await.expect("a client");
            let fate = *self.newcomers.lock().expect("no panic");
            let server = match fate {
                Fate::Cut => continue,
                _ => TcpStream::connect(("127.0.0.1", server_port)).await,
            };
            // Nobody is there: the client is told by the end of its connection.
            let Ok(server) = server else { continue };
            let (wire, seen) = watch::channel(fate);
            self.open.lock().expect("no panic").push(wire);
            tokio::spawn(carry(client, server, seen));
        }
    }
}

async fn carry(client: TcpStream, server: TcpStream, fate: watch::Receiver<Fate>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut cut = fate.clone();
    let both = async {
        let requests = pump(from_client, to_server, fate.clone(), &[Fate::HalfOpen]);
        let answers = pump(from_server, to_client, fate.clone(), &[Fate::HalfOpen, Fate::AnswersLost]);
        // An end that closes is news for the other one only if the wire still carries news.
        tokio::select! {
            () = requests => {}
            () = answers => {}
        }
        while [Fate::HalfOpen, Fate::Held].contains(&*fate.borrow()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = both => {}
        _ = cut.wait_for(|fate| *fate == Fate::Cut) => {}
    }
}

/// Carries bytes one way, but for those that are lost.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fate: watch::Receiver<Fate>,
    loses: &[Fate],
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        // The other end of the channel lives as long as the test.
        let Ok(now) = fate.wait_for(|fate| *fate != Fate::Held).await.map(|fate| *fate) else { return };
        if !loses.contains(&now) && to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
