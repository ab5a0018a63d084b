use crate::http::client;
use cortex_test::daemon::{Options, TestDaemon};
use reqwest::Method;

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused_on_every_route() {
    let daemon = TestDaemon::start();
    let status = async |method: Method, path: &str, header: (&str, &str)| {
        client().request(method, daemon.url(path)).header(header.0, header.1).send().await.unwrap().status().as_u16()
    };
    for path in ["/healthz", "/health", "/v1/models", "/v1/models/x", "/inferences/server/models", "/nowhere"] {
        assert_eq!(status(Method::GET, path, ("host", "evil.example")).await, 403, "{path}");
    }
    for path in ["/v1/models/start", "/v1/models/stop", "/v1/models/import", "/v1/chat/completions", "/v1/completions"]
    {
        for origin in ["null", "http://evil.example", "http://localhost:3000"] {
            assert_eq!(status(Method::POST, path, ("origin", origin)).await, 403, "{path} {origin}");
        }
    }
    assert_eq!(status(Method::DELETE, "/processManager/destroy", ("origin", "null")).await, 403);
    let answer = client().get(daemon.url("/v1/models")).header("origin", "http://evil.example").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn pages_of_desktop_shells_work_with_their_preflight() {
    let daemon = TestDaemon::start();
    for origin in ["tauri://localhost", "http://tauri.localhost", "file://", "app://jan"] {
        let answer = client()
            .request(Method::OPTIONS, daemon.url("/v1/chat/completions"))
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,authorization,access-control-allow-origin")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["access-control-allow-origin"], origin);
        assert_eq!(answer.headers()["access-control-allow-methods"], "POST");
        assert_eq!(
            answer.headers()["access-control-allow-headers"],
            "content-type,authorization,access-control-allow-origin"
        );
    }
    let unknown = client().request(Method::OPTIONS, daemon.url("/nowhere")).send().await.unwrap();
    assert_eq!(unknown.status(), 404);
}

#[tokio::test]
async fn keys_are_needed_where_they_are_set() {
    let daemon = TestDaemon::with(Options {
        arguments: vec!["config".into(), "--api_keys".into(), "secret".into()],
        ..Options::default()
    });
    let status = async |path: &str, key: &str| {
        client().get(daemon.url(path)).bearer_auth(key).send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("/v1/models", "wrong").await, 401);
    assert_eq!(status("/v1/models", "secret").await, 200);
    assert_eq!(status("/healthz", "").await, 200);
}
