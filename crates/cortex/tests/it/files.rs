//! Files that clients send: forms, as OpenAI's and cortex.cpp's clients write them.

use crate::{
    http::{client, get},
    registry::send,
};
use cortex_test::daemon::TestDaemon;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

async fn upload(daemon: &TestDaemon, form: Form) -> (u16, Value) {
    let answer = client().post(daemon.url("/v1/files")).multipart(form).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn part(name: &str, content: Vec<u8>) -> Part {
    Part::bytes(content).file_name(name.to_owned())
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_sent() {
    let daemon = TestDaemon::start();
    // Longer than a body of JSON may be.
    let content: Vec<u8> = (0..40u32 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let form = Form::new().text("purpose", "assistants").part("file", part("a b é.bin", content.clone()));
    let (status, file) = upload(&daemon, form).await;
    assert_eq!(
        (status, &file["bytes"], &file["filename"]),
        (200, &json!(content.len()), &json!("a b é.bin")),
        "{file}"
    );
    let id = file["id"].as_str().unwrap();
    assert!(id.starts_with("file-") && id.len() == 31, "{id}");
    assert_eq!(get(&daemon, &format!("/v1/files/{id}")).await, (200, file.clone()));
    let answer = client().get(daemon.url(&format!("/v1/files/{id}/content"))).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert!(answer.bytes().await.unwrap() == content);
    let (_, second) =
        upload(&daemon, Form::new().part("file", part("a b é.bin", vec![1])).text("purpose", "vision")).await;
    assert_eq!(second["filename"], "a b é_1.bin");
    let (_, list) = get(&daemon, "/v1/files?purpose=vision").await;
    assert_eq!(list, json!({"object": "list", "data": [second]}));
    let gone = json!({"id": id, "object": "file", "deleted": true});
    assert_eq!(send(&daemon, "DELETE", &format!("/v1/files/{id}"), None).await, (200, gone));
    assert_eq!(get(&daemon, &format!("/v1/files/{id}/content")).await.1["message"], format!("File not found: {id}"));
    assert_eq!(fs_err::read_dir(daemon.data().join("files")).unwrap().count(), 1);
}

#[tokio::test]
async fn what_is_no_file_is_refused() {
    let daemon = TestDaemon::start();
    for (form, said) in [
        (Form::new().text("purpose", "assistants"), "Must only be one file"),
        (
            Form::new().text("purpose", "vision").part("a", part("a", vec![1])).part("b", part("b", vec![1])),
            "Must only be one file",
        ),
        (Form::new().part("file", part("a", vec![1])), "purpose is mandatory"),
        (Form::new().text("purpose", "fun").part("file", part("a", vec![1])), "purpose is not supported"),
        (
            Form::new().text("purpose", "vision").part("file", part("../../x", vec![1])),
            "Error resolving path in: ../../x",
        ),
        (Form::new().text("purpose", "vision").part("file", part(".cortexrc", vec![1])), "Error resolving path in"),
    ] {
        let (status, answer) = upload(&daemon, form).await;
        assert!(status == 400 && answer["message"].as_str().unwrap().starts_with(said), "{said}: {answer}");
    }
    assert_eq!(send(&daemon, "POST", "/v1/files", Some(&json!({"purpose": "vision"}))).await.0, 415);
    let broken = client().post(daemon.url("/v1/files")).header("content-type", "multipart/form-data; boundary=x");
    let broken = broken.body("--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nhalf");
    assert_eq!(broken.send().await.unwrap().status().as_u16(), 400);
    let left = fs_err::read_dir(daemon.data().join("files")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "nothing stays of what was refused");
    assert_eq!(get(&daemon, "/v1/files/file-x?thread=jan_1").await.0, 404);
    let inside = daemon.data().join("threads/jan_1/files");
    fs_err::create_dir_all(&inside).unwrap();
    fs_err::write(inside.join("01J.pdf"), "pdf").unwrap();
    assert_eq!(get(&daemon, "/v1/files/01J?thread=jan_1").await.1["filename"], "01J.pdf");
    let content = client().get(daemon.url("/v1/files/01J/content?thread=jan_1")).send().await.unwrap();
    assert_eq!(content.text().await.unwrap(), "pdf");
}
