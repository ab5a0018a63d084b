//! `model.json`, in which Jan kept a model until 0.5.7. Read with patience: people edit it by hand, and every
//! version of the app wrote it a little differently. Pure.

use crate::update::fitting_values;
use serde_json::{Map, Value};

/// Engines that ran GGUF files on this machine, by all of their names.
const LOCAL_ENGINES: &[&str] = &["nitro", "cortex", "llama-cpp", "llama.cpp", "cortex.llamacpp"];
/// Engines of this machine that run other files.
const OTHER_LOCAL_ENGINES: &[&str] =
    &["nitro-tensorrt-llm", "tensorrt-llm", "cortex.tensorrt-llm", "onnxruntime", "cortex.onnx"];
/// Engines of other machines.
const REMOTE_ENGINES: &[&str] =
    &["openai", "groq", "mistral", "martian", "cohere", "anthropic", "openrouter", "nvidia", "triton_trtllm"];

/// What a model.json says.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ModelJson {
    /// Its id, byte for byte; `None` when it has none.
    pub(crate) id: Option<String>,
    /// The name to show.
    pub(crate) name: Option<String>,
    /// Where its files come from, or where they are.
    pub(crate) sources: Vec<Source>,
    pub(crate) engine: Engine,
    /// The names of the weights and of the vision part that the settings give.
    pub(crate) weights: Option<String>,
    pub(crate) projector: Option<String>,
    /// What a model.yaml keeps of its settings and parameters.
    pub(crate) settings: Map<String, Value>,
    /// What is wrong with those that were left out; mostly nothing.
    pub(crate) left_out: String,
}

/// One of its sources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Source {
    pub(crate) filename: Option<String>,
    pub(crate) url: String,
}

impl Source {
    /// Whether it is somewhere else.
    pub(crate) fn is_remote(&self) -> bool {
        let lower = self.url.trim_start().to_ascii_lowercase();
        lower.starts_with("http://") || lower.starts_with("https://")
    }

    /// The last part of its URL or path.
    pub(crate) fn last_part(&self) -> Option<&str> {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        path.rsplit(['/', '\\']).next().filter(|name| !name.is_empty())
    }
}

/// Who ran it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Engine {
    /// llama.cpp on this machine.
    #[default]
    Local,
    /// Another engine of this machine.
    Other(String),
    /// Another machine.
    Remote(String),
    /// Nobody that is known.
    Unknown(String),
}

/// Reads the bytes of a file. The error is a sentence.
pub(crate) fn parse(bytes: &[u8]) -> Result<ModelJson, String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err("it is empty".into());
    }
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        // A path of Windows that was typed as it is.
        Err(error) => serde_json::from_str(&with_doubled_backslashes(text)).map_err(|_| error.to_string())?,
    };
    let Value::Object(json) = value else { return Err("it is no JSON object".into()) };
    let settings = object(&json, "settings");
    let parameters = object(&json, "parameters");
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty() && text != "N/A");
    let id = text_of(&json, "id").filter(|id| !id.is_empty());
    // What no model.yaml takes would be complained about again and again.
    let (kept, left_out) = fitting_values(&kept(&settings, &parameters));
    Ok(ModelJson {
        name: filled(text_of(&json, "name")),
        sources: sources(&json, id.as_deref()),
        engine: engine(&json, &parameters),
        weights: filled(text_of(&settings, "llama_model_path")),
        projector: filled(text_of(&settings, "mmproj")),
        settings: kept,
        left_out,
        id,
    })
}

/// The list of sources under any of its three names.
fn sources(json: &Map<String, Value>, id: Option<&str>) -> Vec<Source> {
    let one = |value: &Value| match value {
        Value::String(url) => Some(Source { filename: None, url: url.clone() }),
        Value::Object(source) => Some(Source {
            filename: text_of(source, "filename").filter(|name| !name.is_empty()),
            url: text_of(source, "url").unwrap_or_default(),
        }),
        _ => None,
    };
    for key in ["sources", "source"] {
        match json.get(key) {
            Some(Value::Array(items)) if !items.is_empty() => return items.iter().filter_map(one).collect(),
            Some(value @ (Value::Object(_) | Value::String(_))) => return one(value).into_iter().collect(),
            _ => {}
        }
    }
    // The oldest form: the file was named after the model.
    let url = text_of(json, "source_url").filter(|url| !url.is_empty() && url != "N/A");
    url.map(|url| Source { filename: id.map(str::to_owned), url }).into_iter().collect()
}

