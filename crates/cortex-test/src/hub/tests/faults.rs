//! Each fault, and that it ends when it should.

use super::{
    super::{Faults, pattern},
    client::{ask, get, head, json_of, open},
    hub, link, ranged,
};
use flate2::read::GzDecoder;
use std::{
    io::Read,
    time::{Duration, Instant},
};

#[test]
fn a_cut_comes_after_exactly_so_many_bytes() {
    let (hub, link) = hub(300_000);
    let content = pattern(1, 0, 300_000);
    for cut in [0, 1, 100_000, 131_072, 299_999] {
        hub.set_faults(Faults { cut_after: Some(cut), cuts: Some(2), ..Faults::default() });
        hub.reset_bytes_sent();
        for start in [0, 7] {
            // A part that is too short for the cut is not cut, and does not use a cut up.
            let answer = ranged(&link, &format!("bytes={start}-"));
            let asked = 300_000 - start;
            let length = cut.min(asked);
            let from = usize::try_from(start).expect("small");
            let to = usize::try_from(start + length).expect("small");
            assert_eq!(answer.status, 206);
            assert_eq!(answer.body, content[from..to], "{cut}");
            assert_eq!(answer.complete, cut >= asked, "{cut}");
        }
        assert_eq!(hub.bytes_sent(), cut + cut.min(299_993));
        if cut < 299_993 {
            assert!(get(&link).complete, "there were two cuts");
        }
    }
    hub.set_faults(Faults { cut_after: Some(10), ..Faults::default() });
    assert!((0..3).all(|_| get(&link).body.len() == 10), "cuts without a number never end");
    let small = format!("{}/a/m/resolve/main/config.json", hub.url());
    assert_eq!((get(&small).body.len(), get(&small).complete), (10, false), "small files have them too");
}

#[test]
fn a_stalled_body_stops_and_stays_open() {
    let (hub, link) = hub(300_000);
    hub.set_faults(Faults { stall_after: Some(70_000), stalls: Some(1), ..Faults::default() });
    let mut connection = open("GET", &link, &[]);
    assert_eq!(connection.answer.status, 200);
    assert_eq!(connection.read_body(70_000).len(), 70_000);
    assert!(connection.is_quiet());
    assert_eq!(hub.bytes_sent(), 70_000);
    assert!(get(&link).complete, "there was one stall");
}

#[test]
fn too_many_requests_end() {
    let (hub, link) = hub(10);
    hub.set_faults(Faults { too_many_requests: 2, retry_after: Some(3), ..Faults::default() });
    json_of(&format!("{}/api/models/a/m", hub.url()));
    let refused = get(&link);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("3")));
    assert_eq!(head(&link).status, 429);
    assert_eq!(get(&link).status, 200);
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    let (hub, link) = hub(64 * 1024 * 1024);
    hub.set_faults(Faults { connections: Some(2), ..Faults::default() });
    let first = open("GET", &link, &[]);
    let second = open("GET", &link, &[]);
    assert_eq!((first.answer.status, second.answer.status), (200, 200));
    assert_eq!(get(&link).status, 403);
    assert_eq!(head(&link).status, 200, "no body, no connection");
    assert!(first.finish().complete);
    assert_eq!(ranged(&link, "bytes=0-9").status, 206, "the end of a body makes room at once");
    drop(second);
    let deadline = Instant::now() + Duration::from_secs(10);
    hub.set_faults(Faults { connections: Some(1), ..Faults::default() });
    while ranged(&link, "bytes=0-9").status != 206 {
        assert!(Instant::now() < deadline, "a client that went away makes room");
        std::thread::yield_now();
    }
    assert_eq!(hub.peak_connections(), 2);
}

