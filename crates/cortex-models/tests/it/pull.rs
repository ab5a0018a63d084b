//! Pulls from a fake hub over real sockets, with everything that can go wrong on the way.

use crate::pull_world::{FOLDER, ID, REPO, Setup, World, hub_with, model};
use cortex_models::{
    Config, ErrorKind, ModelStore, Outbound, OutboundConfig, PullError, PullEventKind, PullRequest, PullState, Pulls,
    PullsConfig, tasks,
};
use cortex_test::hub::{FakeHub, Faults};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_pulled_verified_and_listed() {
    let (hub, content) = hub_with(3 << 20);
    hub.add_file(REPO, "main", "tiny-Q8_0.gguf", model(4 << 20));
    let commit = hub.commit_of(REPO, "main");
    let world = World::new(hub, &Setup::default());
    let (_, mut events) = world.pulls.events();
    let begun = world.pull(REPO).await.unwrap();
    assert_eq!(begun.id().as_str(), ID);
    assert!(begun.plan.why.as_ref().is_some_and(|why| why.contains("Q4_K_M is the first choice")), "{begun:?}");
    let end = world.end(ID).await;
    assert_eq!((end.state, end.message.as_deref()), (PullState::Succeeded, None));
    assert_eq!(end.downloaded_bytes(), content.len() as u64);
    assert_eq!(fs_err::read(world.path(FOLDER).join("tiny-Q4_K_M.gguf")).unwrap(), content);
    for name in [ID, REPO] {
        let model = world.store.resolve(name).unwrap();
        assert_eq!((model.id.as_str(), model.author_repo.as_str(), model.branch.as_str()), (ID, REPO, "main"));
        assert_eq!(world.store.manifest(&model).unwrap().commit.as_deref(), Some(commit.as_str()));
        assert!(world.store.usable(&world.store.current(name).unwrap()).is_ok());
    }
    let mut kinds = Vec::new();
    while let Ok(event) = events.try_recv() {
        kinds.push(event.kind);
    }
    assert_eq!(kinds.first(), Some(&PullEventKind::Started));
    assert_eq!(kinds.last(), Some(&PullEventKind::Succeeded));
    // Asked again: it is there, also under its long name.
    for again in [REPO, ID, "https://huggingface.co/maker/tiny-GGUF/blob/main/tiny-Q4_K_M.gguf"] {
        let error = world.pull(again).await.unwrap_err();
        assert!(matches!(error, PullError::AlreadyThere { is_older: false, .. }), "{again}: {error}");
    }
    // The journal goes when the disk has everything.
    while world.path("state/pulls").read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        world.left(),
        [
            format!("{FOLDER}/download.json"),
            format!("{FOLDER}/model.yaml"),
            format!("{FOLDER}/tiny-Q4_K_M.gguf"),
            "models/models.list".into()
        ]
    );
    // And deleted: nothing of it stays.
    let removed = world.store.remove(REPO, false).unwrap();
    assert_eq!(removed.left, []);
    assert_eq!(world.left(), ["models/models.list".to_owned(), "state/deleted.jsonl".into()]);
    assert!(!world.path("models/huggingface.co/maker").exists());
}

/// What is wrong on the way, and what comes of it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_finishes_whatever_happens_on_the_way() {
    let (hub, content) = hub_with(20 << 20);
    let world = World::new(hub, &Setup { silence: Duration::from_millis(300), ..Setup::default() });
    let faults = [
        ("cut again and again", Faults { cut_after: Some(300_000), cuts: Some(40), ..Faults::default() }),
        ("stalled connections", Faults { stall_after: Some(100_000), stalls: Some(6), ..Faults::default() }),
        ("429 without a time", Faults { too_many_requests: 2, ..Faults::default() }),
        ("429 with a time", Faults { too_many_requests: 3, retry_after: Some(0), ..Faults::default() }),
        ("403 beyond two connections", Faults { connections: Some(2), ..Faults::default() }),
        ("no ranges", Faults { ignore_range: true, ..Faults::default() }),
        ("links for one request each", Faults { expired_links: true, ..Faults::default() }),
        ("bodies that end early", Faults { short_body: true, ..Faults::default() }),
        ("bodies that never end", Faults { endless_body: true, ..Faults::default() }),
        ("slow", Faults { bytes_per_second: Some(8 << 20), ..Faults::default() }),
        (
            "no ranges, and cut",
            Faults { ignore_range: true, cut_after: Some(2 << 20), cuts: Some(3), ..Faults::default() },
        ),
    ];
    for (what, faults) in faults {
        println!("{what}");
        world.hub.set_faults(faults);
        let end = world.whole(ID).await;
        assert_eq!((end.state, end.message.as_deref()), (PullState::Succeeded, None), "{what}");
        assert_eq!(fs_err::read(world.path(FOLDER).join("tiny-Q4_K_M.gguf")).unwrap(), content, "{what}");
        world.store.remove(ID, false).unwrap();
    }
}

