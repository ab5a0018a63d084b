//! Accepts connections and gives them to the router.

use crate::Tls;
use axum::{Router, extract::ConnectInfo};
use cortex_engine::Tasks;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::timeout,
};
use tower::ServiceExt;

/// How long a client may take for its headers.
const HEADER_TIME: Duration = Duration::from_secs(15);
/// Bytes of headers at most.
const HEADER_BYTES: usize = 16 * 1024;
/// Connections at the same time; more wait until one closes.
const CONNECTIONS: usize = 1024;

/// Serves until its tasks are cancelled; with a certificate, over TLS alone.
pub async fn serve(listener: TcpListener, tls: Option<Tls>, router: Router, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (router, tls) = (router.clone(), tls.clone());
                // Tokens are small and must not wait for each other.
                let _ = stream.set_nodelay(true);
                tasks.spawn(async move {
                    match tls {
                        None => connection(stream, peer, router).await,
                        Some(tls) => match timeout(HEADER_TIME, tls.acceptor().accept(stream)).await {
                            Ok(Ok(stream)) => connection(stream, peer, router).await,
                            Ok(Err(error)) => tracing::debug!(%peer, %error, "no secure connection"),
                            Err(_) => tracing::debug!(%peer, "no secure connection in time"),
                        },
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: what is open may close meanwhile.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: SocketAddr, router: Router) {
    let service =
        TowerToHyperService::new(router.map_request(move |request: hyper::Request<hyper::body::Incoming>| {
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(ConnectInfo(peer));
            hyper::Request::from_parts(parts, axum::body::Body::new(body))
        }));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}
