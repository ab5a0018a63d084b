//! Accepts connections and gives them to the router.

use axum::{Router, extract::ConnectInfo};
use cortex_engine::Tasks;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tower::ServiceExt;

/// How long a client may take for its headers.
const HEADER_TIME: Duration = Duration::from_secs(15);
/// Bytes of headers at most.
const HEADER_BYTES: usize = 16 * 1024;
/// Connections at the same time; more wait until one closes.
const CONNECTIONS: usize = 1024;

/// Serves until its tasks are cancelled.
pub async fn serve(listener: TcpListener, router: Router, tasks: Tasks) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone();
                tasks.spawn(async move {
                    connection(stream, peer, router).await;
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

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    // Tokens are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
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