#[test]
fn bodies_are_wrong_in_the_way_that_was_asked_for() {
    let (hub, link) = hub(1000);
    let content = pattern(1, 0, 1000);
    hub.set_faults(Faults { wrong_content_range: true, ..Faults::default() });
    let answer = ranged(&link, "bytes=10-19");
    assert_eq!((answer.status, answer.header("content-range")), (206, Some("bytes 11-20/1000")));
    assert_eq!(answer.body, content[10..20]);

    hub.set_faults(Faults { ignore_range: true, ..Faults::default() });
    let answer = ranged(&link, "bytes=10-19");
    assert_eq!((answer.status, answer.header("accept-ranges"), answer.header("content-range")), (200, None, None));
    assert_eq!(answer.body, content);

    hub.set_faults(Faults { short_body: true, ..Faults::default() });
    let answer = ranged(&link, "bytes=10-19");
    assert_eq!((answer.status, answer.header("content-range")), (206, Some("bytes 10-19/1000")));
    assert!(answer.complete);
    assert_eq!(answer.body, content[10..15]);

    hub.set_faults(Faults { content_status: Some(503), ..Faults::default() });
    assert_eq!((get(&link).status, head(&link).status), (503, 503));
    assert_eq!(get(&format!("{}/a/m/resolve/main/config.json", hub.url())).status, 503);
    json_of(&format!("{}/api/models/a/m", hub.url()));
}

#[test]
fn an_endless_body_does_not_end() {
    let (hub, link) = hub(1000);
    hub.set_faults(Faults { endless_body: true, ..Faults::default() });
    let mut connection = open("GET", &link, &[]);
    assert_eq!(connection.answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(connection.answer.header("content-length"), None);
    assert_eq!(connection.read_body(8_000_000).len(), 8_000_000);
    assert!(hub.bytes_sent() > 7_900_000);
}

#[test]
fn the_content_changes() {
    let (hub, link) = hub(1000);
    hub.set_faults(Faults { etag_changes_after: Some(2), ..Faults::default() });
    let first = ranged(&link, "bytes=0-99");
    let second = ranged(&link, "bytes=0-99");
    let etag = first.header("etag").expect("an ETag");
    assert_eq!((Some(etag), &first.body), (second.header("etag"), &second.body));
    let third = ask("GET", &link, &[("Range", "bytes=0-99"), ("If-Range", etag)]);
    assert_eq!((third.status, third.body.len()), (200, 1000));
    assert_ne!(third.header("etag"), Some(etag));
    assert_ne!(third.body[..100], first.body);
    assert_eq!(head(&link).header("etag"), third.header("etag"));
}

#[test]
fn the_api_is_wrong_about_sizes_and_digests() {
    let (hub, link) = hub(1000);
    let model = format!("{}/api/models/a/m?blobs=true", hub.url());
    let tree = format!("{}/api/models/a/m/tree/main?recursive=true", hub.url());
    let resolve = format!("{}/a/m/resolve/main/sub/model.gguf", hub.url());
    let (true_model, true_tree, true_head) = (json_of(&model), json_of(&tree), head(&resolve));
    hub.set_faults(Faults { wrong_size: true, ..Faults::default() });
    assert_eq!(json_of(&model)["siblings"][1]["size"], 1001);
    assert_eq!(json_of(&model)["siblings"][1]["lfs"]["size"], 1001);
    assert_eq!(json_of(&tree)[2]["size"], 1001);
    assert_eq!(head(&resolve).header("x-linked-size"), Some("1000"));
    hub.set_faults(Faults { wrong_digest: true, ..Faults::default() });
    let wrong = &json_of(&model)["siblings"][1]["lfs"]["sha256"];
    assert_ne!(wrong, &true_model["siblings"][1]["lfs"]["sha256"]);
    assert_eq!(wrong, &json_of(&tree)[2]["lfs"]["oid"]);
    assert_ne!(json_of(&tree)[0]["oid"], true_tree[0]["oid"]);
    let answer = head(&resolve);
    assert_ne!(answer.header("x-linked-etag"), true_head.header("x-linked-etag"));
    assert_eq!(answer.header("x-linked-etag"), wrong.as_str().map(|wrong| format!("\"{wrong}\"")).as_deref());
    assert_eq!(get(&link).body, pattern(1, 0, 1000));
}

#[test]
fn redirects_go_astray() {
    let (hub, _) = hub(1000);
    let resolve = format!("{}/a/m/resolve/main/sub/model.gguf?x=1", hub.url());
    hub.set_faults(Faults { redirect_to: Some("http://127.0.0.2:9/x".into()), ..Faults::default() });
    assert_eq!(get(&resolve).header("location"), Some("http://127.0.0.2:9/x"));
    hub.set_faults(Faults { redirect_loop: true, ..Faults::default() });
    assert_eq!(get(&resolve).header("location"), Some(&*resolve));
    let small = format!("{}/a/m/resolve/main/config.json", hub.url());
    assert_eq!((head(&small).status, head(&small).header("location")), (302, Some(&*small)));
}

#[test]
fn links_expire() {
    let (hub, unused) = hub(1000);
    hub.set_faults(Faults { expired_links: true, ..Faults::default() });
    let other = link(&hub);
    assert_ne!(unused, other);
    for link in [unused, other] {
        assert_eq!((get(&link).status, get(&link).status), (200, 403));
    }
    assert_eq!(get(&format!("{}/a/m/resolve/main/config.json", hub.url())).status, 200);
}

#[test]
fn api_answers_are_useless() {
    let (hub, _) = hub(10);
    let api = format!("{}/api/models/a/m", hub.url());
    hub.set_faults(Faults { api_status: Some(502), ..Faults::default() });
    assert_eq!(get(&api).status, 502);
    assert_eq!(get(&format!("{}/a/m/resolve/main/config.json", hub.url())).status, 200);
    hub.set_faults(Faults { api_html: true, ..Faults::default() });
    let page = get(&api);
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().starts_with("<!DOCTYPE html>"));
    hub.set_faults(Faults { huge_api: true, ..Faults::default() });
    let mut huge = open("GET", &api, &[]);
    assert_eq!((huge.answer.status, huge.answer.header("content-encoding")), (200, None));
    assert_eq!(huge.read_body(4_000_000).len(), 4_000_000);
    assert_eq!(hub.bytes_sent(), 15, "none of it is content");
}

