//! TLS on the port that is served, with a certificate that was made for nobody.

use cortex_test::{
    daemon::{Options, TestDaemon},
    dist,
};
use std::process::Command;

/// A certificate for `localhost` and its key, made by hand.
const CERTIFICATE: &str = include_str!("../data/localhost.crt");
const KEY: &str = include_str!("../data/localhost.key");

#[tokio::test]
async fn the_daemon_is_served_over_tls_and_its_command_line_trusts_this_certificate_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("a.crt"), folder.path().join("a.key"));
    fs_err::write(&certificate, CERTIFICATE).unwrap();
    fs_err::write(&key, KEY).unwrap();
    let settings = format!("sslCertPath: {}\nsslKeyPath: {}\n", certificate.display(), key.display());
    let daemon = TestDaemon::with(Options { settings: Some(settings), ..Options::default() });
    let port = daemon.address.rsplit(':').next().unwrap();
    let root = reqwest::Certificate::from_pem(CERTIFICATE.as_bytes()).unwrap();
    let trusting = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let url = format!("https://localhost:{port}/healthz");
    assert!(trusting.get(&url).send().await.unwrap().status().is_success());
    // A page that the daemon itself could serve.
    let asked = trusting.get(&url).header("origin", format!("https://localhost:{port}")).send().await.unwrap();
    assert!(asked.headers().contains_key("access-control-allow-origin"));
    let others = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(others.get(&url).send().await.is_err());
    assert!(others.get(format!("http://localhost:{port}/healthz")).send().await.is_err());
    let listed = daemon.cli(&["models", "list"]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    // With another certificate in the settings it is not the daemon of the settings.
    let other = include_str!("../data/other.crt");
    fs_err::write(&certificate, other).unwrap();
    assert!(!daemon.cli(&["models", "list"]).output().unwrap().status.success());
}

#[test]
fn half_of_it_is_no_start() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("a.crt"), folder.path().join("a.key"));
    fs_err::write(&certificate, CERTIFICATE).unwrap();
    fs_err::write(&key, include_str!("../data/other.key")).unwrap();
    let settings = folder.path().join("cortexrc");
    let (crt, key) = (certificate.display(), key.display());
    for (text, said) in [
        (format!("sslCertPath: {crt}\n"), "`sslKeyPath`, the file of its key, is not set"),
        (format!("sslKeyPath: {key}\n"), "`sslCertPath`, the file of the certificate, is not set"),
        (format!("sslCertPath: {crt}\nsslKeyPath: /none\n"), "/none"),
        (format!("sslCertPath: {key}\nsslKeyPath: {key}\n"), "there is no certificate"),
        (format!("sslCertPath: {crt}\nsslKeyPath: {key}\n"), "do not go together"),
    ] {
        fs_err::write(&settings, &text).unwrap();
        let server = dist::program("cortex-server");
        let output = Command::new(server)
            .arg("--config_file_path")
            .arg(&settings)
            .arg("--data_folder_path")
            .arg(folder.path().join("data"))
            .args(["--port", "0"])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(said), "{text}: {error}");
    }
}
