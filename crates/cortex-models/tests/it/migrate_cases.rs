//! Each kind of folder that people have, and what becomes of it.

use crate::legacy::{Legacy, downloadable, gguf};
use cortex_models::Outcome;
use serde_json::json;
use std::path::Path;

/// One case: what lies in the folder, and what becomes of it: result, id, weights, a word of the reason.
pub(crate) type Case = (&'static str, fn(&Legacy), Outcome, Option<&'static str>, Option<&'static str>, &'static str);

pub(crate) const CASES: &[Case] = {
    use Outcome::{Registered, Skipped, Unresolved};
    &[
        (
            "downloaded",
            |it| drop(it.downloaded("downloaded", "downloaded", "d.Q4.gguf")),
            Registered,
            Some("downloaded"),
            Some("downloaded/d.Q4.gguf"),
            "",
        ),
        (
            "no-id",
            |it| {
                it.json(
                    "no-id",
                    &json!({"engine": "nitro", "sources": [{"filename": "n.gguf", "url": "https://x.example/n.gguf"}]}),
                );
                it.file("no-id/n.gguf", gguf());
            },
            Registered,
            Some("no-id"),
            Some("no-id/n.gguf"),
            "",
        ),
        (
            "other-folder",
            |it| drop(it.downloaded("other-folder", "The Id (1).Q4+x", "o.gguf")),
            Registered,
            Some("The Id (1).Q4+x"),
            Some("other-folder/o.gguf"),
            "",
        ),
        (
            "source-url",
            |it| {
                it.json("source-url", &json!({"id": "source-url", "source_url": "https://x.example/blob/main/s.gguf"}));
                it.file("source-url/source-url", gguf());
            },
            Registered,
            Some("source-url"),
            Some("source-url/source-url"),
            "",
        ),
        (
            "singular",
            |it| {
                it.json("singular", &json!({"id": "singular", "source": [{"filename": "s.gguf", "url": "https://x.example/s.gguf"}], "version": 1, "parameters": {"stop": null}}));
                it.file("singular/s.gguf", gguf());
            },
            Registered,
            Some("singular"),
            Some("singular/s.gguf"),
            "",
        ),
        (
            "nested",
            |it| {
                it.json("nested/Maker/deep", &downloadable("nested:deep", "n.gguf"));
                it.file("nested/Maker/deep/n.gguf", gguf());
            },
            Registered,
            Some("nested:deep"),
            Some("nested/Maker/deep/n.gguf"),
            "",
        ),
        (
            "marks",
            |it| {
                let text = format!("\u{feff}{}  \r\n ", downloadable("marks", "m.gguf")).replace(',', ",\r\n");
                it.file("marks/model.json", text);
                it.file("marks/m.gguf", gguf());
            },
            Registered,
            Some("marks"),
            Some("marks/m.gguf"),
            "",
        ),
        (
            "damaged",
            |it| {
                it.file("damaged/model.json", "{\"id\": \"damaged\", ");
                it.file("damaged/d.gguf", gguf());
            },
            Unresolved,
            None,
            None,
            "makes no sense: EOF",
        ),
        (
            "pipe-json",
            |it| {
                it.file("pipe-json/p.gguf", gguf());
                let pipe = it.path("models/pipe-json/model.json");
                let is_made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success();
                assert!(is_made || pipe.exists());
            },
            Unresolved,
            None,
            None,
            "cannot be read: it is no regular file",
        ),
        (
            "deeper",
            |it| {
                it.file("deeper/a/x.gguf", gguf());
                it.file("deeper/b/c/y.gguf", gguf());
            },
            Unresolved,
            None,
            None,
            "deeper/b/c/y.gguf",
        ),
        (
            "upwards",
            |it| drop(std::os::unix::fs::symlink("..", it.path("models/upwards"))),
            Skipped,
            None,
            None,
            "it lies itself",
        ),
        ("empty-json", |it| drop(it.file("empty-json/model.json", "")), Unresolved, None, None, "it is empty"),
        (
            "offered",
            |it| drop(it.json("offered", &downloadable("offered", "o.gguf"))),
            Skipped,
            Some("offered"),
            None,
            "never downloaded",
        ),
        (
            "partial",
            |it| {
                it.json("partial", &downloadable("partial", "p.gguf"));
                it.file("partial/p.gguf.download", "half");
            },
            Unresolved,
            Some("partial"),
            None,
            "p.gguf.download is a download that was not finished",
        ),
        (
            "zero",
            |it| {
                it.json("zero", &downloadable("zero", "z.gguf"));
                it.file("zero/z.gguf", "");
            },
            Unresolved,
            Some("zero"),
            None,
            "z.gguf is empty",
        ),
        (
            "no-gguf",
            |it| {
                it.json("no-gguf", &downloadable("no-gguf", "n.gguf"));
                it.file("no-gguf/n.gguf", "<html>");
            },
            Unresolved,
            Some("no-gguf"),
            None,
            "n.gguf is no GGUF file",
        ),
        (
            "renamed",
            |it| {
                it.json("renamed", &downloadable("renamed", "new-name.gguf"));
                it.file("renamed/older name.Q4.gguf", gguf());
            },
            Registered,
            Some("renamed"),
            Some("renamed/older name.Q4.gguf"),
            "",
        ),
        (
            "several",
            |it| {
                it.json("several", &downloadable("several", "neither.gguf"));
                it.file("several/a.gguf", gguf());
                it.file("several/b.gguf", gguf());
            },
            Unresolved,
            Some("several"),
            None,
            "several models",
        ),
        (
            "dropped",
            |it| drop(it.file("dropped/only.gguf", gguf())),
            Registered,
            Some("dropped"),
            Some("dropped/only.gguf"),
            "",
        ),
        ("nothing", |it| drop(it.file("nothing/notes.txt", "x")), Skipped, None, None, "holds no model"),
        (
            "modèle 日本 (1)",
            |it| drop(it.downloaded("modèle 日本 (1)", "modèle 日本 (1)", "größe.Q4.gguf")),
            Registered,
            Some("modèle 日本 (1)"),
            Some("modèle 日本 (1)/größe.Q4.gguf"),
            "",
        ),
        (
            "linked",
            |it| {
                // On another drive.
                let real = it.path("drive/real");
                fs_err::create_dir_all(&real).unwrap();
                fs_err::write(real.join("model.json"), downloadable("linked", "l.gguf").to_string()).unwrap();
                fs_err::write(real.join("l.gguf"), gguf()).unwrap();
                drop(std::os::unix::fs::symlink(real, it.path("models/linked")));
            },
            Registered,
            Some("linked"),
            Some("linked/l.gguf"),
            "",
        ),
        (
            "copied import",
            |it| {
                it.json("copied import", &json!({"id": "copied import", "engine": "nitro", "sources": [{"url": "C.gguf", "filename": "C.gguf"}], "metadata": {"author": "User"}}));
                it.file("copied import/C.gguf", gguf());
            },
            Registered,
            Some("copied import"),
            Some("copied import/C.gguf"),
            "",
        ),
        (
            "by-path",
            |it| {
                let there = it.file("../elsewhere/Größe 模型.gguf", gguf());
                it.json("by-path", &json!({"id": "by-path", "engine": "nitro", "settings": {"llama_model_path": "Größe 模型.gguf"}, "sources": [{"url": there.parent().unwrap().canonicalize().unwrap().join("Größe 模型.gguf"), "filename": "Größe 模型.gguf"}]}));
            },
            Registered,
            Some("by-path"),
            Some("../elsewhere/Größe 模型.gguf"),
            "",
        ),
        (
            "by-file-url",
            |it| {
                let there = it.file("../elsewhere/my file.gguf", gguf()).canonicalize().unwrap();
                let url = format!("file://{}", there.display()).replace(' ', "%20");
                it.json("by-file-url", &json!({"id": "by-file-url", "sources": [{"url": url}]}));
            },
            Registered,
            Some("by-file-url"),
            Some("../elsewhere/my file.gguf"),
            "",
        ),
        (
            "by-home",
            |it| {
                it.file("../home/at-home.gguf", gguf());
                it.json("by-home", &json!({"id": "by-home", "sources": [{"url": "~/at-home.gguf"}]}));
            },
            Registered,
            Some("by-home"),
            Some("../home/at-home.gguf"),
            "",
        ),
        (
            "gone",
            |it| {
                drop(it.json(
                    "gone",
                    &json!({"id": "gone", "engine": "nitro", "sources": [{"url": "/no-such-drive/gone.gguf"}]}),
                ));
            },
            Registered,
            Some("gone"),
            Some("/no-such-drive/gone.gguf"),
            "not there now",
        ),
        (
            "of-windows",
            |it| {
                drop(it.file("of-windows/model.json", r#"{"id": "of-windows", "engine": "nitro", "sources": [{"url": "C:\models\new\w.gguf", "filename": "w.gguf"}]}"#));
            },
            Unresolved,
            Some("of-windows"),
            None,
            "is a path of another system",
        ),
        (
            "vision",
            |it| {
                it.json("vision", &json!({"id": "vision", "engine": "nitro", "settings": {"llama_model_path": "v.gguf", "mmproj": "mmproj-model-f16.gguf"},
                    "sources": [{"filename": "v.gguf", "url": "https://x.example/v.gguf"}, {"filename": "mmproj-model-f16.gguf", "url": "https://x.example/mmproj-model-f16.gguf"}]}));
                it.file("vision/v.gguf", gguf());
                it.file("vision/mmproj-model-f16.gguf", gguf());
            },
            Registered,
            Some("vision"),
            Some("vision/v.gguf"),
            "",
        ),
        (
            "tensorrt",
            |it| {
                it.json("tensorrt", &json!({"id": "tensorrt", "engine": "nitro-tensorrt-llm", "format": "TensorRT-LLM", "sources": [{"filename": "rank0.engine", "url": "https://x.example/<gpuarch>/rank0.engine"}]}));
                it.file("tensorrt/rank0.engine", "x");
            },
            Skipped,
            Some("tensorrt"),
            None,
            "nitro-tensorrt-llm",
        ),
        (
            "remote",
            |it| {
                drop(it.json("remote", &json!({"id": "big-remote", "engine": "groq", "format": "api", "sources": [{"url": "https://groq.example"}]})));
            },
            Skipped,
            Some("big-remote"),
            None,
            "a model of groq",
        ),
        (
            "strange",
            |it| drop(it.json("strange", &json!({"id": "strange", "engine": "abacus"}))),
            Skipped,
            Some("strange"),
            None,
            "`abacus` is not known",
        ),
        ("config", |it| drop(it.file("config/default-model.json", "{}")), Skipped, None, None, "settings of the app"),
        (
            "beside",
            |it| {
                it.downloaded("beside", "beside", "b.gguf");
                it.file("beside/model.yaml", "model: beside\nfiles: [somewhere/else.gguf]\n");
            },
            Registered,
            Some("beside"),
            Some("beside/b.gguf"),
            "",
        ),
    ]
};

/// A data folder with all of them.
pub(crate) fn build_all(root: &Path) -> Legacy {
    let legacy = Legacy::new(root);
    for (_, build, ..) in CASES {
        build(&legacy);
    }
    legacy.file(".DS_Store", "x");
    legacy.file("stray.txt", "x");
    legacy
}
