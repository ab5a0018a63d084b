//! Pulls that are interrupted: paused, cancelled, stopped, cut off from power; and those that come in other shapes.

use crate::pull_world::{FOLDER, ID, REPO, Setup, World, hub_with, model};
use cortex_models::{
    Config, Files, ModelStore, Outbound, OutboundConfig, PullError, PullEventKind, PullRequest, PullState, Pulls,
    PullsConfig, tasks,
};
use cortex_test::{
    gguf::GgufBuilder,
    hub::{FakeHub, Faults},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_is_paused_resumed_cancelled_and_goes_on_where_it_was() {
    use PullEventKind::{Started, Stopped, Succeeded};
    let (hub, content) = hub_with(24 << 20);
    hub.set_faults(Faults { bytes_per_second: Some(3 << 20), ..Faults::default() });
    let mut world = World::new(hub, &Setup { width: 4, ..Setup::default() });
    let (_, mut events) = world.pulls.events();
    world.pull(ID).await.unwrap();
    world.until(ID, |pull| pull.downloaded_bytes() > 4 << 20).await;
    let paused = world.pulls.pause(ID).await.unwrap();
    assert_eq!((paused.state, paused.seconds_left()), (PullState::Paused, None));
    assert_eq!(world.pulls.pause(ID).await.unwrap().state, PullState::Paused);
    let resumed = world.pulls.resume(ID).await.unwrap();
    assert!(resumed.downloaded_bytes() >= paused.downloaded_bytes(), "progress never goes backwards");
    world.until(ID, |pull| pull.downloaded_bytes() > 10 << 20).await;
    assert_eq!(world.pulls.cancel(ID, false).await.unwrap().state, PullState::Cancelled);
    assert_eq!(world.pulls.cancel(ID, false).await.unwrap().state, PullState::Cancelled);
    assert!(matches!(world.pulls.cancel("other", false).await, Err(PullError::Unknown { .. })));
    world.hub.set_faults(Faults::default());
    assert_eq!(world.pull(ID).await.unwrap().state, PullState::Downloading);
    let end = world.end(ID).await;
    assert_eq!((end.state, end.message.as_deref()), (PullState::Succeeded, None));
    assert_eq!(fs_err::read(world.path(FOLDER).join("tiny-Q4_K_M.gguf")).unwrap(), content);
    // Two interruptions, each of which costs 8 MiB at most; the whole file is 24 MiB.
    assert!(world.hub.bytes_sent() <= content.len() as u64 + 2 * (8 << 20), "{}", world.hub.bytes_sent());
    let mut kinds = Vec::new();
    while let Ok(event) = events.try_recv() {
        if event.kind != PullEventKind::Updated {
            kinds.push(event.kind);
        }
    }
    assert_eq!(kinds, [Started, Stopped, Started, Succeeded], "pause and resume are no news");
    world.stop().await;
}

/// The daemon stops and starts again: what was not finished goes on by itself, and is not asked for twice.
#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_pull_goes_on_with_the_next_start() {
    let (hub, content) = hub_with(24 << 20);
    hub.set_faults(Faults { bytes_per_second: Some(3 << 20), ..Faults::default() });
    let setup = Setup { width: 4, ..Setup::default() };
    let mut world = World::new(hub, &setup);
    world.pull(ID).await.unwrap();
    world.until(ID, |pull| pull.downloaded_bytes() > 8 << 20).await;
    world.stop().await;
    let World { hub, folder, store, pulls, .. } = world;
    drop((store, pulls));
    hub.set_faults(Faults::default());
    let world = World::on(hub, folder, &setup, Files::default());
    let begun = loop {
        if let Some(begun) = world.pulls.list().await.first() {
            break Arc::clone(begun);
        }
        tokio::task::yield_now().await;
    };
    assert!(begun.downloaded_bytes() >= 8 << 20, "{begun:?}");
    assert_eq!(world.end(ID).await.state, PullState::Succeeded);
    assert_eq!(fs_err::read(world.path(FOLDER).join("tiny-Q4_K_M.gguf")).unwrap(), content);
    assert!(world.hub.bytes_sent() <= content.len() as u64 + (8 << 20), "{}", world.hub.bytes_sent());
}