#[test]
fn a_bomb_expands_to_a_gibibyte() {
    let (hub, _) = hub(10);
    hub.set_faults(Faults { gzip_bomb: true, ..Faults::default() });
    let answer = get(&format!("{}/api/models?search=x", hub.url()));
    assert_eq!((answer.status, answer.header("content-encoding")), (200, Some("gzip")));
    assert!(answer.complete && answer.body.len() < 4 * 1024 * 1024, "{}", answer.body.len());
    // The decoder checks the sum at the end.
    let (mut decoder, mut buffer, mut total) = (GzDecoder::new(&*answer.body), vec![0; 1024 * 1024], 0);
    loop {
        let length = decoder.read(&mut buffer).expect("it is sound");
        if length == 0 {
            break;
        }
        assert!(buffer[..length].iter().all(|byte| *byte == b' '));
        total += length;
    }
    assert_eq!(total, 1024 * 1024 * 1024);
}

#[test]
fn a_silent_hub_accepts_and_does_not_answer() {
    let (hub, link) = hub(10);
    hub.set_faults(Faults { silent: true, ..Faults::default() });
    let silent = std::thread::scope(|scope| {
        let asking = scope.spawn(|| open("GET", &link, &[]).answer.status);
        // The request was heard; an answer would come with the next line of the log.
        while hub.seen().last().map(|seen| seen.status) != Some(0) {
            std::thread::yield_now();
        }
        let silent = !asking.is_finished();
        drop(hub);
        silent && asking.join().expect("it does not panic") == 0
    });
    assert!(silent);
}

#[test]
fn answers_and_bodies_are_slow() {
    let (hub, link) = hub(200_000);
    hub.set_faults(Faults {
        answer_delay: Duration::from_millis(200),
        bytes_per_second: Some(400_000),
        ..Faults::default()
    });
    let start = Instant::now();
    let connection = open("GET", &link, &[]);
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert!(connection.finish().complete);
    let took = start.elapsed();
    // 200 ms, then half a second less what it may catch up.
    assert!((Duration::from_millis(640)..Duration::from_secs(3)).contains(&took), "{took:?}");
    let start = Instant::now();
    json_of(&format!("{}/api/models/a/m", hub.url()));
    assert!(start.elapsed() < Duration::from_millis(200), "the API is not slow");
}
