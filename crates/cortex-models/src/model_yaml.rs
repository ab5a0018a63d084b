//! `model.yaml`: what is known of one model, and the user's settings for it. Made from the header of the
//! weights, may be edited by hand, may be deleted: then it is made again. Keys that we do not know stay.
//! Everything that touches YAML is in this file.

use crate::{ModelId, weights::Weights};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// A parsed file: its keys and values in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ModelYaml {
    values: Map<String, Value>,
}

/// Why a file is no model.yaml.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not a valid model.yaml: {reason}")]
pub struct YamlError {
    /// What the parser says, with line and column.
    pub reason: String,
}

/// The sections of a file that we write, each key with its comment.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "GENERAL GGUF METADATA",
        &[
            ("id", "what the model is called in requests"),
            ("model", "the same, for older programs"),
            ("name", "metadata.general.name"),
            ("version", "metadata.general.quantization_version"),
            ("files", "relative to the data folder, or absolute"),
            ("mmproj", ""),
            ("architecture", "metadata.general.architecture"),
            ("quantization", "the type of most of the weights"),
            ("parameters", "weights in all tensors"),
        ],
    ),
    (
        "INFERENCE PARAMETERS",
        &[
            ("stop", "texts that end an answer"),
            ("size", "bytes of the files"),
            ("stream", ""),
            ("top_p", "0 to 1"),
            ("temperature", "0 to 5; 0 always takes the most likely token"),
            ("frequency_penalty", ""),
            ("presence_penalty", ""),
            ("max_tokens", "most tokens of an answer"),
            ("seed", "-1: another one every time"),
            ("dynatemp_range", ""),
            ("dynatemp_exponent", ""),
            ("top_k", "0: off"),
            ("min_p", ""),
            ("tfs_z", ""),
            ("typ_p", "1: off"),
            ("repeat_last_n", ""),
            ("repeat_penalty", "1: off"),
            ("mirostat", ""),
            ("mirostat_tau", ""),
            ("mirostat_eta", ""),
            ("penalize_nl", ""),
            ("ignore_eos", ""),
            ("n_probs", ""),
            ("min_keep", ""),
        ],
    ),
    (
        "MODEL LOAD PARAMETERS",
        &[
            ("engine", ""),
            ("prompt_template", ""),
            ("ctx_len", "most tokens that one request may use; the trained context is the limit"),
            ("n_parallel", "requests at the same time; absent: the daemon decides"),
            ("cpu_threads", "absent: one for each core"),
            ("keep_alive", "how long it stays after its last answer: seconds, 5m, 0, -1 (for ever)"),
            ("pin", "never leaves to make room for another"),
            ("ngl", "layers on the GPU"),
            ("lora_adapters", "each with the path of its GGUF, and a scale"),
            ("draft_model", "the path of a small model with the same tokens, which guesses ahead"),
            ("mtp", "layers of the model's own guess ahead, where it has such (multi-token prediction)"),
            ("created", "unix seconds"),
        ],
    ),
];

/// What a key means, where its name does not say all of it.
pub(crate) fn comment(key: &str) -> Option<&'static str> {
    let (_, comment) = SECTIONS.iter().flat_map(|(_, keys)| *keys).find(|(name, _)| *name == key)?;
    Some(*comment).filter(|comment| !comment.is_empty())
}

/// Keys that follow from the files alone.
const OF_FILES: &[&str] =
    &["id", "model", "version", "files", "mmproj", "architecture", "quantization", "parameters", "size", "created"];

impl ModelYaml {
    /// Reads a file's text.
    pub fn parse(text: &str) -> Result<Self, YamlError> {
        let text = text.trim_start_matches('\u{feff}');
        let values: Map<String, Value> =
            serde_saphyr::from_str(text).map_err(|error| YamlError { reason: error.to_string() })?;
        Ok(Self { values })
    }