/// The power goes: of what the system had in memory only, nothing is left. The journal must not say otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_leaves_a_journal_that_is_true() {
    let (hub, content) = hub_with(24 << 20);
    hub.set_faults(Faults { bytes_per_second: Some(2 << 20), ..Faults::default() });
    // What is on the disk is what was there when the system last said so.
    let disk = tempfile::tempdir().unwrap();
    let on_disk = disk.path().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_owned();
    let files = Files::telling_of_syncs(move |path| {
        let copy = on_disk.join(path.strip_prefix(&data).unwrap());
        fs_err::create_dir_all(copy.parent().unwrap()).unwrap();
        fs_err::copy(path, copy).unwrap();
    });
    let setup = Setup { width: 4, ..Setup::default() };
    let mut world = World::on(hub, folder, &setup, files);
    world.pull(ID).await.unwrap();
    let encoded = "maker%3atiny-%47%47%55%46%3atiny-%514_%4b_%4d.gguf";
    let journal = disk.path().join(format!("state/pulls/{encoded}.journal"));
    let durable = || fs_err::read_to_string(&journal).is_ok_and(|text| text.matches("durable").count() >= 2);
    while !durable() {
        tokio::task::yield_now().await;
    }
    world.stop().await;
    let World { hub, store, pulls, .. } = world;
    drop((store, pulls));
    // The machine starts anew: this run is another one than the journal's.
    let text = fs_err::read_to_string(&journal).unwrap();
    let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = text.replace(boot.trim(), "an earlier run");
    assert!(text.contains("an earlier run"));
    fs_err::write(&journal, &text).unwrap();
    let partial = fs_err::read(disk.path().join(format!("partial/pull-{encoded}/tiny-Q4_K_M.gguf"))).unwrap();
    let mut claimed = 0;
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(range) = line.get("durable") {
            let at = |key: &str| usize::try_from(range[key].as_u64().unwrap()).unwrap();
            let range = at("start")..at("end");
            claimed += range.len();
            assert!(partial[range.clone()] == content[range.clone()], "{range:?} is on the disk");
        }
    }
    assert!(claimed > 0);
    hub.set_faults(Faults::default());
    hub.reset_bytes_sent();
    let world = World::on(hub, disk, &setup, Files::default());
    while world.pulls.list().await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.end(ID).await.state, PullState::Succeeded);
    assert_eq!(fs_err::read(world.path(FOLDER).join("tiny-Q4_K_M.gguf")).unwrap(), content);
    assert!(world.hub.bytes_sent() <= (content.len() - claimed) as u64, "what was durable is not asked for again");
}

/// A power cut right after the model appeared: the list was on the disk, its bytes were not. It is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_bytes_did_not_survive_is_pulled_again() {
    let (hub, content) = hub_with(2 << 20);
    let mut world = World::new(hub, &Setup::default());
    world.whole(ID).await;
    let journal = world.path("state/pulls/maker%3atiny-%47%47%55%46%3atiny-%514_%4b_%4d.gguf.journal");
    while journal.exists() {
        tokio::task::yield_now().await;
    }
    let plan = serde_json::to_value(&*world.pulls.list().await[0].plan).unwrap();
    world.stop().await;
    let World { hub, folder, store, pulls, .. } = world;
    drop((store, pulls));
    for damaged in [false, true] {
        let weights = folder.path().join(FOLDER).join("tiny-Q4_K_M.gguf");
        if damaged {
            let mut bytes = content.clone();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs_err::write(&weights, bytes).unwrap();
        }
        let lines = [
            serde_json::json!({"plan": {"version": 1, "at": 1, "plan": plan}}),
            serde_json::json!({"boot": "an earlier run"}),
            serde_json::json!({"wish": "settle"}),
        ];
        fs_err::create_dir_all(journal.parent().unwrap()).unwrap();
        fs_err::write(&journal, lines.map(|line| format!("{line}\n")).concat()).unwrap();
        hub.reset_bytes_sent();
        let (tasks, shutdown) = tasks();
        let store = ModelStore::open(Config::new(folder.path()));
        let outbound = Outbound::new(OutboundConfig {
            endpoint: hub.url().parse().unwrap(),
            allowed_hosts: vec![hub.content_url()],
            ..OutboundConfig::default()
        });
        let pulls = Pulls::start(PullsConfig::default(), store.clone(), outbound, &tasks);
        while journal.exists() {
            tokio::task::yield_now().await;
        }
        assert_eq!(fs_err::read(&weights).unwrap(), content, "damaged: {damaged}");
        assert_eq!(hub.bytes_sent() > 0, damaged, "only what is damaged is asked for again");
        assert!(store.resolve(ID).is_ok());
        drop(pulls);
        assert!(shutdown.now(Duration::from_secs(10)).await);
    }
}

