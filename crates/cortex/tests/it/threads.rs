//! Conversations as Jan and OpenAI's clients ask for them; an older program works on the same files.

use crate::registry::send;
use cortex_test::daemon::TestDaemon;
use serde_json::{Value, json};

#[tokio::test]
async fn jan_keeps_its_conversations_here() {
    let daemon = TestDaemon::start();
    assert_eq!(send(&daemon, "GET", "/v1/threads?limit=-1", None).await, (200, json!({"object": "list", "data": []})));
    // What Jan sends with a new thread: an id of its own, which counts for nothing, and its assistant.
    let assistant = json!({
        "assistant_id": "jan", "assistant_name": "Jan", "instructions": "Be kind",
        "model": {"id": "mistral-7b", "settings": {"ngl": 3}, "parameters": {"top_p": 0.9}, "engine": "llama-cpp"}, "tools": [],
    });
    let new = json!({"id": "jan_1", "object": "thread", "title": "New Thread", "assistants": [assistant], "metadata": {"title": "New Thread"}});
    let (status, thread) = send(&daemon, "POST", "/v1/threads", Some(&new)).await;
    assert_eq!((status, thread["object"].as_str()), (200, Some("thread")), "{thread}");
    let id = thread["id"].as_str().unwrap();
    assert_ne!(id, "jan_1");
    let of_thread = format!("/v1/assistants/{id}");
    let (status, created) = send(&daemon, "POST", &of_thread, Some(&assistant)).await;
    assert_eq!((status, created["id"].as_str()), (201, Some("jan")), "{created}");
    let (status, found) = send(&daemon, "GET", &format!("{of_thread}?limit=-1"), None).await;
    assert_eq!((status, &found["model"]), (200, &assistant["model"]), "{found}");
    let mut other = assistant.clone();
    other["model"]["id"] = "other".into();
    let (status, changed) = send(&daemon, "PATCH", &of_thread, Some(&other)).await;
    assert_eq!((status, changed["model"]["id"].as_str()), (200, Some("other")), "{changed}");
    let one = format!("/v1/threads/{id}");
    let titled = json!({"title": "Ships", "metadata": {"title": "Ships", "updated_at": 1_712_345_678}});
    let (status, changed) = send(&daemon, "PATCH", &one, Some(&titled)).await;
    assert_eq!((status, &changed["metadata"]), (200, &titled["metadata"]));
    // Messages, in the order that they were sent in.
    let all = format!("{one}/messages");
    let mut ids = Vec::new();
    for (role, text) in [("user", "Hello"), ("assistant", "Hi")] {
        let content = json!([{"type": "text", "text": {"value": text, "annotations": []}}]);
        let (status, message) =
            send(&daemon, "POST", &all, Some(&json!({"role": role, "content": content, "metadata": {"a": 1}}))).await;
        assert_eq!((status, &message["content"]), (200, &content), "{message}");
        ids.push(message["id"].as_str().unwrap().to_owned());
    }
    let (_, listed) = send(&daemon, "GET", &format!("{all}?order=asc&limit=-1"), None).await;
    let listed_ids: Vec<&str> =
        listed["data"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(listed_ids, ids);
    let last = format!("{all}/{}", ids[1]);
    let content = json!([{"type": "text", "text": {"value": "Hi there", "annotations": []}}]);
    let (status, changed) = send(&daemon, "PATCH", &last, Some(&json!({"content": content, "metadata": {}}))).await;
    assert_eq!((status, &changed["content"]), (200, &content));
    assert_eq!(send(&daemon, "GET", &last, None).await, (200, changed));
    assert_eq!(
        send(&daemon, "DELETE", &last, None).await,
        (200, json!({"id": ids[1], "object": "thread.message.deleted", "deleted": true}))
    );
    // The old program writes in place and adds lines; both is seen at once.
    let folder = daemon.data().join("threads").join(id);
    let mut stored: Value = serde_json::from_slice(&fs_err::read(folder.join("thread.json")).unwrap()).unwrap();
    assert_eq!((&stored["title"], &stored["assistants"][0]["model"]["id"]), (&json!("Ships"), &json!("other")));
    stored["metadata"]["title"] = "Boats".into();
    fs_err::write(folder.join("thread.json"), stored.to_string()).unwrap();
    let mut lines = fs_err::read_to_string(folder.join("messages.jsonl")).unwrap();
    lines.push_str("{\"id\":\"old\",\"role\":\"user\",\"created\":1712345678000,\"content\":[]}\n{\"torn");
    fs_err::write(folder.join("messages.jsonl"), lines).unwrap();
    let (_, threads) = send(&daemon, "GET", "/v1/threads", None).await;
    assert_eq!(threads["data"][0]["metadata"]["title"], "Boats");
    let (_, listed) = send(&daemon, "GET", &format!("{all}?order=asc"), None).await;
    assert_eq!(
        (listed["data"].as_array().unwrap().len(), &listed["data"][1]["created_at"]),
        (2, &json!(1_712_345_678))
    );
    assert_eq!(
        send(&daemon, "DELETE", &one, None).await,
        (200, json!({"id": id, "object": "thread.deleted", "deleted": true}))
    );
    assert!(!folder.exists());
}

#[tokio::test]
async fn what_is_not_there_or_makes_no_sense_is_told_as_ever() {
    let daemon = TestDaemon::start();
    let (_, thread) = send(&daemon, "POST", "/v1/threads", Some(&json!({}))).await;
    let thread = thread["id"].as_str().unwrap();
    let path = |path: &str| path.replace("{t}", thread);
    for (method, route, body, why) in [
        ("GET", "/v1/threads/none", None, "Path does not exist: "),
        ("GET", "/v1/threads/..%2F..", None, "is not a possible id"),
        ("GET", "/v1/threads?order=up", None, "order is `up`"),
        ("GET", "/v1/threads?limit=x", None, "the query is not valid"),
        ("PATCH", "/v1/threads/none", Some(json!({"metadata": {"a": 1}})), "Failed to retrieve thread: "),
        ("PATCH", "/v1/threads/{t}", Some(json!({})), "Metadata can't be empty"),
        ("DELETE", "/v1/threads/none", None, "Failed to delete thread: Thread doesn't exist: none"),
        ("POST", "/v1/threads", None, "Request body can't be empty"),
        ("POST", "/v1/threads/{t}/messages", Some(json!({"content": "a"})), "Role is required"),
        ("POST", "/v1/threads/none/messages", Some(json!({"role": "user", "content": "a"})), "Path does not exist: "),
        ("GET", "/v1/threads/{t}/messages/none", None, "Message not found"),
        ("GET", "/v1/threads/{t}/messages?after=b&before=a", None, "Invalid range: 'after' must be less than 'before'"),
        (
            "PATCH",
            "/v1/threads/{t}/messages/none",
            Some(json!({"content": "a"})),
            "Failed to modify message: Message not found",
        ),
        ("DELETE", "/v1/threads/{t}/messages/none", None, "Failed to delete message: Message not found"),
        ("GET", "/v1/assistants/{t}", None, "Assistant not found in thread: "),
        ("POST", "/v1/assistants", Some(json!({"name": "a"})), "Model is mandatory"),
        ("DELETE", "/v1/assistants/none", None, "Assistant doesn't exist: none"),
    ] {
        let (status, answer) = send(&daemon, method, &path(route), body.as_ref()).await;
        assert_eq!(status, 400, "{method} {route}: {answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.starts_with(why) || message.contains(why), "{method} {route}: {message}");
        assert_eq!(answer["error"]["message"], message);
    }
}

#[tokio::test]
async fn assistants_are_those_of_openai_with_its_header() {
    let daemon = TestDaemon::start();
    let given = json!({"model": "m", "name": "A", "instructions": "Be brief"});
    let (status, made) = send(&daemon, "POST", "/v1/assistants", Some(&given)).await;
    assert_eq!((status, &made["instructions"]), (200, &given["instructions"]), "{made}");
    let one = daemon.url(&format!("/v1/assistants/{}", made["id"].as_str().unwrap()));
    let client = crate::http::client();
    let ask = |method: &str, body: Option<Value>| {
        let request = client.request(method.parse().unwrap(), &one).header("OpenAI-Beta", "assistants=v2");
        async {
            let request = if let Some(body) = body { request.json(&body) } else { request };
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        }
    };
    assert_eq!(ask("GET", None).await, (200, made.clone()));
    let (status, changed) = ask("POST", Some(json!({"name": "B"}))).await;
    assert_eq!((status, &changed["name"], &changed["model"]), (200, &json!("B"), &json!("m")));
    assert_eq!(send(&daemon, "GET", "/v1/assistants", None).await.1["data"], json!([changed]));
    assert_eq!(ask("DELETE", None).await.1["deleted"], true);
    assert_eq!(ask("GET", None).await.0, 400);
}