    /// What the header of the weights says, and cortex.cpp's defaults for the rest.
    /// `files` and `mmproj` are as a yaml has them.
    pub(crate) fn from_weights(
        weights: &Weights,
        id: &ModelId,
        name: Option<&str>,
        (files, mmproj): (&[String], Option<&str>),
    ) -> Self {
        let gguf = &weights.header;
        let mut values = Map::new();
        let name =
            name.map_or_else(|| gguf.text("general.name").unwrap_or(id.as_str()).replace(' ', "-"), str::to_owned);
        let context = gguf.of_architecture("context_length");
        let mut put = |key: &str, value: Value| values.insert(key.to_owned(), value);
        put("id", json!(id));
        put("model", json!(id));
        put("name", json!(name));
        put(
            "version",
            json!(gguf.unsigned("general.quantization_version").map_or_else(String::new, |it| it.to_string())),
        );
        put("files", json!(files));
        if let Some(mmproj) = mmproj {
            put("mmproj", json!(mmproj));
        }
        put("architecture", json!(gguf.architecture()));
        put("quantization", json!(gguf.main_type()));
        put("parameters", json!(weights.parameters));
        put("stop", json!(gguf.eos_text.iter().collect::<Vec<_>>()));
        put("size", json!(weights.bytes));
        put("stream", json!(true));
        put("top_p", json!(0.95));
        put("temperature", json!(0.7));
        put("frequency_penalty", json!(0));
        put("presence_penalty", json!(0));
        if let Some(context) = context {
            put("max_tokens", json!(context));
            put("ctx_len", json!(context));
        }
        put("seed", json!(-1));
        put("dynatemp_range", json!(0));
        put("dynatemp_exponent", json!(1));
        put("top_k", json!(40));
        put("min_p", json!(0.05));
        put("tfs_z", json!(1));
        put("typ_p", json!(1));
        put("repeat_last_n", json!(64));
        put("repeat_penalty", json!(1));
        put("mirostat", json!(false));
        put("mirostat_tau", json!(5));
        put("mirostat_eta", json!(0.1));
        put("penalize_nl", json!(false));
        put("ignore_eos", json!(false));
        put("n_probs", json!(0));
        put("min_keep", json!(0));
        put("engine", json!("llama-cpp"));
        if let Some(layers) = gguf.of_architecture("block_count") {
            put("ngl", json!(layers.saturating_add(1)));
        }
        put("created", json!(jiff::Timestamp::now().as_second()));
        Self { values }
    }

    /// A yaml with these values.
    pub(crate) fn from_values(values: Map<String, Value>) -> Self {
        Self { values }
    }

    /// Sets a value; `null` removes it.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        if value.is_null() {
            self.values.shift_remove(key);
        } else {
            self.values.insert(key.to_owned(), value);
        }
    }

    /// These values, and those of another yaml that these lack.
    pub(crate) fn over(self, mut other: Self) -> Self {
        for (key, value) in self.values {
            other.set(&key, value);
        }
        other
    }

    /// What describes the files as it is here, and everything else as another yaml has it.
    pub(crate) fn with_settings_of(mut self, other: &Self) -> Self {
        for (key, value) in &other.values {
            if !OF_FILES.contains(&key.as_str()) {
                self.set(key, value.clone());
            }
        }
        self
    }

    /// All keys and values, in order.
    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// A number.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.values.get(key)?.as_f64()
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.as_str()
    }

    /// Yes or no.
    pub fn truth(&self, key: &str) -> Option<bool> {
        self.values.get(key)?.as_bool()
    }

    /// A list of texts; a single text is a list of one.
    pub fn texts(&self, key: &str) -> Vec<String> {
        match self.values.get(key) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(items)) => items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => vec![],
        }
    }

    /// The LoRA adapters, each with its path and how much it counts when a request says nothing.
    pub fn adapters(&self) -> Vec<(String, f32)> {
        let Some(Value::Array(items)) = self.values.get("lora_adapters") else { return vec![] };
        items
            .iter()
            .filter_map(|item| {
                #[expect(clippy::cast_possible_truncation, reason = "a scale needs no more")]
                let scale = item["scale"].as_f64().map_or(1.0, |scale| scale as f32);
                Some((item["path"].as_str()?.to_owned(), scale))
            })
            .collect()
    }

    /// The text of a file with these values: commented sections, then what we do not know.
    pub fn print(&self) -> String {
        let mut text = String::new();
        let mut known = Vec::new();
        for (section, keys) in SECTIONS {
            let _ = writeln!(text, "# BEGIN {section}");
            for (key, comment) in *keys {
                known.push(*key);
                if let Some(value) = self.values.get(*key) {
                    print_entry(&mut text, key, value, comment);
                }
            }
            let _ = writeln!(text, "# END {section}\n");
        }
        let others: Vec<_> = self.values.iter().filter(|(key, _)| !known.contains(&key.as_str())).collect();
        if !others.is_empty() {
            text.push_str("# Other keys, kept as they are\n");
            for (key, value) in others {
                print_entry(&mut text, key, value, "");
            }
        }
        text
    }
}