/// What cannot succeed says why, and leaves nothing that looks whole.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_downloaded_says_why() {
    let (hub, _) = hub_with(12 << 20);
    let patience =
        Setup { give_up: Duration::from_millis(200), silence: Duration::from_millis(200), ..Setup::default() };
    let world = World::new(hub, &patience);
    let kept = [
        "partial/pull-maker%3atiny-%47%47%55%46%3atiny-%514_%4b_%4d.gguf/tiny-Q4_K_M.gguf",
        "state/pulls/maker%3atiny-%47%47%55%46%3atiny-%514_%4b_%4d.gguf.journal",
    ];
    let nothing: [&str; 0] = [];
    let cases: [(&str, Faults, &str, &str, &[&str]); 12] = [
        (
            "wrong digest",
            Faults { wrong_digest: true, ..Faults::default() },
            "wrong_digest",
            "is not what the hub promises",
            &nothing,
        ),
        ("wrong size", Faults { wrong_size: true, ..Faults::default() }, "wrong_length", "should have", &kept),
        (
            "wrong ranges",
            Faults { wrong_content_range: true, ..Faults::default() },
            "wrong_bytes",
            "other bytes than were asked for",
            &kept,
        ),
        (
            "another file midway",
            Faults { etag_changes_after: Some(2), ..Faults::default() },
            "changed",
            "was changed on the server",
            &nothing,
        ),
        (
            "metadata address",
            Faults { redirect_to: Some("http://169.254.169.254/latest/meta-data".into()), ..Faults::default() },
            "host_not_allowed",
            "169.254.169.254",
            &kept,
        ),
        (
            "private name",
            Faults { redirect_to: Some("http://localhost:1/x".into()), ..Faults::default() },
            "host_not_allowed",
            "`localhost:1`",
            &kept,
        ),
        (
            "file scheme",
            Faults { redirect_to: Some("file:///etc/passwd".into()), ..Faults::default() },
            "bad_redirect",
            "no plain web address",
            &kept,
        ),
        (
            "user in the address",
            Faults { redirect_to: Some("http://user:pass@huggingface.co/x".into()), ..Faults::default() },
            "bad_redirect",
            "no plain web address",
            &kept,
        ),
        (
            "redirects without end",
            Faults { redirect_loop: true, ..Faults::default() },
            "bad_redirect",
            "again and again",
            &kept,
        ),
        (
            "an error of the server",
            Faults { content_status: Some(500), ..Faults::default() },
            "source_failed",
            "answered 500 (an error of its own)",
            &kept,
        ),
        (
            "not found",
            Faults { content_status: Some(404), ..Faults::default() },
            "not_found",
            "answered 404 (not found)",
            &kept,
        ),
        (
            "forbidden",
            Faults { content_status: Some(403), ..Faults::default() },
            "not_authorised",
            "answered 403 (forbidden)",
            &kept,
        ),
    ];
    for (what, faults, code, message, left) in cases {
        world.hub.set_faults(faults);
        let end = world.whole(ID).await;
        assert_eq!((end.state, end.code), (PullState::Failed, Some(code)), "{what}: {:?}", end.message);
        assert!(end.message.as_ref().is_some_and(|text| text.contains(message)), "{what}: {:?}", end.message);
        assert_eq!(world.left(), left, "{what}");
        assert!(world.store.list().unwrap().0.is_empty(), "{what}");
        world.hub.set_faults(Faults::default());
        world.pulls.cancel(ID, true).await.unwrap();
        assert_eq!(world.left(), nothing, "{what}: thrown away");
    }
    // The same pull, when the hub is well again.
    assert_eq!(world.whole(ID).await.state, PullState::Succeeded);
}

