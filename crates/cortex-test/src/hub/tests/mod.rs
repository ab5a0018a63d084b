//! The hub, asked over real connections.

mod client;
mod faults;

use super::{
    Content, FakeHub, Faults,
    content::{git_blob, sha1},
    pattern,
};
use client::{Answer, ask, get, head, json_of, open};
use serde_json::{Value, json};

const MEBIBYTE: usize = 1024 * 1024;

/// A hub with one large and one small file, and the large one's link to the content host.
fn hub(length: u64) -> (FakeHub, String) {
    let hub = FakeHub::start();
    hub.add_file("a/m", "main", "config.json", "{\"small\": true}");
    hub.add_file("a/m", "main", "sub/model.gguf", Content::Pattern { seed: 1, length });
    let link = link(&hub);
    (hub, link)
}

fn link(hub: &FakeHub) -> String {
    let answer = head(&format!("{}/a/m/resolve/main/sub/model.gguf", hub.url()));
    assert_eq!(answer.status, 302, "{answer:?}");
    answer.header("location").expect("a redirect says where").into()
}

fn ranged(link: &str, range: &str) -> Answer {
    ask("GET", link, &[("Range", range)])
}

#[test]
fn a_pattern_is_the_same_at_any_offset() {
    let whole = pattern(7, 0, 1000);
    for (offset, length) in [(0, 1000), (1, 999), (8, 8), (13, 100), (999, 1), (1000, 0)] {
        let start = usize::try_from(offset).expect("small");
        assert_eq!(pattern(7, offset, length), whole[start..start + length], "{offset} {length}");
    }
    assert_ne!(pattern(8, 0, 1000), whole);
}

