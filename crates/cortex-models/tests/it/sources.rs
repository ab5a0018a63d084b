//! Model sources: what the hub has, kept, shown without it, and forgotten.

use crate::pull_world::{Setup, World, model};
use cortex_models::{Files, HubQuery, ModelSource, SourcesError};
use cortex_test::hub::{FakeHub, Faults};
use std::time::Duration;

const URL: &str = "https://huggingface.co/maker/tiny-GGUF";

fn hub() -> FakeHub {
    let hub = FakeHub::start();
    for name in ["tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf", "mmproj-tiny.gguf"] {
        hub.add_file("maker/tiny-GGUF", "main", name, model(2000));
    }
    hub.add_file("maker/tiny-GGUF", "main", "README.md", "# Tiny\nIt is small.");
    hub
}

fn ids(source: &ModelSource) -> Vec<&str> {
    source.models.iter().map(|(id, _)| id.as_str()).collect()
}

/// Makes all copies of the hub's words old.
fn age(world: &World) {
    for folder in ["cache/sources", "cache/hub"] {
        for entry in fs_err::read_dir(world.path(folder)).into_iter().flatten().flatten() {
            let mut copy: serde_json::Value = serde_json::from_slice(&fs_err::read(entry.path()).unwrap()).unwrap();
            copy["fetched"] = 1.into();
            fs_err::write(entry.path(), copy.to_string()).unwrap();
        }
    }
}

