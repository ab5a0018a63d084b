//! What messages consist of: texts and images. And the adapters that a request names.

use crate::error::ApiError;
use cortex_api::{
    openai::{ChatMessage, Content, ContentPart, LoraScale, Tool},
    worker::AdapterUse,
};
use cortex_models::{LARGEST_SCALE, ModelYaml};
use serde_json::{Map, Value};

/// Images of one request at most.
const MOST_IMAGES: usize = 64;

/// The fields inside messages that nobody knows and that say something: what comes with the messages of other services is often empty.
pub(super) fn unknown_fields(messages: &[ChatMessage]) -> Vec<String> {
    let mut unknown = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        unknown.extend(named(&format!("messages[{index}]"), &message.rest));
        let Some(Content::Parts(parts)) = &message.content else { continue };
        for (number, part) in parts.iter().enumerate() {
            let place = format!("messages[{index}].content[{number}]");
            unknown.extend(part.rest.keys().map(|field| format!("{place}.{field}")));
            let image = part.image_url.iter().flat_map(|image| image.rest.keys());
            unknown.extend(image.map(|field| format!("{place}.image_url.{field}")));
        }
    }
    unknown
}

/// The same inside tools.
pub(super) fn unknown_of_tools(tools: &[Tool]) -> Vec<String> {
    let mut unknown = Vec::new();
    for (index, tool) in tools.iter().enumerate() {
        unknown.extend(named(&format!("tools[{index}]"), &tool.rest));
        let function =
            tool.function.iter().flat_map(|function| named(&format!("tools[{index}].function"), &function.rest));
        unknown.extend(function);
    }
    unknown
}

fn named(place: &str, rest: &Map<String, Value>) -> Vec<String> {
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    rest.iter().filter(|(_, value)| !is_empty(value)).map(|(field, _)| format!("{place}.{field}")).collect()
}

/// The text of a message, and where in it the images stand, which are added to those of the messages before it.
pub(super) fn content(
    index: usize,
    content: Option<Content>,
    images: &mut Vec<String>,
) -> Result<(String, Vec<(usize, usize)>), ApiError> {
    let parts = match content {
        None => return Ok((String::new(), vec![])),
        Some(Content::Text(text)) => return Ok((text, vec![])),
        Some(Content::Parts(parts)) => parts,
    };
    let field = format!("messages[{index}].content");
    let wrong = |why: &str| ApiError::field(&field, format!("{field} {why}"));
    let (mut text, mut places, mut follows_text) = (String::new(), Vec::new(), false);
    for part in parts {
        match part {
            ContentPart { kind, text: Some(piece), .. } if kind == "text" => {
                // Texts are parted from one another, and not from images, as llama-server does it.
                if follows_text {
                    text.push('\n');
                }
                text.push_str(&piece);
                follows_text = true;
            }
            ContentPart { kind, image_url: Some(image), .. } if kind == "image_url" => {
                if images.len() >= MOST_IMAGES {
                    return Err(wrong(&format!("has one image too many; {MOST_IMAGES} in a request are possible")));
                }
                places.push((text.len(), images.len()));
                images.push(base64_of(&image.url).map_err(wrong)?.to_owned());
                follows_text = false;
            }
            ContentPart { kind, .. } if kind == "text" => {
                return Err(wrong("has a part of type `text` without its text"));
            }
            ContentPart { kind, .. } if kind == "image_url" => {
                return Err(wrong("has a part of type `image_url` without `image_url`: {\"url\": …}"));
            }
            ContentPart { kind, .. } => {
                return Err(wrong(&format!("has a part of type `{kind}`; only `text` and `image_url` are supported")));
            }
        }
    }
    Ok((text, places))
}

/// The content of an image that is given as a data URL. Source: RFC 2397.
fn base64_of(url: &str) -> Result<&str, &'static str> {
    let scheme = url.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:"));
    let Some(rest) = scheme.and_then(|scheme| url.get(scheme.len()..)) else {
        return Err(
            "has an image that is no data URL; send it as data:image/png;base64,…, or name its host in `allowedImageHosts` of the settings",
        );
    };
    match rest.split_once(',') {
        Some((kind, data)) if kind.to_ascii_lowercase().ends_with(";base64") => Ok(data),
        _ => Err("has a data URL without `;base64,`"),
    }
}