/// What the hub itself says wrong is told at once; nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_told_at_once() {
    let (hub, _) = hub_with(1 << 20);
    hub.add_file("maker/weights", "main", "model.safetensors", "x");
    hub.add_file("maker/gated-GGUF", "main", "g-Q4_0.gguf", model(1000));
    hub.gate("maker/gated-GGUF", "hf_right");
    hub.add_file(REPO, "dev", "tiny-dev-Q4_0.gguf", model(1000));
    let world = World::new(hub, &Setup { silence: Duration::from_millis(300), ..Setup::default() });
    let cases = [
        ("nobody/nothing", "model_not_found", "Model nobody/nothing not found", "if it is private"),
        ("maker/weights", "not_gguf", "Not a GGUF model", "-GGUF"),
        ("maker/gated-GGUF", "gated", "is gated", "accept its terms, then set `huggingFaceToken`"),
        ("maker/tiny-GGUF:Q2_K", "no_such_file", "no file that matches `Q2_K`", "there are: tiny-Q4_K_M.gguf"),
        ("maker:tiny-GGUF:other.gguf", "no_such_file", "no file that matches", "there are: tiny-Q4_K_M.gguf"),
        (
            "https://huggingface.co/maker/tiny-GGUF/blob/old/tiny-Q4_K_M.gguf",
            "revision_not_found",
            "no branch `old`",
            "dev, main",
        ),
        (
            "https://example.org/x.gguf",
            "host_not_allowed",
            "may not be downloaded from `example.org`",
            "allowedDownloadHosts",
        ),
        ("http://127.0.0.1:9/x.gguf", "host_not_allowed", "`127.0.0.1:9`", "allowedDownloadHosts"),
        ("a b", "invalid_model", "Invalid model handle or not supported!", "give `author/repo`"),
    ];
    for (model, code, message, hint) in cases {
        let error = world.pull(model).await.unwrap_err();
        assert_eq!(error.code(), code, "{model}: {error}");
        assert!(error.to_string().contains(message), "{model}: {error}");
        assert!(error.hint().is_some_and(|text| text.contains(hint)), "{model}: {:?}", error.hint());
    }
    let faults = [
        (Faults { gzip_bomb: true, ..Faults::default() }, "bad_answer", ErrorKind::Unavailable),
        (Faults { huge_api: true, ..Faults::default() }, "bad_answer", ErrorKind::Unavailable),
        (Faults { api_html: true, ..Faults::default() }, "bad_answer", ErrorKind::Unavailable),
        (Faults { api_status: Some(500), ..Faults::default() }, "source_failed", ErrorKind::Unavailable),
        (Faults { api_status: Some(429), ..Faults::default() }, "too_many_requests", ErrorKind::Busy),
        (Faults { api_status: Some(401), ..Faults::default() }, "not_authorised", ErrorKind::Unavailable),
        (Faults { silent: true, ..Faults::default() }, "timeout", ErrorKind::Unavailable),
    ];
    for (faults, code, kind) in faults {
        let what = format!("{faults:?}");
        world.hub.set_faults(faults);
        let error = world.pull(ID).await.unwrap_err();
        assert_eq!((error.code(), error.kind()), (code, kind), "{what}: {error}");
    }
    assert_eq!(world.left(), Vec::<String>::new());
    assert!(world.pulls.list().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ways_to_fail_to_connect_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    // A port where nobody listens, and one where somebody does who speaks no TLS.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let plain = FakeHub::start();
    let plain_port = plain.url().rsplit(':').next().unwrap().to_owned();
    let (tasks, _shutdown) = tasks();
    let proxy = |url: &str| {
        Some(cortex_models::ProxyConfig {
            url: url.into(),
            username: "me".into(),
            password: "secret".into(),
            no_proxy: String::new(),
        })
    };
    // One that lets nobody through without a password, or with this one.
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing_port = refusing.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in refusing.incoming() {
            let Ok(mut connection) = connection else { return };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if std::io::Read::read(&mut connection, &mut byte).unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            let answer = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = std::io::Write::write_all(&mut connection, answer.as_bytes());
        }
    });
    for (endpoint, proxy, code, message) in [
        (
            "https://huggingface.co".into(),
            proxy(&format!("http://127.0.0.1:{refusing_port}")),
            "proxy",
            "proxy authorization required",
        ),
        (
            "http://hub.example".into(),
            proxy(&format!("http://127.0.0.1:{refusing_port}")),
            "proxy",
            "it wants a user's name and a password",
        ),
        (format!("http://127.0.0.1:{free}"), None, "unreachable", "the connection was refused"),
        (format!("https://127.0.0.1:{plain_port}"), None, "tls", "no secure connection"),
        ("https://no-such-name.invalid".into(), None, "dns", "`no-such-name.invalid` cannot be resolved"),
        (
            "https://huggingface.co".into(),
            proxy(&format!("http://127.0.0.1:{free}")),
            "proxy",
            "the proxy http://127.0.0.1",
        ),
        (
            "https://huggingface.co".into(),
            proxy(&format!("socks5h://127.0.0.1:{free}")),
            "proxy",
            "the proxy socks5h://127.0.0.1",
        ),
    ] {
        let outbound =
            Outbound::new(OutboundConfig { endpoint: endpoint.parse().unwrap(), proxy, ..OutboundConfig::default() });
        let store = ModelStore::open(Config::new(folder.path()));
        let pulls = Pulls::start(PullsConfig::default(), store, outbound, &tasks);
        let request = PullRequest { model: "a/b".into(), ..PullRequest::default() };
        let error = pulls.pull(request, false).await.unwrap_err();
        assert_eq!(error.code(), code, "{endpoint}: {error}");
        assert!(error.to_string().contains(message), "{endpoint}: {error}");
        assert!(error.hint().is_some(), "{endpoint}");
        assert!(!format!("{error} {:?}", error.hint()).contains("secret"));
    }
}

