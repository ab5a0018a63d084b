//! Pulls through proxies that want a password: over HTTP and SOCKS. What is on this machine is asked without them.

use crate::pull_world::{ID, Setup, World, hub_with};
use cortex_models::{ProxyConfig, PullState};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The name under which the hub is known behind the proxy.
const HUB: &str = "hub.example";

/// A proxy that knows one host; counts those that it let through.
struct Proxy {
    port: u16,
    through: Arc<AtomicUsize>,
}

impl Proxy {
    fn start(hub: &str, serve: fn(TcpStream, &str) -> std::io::Result<bool>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (through, hub) = (Arc::new(AtomicUsize::new(0)), hub.trim_start_matches("http://").to_owned());
        let counted = Arc::clone(&through);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (counted, hub) = (Arc::clone(&counted), hub.clone());
                std::thread::spawn(move || {
                    if serve(connection, &hub).unwrap_or(false) {
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { port, through }
    }
}

fn pipe(client: TcpStream, server: TcpStream) -> std::io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let (mut from, mut to) = (server, client);
    std::io::copy(&mut from, &mut to).map(|_| ())
}

/// One request in the form for proxies, with the name and password of the test.
fn http(mut client: TcpStream, hub: &str) -> std::io::Result<bool> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    // `me:secret` in base64.
    if !head.to_lowercase().contains("proxy-authorization: basic bwu6c2vjcmv0\r\n") {
        let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        client.write_all(refusal.as_bytes())?;
        return Ok(false);
    }
    let (line, rest) = head.split_once("\r\n").unwrap();
    let line = line.replacen(&format!("http://{HUB}"), "", 1);
    let mut server = TcpStream::connect(hub)?;
    server.write_all(format!("{line}\r\nConnection: close\r\n{rest}").as_bytes())?;
    pipe(client, server)?;
    Ok(true)
}

/// SOCKS 5 with a name and a password (RFC 1928, RFC 1929).
fn socks(mut client: TcpStream, hub: &str) -> std::io::Result<bool> {
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        client.read_exact(&mut bytes).map(|()| bytes)
    };
    let methods = usize::from(take(2)?[1]);
    take(methods)?;
    client.write_all(&[5, 2])?;
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        client.read_exact(&mut bytes).map(|()| bytes)
    };
    let name = usize::from(take(2)?[1]);
    let name = take(name)?;
    let password = usize::from(take(1)?[0]);
    let password = take(password)?;
    let right = name == b"me" && password == b"secret";
    client.write_all(&[1, u8::from(!right)])?;
    if !right {
        return Ok(false);
    }
    let mut take = |count: usize| {
        let mut bytes = vec![0; count];
        client.read_exact(&mut bytes).map(|()| bytes)
    };
    let request = take(5)?;
    // The name is the proxy's to resolve.
    let host = take(usize::from(request[4]) + 2)?;
    let known = request[3] == 3 && host.starts_with(HUB.as_bytes());
    client.write_all(&[5, u8::from(!known), 0, 1, 0, 0, 0, 0, 0, 0])?;
    if known {
        // It goes on as long as the connection is kept.
        let server = TcpStream::connect(hub)?;
        std::thread::spawn(move || pipe(client, server));
    }
    Ok(known)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_with_a_password_is_used_for_others_and_not_for_this_machine() {
    for (scheme, serve) in [("http", http as fn(TcpStream, &str) -> std::io::Result<bool>), ("socks5h", socks)] {
        let (hub, content) = hub_with(2 << 20);
        let proxy = Proxy::start(&hub.url(), serve);
        let with = |password: &str| ProxyConfig {
            url: format!("{scheme}://127.0.0.1:{}", proxy.port),
            username: "me".into(),
            password: password.into(),
            no_proxy: String::new(),
        };
        let setup =
            |password: &str| Setup { proxy: Some((with(password), format!("http://{HUB}"))), ..Setup::default() };
        let world = World::new(hub, &setup("secret"));
        let end = world.whole(ID).await;
        assert_eq!((end.state, end.message.as_deref()), (PullState::Succeeded, None), "{scheme}");
        assert_eq!(end.downloaded_bytes(), content.len() as u64);
        assert!(proxy.through.load(Ordering::SeqCst) > 0, "{scheme}");
        // The content host is on this machine: nothing of it went through.
        let hosts: Vec<String> = world.hub.seen().into_iter().map(|seen| seen.host).collect();
        assert!(hosts.iter().any(|host| host.starts_with("127.0.0.1")) && hosts.iter().any(|host| host == HUB));
        let World { hub, .. } = world;
        let world = World::new(hub, &setup("wrong"));
        let error = world.pull(ID).await.unwrap_err();
        assert_eq!(error.code(), "proxy", "{scheme}: {error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
}