#[test]
fn digests_are_those_of_git() {
    assert_eq!(sha1(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(sha1(&[b'a'; 200]), "e61cfffe0d9195a525fc6cf06ca2d77119c24a40");
    assert_eq!(git_blob(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
}

#[test]
fn ranges_are_answered_as_a_storage_service_does() {
    let (_hub, link) = hub(200_000);
    let content = pattern(1, 0, 200_000);
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-199999", 0, 200_000),
        ("bytes=100000-", 100_000, 200_000),
        ("bytes=65535-65537", 65_535, 65_538),
        ("bytes=199999-999999999999", 199_999, 200_000),
        ("bytes=-3", 199_997, 200_000),
        ("bytes=-300000", 0, 200_000),
    ] {
        let answer = ranged(&link, range);
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.header("content-range"), Some(&*format!("bytes {start}-{}/200000", end - 1)), "{range}");
        assert_eq!(answer.body, content[start..end], "{range}");
        assert!(answer.complete, "{range}");
    }
    for range in ["bytes=200000-", "bytes=200000-200001", "bytes=-0"] {
        let answer = ranged(&link, range);
        assert_eq!((answer.status, answer.body.len()), (416, 0), "{range}");
        assert_eq!(answer.header("content-range"), Some("bytes */200000"), "{range}");
    }
    for range in ["bytes=5-2", "bytes=a-b", "bytes=-", "bytes=+1-2", "bytes=0-1,5-6", "lines=0-1", "bytes=3"] {
        let answer = ranged(&link, range);
        assert_eq!((answer.status, answer.body.len()), (200, 200_000), "{range}");
        assert_eq!(answer.header("content-range"), None, "{range}");
    }
}

#[test]
fn a_range_is_given_only_of_the_same_content() {
    let (hub, link) = hub(1000);
    let etag = head(&link).header("etag").expect("an ETag").to_owned();
    let linked = head(&format!("{}/a/m/resolve/main/sub/model.gguf", hub.url()));
    assert_eq!(linked.header("x-linked-etag"), Some(&*etag));
    let same = ask("GET", &link, &[("Range", "bytes=10-19"), ("If-Range", &etag)]);
    assert_eq!((same.status, same.body.len()), (206, 10));
    let other = ask("GET", &link, &[("Range", "bytes=10-19"), ("If-Range", "\"other\"")]);
    assert_eq!((other.status, other.body.len()), (200, 1000));
}

#[test]
fn head_says_what_get_would() {
    let (hub, link) = hub(1000);
    let answer = head(&link);
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.header("content-length"), Some("1000"));
    assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    let part = ask("HEAD", &link, &[("Range", "bytes=1-2")]);
    assert_eq!((part.status, part.header("content-length")), (206, Some("2")));
    let small = head(&format!("{}/a/m/resolve/main/config.json", hub.url()));
    assert_eq!((small.status, small.header("content-length")), (200, Some("15")));
    assert_eq!((hub.bytes_sent(), hub.peak_connections()), (0, 0));
}

#[test]
fn files_on_disk_are_sent_as_they_are() {
    let hub = FakeHub::start();
    let path = std::env::temp_dir().join(format!("fake-hub-{}", std::process::id()));
    let bytes = pattern(3, 0, 300_001);
    fs_err::write(&path, &bytes).expect("written");
    hub.add_file("a/m", "main", "sub/model.gguf", path.clone());
    let link = link(&hub);
    assert_eq!(get(&link).body, bytes);
    assert_eq!(ranged(&link, "bytes=70000-200000").body, bytes[70_000..=200_000]);
    fs_err::remove_file(&path).expect("removed");
}

#[test]
fn resolve_redirects_for_large_files_only() {
    let (hub, link) = hub(1000);
    assert!(link.starts_with(&hub.content_url()) && link.contains("Signature=") && link.contains("Expires="), "{link}");
    assert_ne!(hub.content_url(), hub.url());
    assert_eq!(get(&link).body, pattern(1, 0, 1000));
    let commit = hub.commit_of("a/m", "main");
    for answer in [get, head].map(|ask| ask(&format!("{}/a/m/resolve/main/sub/model.gguf", hub.url()))) {
        assert_eq!(answer.status, 302);
        assert_eq!(answer.header("x-linked-size"), Some("1000"));
        assert_eq!(answer.header("x-repo-commit"), Some(&*commit));
        assert_eq!(answer.header("x-linked-etag").map(str::len), Some(66));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    }
    let small = format!("{}/a/m/resolve/{commit}/config.json", hub.url());
    let answer = get(&small);
    assert_eq!((answer.status, answer.text()), (200, "{\"small\": true}"));
    assert_eq!(answer.header("etag"), Some(&*format!("\"{}\"", git_blob(b"{\"small\": true}"))));
    assert_eq!(answer.header("x-repo-commit"), Some(&*commit));
    let part = ranged(&small, "bytes=2-6");
    assert_eq!((part.status, part.text()), (206, "small"));
    hub.add_file("a/m", "main", "large.txt", vec![b'x'; MEBIBYTE + 1]);
    assert_eq!(head(&format!("{}/a/m/resolve/main/large.txt", hub.url())).status, 302);
    assert_eq!(ask("POST", &small, &[]).status, 405);
}

#[test]
fn older_commits_and_other_branches_stay() {
    let (hub, _) = hub(10);
    let before = hub.commit_of("a/m", "main");
    hub.add_file("a/m", "main", "config.json", "new");
    hub.add_file("a/m", "b/c d", "config.json", "branch");
    let after = hub.commit_of("a/m", "main");
    assert!(before != after && after.len() == 40, "{after}");
    for (revision, text) in [
        ("main", "new"),
        (&*after, "new"),
        (&*before, "{\"small\": true}"),
        ("b%2Fc%20d", "branch"),
        ("refs%2Fheads%2Fmain", "new"),
    ] {
        assert_eq!(get(&format!("{}/a/m/resolve/{revision}/config.json", hub.url())).text(), text, "{revision}");
    }
    let refs = json_of(&format!("{}/api/models/a/m/refs", hub.url()));
    let branch = |name: &str| json!({ "name": name, "ref": format!("refs/heads/{name}"), "targetCommit": hub.commit_of("a/m", name) });
    assert_eq!(refs, json!({ "tags": [], "branches": [branch("b/c d"), branch("main")], "converts": [] }));
}

#[test]
fn what_is_not_there_is_said_as_the_hub_does() {
    let (hub, _) = hub(10);
    let token = [("Authorization", "Bearer t")];
    for (path, headers, status, code) in [
        ("/a/m/resolve/main/none", &[][..], 404, "EntryNotFound"),
        ("/a/m/resolve/none/config.json", &[], 404, "RevisionNotFound"),
        ("/a/none/resolve/main/config.json", &[], 401, "RepoNotFound"),
        ("/a/none/resolve/main/config.json", &token, 404, "RepoNotFound"),
        ("/api/models/a/none", &[], 401, "RepoNotFound"),
        ("/api/models/a/none", &token, 404, "RepoNotFound"),
        ("/api/models/a/m/revision/none", &[], 404, "RevisionNotFound"),
        ("/api/models/a/m/tree/none", &[], 404, "RevisionNotFound"),
        ("/api/models/a/m/tree/main/none", &[], 404, "EntryNotFound"),
        ("/api/models/a/none/refs", &[], 401, "RepoNotFound"),
    ] {
        let answer = ask("GET", &format!("{}{path}", hub.url()), headers);
        assert_eq!((answer.status, answer.header("x-error-code")), (status, Some(code)), "{path}");
        assert!(answer.json()["error"].is_string(), "{path}");
    }
    assert_eq!(get(&format!("{}/nothing", hub.url())).status, 404);
}

#[test]
fn a_gate_opens_with_its_token() {
    let (hub, _) = hub(10);
    hub.gate("a/m", "secret");
    for path in ["/api/models/a/m", "/api/models/a/m/tree/main", "/a/m/resolve/main/sub/model.gguf"] {
        let url = format!("{}{path}", hub.url());
        let stranger = get(&url);
        assert_eq!((stranger.status, stranger.header("x-error-code")), (401, Some("GatedRepo")));
        assert_eq!(
            stranger.json()["error"],
            "Access to model a/m is restricted. You must have access to it and be authenticated to access it. \
             Please log in."
        );
        let other = ask("GET", &url, &[("Authorization", "Bearer other")]);
        assert_eq!((other.status, other.header("x-error-code")), (403, Some("GatedRepo")));
        let guest = ask("GET", &url, &[("Authorization", "Bearer secret")]);
        assert!(guest.status == 200 || guest.status == 302, "{guest:?}");
    }
    let model = ask("GET", &format!("{}/api/models/a/m", hub.url()), &[("Authorization", "Bearer secret")]);
    assert_eq!(model.json()["gated"], "auto");
}

#[test]
fn a_model_is_described() {
    let (hub, _) = hub(1000);
    let model = json_of(&format!("{}/api/models/a/m", hub.url()));
    assert_eq!(model["id"], "a/m");
    assert_eq!(model["author"], "a");
    assert_eq!(model["sha"], hub.commit_of("a/m", "main"));
    assert_eq!(model["gated"], false);
    assert_eq!(model["tags"], json!(["gguf"]));
    assert_eq!(model["usedStorage"], 1015);
    assert_eq!(model["siblings"], json!([{ "rfilename": "config.json" }, { "rfilename": "sub/model.gguf" }]));
    let blobs = json_of(&format!("{}/api/models/a/m/revision/main?blobs=true", hub.url()));
    let small = json!({ "rfilename": "config.json", "blobId": git_blob(b"{\"small\": true}"), "size": 15 });
    assert_eq!(blobs["siblings"][0], small);
    let large = &blobs["siblings"][1];
    let sha256 = large["lfs"]["sha256"].as_str().expect("a digest");
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 1000\n");
    assert_eq!(large["blobId"], git_blob(pointer.as_bytes()));
    assert_eq!(large["lfs"], json!({ "sha256": sha256, "size": 1000, "pointerSize": pointer.len() }));
}

/// All pages of a list, and how many there were.
fn pages(mut url: String) -> (Vec<Value>, usize) {
    let (mut all, mut pages) = (Vec::new(), 0);
    loop {
        let answer = get(&url);
        pages += 1;
        all.extend(answer.json().as_array().expect("a list").clone());
        let Some(next) = answer.header("link") else { return (all, pages) };
        url = next.strip_prefix('<').and_then(|next| next.strip_suffix(">; rel=\"next\"")).expect("a link").into();
    }
}

fn names(entries: &[Value], key: &str) -> Vec<String> {
    entries.iter().map(|entry| entry[key].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn trees_have_folders_and_pages() {
    let (hub, _) = hub(1000);
    hub.add_file("a/m", "main", "sub/deep/x.txt", "x");
    let tree = format!("{}/api/models/a/m/tree/main", hub.url());
    let (top, _) = pages(tree.clone());
    assert_eq!(names(&top, "path"), ["config.json", "sub"]);
    assert_eq!(names(&top, "type"), ["file", "directory"]);
    let everything = ["config.json", "sub", "sub/deep", "sub/deep/x.txt", "sub/model.gguf"];
    let (all, count) = pages(format!("{tree}?recursive=true&expand=true"));
    assert_eq!((names(&all, "path"), count), (everything.map(String::from).to_vec(), 1));
    assert_eq!(all[4]["lfs"]["size"], 1000);
    assert_eq!(all[4]["lfs"]["oid"].as_str().map(str::len), Some(64));
    assert!(all[0]["lastCommit"]["id"].is_string());
    let (paged, count) = pages(format!("{tree}?limit=2&recursive=true"));
    assert_eq!((names(&paged, "path"), count), (everything.map(String::from).to_vec(), 3));
    let (sub, _) = pages(format!("{tree}/sub"));
    assert_eq!(names(&sub, "path"), ["sub/deep", "sub/model.gguf"]);
}

#[test]
fn lists_are_searched_and_sorted() {
    let hub = FakeHub::start();
    for (id, downloads, likes) in [("a/One", 5, 1), ("a/two", 50, 2), ("b/one-more", 500, 3)] {
        hub.add_file(id, "main", if id == "a/two" { "x.txt" } else { "x.gguf" }, "x");
        hub.set_popularity(id, downloads, likes);
    }
    hub.tag("a/One", "text-generation");
    for (query, found) in [
        ("", &["b/one-more", "a/two", "a/One"][..]),
        ("?sort=likes", &["b/one-more", "a/two", "a/One"]),
        ("?search=one", &["b/one-more", "a/One"]),
        ("?author=a", &["a/two", "a/One"]),
        ("?filter=gguf", &["b/one-more", "a/One"]),
        ("?filter=gguf&filter=text-generation", &["a/One"]),
        ("?filter=gguf,text-generation", &["a/One"]),
        ("?limit=1&author=a", &["a/two", "a/One"]),
        ("?search=none", &[]),
    ] {
        let (entries, _) = pages(format!("{}/api/models{query}", hub.url()));
        assert_eq!(names(&entries, "id"), found, "{query}");
        assert!(entries.iter().all(|entry| entry["siblings"].is_null()), "{query}");
    }
    let (entries, _) = pages(format!("{}/api/models?full=true", hub.url()));
    assert_eq!(entries[1]["siblings"], json!([{ "rfilename": "x.txt" }]));
}

#[test]
fn requests_are_written_down_in_order() {
    let (hub, link) = hub(10);
    let before = hub.seen().len();
    let headers = [("Authorization", "Bearer t"), ("Range", "bytes=0-1"), ("User-Agent", "test/1")];
    ask("GET", &format!("{}/a/m/resolve/main/config.json?x=1", hub.url()), &headers);
    get(&link);
    let [first, second] = &hub.seen()[before..] else { panic!("two requests: {:?}", hub.seen()) };
    assert_eq!((&*first.method, first.status), ("GET", 206));
    assert_eq!(first.path, "/a/m/resolve/main/config.json?x=1");
    assert_eq!(format!("http://{}", first.host), hub.url());
    assert_eq!(first.authorization.as_deref(), Some("Bearer t"));
    assert_eq!(first.range.as_deref(), Some("bytes=0-1"));
    assert_eq!(first.user_agent.as_deref(), Some("test/1"));
    assert_eq!(format!("http://{}{}", second.host, second.path), link);
    assert_eq!((second.authorization.as_deref(), second.status), (None, 200));
}

#[test]
fn bytes_are_counted_when_they_are_taken() {
    let (hub, link) = hub(64 * MEBIBYTE as u64);
    assert_eq!(hub.bytes_sent(), 0, "neither redirects nor the API count");
    ranged(&link, "bytes=5-100004");
    get(&format!("{}/a/m/resolve/main/config.json", hub.url()));
    assert_eq!(hub.bytes_sent(), 100_015);
    hub.reset_bytes_sent();
    let mut connection = open("GET", &link, &[]);
    assert_eq!(connection.read_body(1000).len(), 1000);
    let taken = hub.bytes_sent();
    assert!((1000..32 * MEBIBYTE as u64).contains(&taken), "a client that does not read stops the transport: {taken}");
    drop(connection);
}

#[test]
fn a_hub_that_is_dropped_breaks_its_connections() {
    let (hub, link) = hub(MEBIBYTE as u64);
    hub.set_faults(Faults { stall_after: Some(10), ..Faults::default() });
    let mut connection = open("GET", &link, &[]);
    assert_eq!(connection.read_body(10).len(), 10);
    drop(hub);
    assert_eq!(connection.read_body(10).len(), 0);
}