/// The adapters that count: those that the request names, else all of the model's as its settings say.
pub(super) fn adapters(given: Option<&Vec<LoraScale>>, yaml: &ModelYaml) -> Result<Vec<AdapterUse>, ApiError> {
    let known = yaml.adapters();
    let all = (0u32..).zip(known.iter().map(|(_, scale)| *scale));
    let mut uses: Vec<AdapterUse> = Vec::new();
    let Some(given) = given else {
        uses.extend(all.map(|(adapter, scale)| AdapterUse { adapter, scale }));
        uses.retain(|used| used.scale != 0.0);
        return Ok(uses);
    };
    for &LoraScale { id, scale } in given {
        let wrong = |why: String| ApiError::field("lora", format!("lora {why}"));
        let adapter = u32::try_from(id).ok().filter(|&id| (id as usize) < known.len());
        let Some(adapter) = adapter else {
            return Err(wrong(format!(
                "names adapter {id}; the model has {} (`lora_adapters` in its settings)",
                known.len()
            )));
        };
        if !(-LARGEST_SCALE..=LARGEST_SCALE).contains(&scale) {
            let range = format!("it must be between -{LARGEST_SCALE} and {LARGEST_SCALE}");
            return Err(wrong(format!("has a scale for adapter {id} that is not possible; {range}")));
        }
        if uses.iter().any(|used| used.adapter == adapter) {
            return Err(wrong(format!("names adapter {id} twice")));
        }
        uses.push(AdapterUse { adapter, scale });
    }
    uses.retain(|used| used.scale != 0.0);
    // The same set in another order is the same.
    uses.sort_by_key(|used| used.adapter);
    Ok(uses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_stand_between_texts() {
        let parts = json!([
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,xx"}},
            {"type": "text", "text": "c"}, {"type": "image_url", "image_url": {"url": "data:;base64,yy", "detail": "low"}},
        ]);
        let mut images = vec!["before".to_owned()];
        let content = content(0, serde_json::from_value(parts).expect("parts"), &mut images).expect("fits");
        assert_eq!(content, ("a\nbc".to_owned(), vec![(3, 1), (4, 2)]));
        assert_eq!(images, ["before", "xx", "yy"]);
    }

    #[test]
    fn an_image_may_be_its_address_and_unknown_fields_are_found() {
        let parts = json!([
            {"type": "image_url", "image_url": "DATA:image/png;BASE64,xx"},
            {"type": "text", "text": "a", "cache_control": {}},
            {"type": "image_url", "image_url": {"url": "data:;base64,yy", "quality": 1}},
        ]);
        let message: ChatMessage =
            serde_json::from_value(json!({"role": "user", "content": parts})).expect("a message");
        assert_eq!(
            unknown_fields(std::slice::from_ref(&message)),
            ["messages[0].content[1].cache_control", "messages[0].content[2].image_url.quality"]
        );
        let mut images = vec![];
        content(0, message.content, &mut images).expect("fits");
        assert_eq!(images, ["xx", "yy"]);
        let wrong = json!({"role": "user", "content": [{"type": "image_url", "image_url": 1}]});
        assert!(serde_json::from_value::<ChatMessage>(wrong).is_err());
    }

    #[test]
    fn what_is_no_image_is_told() {
        for (part, why) in [
            (json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}), "allowedImageHosts"),
            (json!({"type": "image_url", "image_url": {"url": "data:image/png,xx"}}), ";base64,"),
            (json!({"type": "image_url"}), "without `image_url`"),
            (json!({"type": "input_audio"}), "input_audio"),
        ] {
            let parts = serde_json::from_value(json!([part])).expect("parts");
            let error = content(3, Some(Content::Parts(parts)), &mut vec![]).expect_err(why);
            assert!(error.body.error.message.contains(why), "{}", error.body.error.message);
            assert_eq!(error.body.error.param.as_deref(), Some("messages[3].content"));
        }
    }

    #[test]
    fn adapters_are_those_of_the_request_or_of_the_settings() {
        let yaml = ModelYaml::parse("lora_adapters: [{path: /a, scale: 0.5}, {path: /b}, {path: /c, scale: 0}]\n");
        let yaml = yaml.expect("a yaml");
        let of = |given: Option<&[(i64, f32)]>| {
            let given: Option<Vec<LoraScale>> =
                given.map(|given| given.iter().map(|&(id, scale)| LoraScale { id, scale }).collect());
            adapters(given.as_ref(), &yaml).map(|uses| uses.iter().map(|it| (it.adapter, it.scale)).collect::<Vec<_>>())
        };
        assert_eq!(of(None).expect("fits"), [(0, 0.5), (1, 1.0)]);
        assert_eq!(of(Some(&[])).expect("fits"), []);
        assert_eq!(of(Some(&[(2, 1.0), (0, -2.0), (1, 0.0)])).expect("fits"), [(0, -2.0), (2, 1.0)]);
        for wrong in [&[(3, 1.0)][..], &[(-1, 1.0)], &[(0, f32::NAN)], &[(0, 1e30)], &[(0, 1.0), (0, 1.0)]] {
            assert_eq!(of(Some(wrong)).expect_err("wrong").body.error.param.as_deref(), Some("lora"));
        }
    }
}