fn engine(json: &Map<String, Value>, parameters: &Map<String, Value>) -> Engine {
    let named = text_of(json, "engine").or_else(|| text_of(parameters, "engine")).filter(|name| !name.is_empty());
    let format = text_of(json, "format").unwrap_or_default().to_lowercase();
    let Some(name) = named else {
        return match format.as_str() {
            "api" => Engine::Remote("a remote service".into()),
            "tensorrt-llm" => Engine::Other("TensorRT-LLM".into()),
            _ => Engine::Local,
        };
    };
    let lower = name.to_lowercase();
    let is_in = |names: &[&str]| names.contains(&lower.as_str());
    if is_in(LOCAL_ENGINES) {
        Engine::Local
    } else if is_in(OTHER_LOCAL_ENGINES) {
        Engine::Other(name)
    } else if is_in(REMOTE_ENGINES) || format == "api" {
        Engine::Remote(name)
    } else {
        Engine::Unknown(name)
    }
}

/// What goes into a model.yaml: values that mean the same there, as what they should have been.
fn kept(settings: &Map<String, Value>, parameters: &Map<String, Value>) -> Map<String, Value> {
    let mut kept = Map::new();
    for (of, key) in [
        (settings, "ctx_len"),
        (settings, "ngl"),
        (settings, "n_parallel"),
        (settings, "cpu_threads"),
        (parameters, "max_tokens"),
        (parameters, "top_k"),
    ] {
        // The user interface wrote floats and texts as well.
        if let Some(number) = of.get(key).and_then(number_of).filter(|number| number.abs() < 1e15) {
            #[expect(clippy::cast_possible_truncation, reason = "checked above")]
            kept.insert(key.into(), Value::from(number.floor() as i64));
        }
    }
    for key in ["temperature", "top_p", "frequency_penalty", "presence_penalty"] {
        if let Some(number) = parameters.get(key).and_then(number_of) {
            kept.insert(key.into(), Value::from(number));
        }
    }
    if let Some(stream) = parameters.get("stream").and_then(Value::as_bool) {
        kept.insert("stream".into(), stream.into());
    }
    let stops = match parameters.get("stop") {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).collect(),
        Some(Value::String(text)) if !text.is_empty() => vec![text.as_str()],
        _ => vec![],
    };
    if !stops.is_empty() {
        kept.insert("stop".into(), stops.into());
    }
    if let Some(template) = text_of(settings, "prompt_template").filter(|text| !text.trim().is_empty()) {
        kept.insert("prompt_template".into(), template.into());
    }
    kept
}