/// A model in parts comes as one, with what lets it see.
#[tokio::test(flavor = "multi_thread")]
async fn parts_and_the_projector_come_along() {
    use cortex_test::gguf::Value;
    let hub = FakeHub::start();
    for part in 0..3u32 {
        let file = GgufBuilder::llama()
            .with("split.no", Value::U32(part))
            .with("split.count", Value::U32(3))
            .tensor("padding", vec![32, 1000])
            .build();
        hub.add_file(REPO, "main", &format!("Q4_K_M/big-Q4_K_M-{:05}-of-00003.gguf", part + 1), file);
    }
    hub.add_file(
        REPO,
        "main",
        "mmproj-F16.gguf",
        GgufBuilder::llama().with("general.architecture", Value::Text("clip".into())).build(),
    );
    let world = World::new(hub, &Setup::default());
    let end = world.whole("maker/tiny-GGUF:Q4_K_M").await;
    assert_eq!((end.state, end.message.as_deref()), (PullState::Succeeded, None));
    assert_eq!(end.id().as_str(), "maker:tiny-GGUF:big-Q4_K_M-00001-of-00003.gguf");
    assert_eq!(end.plan.files.len(), 4);
    let model = world.store.resolve("maker/tiny-GGUF:Q4_K_M").unwrap();
    let yaml = world.store.current(model.id.as_str()).unwrap().yaml().unwrap();
    assert_eq!(yaml.texts("files").len(), 3);
    assert!(yaml.text("mmproj").is_some_and(|path| path.ends_with("big-Q4_K_M/mmproj-F16.gguf")), "{yaml:?}");
    let removed = world.store.remove(model.id.as_str(), false).unwrap();
    assert_eq!((removed.removed.len(), removed.left.len()), (6, 0), "{removed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn short_names_other_hosts_and_local_files_are_pulled_too() {
    let hub = FakeHub::start();
    hub.add_file("cortexso/tinyllama", "main", "metadata.yml", "version: 1\nname: tinyllama\ndefault: 1b-gguf\n");
    hub.add_file("cortexso/tinyllama", "1b-gguf", "model.gguf", model(5000));
    hub.add_file("cortexso/tinyllama", "1b-gguf", "model.yml", "id: x\n");
    hub.add_file("cortexso/tinyllama", "3b-gguf", "model.gguf", model(9000));
    hub.add_file("cortexso/onnx", "main", "x.onnx", "x");
    let file = tempfile::Builder::new().suffix(".gguf").tempfile().unwrap();
    fs_err::write(file.path(), model(3000)).unwrap();
    hub.add_file(REPO, "main", "tiny-Q4_K_M.gguf", model(7000));
    // Another host: the content host of the hub, which names no digest.
    let content_url = {
        let probe = World::new(hub, &Setup::default());
        probe.whole(ID).await;
        let asked = probe
            .hub
            .seen()
            .into_iter()
            .rfind(|request| format!("http://{}", request.host) == probe.hub.content_url())
            .unwrap();
        (format!("{}{}", probe.hub.content_url(), asked.path), probe)
    };
    let (url, world) = content_url;
    let name = url.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
    for (asked, id, folder) in [
        ("tinyllama", "tinyllama:1b-gguf", "models/huggingface.co/cortexso/tinyllama/1b-gguf"),
        ("tinyllama:3b-gguf", "tinyllama:3b-gguf", "models/huggingface.co/cortexso/tinyllama/3b-gguf"),
        (url.as_str(), name.trim_end_matches(".gguf"), "models/huggingface.co/url/127.0.0.1"),
    ] {
        let end = world.whole(asked).await;
        assert_eq!((end.state, end.message.as_deref()), (PullState::Succeeded, None), "{asked}");
        assert_eq!(end.id().as_str(), id);
        let model = world.store.resolve(id).unwrap();
        assert!(model.path.starts_with(world.path(folder)), "{}", model.path.display());
        assert!(world.store.usable(&world.store.current(id).unwrap()).is_ok());
    }
    let local = format!("file://{}", file.path().display());
    let end = world.whole(&local).await;
    assert_eq!(end.state, PullState::Succeeded);
    assert!(file.path().exists() && world.store.resolve(end.id().as_str()).is_ok());
    assert!(matches!(world.pull("file:///nothing.gguf").await, Err(PullError::Import(_))));
    assert_eq!(world.pull("onnx").await.unwrap_err().code(), "revision_not_found");
    let offered = world.pulls.offered("tinyllama").await.unwrap().unwrap();
    let names: Vec<_> = offered.choices.iter().map(|choice| choice.name.as_str()).collect();
    assert_eq!((names, offered.recommended), (vec!["tinyllama:1b-gguf", "tinyllama:3b-gguf"], Some(0)));
}

/// A newer revision comes beside the old one and takes its place when it is whole; the user's settings stay.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_switches_when_it_is_whole() {
    let (hub, old) = hub_with(1 << 20);
    let world = World::new(hub, &Setup::default());
    world.whole(REPO).await;
    let settings = serde_json::json!({"temperature": 0.25});
    world.store.update(ID, settings.as_object().unwrap()).unwrap();
    let new = model(2 << 20);
    world.hub.add_file(REPO, "main", "tiny-Q4_K_M.gguf", new.clone());
    let error = world.pull(ID).await.unwrap_err();
    assert!(matches!(error, PullError::AlreadyThere { is_older: true, .. }), "{error}");
    let request = PullRequest { model: ID.into(), ..PullRequest::default() };
    // One that fails leaves the old one as it is.
    world.hub.set_faults(Faults { wrong_digest: true, ..Faults::default() });
    world.pulls.pull(request.clone(), true).await.unwrap();
    assert_eq!(world.end(ID).await.state, PullState::Failed);
    assert_eq!(fs_err::read(world.path(FOLDER).join("tiny-Q4_K_M.gguf")).unwrap(), old);
    world.hub.set_faults(Faults::default());
    world.pulls.pull(request, true).await.unwrap();
    assert_eq!(world.end(ID).await.state, PullState::Succeeded);
    let model = world.store.current(ID).unwrap();
    assert_eq!(fs_err::read(&model.path).unwrap(), new);
    assert!(!world.path(FOLDER).exists(), "the old revision is gone");
    assert_eq!(model.yaml().unwrap().number("temperature"), Some(0.25));
    assert_eq!(model.yaml().unwrap().number("size"), Some(f64::from(u32::try_from(new.len()).unwrap())));
    assert_eq!(world.store.resolve(REPO).unwrap().id.as_str(), ID);
    // The list is lost: what the folder says brings it back, with its other name.
    fs_err::remove_file(world.path("models/models.list")).unwrap();
    let found = world.store.reindex(false).unwrap();
    assert_eq!(found.added.iter().map(cortex_models::ModelId::as_str).collect::<Vec<_>>(), [ID]);
    let again = world.store.resolve(REPO).unwrap();
    assert_eq!((again.id.as_str(), again.author_repo.as_str()), (ID, REPO));
}