/// The token goes to the hub, and to nobody whom the hub names.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_is_for_the_hub_alone() {
    let (hub, _) = hub_with(2 << 20);
    hub.gate(REPO, "hf_right");
    let world = World::new(hub, &Setup { token: Some("hf_right"), ..Setup::default() });
    assert_eq!(world.whole(ID).await.state, PullState::Succeeded);
    let seen = world.hub.seen();
    let hub_host = world.hub.url().replace("http://", "");
    let (own, others): (Vec<_>, Vec<_>) = seen.iter().partition(|request| request.host == hub_host);
    assert!(!own.is_empty() && own.iter().all(|request| request.authorization.as_deref() == Some("Bearer hf_right")));
    assert!(!others.is_empty() && others.iter().all(|request| request.authorization.is_none()), "{others:?}");
    let text = fs_err::read_to_string(world.path(FOLDER).join("download.json")).unwrap();
    assert!(!text.contains("hf_right") && !text.contains("Signature"));
}

/// What the settings do not name is not asked, also when the hub says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_content_host_that_nobody_allowed_is_not_asked() {
    let (hub, _) = hub_with(1 << 20);
    let world = World::new(hub, &Setup { allowed: Some(vec![]), ..Setup::default() });
    let end = world.whole(ID).await;
    assert_eq!(end.code, Some("host_not_allowed"));
    let content_host = world.hub.content_url().replace("http://", "");
    assert!(world.hub.seen().iter().all(|request| request.host != content_host));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_the_same_are_one_and_others_run_beside() {
    let (hub, _) = hub_with(6 << 20);
    hub.add_file("maker/other-GGUF", "main", "other-Q4_0.gguf", model(1 << 20));
    hub.set_faults(Faults { bytes_per_second: Some(1 << 20), ..Faults::default() });
    let world = World::new(hub, &Setup::default());
    let first = world.pull(ID).await.unwrap();
    let asked = [ID, REPO, "maker/tiny-GGUF:Q4_K_M"];
    for again in asked {
        assert_eq!(world.pull(again).await.unwrap().id(), first.id(), "{again}");
    }
    let other = world.pull("maker/other-GGUF").await.unwrap();
    assert_eq!(
        world.pulls.list().await.iter().map(|pull| pull.id().to_string()).collect::<Vec<_>>(),
        [ID, "maker:other-GGUF:other-Q4_0.gguf"]
    );
    let busy = PullRequest { model: "maker/other-GGUF".into(), id: Some(ID.into()), ..PullRequest::default() };
    assert!(matches!(world.pulls.pull(busy, false).await, Err(PullError::Busy { .. })));
    assert_eq!(world.end(other.id().as_str()).await.state, PullState::Succeeded);
    world.hub.set_faults(Faults::default());
    assert_eq!(world.end(ID).await.state, PullState::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_name_are_different_models() {
    let hub = FakeHub::start();
    hub.add_file(REPO, "main", "Q4_K_M/tiny.gguf", model(1 << 20));
    hub.add_file(REPO, "main", "Q8_0/tiny.gguf", model(2 << 20));
    let world = World::new(hub, &Setup::default());
    for (asked, id, length) in [
        ("maker/tiny-GGUF:Q8_0", "maker:tiny-GGUF:Q8_0/tiny.gguf", model(2 << 20).len()),
        (
            "https://huggingface.co/maker/tiny-GGUF/blob/main/Q4_K_M/tiny.gguf",
            "maker:tiny-GGUF:Q4_K_M/tiny.gguf",
            model(1 << 20).len(),
        ),
    ] {
        let end = world.whole(asked).await;
        assert_eq!((end.state, end.id().as_str()), (PullState::Succeeded, id));
        assert_eq!(end.downloaded_bytes(), length as u64);
        // Its id gets it as well.
        assert!(matches!(world.pull(id).await, Err(PullError::AlreadyThere { .. })), "{id}");
    }
    let error = world.pull("maker:tiny-GGUF:tiny.gguf").await.unwrap_err();
    assert!(error.hint().unwrap().contains("Q4_K_M/tiny.gguf, Q8_0/tiny.gguf"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_model_by_itself_is_told() {
    let (hub, _) = hub_with(1 << 20);
    hub.add_file(REPO, "main", "set-00001-of-00003.gguf", model(1000));
    hub.add_file(REPO, "main", "mmproj-tiny.gguf", model(1000));
    let world = World::new(hub, &Setup::default());
    for (file, word) in
        [("set-00001-of-00003.gguf", "does not have all of its parts"), ("mmproj-tiny.gguf", "no model of its own")]
    {
        let error = world.pull(&format!("maker:tiny-GGUF:{file}")).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let secret = world.pull("https://me:secret@example.org/x.gguf").await.unwrap_err();
    assert!(!secret.to_string().contains("secret@") && secret.code() == "invalid_model", "{secret}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_never_that_of_another_file() {
    let (hub, _) = hub_with(3 << 20);
    hub.add_file(REPO, "main", "tiny-Q8_0.gguf", model(4 << 20));
    hub.add_file(REPO, "dev", "tiny-Q4_K_M.gguf", model(5 << 20));
    let setup = Setup { rate: Some(1 << 20), ..Setup::default() };
    let world = World::new(hub, &setup);
    let ask = async |model: &str, id: Option<&str>| {
        let request = PullRequest { model: model.into(), id: id.map(str::to_owned), name: None };
        world.pulls.pull(request, false).await
    };
    // The same words with another id are another pull.
    let second = ask(REPO, Some("second")).await.unwrap();
    let first = ask(REPO, None).await.unwrap();
    let again = ask(REPO, Some("second")).await.unwrap();
    assert_eq!((second.id().as_str(), first.id().as_str(), again.id().as_str()), ("second", ID, "second"));
    world.pulls.cancel("second", true).await.unwrap();
    world.pulls.cancel(ID, true).await.unwrap();
    drop(world);

    let (hub, _) = hub_with(3 << 20);
    hub.add_file(REPO, "main", "tiny-Q8_0.gguf", model(4 << 20));
    hub.add_file(REPO, "dev", "tiny-Q4_K_M.gguf", model(5 << 20));
    let world = World::new(hub, &Setup::default());
    world.whole(ID).await;
    let request = |model: &str, id: &str| PullRequest { model: model.into(), id: Some(id.into()), name: None };
    let other = world.pulls.pull(request("maker/tiny-GGUF:Q8_0", ID), true).await.unwrap_err();
    assert!(matches!(other, PullError::Taken { .. }), "{other}");
    let branch = world.pull("https://huggingface.co/maker/tiny-GGUF/blob/dev/tiny-Q4_K_M.gguf").await.unwrap_err();
    assert!(branch.hint().unwrap().contains("that one is of the branch `main`"), "{branch}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_another_file_is_another_model() {
    let world = World::new(FakeHub::start(), &Setup::default());
    let place = |folder: &str| world.path(&format!("elsewhere/{folder}/dup.gguf"));
    let write = |folder: &str, content: &[u8]| {
        fs_err::create_dir_all(place(folder).parent().unwrap()).unwrap();
        fs_err::write(place(folder), content).unwrap();
        format!("file://{}", place(folder).display())
    };
    let content = model(1 << 20);
    let mut other = content.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    let (one, same, other) = (write("one", &content), write("same", &content), write("other", &other));
    assert_eq!(world.pull(&one).await.unwrap().id().as_str(), "dup");
    assert_eq!(world.end("dup").await.state, PullState::Succeeded);
    assert!(matches!(world.pull(&one).await, Err(PullError::AlreadyThere { is_older: false, .. })));
    for another in [&same, &other] {
        let error = world.pull(another).await.unwrap_err();
        assert!(matches!(error, PullError::Taken { .. }), "{error}");
    }
    assert_eq!(fs_err::read(&world.store.resolve("dup").unwrap().path).unwrap(), content);
    // The file became another one: that is a newer version.
    let mut newer = content.clone();
    newer[last] ^= 3;
    write("one", &newer);
    assert!(matches!(world.pull(&one).await, Err(PullError::AlreadyThere { is_older: true, .. })));
    let request = PullRequest { model: one.clone(), ..PullRequest::default() };
    world.pulls.pull(request, true).await.unwrap();
    assert_eq!(world.end("dup").await.state, PullState::Succeeded);
    assert_eq!(fs_err::read(&world.store.resolve("dup").unwrap().path).unwrap(), newer);
    assert_eq!(fs_err::read(place("one")).unwrap(), newer, "it is a copy");
}