/// The source, when what is asked for meanwhile has come.
async fn until(world: &World, wanted: impl Fn(&ModelSource) -> bool) -> ModelSource {
    let waiting = async {
        loop {
            let source = world.sources.get(URL).await.unwrap();
            if wanted(&source) {
                return source;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("it never became so")
}

#[tokio::test]
async fn a_repository_is_added_shown_and_removed() {
    let world = World::new(hub(), &Setup::default());
    assert!(world.sources.list().await.unwrap().is_empty());
    let (none, before) = world.sources.downloadable();
    assert!(none.is_empty());
    world.sources.add(URL).await.unwrap();
    // In any form it is the same.
    world.sources.add("maker/tiny-GGUF").await.unwrap();
    world.sources.add(&format!("{}/maker/tiny-GGUF/", world.hub.url())).await.unwrap();
    let list = world.sources.list().await.unwrap();
    let [source] = list.as_slice() else { panic!("{list:?}") };
    assert_eq!((source.url.as_str(), source.author.as_str()), (URL, "maker"));
    assert_eq!(ids(source), ["maker:tiny-GGUF:tiny-Q4_K_M.gguf", "maker:tiny-GGUF:tiny-Q8_0.gguf"]);
    assert_eq!(source.models[0].1, model(2000).len() as u64);
    assert_eq!(source.card["description"], "# Tiny\nIt is small.");
    assert_eq!(source.card["id"], "maker/tiny-GGUF");
    let (shown, after) = world.sources.downloadable();
    assert_ne!(before, after);
    assert_eq!((shown.len(), &*shown[0].source), (2, URL));
    let card: serde_json::Value = serde_json::from_str(&shown[0].card).unwrap();
    assert!(card["downloads"].is_u64() && card["description"].is_null() && card["siblings"].is_null(), "{card}");
    world.sources.remove("maker/tiny-GGUF").await.unwrap();
    assert!(world.sources.list().await.unwrap().is_empty() && world.sources.downloadable().0.is_empty());
    assert_eq!(fs_err::read_dir(world.path("cache/sources")).unwrap().count(), 0);
    let gone = world.sources.remove(URL).await.unwrap_err();
    assert_eq!(gone.to_string(), format!("Model source does not exist: {URL}"));
    assert!(matches!(world.sources.get("nonsense").await, Err(SourcesError::Unknown(_))));
}

#[tokio::test]
async fn branches_of_short_names_are_models() {
    let hub = FakeHub::start();
    for branch in ["1b", "3b"] {
        hub.add_file("cortexso/tinyllama", branch, "model.gguf", model(2000));
        hub.add_file("cortexso/tinyllama", branch, "model.yml", "name: tinyllama");
    }
    hub.add_file("cortexso/tinyllama", "onnx", "model.onnx", "other");
    let world = World::new(hub, &Setup::default());
    world.sources.add("https://huggingface.co/cortexso/tinyllama").await.unwrap();
    let source = world.sources.get("cortexso/tinyllama").await.unwrap();
    assert_eq!(ids(&source), ["tinyllama:1b", "tinyllama:3b"]);
}

#[tokio::test]
async fn what_changes_on_the_hub_changes_here_after_a_while() {
    let world = World::new(hub(), &Setup::default());
    world.sources.add(URL).await.unwrap();
    let asked = || world.hub.seen().len();
    let before = asked();
    world.hub.remove_file("maker/tiny-GGUF", "main", "tiny-Q8_0.gguf");
    world.hub.add_file("maker/tiny-GGUF", "main", "tiny-Q2_K.gguf", model(1000));
    world.sources.add(URL).await.unwrap();
    assert_eq!(ids(&world.sources.get(URL).await.unwrap()).len(), 2);
    assert_eq!(asked(), before, "what is fresh is not asked for");
    age(&world);
    let source = until(&world, |source| source.fetched > Some(1)).await;
    assert_eq!(ids(&source), ["maker:tiny-GGUF:tiny-Q2_K.gguf", "maker:tiny-GGUF:tiny-Q4_K_M.gguf"]);
    assert_eq!(world.sources.downloadable().0.len(), 2);
    // A repository that has none any more shows none.
    for name in ["tiny-Q2_K.gguf", "tiny-Q4_K_M.gguf", "mmproj-tiny.gguf"] {
        world.hub.remove_file("maker/tiny-GGUF", "main", name);
    }
    // Also when the copy of the first change is written only now, and is fresh again.
    let is_empty = |source: &ModelSource| {
        age(&world);
        source.models.is_empty()
    };
    until(&world, is_empty).await;
}

#[tokio::test]
async fn without_the_hub_there_is_what_is_known() {
    let mut world = World::new(hub(), &Setup::default());
    world.sources.add(URL).await.unwrap();
    let query = HubQuery { text: Some("TINY".into()), tags: vec!["gguf".into()], limit: 20, ..HubQuery::default() };
    let found = world.sources.search(&query).await.unwrap();
    assert_eq!((found.answer[0].id.as_str(), &found.stale), ("maker/tiny-GGUF", &None));
    age(&world);
    world.stop().await;
    world.hub.set_faults(Faults { api_status: Some(503), ..Faults::default() });
    // A new daemon, which cannot ask.
    let World { hub, folder, .. } = world;
    let world = World::on(hub, folder, &Setup::default(), Files::default());
    assert_eq!(world.sources.downloadable().0.len(), 2);
    assert_eq!(ids(&world.sources.get(URL).await.unwrap()).len(), 2);
    world.sources.add(URL).await.expect("it is known");
    let found = world.sources.search(&query).await.unwrap();
    assert_eq!(found.answer.len(), 1);
    assert!(found.stale.unwrap().contains("answered 503"));
    let unknown = world.sources.search(&HubQuery { text: Some("other".into()), ..query }).await.unwrap_err();
    assert!(unknown.to_string().starts_with("the hub cannot be asked: "), "{unknown}");
    let other = world.sources.add("maker/other").await.unwrap_err();
    assert!(other.to_string().starts_with("Failed to get model repository info: maker/other: "), "{other}");
    // The copies may be deleted: then the models are not known until the hub can be asked.
    fs_err::remove_dir_all(world.path("cache")).unwrap();
    let World { hub, folder, .. } = world;
    let world = World::on(hub, folder, &Setup::default(), Files::default());
    let source = world.sources.get(URL).await.unwrap();
    assert_eq!((source.models.len(), source.fetched), (0, None));
}

#[tokio::test]
async fn what_cannot_be_a_source_is_told() {
    let hub = hub();
    hub.add_file("maker/text", "main", "README.md", "nothing");
    let world = World::new(hub, &Setup::default());
    for (url, message) in [
        ("https://example.org/a/b", "Invalid model source url: https://example.org/a/b"),
        (
            "https://huggingface.co/maker/tiny-GGUF/blob/main/tiny-Q8_0.gguf",
            "Only support repository model source, url: https://huggingface.co/maker/tiny-GGUF/blob/main/tiny-Q8_0.gguf",
        ),
        ("https://huggingface.co/a/..%2fb", "Malformed URL: https://huggingface.co/a/..%2fb"),
        ("maker/text", "Not a GGUF model. Currently, only GGUF single file is supported."),
        ("maker/nothing", "Failed to get model repository info: maker/nothing: Model maker/nothing not found"),
    ] {
        let error = world.sources.add(url).await.unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_damaged_list_of_sources_is_told_and_kept() {
    let world = World::new(hub(), &Setup::default());
    fs_err::create_dir_all(world.path("state")).unwrap();
    fs_err::write(world.path("state/sources.json"), "{\"version\":1,\"sources\":[{torn").unwrap();
    assert!(matches!(world.sources.add(URL).await, Err(SourcesError::Unreadable { .. })));
    assert!(world.sources.list().await.unwrap_err().hint().unwrap().starts_with("mend it"));
    assert!(world.sources.downloadable().0.is_empty());
    assert!(fs_err::read_to_string(world.path("state/sources.json")).unwrap().ends_with("{torn"));
    fs_err::remove_file(world.path("state/sources.json")).unwrap();
    world.sources.add(URL).await.unwrap();
    assert_eq!(world.sources.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_disk_that_fails_loses_no_source() {
    for steps in 0..40 {
        let folder = tempfile::tempdir().unwrap();
        let world = World::on(hub(), folder, &Setup::default(), Files::default());
        world.sources.add(URL).await.unwrap();
        world.hub.add_file("maker/other", "main", "o-Q4_0.gguf", model(1000));
        let World { hub, folder, .. } = world;
        let world = World::on(hub, folder, &Setup::default(), Files::failing_after(steps));
        let added = world.sources.add("maker/other").await.is_ok();
        let World { hub, folder, .. } = world;
        let world = World::on(hub, folder, &Setup::default(), Files::default());
        let there = world.sources.list().await.unwrap().len();
        assert!(there == 2 || there == 1 && !added, "{there} after {steps} steps");
        if added && steps > 12 {
            return;
        }
    }
    panic!("the fault was never passed");
}