/// The crash came between the move of the folder to its place and the list: nothing is fetched again.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_amid_the_appearance_costs_nothing() {
    let (hub, content) = hub_with(2 << 20);
    let mut world = World::new(hub, &Setup::default());
    world.whole(ID).await;
    let journal = world.path("state/pulls/maker%3atiny-%47%47%55%46%3atiny-%514_%4b_%4d.gguf.journal");
    while journal.exists() {
        tokio::task::yield_now().await;
    }
    let plan = serde_json::to_value(&*world.pulls.list().await[0].plan).unwrap();
    world.stop().await;
    let World { hub, folder, store, pulls, .. } = world;
    drop((store, pulls));
    let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let lines = [
        serde_json::json!({"plan": {"version": 1, "at": 1, "plan": plan}}),
        serde_json::json!({"boot": boot.trim()}),
        serde_json::json!({"written": {"file": 0, "start": 0, "end": content.len()}}),
        serde_json::json!({"wish": "settle"}),
    ];
    fs_err::write(&journal, lines.map(|line| format!("{line}\n")).concat()).unwrap();
    fs_err::remove_file(folder.path().join("models/models.list")).unwrap();
    hub.reset_bytes_sent();
    let world = World::on(hub, folder, &Setup::default(), Files::default());
    while world.pulls.list().await.is_empty() {
        tokio::task::yield_now().await;
    }
    let end = world.end(ID).await;
    assert_eq!((end.state, end.message.as_deref()), (PullState::Succeeded, None));
    assert_eq!(world.hub.bytes_sent(), 0);
    assert_eq!(fs_err::read(world.path(FOLDER).join("tiny-Q4_K_M.gguf")).unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_midway_lets_it_wait() {
    let (hub, content) = hub_with(24 << 20);
    let room = Arc::new(AtomicU64::new(5 << 20));
    let folder = tempfile::tempdir().unwrap();
    let world = World::on(hub, folder, &Setup::default(), Files::with_room(Arc::clone(&room)));
    let (_, mut events) = world.pulls.events();
    world.pull(ID).await.unwrap();
    let mut last = 0;
    // Again and again, also when not even the journal finds room.
    for more in [5 << 20, 0, 100, 5 << 20, 64 << 20] {
        let full = world.until(ID, |pull| pull.state == PullState::Paused).await;
        assert_eq!(full.code, Some("no_room"));
        assert!(full.message.unwrap().contains("it goes on when they are free"));
        let bytes: u64 = full.downloaded.iter().sum();
        assert!(bytes >= last, "{bytes} of {last}");
        last = bytes;
        room.store(more, Ordering::Relaxed);
        if more > 1 << 20 {
            world.until(ID, |pull| pull.state != PullState::Paused).await;
        }
    }
    assert_eq!(world.end(ID).await.state, PullState::Succeeded);
    assert_eq!(fs_err::read(world.path(FOLDER).join("tiny-Q4_K_M.gguf")).unwrap(), content);
    let mut kinds = Vec::new();
    while let Ok(event) = events.try_recv() {
        kinds.push(event.kind);
    }
    kinds.retain(|kind| *kind != PullEventKind::Updated);
    assert_eq!(kinds, [PullEventKind::Started, PullEventKind::Succeeded], "a full disk is no news");
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_and_resume_are_no_news_and_an_end_is_one() {
    let (hub, _) = hub_with(6 << 20);
    let world = World::new(hub, &Setup { rate: Some(2 << 20), ..Setup::default() });
    let (_, mut events) = world.pulls.events();
    world.pull(ID).await.unwrap();
    world.until(ID, |pull| pull.downloaded_bytes() > 0).await;
    world.pulls.pause(ID).await.unwrap();
    assert_eq!(world.pulls.pause(ID).await.unwrap().state, PullState::Paused, "once more changes nothing");
    world.pulls.resume(ID).await.unwrap();
    world.pulls.cancel(ID, false).await.unwrap();
    let error = world.pulls.pause(ID).await.unwrap_err();
    assert_eq!((error.code(), error.to_string().ends_with("it is cancelled")), ("pull_not_running", true), "{error}");
    world.pulls.resume(ID).await.unwrap();
    assert_eq!(world.end(ID).await.state, PullState::Succeeded);
    let mut kinds = Vec::new();
    while let Ok(event) = events.try_recv() {
        kinds.push(event.kind);
    }
    kinds.retain(|kind| *kind != PullEventKind::Updated);
    assert_eq!(
        kinds,
        [PullEventKind::Started, PullEventKind::Stopped, PullEventKind::Started, PullEventKind::Succeeded]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_trouble_is_told_while_it_is_tried_again() {
    let (hub, _) = hub_with(2 << 20);
    hub.set_faults(Faults { content_status: Some(500), ..Faults::default() });
    let world = World::new(hub, &Setup::default());
    world.pull(ID).await.unwrap();
    let waits = world.until(ID, |pull| pull.message.is_some()).await;
    assert!(waits.message.unwrap().contains("it is tried again: `127.0.0.1"), "{:?}", waits.state);
    world.hub.set_faults(Faults::default());
    let end = world.end(ID).await;
    assert_eq!((end.state, end.message), (PullState::Succeeded, None));
}

/// Whatever somebody did to its files meanwhile: it goes on, with what can still be relied on.
#[tokio::test(flavor = "multi_thread")]
async fn damage_to_a_journal_or_to_what_came_costs_bytes_only() {
    let journal = "state/pulls/maker%3atiny-%47%47%55%46%3atiny-%514_%4b_%4d.gguf.journal";
    let partial = "partial/pull-maker%3atiny-%47%47%55%46%3atiny-%514_%4b_%4d.gguf/tiny-Q4_K_M.gguf";
    for damage in ["bytes that are no text", "a link", "nothing there"] {
        let (hub, content) = hub_with(8 << 20);
        let world = World::new(hub, &Setup { rate: Some(8 << 20), ..Setup::default() });
        world.pull(ID).await.unwrap();
        world.until(ID, |pull| pull.downloaded_bytes() > 1 << 20).await;
        world.pulls.pause(ID).await.unwrap();
        let (journal, partial) = (world.path(journal), world.path(partial));
        let victim = world.path("victim");
        fs_err::write(&victim, vec![7; content.len()]).unwrap();
        match damage {
            "bytes that are no text" => {
                let mut bytes = fs_err::read(&journal).unwrap();
                let at = bytes.iter().position(|&byte| byte == b'\n').unwrap() + 1;
                bytes.splice(at..at, b"\xff\xfe\x80\n".to_vec());
                fs_err::write(&journal, bytes).unwrap();
            }
            "a link" => {
                fs_err::remove_file(&partial).unwrap();
                std::os::unix::fs::symlink(&victim, &partial).unwrap();
            }
            _ => fs_err::remove_dir_all(partial.parent().unwrap()).unwrap(),
        }
        world.pulls.resume(ID).await.unwrap();
        assert_eq!(world.end(ID).await.state, PullState::Succeeded, "{damage}");
        let there = world.path(FOLDER).join("tiny-Q4_K_M.gguf");
        assert!(fs_err::symlink_metadata(&there).unwrap().is_file(), "{damage}");
        assert!(fs_err::read(&there).unwrap() == content, "{damage}");
        assert!(fs_err::read(&victim).unwrap().iter().all(|&byte| byte == 7), "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_leads_elsewhere_is_left_alone() {
    let (hub, _) = hub_with(1 << 20);
    let mut world = World::new(hub, &Setup { rate: Some(1 << 20), ..Setup::default() });
    world.pull(ID).await.unwrap();
    world.until(ID, |pull| pull.downloaded_bytes() > 0).await;
    world.pulls.pause(ID).await.unwrap();
    world.stop().await;
    let journal = world.path("state/pulls/maker%3atiny-%47%47%55%46%3atiny-%514_%4b_%4d.gguf.journal");
    let text = fs_err::read_to_string(&journal).unwrap();
    for evil in [
        text.replace("models/huggingface.co/maker/tiny-GGUF/tiny-Q4_K_M", "../../elsewhere/a/b"),
        text.replace("\"name\":\"tiny-Q4_K_M.gguf\"", "\"name\":\"../../../evil.gguf\""),
    ] {
        assert_ne!(evil, text);
        fs_err::write(&journal, evil).unwrap();
        let World { hub, folder, .. } = world;
        world = World::on(hub, folder, &Setup::default(), Files::default());
        assert!(world.pulls.list().await.is_empty());
        world.stop().await;
    }
}

/// A file of another host, of which no digest is known: its two versions are never mixed.
#[tokio::test(flavor = "multi_thread")]
async fn versions_of_a_file_without_a_digest_are_never_mixed() {
    let (old, new) = (model(4 << 20), {
        let mut new = model(4 << 20);
        let middle = new.len() / 2;
        new[middle..].iter_mut().for_each(|byte| *byte ^= 0xff);
        new
    });
    for validator in ["", "ETag: W/\"same\"\r\n", "Last-Modified: VERSION\r\n", "ETag: \"VERSION\"\r\n"] {
        let host = PlainHost::start(validator, old.clone());
        let setup = Setup {
            allowed: Some(vec![format!("http://127.0.0.1:{}", host.port)]),
            rate: Some(4 << 20),
            ..Setup::default()
        };
        let world = World::new(FakeHub::start(), &setup);
        let url = format!("http://127.0.0.1:{}/big.gguf", host.port);
        world.pull(&url).await.unwrap();
        world.until("big", |pull| pull.downloaded_bytes() > 1 << 20).await;
        world.pulls.pause("big").await.unwrap();
        host.replace(new.clone());
        world.pulls.resume("big").await.unwrap();
        let end = world.end("big").await;
        if validator.contains("VERSION") {
            assert_eq!(end.code, Some("changed"), "{validator}: {end:?}");
            assert!(world.store.resolve("big").is_err());
        } else {
            assert_eq!(end.state, PullState::Succeeded, "{validator}");
            assert!(fs_err::read(&world.store.resolve("big").unwrap().path).unwrap() == new, "{validator}");
        }
    }
}

/// A host that serves one file, with ranges.
struct PlainHost {
    port: u16,
    content: Arc<std::sync::Mutex<(u32, Vec<u8>)>>,
}

impl PlainHost {
    /// `VERSION` in the validator is another one for each content.
    fn start(validator: &'static str, content: Vec<u8>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let content = Arc::new(std::sync::Mutex::new((1, content)));
        let served = Arc::clone(&content);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || serve_range(connection, validator, &served));
            }
        });
        Self { port, content }
    }

    fn replace(&self, new: Vec<u8>) {
        let mut content = self.content.lock().unwrap();
        *content = (content.0 + 1, new);
    }
}

fn serve_range(mut connection: std::net::TcpStream, validator: &str, served: &std::sync::Mutex<(u32, Vec<u8>)>) {
    use std::io::{BufRead, BufReader, Write};
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let (mut line, mut range) = (String::new(), None);
    while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
        let lower = line.to_lowercase();
        if let Some(asked) = lower.trim().strip_prefix("range: bytes=") {
            let (start, last) = asked.split_once('-').unwrap();
            range = Some((start.parse::<usize>().unwrap(), last.parse::<usize>().unwrap()));
        }
        line.clear();
    }
    let (version, content) = served.lock().unwrap().clone();
    let Some((start, last)) = range else { return };
    let last = last.min(content.len() - 1);
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{last}/{}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n",
        content.len(),
        last + 1 - start,
        validator.replace("VERSION", &format!("Wed, 0{version} Jan 2025 00:00:00 GMT")),
    );
    let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&content[start..=last]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_will_ask_for_again_is_removed_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let week = Duration::from_hours(8 * 24);
    for (name, old) in [("partial/pull-old/x.gguf", true), ("partial/pull-new/x.gguf", false)] {
        fs_err::create_dir_all(place(name).parent().unwrap()).unwrap();
        fs_err::write(place(name), "x").unwrap();
        if old {
            let file = std::fs::File::options().write(true).open(place(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - week).unwrap();
        }
    }
    fs_err::create_dir_all(place("state/pulls")).unwrap();
    let world = World::on(FakeHub::start(), folder, &Setup::default(), Files::default());
    assert!(world.pulls.list().await.is_empty());
    assert_eq!(world.left(), ["partial/pull-new/x.gguf"]);
}
