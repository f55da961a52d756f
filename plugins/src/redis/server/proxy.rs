//! A way to a server that can be made bad.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Passes every connection on to a server on this machine. Its connections end with it.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    cut: Mutex<Option<String>>,
    delay_ms: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Begins to pass connections on to this port.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), shared: Arc::default() };
        let shared = proxy.shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::Acquire) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                shared.open.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let cut = Arc::new(AtomicBool::new(false));
                requests(client.try_clone().unwrap(), server.try_clone().unwrap(), shared.clone(), cut.clone());
                replies(server, client, shared.clone(), cut);
            }
        });
        proxy
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Has the reply to the next request that holds these words not arrive, but its connection end.
    pub fn cut_reply_to(&self, words: &str) {
        *self.shared.cut.lock().unwrap() = Some(words.to_owned());
    }

    /// Has every reply take that much longer.
    pub fn delay(&self, by: Duration) {
        self.shared.delay_ms.store(by.as_millis().try_into().unwrap(), Ordering::Release);
    }

    /// Ends all connections.
    pub fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both); // it may have ended
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // wakes the listener
        self.cut();
    }
}

/// Passes on what the client says.
fn requests(client: TcpStream, server: TcpStream, shared: Arc<Shared>, cut: Arc<AtomicBool>) {
    pass(client, server, move |bytes| {
        let mut words = shared.cut.lock().unwrap();
        let said = |words: &String| bytes.windows(words.len()).any(|part| part == words.as_bytes());
        if words.take_if(|words| said(words)).is_some() {
            cut.store(true, Ordering::Release);
        }
        true
    });
}

/// Passes on what the server says.
fn replies(server: TcpStream, client: TcpStream, shared: Arc<Shared>, cut: Arc<AtomicBool>) {
    pass(server, client, move |_| {
        thread::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::Acquire)));
        !cut.load(Ordering::Acquire)
    });
}

/// Copies until one side ends, or `each` piece is not to be passed on.
fn pass(mut from: TcpStream, mut to: TcpStream, mut each: impl FnMut(&[u8]) -> bool + Send + 'static) {
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if !each(&buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = [from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)];
    });
}
