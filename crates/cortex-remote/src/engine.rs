//! A remote engine: what is known of it, and which of it may be shown. Pure.

use crate::{RemoteError, template::Template};
use reqwest::{
    Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;

/// What stands for a key wherever an engine is shown. Sent back, it leaves the key as it is.
pub const HIDDEN: &str = "********";
/// Names that belong to the engine of this machine.
const LOCAL_NAMES: &[&str] = &["llama-cpp", "llama.cpp", "cortex.llamacpp", "llamacpp"];
/// Headers that say how a request is sent: a template may not.
const OWN_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "proxy-authorization",
    "accept-encoding",
];
/// The version of Anthropic's interface that requests are written for.
const ANTHROPIC_VERSION: &str = "2023-06-01";
const LONGEST_NAME: usize = 128;
/// Bytes that a key has at least which is a secret.
const SHORTEST_SECRET: usize = 16;
/// Bytes of a key.
const LONGEST_KEY: usize = 8 << 10;
/// Bytes of everything that is said of an engine.
const LONGEST_METADATA: usize = 256 * 1024;

/// A key. It is written into the engines' file and into requests, and shown nowhere.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_empty() { "none" } else { HIDDEN })
    }
}

/// An engine on another machine, with the fields by which cortex.cpp knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemoteEngine {
    pub(crate) id: u64,
    /// Its name.
    pub engine: String,
    #[serde(default)]
    pub(crate) api_key: Secret,
    /// Where it is: the address of its interface, such as `https://api.openai.com` or `http://box:8080/v1`.
    #[serde(default)]
    pub url: String,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) variant: String,
    #[serde(default)]
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) metadata: Map<String, Value>,
    #[serde(default)]
    pub(crate) date_created: String,
    #[serde(default)]
    pub(crate) date_updated: String,
    /// Fields that are not known here.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// Whose words an engine understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's, which nearly everybody understands.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
}

/// What of an engine's interface is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Models,
    Chat,
    Completions,
    Embeddings,
}

impl Place {
    /// The name in the metadata of cortex.cpp, and the end of the path.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Models => ("get_models", "models"),
            Self::Chat => ("chat_completions", "chat/completions"),
            Self::Completions => ("completions", "completions"),
            Self::Embeddings => ("embeddings", "embeddings"),
        }
    }
}

impl RemoteEngine {
    /// A new engine of what a client said; `id` and `now` are given to it.
    pub(crate) fn new(said: &Map<String, Value>, id: u64, now: &str) -> Result<Self, RemoteError> {
        let name = said.get("engine").and_then(Value::as_str).unwrap_or_default().trim();
        let is_plain = name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\?#%".contains(&byte));
        if name.is_empty() || name.len() > LONGEST_NAME || !is_plain || name.starts_with('.') {
            let reason = "the name of an engine is 1 to 128 letters, digits and signs, without blanks and slashes";
            return Err(RemoteError::invalid("engine", reason));
        }
        if LOCAL_NAMES.iter().any(|local| local.eq_ignore_ascii_case(name)) {
            return Err(RemoteError::EngineExists { engine: name.to_owned() });
        }
        let mut engine = Self {
            id,
            engine: name.to_owned(),
            api_key: Secret::default(),
            url: String::new(),
            version: String::new(),
            variant: "all-platforms".into(),
            status: "Default".into(),
            metadata: Map::new(),
            date_created: now.to_owned(),
            date_updated: now.to_owned(),
            other: Map::new(),
        };
        engine.change(said, now)?;
        Ok(engine)
    }