fn object(json: &Map<String, Value>, key: &str) -> Map<String, Value> {
    json.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn text_of(json: &Map<String, Value>, key: &str) -> Option<String> {
    json.get(key).and_then(Value::as_str).map(str::to_owned)
}

fn number_of(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

/// Doubles each backslash inside of a text that begins no escape of a path: `C:\models\x` is what was meant.
fn with_doubled_backslashes(text: &str) -> String {
    let mut mended = String::with_capacity(text.len() + 16);
    let mut inside = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                inside = !inside;
                mended.push(letter);
            }
            '\\' if inside => match letters.peek() {
                Some('"') => {
                    mended.push(letter);
                    mended.extend(letters.next());
                }
                Some('\\') => {
                    mended.push_str("\\\\");
                    letters.next();
                }
                _ => mended.push_str("\\\\"),
            },
            _ => mended.push(letter),
        }
    }
    mended
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> ModelJson {
        parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_file_of_the_last_version_is_read() {
        let model = read(&json!({
            "sources": [{"filename": "tiny.Q4_0.gguf", "url": "https://example.org/a/tiny.Q4_0.gguf?download=true"}],
            "id": "tiny-1.0", "name": "Tiny", "engine": "nitro", "format": "gguf", "version": "1.0",
            "settings": {"ctx_len": 2048, "ngl": 33, "prompt_template": "<u>{prompt}<a>", "llama_model_path": "tiny.Q4_0.gguf"},
            "parameters": {"temperature": 0.25, "top_p": 0.5, "max_tokens": 512, "stop": ["<end>", ""], "stream": true},
        }));
        assert_eq!((model.id.as_deref(), model.name.as_deref()), (Some("tiny-1.0"), Some("Tiny")));
        assert_eq!(model.engine, Engine::Local);
        assert_eq!(model.weights.as_deref(), Some("tiny.Q4_0.gguf"));
        assert!(model.sources[0].is_remote());
        assert_eq!(model.sources[0].last_part(), Some("tiny.Q4_0.gguf"));
        assert_eq!(
            Value::Object(model.settings),
            json!({"ctx_len": 2048, "ngl": 33, "max_tokens": 512, "temperature": 0.25, "top_p": 0.5, "stream": true,
                "stop": ["<end>"], "prompt_template": "<u>{prompt}<a>"})
        );
    }

    #[test]
    fn older_and_stranger_files_are_read_too() {
        for (value, expected) in [
            (
                json!({"id": "m", "source_url": "https://x.org/blob/m.gguf"}),
                vec![(Some("m"), "https://x.org/blob/m.gguf")],
            ),
            (json!({"id": "m", "source_url": "N/A"}), vec![]),
            (json!({"source": [{"url": "/a/m.gguf"}]}), vec![(None, "/a/m.gguf")]),
            (
                json!({"sources": [], "source": {"url": "m.gguf", "filename": "m.gguf"}}),
                vec![(Some("m.gguf"), "m.gguf")],
            ),
            (json!({"sources": ["m.gguf", 7, {"filename": ""}]}), vec![(None, "m.gguf"), (None, "")]),
        ] {
            let model = read(&value);
            let found: Vec<_> =
                model.sources.iter().map(|source| (source.filename.as_deref(), source.url.as_str())).collect();
            assert_eq!(found, expected, "{value}");
        }
        let odd =
            read(&json!({"id": 7, "version": 1, "settings": {"ctx_len": "4096", "ngl": 12.9, "n_parallel": "many"},
            "parameters": {"stop": null, "temperature": "0.5", "top_k": 1e300}}));
        assert_eq!(odd.id, None);
        assert_eq!(Value::Object(odd.settings), json!({"ctx_len": 4096, "ngl": 12, "temperature": 0.5}));
    }

    #[test]
    fn who_ran_it_is_known_also_when_it_is_not_said() {
        for (value, engine) in [
            (json!({}), Engine::Local),
            (json!({"engine": "llama-cpp"}), Engine::Local),
            (json!({"engine": "nitro-tensorrt-llm"}), Engine::Other("nitro-tensorrt-llm".into())),
            (json!({"format": "TensorRT-LLM"}), Engine::Other("TensorRT-LLM".into())),
            (json!({"engine": "groq", "format": "api"}), Engine::Remote("groq".into())),
            (json!({"format": "api"}), Engine::Remote("a remote service".into())),
            (json!({"engine": "mine", "format": "api"}), Engine::Remote("mine".into())),
            (json!({"parameters": {"engine": "openai"}}), Engine::Remote("openai".into())),
            (json!({"engine": "mine"}), Engine::Unknown("mine".into())),
        ] {
            assert_eq!(read(&value).engine, engine, "{value}");
        }
    }

    #[test]
    fn marks_line_ends_and_typed_paths_do_no_harm_and_damage_is_told() {
        let model = parse(b"\xef\xbb\xbf{\r\n  \"id\": \"a\"\r\n}\r\n  ").unwrap();
        assert_eq!(model.id.as_deref(), Some("a"));
        let typed = parse(br#"{"id": "a \"b\"", "sources": [{"url": "C:\models\new\x.gguf"}]}"#).unwrap();
        assert_eq!((typed.id.as_deref(), typed.sources[0].url.as_str()), (Some("a \"b\""), r"C:\models\new\x.gguf"));
        let doubled = parse(br#"{"sources": [{"url": "D:\\m\\x.gguf"}]}"#).unwrap();
        assert_eq!(doubled.sources[0].url, r"D:\m\x.gguf");
        for (bytes, word) in
            [(&b" \n"[..], "empty"), (b"[]", "no JSON object"), (b"{\"id\": ", "EOF"), (b"null", "no JSON object")]
        {
            assert!(parse(bytes).unwrap_err().contains(word), "{bytes:?}");
        }
    }
}
