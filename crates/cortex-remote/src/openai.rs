//! Whole answers of OpenAI's interface as the chunks of a stream: some engines answer so although a stream was asked for. Pure.

use serde_json::{Map, Value, json};

/// The chunks that say the same; the answer itself when it is none that is known.
pub(crate) fn chunks(answer: &Value) -> Vec<Value> {
    let Some(choices) =
        answer["choices"].as_array().filter(|choices| choices.iter().all(|it| it["message"].is_object()))
    else {
        return vec![answer.clone()];
    };
    let chunk = |choices: Vec<Value>| {
        let mut fields: Map<String, Value> = answer.as_object().cloned().unwrap_or_default();
        fields.insert("object".into(), "chat.completion.chunk".into());
        fields.insert("choices".into(), choices.into());
        fields.remove("usage");
        Value::from(fields)
    };
    let with_indexes = |message: &Value| {
        let mut delta = message.clone();
        for (index, call) in delta["tool_calls"].as_array_mut().into_iter().flatten().enumerate() {
            call["index"] = index.into();
        }
        delta
    };
    let deltas = choices.iter().map(|choice| {
        json!({"index": choice["index"], "delta": with_indexes(&choice["message"]), "logprobs": choice["logprobs"], "finish_reason": null})
    });
    let ends = choices
        .iter()
        .map(|choice| json!({"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}));
    vec![chunk(deltas.collect()), chunk(ends.collect())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_answer_becomes_a_stream() {
        let answer = json!({"id": "x", "model": "m", "object": "chat.completion", "usage": {},
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "a", "tool_calls": [{"id": "c"}]}, "finish_reason": "stop"}]});
        let found = chunks(&answer);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (&found[0]["choices"][0]["delta"]["content"], &found[0]["object"]),
            (&json!("a"), &json!("chat.completion.chunk"))
        );
        assert_eq!(found[0]["choices"][0]["delta"]["tool_calls"][0]["index"], 0);
        assert_eq!(found[1]["choices"][0]["finish_reason"], "stop");
        assert_eq!(chunks(&json!({"error": 1})), [json!({"error": 1})]);
    }
}