    /// Changes what a client names; all of it or nothing.
    pub(crate) fn change(&mut self, said: &Map<String, Value>, now: &str) -> Result<(), RemoteError> {
        let mut new = self.clone();
        let text = |field: &str| match said.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
            Some(_) => Err(RemoteError::invalid(field, "it must be a text")),
        };
        if text("type")?.is_some_and(|kind| !kind.is_empty() && kind != "remote") {
            return Err(RemoteError::invalid("type", "only engines of the type `remote` can be added"));
        }
        if let Some(key) = text("api_key")?.filter(|key| key != HIDDEN) {
            if key.len() > LONGEST_KEY || !key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
                return Err(RemoteError::invalid(
                    "api_key",
                    "it must be at most 8 KiB of letters that a header can carry",
                ));
            }
            new.api_key = Secret(key);
        }
        for (field, value) in [
            ("url", &mut new.url),
            ("version", &mut new.version),
            ("variant", &mut new.variant),
            ("status", &mut new.status),
        ] {
            if let Some(text) = text(field)? {
                *value = text;
            }
        }
        match said.get("metadata") {
            None | Some(Value::Null) => {}
            Some(Value::Object(metadata)) => new.metadata.clone_from(metadata),
            Some(_) => return Err(RemoteError::invalid("metadata", "metadata must be object")),
        }
        if Value::from(new.metadata.clone()).to_string().len() + new.url.len() > LONGEST_METADATA {
            return Err(RemoteError::invalid("metadata", "it is longer than 256 KiB"));
        }
        now.clone_into(&mut new.date_updated);
        new.check()?;
        // Whoever may change the address does not know the key, and must not get it sent to a place of their own.
        let is_kept = text("api_key")?.is_none_or(|key| key == HIDDEN) && !self.api_key.0.is_empty();
        if is_kept && new.origins().iter().any(|origin| !self.origins().contains(origin)) {
            let reason = "the engine is somewhere else now: send its key again, or an empty one";
            return Err(RemoteError::invalid("api_key", reason));
        }
        *self = new;
        Ok(())
    }

    /// Whether everything can be used that will be.
    fn check(&self) -> Result<(), RemoteError> {
        let mut urls = vec![("url", self.url.as_str())];
        urls.push(("metadata.get_models_url", self.text(&["get_models_url"])));
        urls.push((
            "metadata.transform_req.chat_completions.url",
            self.text(&["transform_req", "chat_completions", "url"]),
        ));
        urls.push(("metadata.transform_req.embeddings.url", self.text(&["transform_req", "embeddings", "url"])));
        for (field, url) in urls.into_iter().filter(|(_, url)| !url.is_empty()) {
            parse_url(url).map_err(|reason| RemoteError::invalid(field, reason))?;
        }
        if self.url.is_empty() && self.text(&["transform_req", "chat_completions", "url"]).is_empty() {
            return Err(RemoteError::invalid("url", "it must say where the engine is, such as https://api.openai.com"));
        }
        self.headers()?;
        for (which, template) in
            [("transform_req", self.request_template()), ("transform_resp", self.response_template())]
        {
            template.map(Template::new).transpose().map_err(|reason| {
                RemoteError::invalid(&format!("metadata.{which}.chat_completions.template"), reason)
            })?;
        }
        Ok(())
    }

    /// A text of the metadata; empty when it is not there.
    fn text(&self, path: &[&str]) -> &str {
        let Some((first, rest)) = path.split_first() else { return "" };
        let mut value = self.metadata.get(*first);
        for name in rest {
            value = value.and_then(|it| it.get(*name));
        }
        value.and_then(Value::as_str).unwrap_or_default().trim()
    }

    /// Where to ask.
    pub(crate) fn place(&self, place: Place) -> Result<Url, RemoteError> {
        let (key, end) = place.names();
        let own = match place {
            Place::Models => self.text(&["get_models_url"]),
            _ => self.text(&["transform_req", key, "url"]),
        };
        let invalid = |reason: String| RemoteError::invalid("url", reason);
        if !own.is_empty() {
            return parse_url(own).map_err(invalid);
        }
        // Without an address of its own it lies beside the chats.
        let (base, is_chat) = match (self.url.as_str(), self.text(&["transform_req", "chat_completions", "url"])) {
            ("", chat) => (chat, true),
            (url, _) => (url, url.trim_end_matches('/').ends_with("/chat/completions")),
        };
        let mut url = parse_url(base).map_err(invalid)?;
        let end = if place == Place::Chat && self.dialect() == Dialect::Anthropic { "messages" } else { end };
        let mut parts: Vec<String> =
            url.path_segments().into_iter().flatten().filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if is_chat && parts.ends_with(&["chat".to_owned(), "completions".to_owned()]) {
            parts.truncate(parts.len() - 2);
        } else if parts.last().is_some_and(|last| last == "messages") {
            parts.pop();
        }
        if parts.is_empty() {
            parts.push("v1".into());
        }
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(&parts).extend(end.split('/'));
        }
        Ok(url)
    }

    /// Where its requests go to.
    pub(crate) fn origins(&self) -> Vec<String> {
        let places = [Place::Models, Place::Chat, Place::Completions, Place::Embeddings];
        let urls = places.iter().filter_map(|&place| self.place(place).ok());
        urls.map(|url| url.origin().ascii_serialization()).collect()
    }

    /// Whether its models can be asked for.
    pub fn has_models_url(&self) -> bool {
        !self.text(&["get_models_url"]).is_empty()
    }

    pub(crate) fn dialect(&self) -> Dialect {
        let chat = self.text(&["transform_req", "chat_completions", "url"]);
        let is_messages =
            |url: &str| url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/').ends_with("/messages");
        match self.text(&["api"]) {
            "anthropic" => Dialect::Anthropic,
            "openai" => Dialect::OpenAi,
            _ if is_messages(chat)
                || is_messages(&self.url)
                || self.text(&["header_template"]).contains("anthropic-version") =>
            {
                Dialect::Anthropic
            }
            _ if chat.is_empty()
                && Url::parse(&self.url).is_ok_and(|url| url.host_str() == Some("api.anthropic.com")) =>
            {
                Dialect::Anthropic
            }
            _ => Dialect::OpenAi,
        }
    }

    /// The template that makes the body of a chat, where somebody wrote one.
    ///
    /// Those that came with cortex.cpp name each field of its time, and drop the newer ones; one of them writes a comma too many.
    /// What they are for is done without them.
    pub(crate) fn request_template(&self) -> Option<&str> {
        let template = self.text(&["transform_req", "chat_completions", "template"]);
        let is_of_cortex_cpp = template.contains("for key, value in input_request")
            && template.contains("tojson(value)")
            && template.contains("\"messages\"");
        Some(template).filter(|template| !template.is_empty() && !is_of_cortex_cpp)
    }

    /// The template that makes an answer of the engine's, where somebody wrote one.
    pub(crate) fn response_template(&self) -> Option<&str> {
        let template = self.text(&["transform_resp", "chat_completions", "template"]);
        let passes = template.contains("for key, value in input_request") && template.contains("tojson(value)");
        let of_anthropic =
            template.contains("input_request.stop_reason") && template.contains("input_request.content.0");
        let is_of_cortex_cpp = passes || (of_anthropic && self.dialect() == Dialect::Anthropic);
        Some(template).filter(|template| !template.is_empty() && !is_of_cortex_cpp)
    }

    /// What requests carry.
    pub(crate) fn headers(&self) -> Result<HeaderMap, RemoteError> {
        let invalid = |reason: &str| RemoteError::invalid("metadata.header_template", reason);
        let template =
            ["header_template", "api_key_template"].iter().map(|name| self.text(&[name])).find(|it| !it.is_empty());
        let mut headers = HeaderMap::new();
        for (name, value) in split_headers(template.unwrap_or_default())
            .ok_or_else(|| invalid("it must be headers, such as `Authorization: Bearer {{api_key}}`"))?
        {
            let name: HeaderName = name.parse().map_err(|_| invalid("it has a name that no header can have"))?;
            if OWN_HEADERS.contains(&name.as_str()) {
                return Err(invalid("it has a header that says how the request is sent"));
            }
            let parts: Vec<&str> = value.split_inclusive("}}").collect();
            let mut text = String::new();
            for part in parts {
                match part.split_once("{{") {
                    None => text.push_str(part),
                    Some((before, inside)) if inside.trim_end_matches("}}").trim() == "api_key" => {
                        text.push_str(before);
                        text.push_str(&self.api_key.0);
                    }
                    Some(_) => return Err(invalid("only {{api_key}} can stand in it")),
                }
            }
            let mut value = HeaderValue::from_str(text.trim()).map_err(|_| invalid("a value cannot be sent"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let is_anthropic = self.dialect() == Dialect::Anthropic;
        if template.is_none() && !self.api_key.0.is_empty() {
            let (name, text) = if is_anthropic {
                ("x-api-key", self.api_key.0.clone())
            } else {
                ("authorization", format!("Bearer {}", self.api_key.0))
            };
            let mut value =
                HeaderValue::from_str(&text).map_err(|_| RemoteError::invalid("api_key", "it cannot be sent"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        if is_anthropic && !headers.contains_key("anthropic-version") {
            headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
        }
        Ok(headers)
    }

    /// As clients see it.
    pub fn shown(&self) -> Value {
        json!({
            "id": self.id,
            "engine": self.engine,
            "type": "remote",
            "api_key": if self.api_key.0.is_empty() { "" } else { HIDDEN },
            "url": self.hide(&self.url),
            "version": self.version,
            "variant": self.variant,
            "status": self.status,
            "metadata": self.hidden_in(&Value::from(self.metadata.clone())),
            "date_created": self.date_created,
            "date_updated": self.date_updated,
        })
    }

    /// A text without the key, should it be in there.
    pub(crate) fn hide(&self, text: &str) -> String {
        if self.api_key.0.is_empty() { text.to_owned() } else { text.replace(&self.api_key.0, HIDDEN) }
    }

    /// An answer without the key, should the engine repeat it. One that is short is a word that stands for none (`none`, `x`), and
    /// answers may hold it.
    pub(crate) fn hide_in_answer(&self, text: &str) -> String {
        if self.api_key.0.len() < SHORTEST_SECRET { text.to_owned() } else { self.hide(text) }
    }

    fn hidden_in(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::from(self.hide(text)),
            Value::Array(items) => items.iter().map(|item| self.hidden_in(item)).collect(),
            Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), self.hidden_in(value))).collect(),
            other => other.clone(),
        }
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|why| format!("`{text}` is no address: {why}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("it must begin with https:// or http://".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not hold a name or a password; the key belongs into `api_key`".into());
    }
    Ok(url)
}

/// The headers of a template: lines, or several in one line, as cortex.cpp writes them
/// (`x-api-key: {{api_key}} anthropic-version: 2023-06-01`). Nothing when it begins with no header.
fn split_headers(template: &str) -> Option<Vec<(String, String)>> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for word in template.split_whitespace() {
        let stem = word.strip_suffix(':').filter(|stem| {
            !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        });
        match (stem, headers.last_mut()) {
            (Some(name), _) => headers.push((name.to_owned(), String::new())),
            (None, Some((_, value))) => {
                if !value.is_empty() {
                    value.push(' ');
                }
                value.push_str(word);
            }
            (None, None) => return None,
        }
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(said: &Value) -> Result<RemoteEngine, RemoteError> {
        RemoteEngine::new(said.as_object().unwrap(), 1, "now")
    }

    #[test]
    fn addresses_follow_from_what_is_known() {
        for (said, chat, models) in [
            (
                json!({"url": "https://api.openai.com"}),
                "https://api.openai.com/v1/chat/completions",
                "https://api.openai.com/v1/models",
            ),
            (json!({"url": "http://box:1/v1/"}), "http://box:1/v1/chat/completions", "http://box:1/v1/models"),
            (
                json!({"url": "http://box/api/v3/chat/completions"}),
                "http://box/api/v3/chat/completions",
                "http://box/api/v3/models",
            ),
            (
                json!({"url": "https://api.anthropic.com"}),
                "https://api.anthropic.com/v1/messages",
                "https://api.anthropic.com/v1/models",
            ),
            (
                json!({"url": "https://api.anthropic.com/v1/messages"}),
                "https://api.anthropic.com/v1/messages",
                "https://api.anthropic.com/v1/models",
            ),
            (
                json!({"metadata": {"get_models_url": "http://m/list", "transform_req": {"chat_completions": {"url": "http://c/talk"}}}}),
                "http://c/talk",
                "http://m/list",
            ),
        ] {
            let mut said = said;
            said["engine"] = "e".into();
            let engine = engine(&said).unwrap();
            assert_eq!(engine.place(Place::Chat).unwrap().as_str(), chat, "{said}");
            assert_eq!(engine.place(Place::Models).unwrap().as_str(), models, "{said}");
        }
    }

    #[test]
    fn headers_are_made_of_the_template_and_the_key_cannot_add_one() {
        let headers = |said: Value| engine(&said).map(|engine| engine.headers().unwrap());
        let found = headers(json!({"engine": "e", "url": "http://a", "api_key": "k1"})).unwrap();
        assert_eq!(found["authorization"], "Bearer k1");
        let template = "x-api-key: {{api_key}} anthropic-version: 2023-01-01";
        let said = json!({"engine": "e", "url": "http://a", "api_key": "k: x-other: 1", "metadata": {"header_template": template}});
        let found = headers(said).unwrap();
        assert_eq!(
            (&found["x-api-key"], &found["anthropic-version"]),
            (&HeaderValue::from_static("k: x-other: 1"), &HeaderValue::from_static("2023-01-01"))
        );
        assert_eq!(found.len(), 2);
        let found = headers(json!({"engine": "e", "url": "https://api.anthropic.com", "api_key": "k"})).unwrap();
        assert_eq!(
            (&found["x-api-key"], &found["anthropic-version"]),
            (&HeaderValue::from_static("k"), &HeaderValue::from_static(ANTHROPIC_VERSION))
        );
        for template in ["Bearer {{api_key}}", "Host: evil", "A: {{other}}", "Transfer-Encoding: chunked"] {
            let said = json!({"engine": "e", "url": "http://a", "metadata": {"header_template": template}});
            assert!(matches!(engine(&said), Err(RemoteError::Invalid { .. })), "{template}");
        }
        assert!(matches!(
            headers(json!({"engine": "e", "url": "http://a", "api_key": "a\nb"})),
            Err(RemoteError::Invalid { .. })
        ));
    }

    #[test]
    fn the_key_is_shown_nowhere() {
        let said =
            json!({"engine": "e", "url": "http://a/?k=sekret", "api_key": "sekret", "metadata": {"x": ["sekret"]}});
        let mut engine = engine(&said).unwrap();
        let shown = engine.shown();
        assert!(
            !shown.to_string().contains("sekret") && !format!("{engine:?}").contains("api_key: Secret(\"sekret"),
            "{shown}"
        );
        engine.change(json!({"api_key": HIDDEN, "version": "2"}).as_object().unwrap(), "later").unwrap();
        assert_eq!(
            (engine.api_key.0.as_str(), engine.version.as_str(), engine.date_created.as_str()),
            ("sekret", "2", "now")
        );
        let other = engine.change(json!({"url": "http://evil", "api_key": HIDDEN}).as_object().unwrap(), "later");
        assert!(matches!(other, Err(RemoteError::Invalid { .. })), "the key would go to another place");
        engine.change(json!({"url": "http://b", "api_key": "new"}).as_object().unwrap(), "later").unwrap();
        engine.change(json!({"api_key": "l"}).as_object().unwrap(), "later").unwrap();
        assert_eq!(engine.hide_in_answer("{\"a\": null}"), "{\"a\": null}", "a key that is none changes no answer");
        engine.change(json!({"api_key": "sk-0123456789abcdef"}).as_object().unwrap(), "later").unwrap();
        assert_eq!(engine.hide_in_answer("Bearer sk-0123456789abcdef"), format!("Bearer {HIDDEN}"));
        engine.change(json!({"api_key": ""}).as_object().unwrap(), "later").unwrap();
        assert_eq!(engine.shown()["api_key"], "");
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (said, field) in [
            (json!({"engine": "", "url": "http://a"}), "engine"),
            (json!({"engine": "a/b", "url": "http://a"}), "engine"),
            (json!({"engine": "e"}), "url"),
            (json!({"engine": "e", "url": "file:///etc"}), "url"),
            (json!({"engine": "e", "url": "http://user:pw@a"}), "url"),
            (json!({"engine": "e", "url": "http://a", "type": "local"}), "type"),
            (json!({"engine": "e", "url": "http://a", "metadata": 3}), "metadata"),
            (json!({"engine": "e", "url": "http://a", "metadata": {"get_models_url": "x"}}), "metadata.get_models_url"),
            (
                json!({"engine": "e", "url": "http://a", "metadata": {"transform_req": {"chat_completions": {"template": "{% for %}"}}}}),
                "metadata.transform_req.chat_completions.template",
            ),
        ] {
            match engine(&said) {
                Err(RemoteError::Invalid { field: found, .. }) => assert_eq!(found, field, "{said}"),
                other => panic!("{said}: {other:?}"),
            }
        }
        assert!(matches!(
            engine(&json!({"engine": "Llama-CPP", "url": "http://a"})),
            Err(RemoteError::EngineExists { .. })
        ));
    }
}
