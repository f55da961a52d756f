//! WebSocket and whatever else begins with `101 Switching Protocols`.

use super::*;

const UPGRADE: &[u8] = b"GET /socket HTTP/1.1\r\nhost: t\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";

#[tokio::test]
async fn a_web_socket_passes_the_chain_and_then_speaks_for_itself() {
    use tokio_tungstenite::tungstenite::{handshake::client::generate_key, http::Request};
    let (_origin, gateway) = with("{ path: /, chain: [auth], upstream: app }").await;
    let mut stranger = TcpStream::connect(gateway.public()).await.unwrap();
    stranger.write_all(UPGRADE).await.unwrap();
    let mut refused = String::new();
    read_until(&mut stranger, &mut refused, "unauthorized").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let request =
        Request::builder().uri("ws://t/socket").header("host", "t").header("connection", "Upgrade").header("upgrade", "websocket");
    let request = request.header("sec-websocket-version", "13").header("sec-websocket-key", generate_key());
    let request = request.header("authorization", format!("Bearer {}", gateway.token("alpha", "u"))).body(()).unwrap();
    let stream = TcpStream::connect(gateway.public()).await.unwrap();
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["upgrade"]), (101, &http::HeaderValue::from_static("websocket")));
    drop(socket);
    wait_until(|| gateway.running().gateway.work.is_empty()).await;
    let requests = "fengda_requests_total{route=\"/\",status=\"101\",tenant=\"alpha\"}";
    assert_eq!(gateway.metric(requests).await, 1.0);
}

#[tokio::test]
async fn both_sides_of_an_upgraded_connection_speak_at_once() {
    let (_origin, gateway) = open().await;
    echoes(&gateway).await;
}

#[tokio::test]
async fn both_sides_of_an_upgraded_connection_speak_at_once_over_tls() {
    let origin = Origin::start_tls().await;
    let ca = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/pki/ca.pem");
    let upstream = format!("{{ protocol: http, endpoints: [\"https://localhost:{}\"], ca: \"{ca}\" }}", origin.addr.port());
    echoes(&Site::new().also("app", &upstream).route(PUBLIC).start()).await;
}

/// Sends far more than all buffers hold: it comes back only if neither direction waits for the other.
async fn echoes(gateway: &Gateway) {
    const SIZE: usize = 32 << 20;
    let (mut from, mut to) = upgraded(gateway).await.into_split();
    let send = tokio::spawn(async move {
        let chunk = vec![b'x'; 64 << 10];
        for _ in 0..SIZE / chunk.len() {
            to.write_all(&chunk).await.unwrap();
        }
        to
    });
    let mut read = 0;
    let mut buffer = vec![0; 64 << 10];
    while read < SIZE {
        let n = tokio::time::timeout(PATIENCE, from.read(&mut buffer)).await.expect("an echo in time").unwrap();
        assert!(n > 0 && buffer[..n].iter().all(|b| *b == b'x'));
        read += n;
    }
    // The client's end is passed on, and the upstream's comes back.
    drop(send.await.unwrap());
    assert_eq!(from.read(&mut buffer).await.unwrap(), 0);
    wait_until(|| gateway.running().gateway.work.is_empty()).await;
}

/// A connection that echoes, after its handshake. The first bytes of the new protocol come with the request.
async fn upgraded(gateway: &Gateway) -> TcpStream {
    let mut client = TcpStream::connect(gateway.public()).await.unwrap();
    client.write_all(&[UPGRADE, b"first"].concat()).await.unwrap();
    let mut answer = String::new();
    read_until(&mut client, &mut answer, "first").await;
    assert!(answer.starts_with("HTTP/1.1 101") && answer.ends_with("\r\n\r\nfirst"), "{answer}");
    client
}

#[tokio::test]
async fn an_upgraded_connection_ends_when_nothing_moves_and_when_the_gateway_stops() {
    let origin = Origin::start().await;
    let upstream = format!("{{ protocol: http, endpoints: [\"http://{}\"], timeouts: {{ idle: 100ms }} }}", origin.addr);
    let gateway = Site::new().also("app", &upstream).route(PUBLIC).start();
    let mut idle = upgraded(&gateway).await;
    assert_eq!(tokio::time::timeout(PATIENCE, idle.read(&mut [0; 8])).await.expect("a close").unwrap(), 0);
    drop(gateway);
    let (_origin, gateway) = open().await;
    let mut open = upgraded(&gateway).await;
    let stopped = tokio::task::spawn_blocking(move || gateway.stop());
    assert_eq!(tokio::time::timeout(PATIENCE, open.read(&mut [0; 8])).await.expect("a close").unwrap(), 0);
    stopped.await.unwrap();
}

#[tokio::test]
async fn an_upgrade_that_the_upstream_does_not_make_is_an_ordinary_answer() {
    let (_origin, gateway) = open().await;
    let mut connection = Http1::connect(gateway.public()).await;
    let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
    let seen = connection.send(request("GET", "/", &fields, "")).await.json();
    assert_eq!((&seen["headers"]["upgrade"], &seen["headers"]["connection"]), (&json!("websocket"), &json!("upgrade")));
    // HTTP/2 in plain text is for us to speak, not for the upstream.
    let fields = [("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")];
    let seen = connection.send(request("GET", "/", &fields, "")).await.json();
    assert_eq!((&seen["headers"]["upgrade"], &seen["headers"]["http2-settings"]), (&Value::Null, &Value::Null));
}