fn print_entry(text: &mut String, key: &str, value: &Value, comment: &str) {
    let comment = if comment.is_empty() { String::new() } else { format!(" # {comment}") };
    let key = if key.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') && !key.is_empty() {
        key.to_owned()
    } else {
        json!(key).to_string()
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            let _ = writeln!(text, "{key}:{comment}");
            for item in items {
                // JSON is YAML: quoted where YAML would misread it.
                let _ = writeln!(text, "  - {item}");
            }
        }
        other => {
            let _ = writeln!(text, "{key}: {other}{comment}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_test::gguf::GgufBuilder;

    fn from_builder() -> ModelYaml {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs_err::write(file.path(), GgufBuilder::llama().build()).expect("written");
        let weights = crate::weights::read(file.path()).expect("reads");
        ModelYaml::from_weights(&weights, &ModelId::existing("tiny: 1"), None, (&["/m/my file.gguf".into()], None))
    }

    #[test]
    fn what_the_header_says_is_there() {
        let yaml = from_builder();
        assert_eq!(yaml.text("name"), Some("Tiny-Test-Llama"));
        assert_eq!(yaml.texts("stop"), ["</s>"]);
        assert_eq!(yaml.number("ctx_len"), Some(128.0));
        assert_eq!(yaml.number("ngl"), Some(2.0));
        assert_eq!(yaml.number("parameters"), Some(3360.0));
    }

    #[test]
    fn a_written_file_reads_the_same_and_keeps_unknown_keys() {
        let mut yaml = from_builder();
        yaml.set("my key", json!({"deep": ["a: b", 1, null]}));
        yaml.set("tp", json!(2));
        let text = yaml.print();
        let again = ModelYaml::parse(&text).expect("parses");
        for (key, value) in &yaml.values {
            if let Some(number) = value.as_f64() {
                assert_eq!(again.number(key), Some(number), "{key}");
            } else {
                assert_eq!(again.values.get(key), Some(value), "{key}");
            }
        }
        assert_eq!(again.print(), text);
    }

    #[test]
    fn cortex_files_are_read() {
        let yaml = ModelYaml::parse(
            "# BEGIN\nid: x # comment\nmodel: TheBloke:x:y.gguf\nfiles:             # list\n  - models/a b.gguf\nstop:\n  - </s>\ntop_p: 0.95\nctx_len: 2048\nprompt_template: \"[INST] {prompt}[/INST]\"\n",
        )
        .expect("parses");
        assert_eq!(yaml.texts("files"), ["models/a b.gguf"]);
        assert_eq!(yaml.number("ctx_len"), Some(2048.0));
    }

    #[test]
    fn damage_is_told_with_its_place() {
        for bad in ["a: [1", "just text", "a: 1\na: 2\n"] {
            let error = ModelYaml::parse(bad).expect_err(bad);
            assert!(error.to_string().contains("model.yaml"), "{error}");
        }
    }
}
