//! Which format a model uses, by its chat template.

use super::{Reasoning, ReasoningStyle, ReplyFormat, ToolFormat, formats};

impl ReplyFormat {
    /// From the Jinja source of the chat template, the end of the rendered prompt, and whether tools were given. A
    /// template that knows no tools gets the format that [`super::hermes_instructions`] teaches.
    pub(crate) fn detect(template: &str, prompt_end: &str, has_tools: bool) -> Self {
        let tools = has_tools.then(|| ToolFormat::of_template(template).unwrap_or(ToolFormat::Hermes));
        let reasoning = ReasoningStyle::of_template(template).map(|style| {
            let opening = match style {
                ReasoningStyle::Think => "<think>",
                ReasoningStyle::BracketThink => "[THINK]",
                ReasoningStyle::GemmaChannel => "<|channel>thought",
                ReasoningStyle::Harmony => "<|channel|>analysis<|message|>",
            };
            Reasoning { style, starts_inside: prompt_end.trim_end().ends_with(opening) }
        });
        Self { tools, reasoning }
    }
}

impl ToolFormat {
    /// The format that a chat template writes calls in; `None` when it knows none of ours.
    pub(crate) fn of_template(template: &str) -> Option<Self> {
        let has = |text: &str| template.contains(text);
        if is_harmony(template) {
            Some(Self::Harmony)
        } else if has(formats::START_CALL) {
            Some(Self::FunctionGemma)
        } else if has(formats::GEMMA_CALL) {
            Some(Self::Gemma4)
        } else if has("<arg_key>") {
            Some(Self::Glm)
        } else if has(formats::BAR_TOOL_CALL) {
            Some(Self::Granite)
        } else if has(formats::SEPARATOR) {
            Some(if has("```json") { Self::DeepSeekR1 } else { Self::DeepSeekV3_1 })
        } else if has(formats::TOOL_CALLS) {
            Some(Self::Mistral)
        } else if has(formats::FUNCTION) {
            Some(if has("<parameter=") { Self::QwenCoder } else { Self::FunctionTags })
        } else if has(formats::TOOL_CALL) {
            Some(Self::Hermes)
        } else if has(">>>all") || has(">>>${recipient}") {
            Some(Self::Functionary)
        } else if has(formats::PYTHON_TAG) || (has("<|start_header_id|>") && has("Environment: ipython")) {
            Some(Self::Llama3)
        } else {
            None
        }
    }
}

impl ReasoningStyle {
    /// How a chat template marks reasoning; `None` when it does not know of any.
    fn of_template(template: &str) -> Option<Self> {
        let has = |text: &str| template.contains(text);
        if is_harmony(template) {
            Some(Self::Harmony)
        } else if has("<|channel>") {
            Some(Self::GemmaChannel)
        } else if has("[THINK]") {
            Some(Self::BracketThink)
        } else if has("<think>") || has("</think>") {
            Some(Self::Think)
        } else {
            None
        }
    }
}

/// Whether a template speaks of the channels of gpt-oss.
fn is_harmony(template: &str) -> bool {
    template.contains("<|channel|>") && template.contains("<|message|>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, expected: Option<ToolFormat>) {
        assert_eq!(ToolFormat::of_template(template), expected, "{template}");
        assert_eq!(
            ReplyFormat::detect(template, "", true).tools,
            Some(expected.unwrap_or(ToolFormat::Hermes)),
            "{template}"
        );
        assert_eq!(ReplyFormat::detect(template, "", false).tools, None, "{template}");
    }

    #[test]
    fn a_template_tells_its_format() {
        check("{{- '<tool_call>\\n{\"name\": \"' }}", Some(ToolFormat::Hermes));
        check("'<tool_call>\\n<function=' + name … '<parameter=' + key", Some(ToolFormat::QwenCoder));
        check("<function={{ name }}>{{ arguments }}</function> <|python_tag|>", Some(ToolFormat::FunctionTags));
        check("<|start_header_id|> … Environment: ipython", Some(ToolFormat::Llama3));
        check("<|python_tag|>", Some(ToolFormat::Llama3));
        check("[TOOL_CALLS]{{ name }}[ARGS]", Some(ToolFormat::Mistral));
        check("'<｜tool▁sep｜>' + name + '\\n' + '```json'", Some(ToolFormat::DeepSeekR1));
        check("name + '<｜tool▁sep｜>' + arguments", Some(ToolFormat::DeepSeekV3_1));
        check("<|start|>assistant<|channel|>final<|message|>", Some(ToolFormat::Harmony));
        check("'<start_function_call>call:' + name", Some(ToolFormat::FunctionGemma));
        check("'<|tool_call>call:' + name <|channel>thought", Some(ToolFormat::Gemma4));
        check("'>>>all\\n' + content", Some(ToolFormat::Functionary));
        check("'<tool_call>' + name + '<arg_key>' + key + '</arg_key>'", Some(ToolFormat::Glm));
        check("respond with <|tool_call|> followed by a JSON list of tools", Some(ToolFormat::Granite));
        check("<|im_start|>", None);
        check("", None);
    }

    #[track_caller]
    fn check_reasoning(template: &str, prompt_end: &str, expected: Option<(ReasoningStyle, bool)>) {
        let found = ReplyFormat::detect(template, prompt_end, false).reasoning;
        assert_eq!(found.map(|found| (found.style, found.starts_inside)), expected, "{template} {prompt_end}");
    }

    #[test]
    fn a_template_and_the_prompt_tell_of_reasoning() {
        check_reasoning("<think>", "<|im_start|>assistant\n", Some((ReasoningStyle::Think, false)));
        check_reasoning("<think>", "<|im_start|>assistant\n<think>\n", Some((ReasoningStyle::Think, true)));
        check_reasoning("</think>", "<think>\n\n</think>\n\n", Some((ReasoningStyle::Think, false)));
        check_reasoning("[THINK]", "[/INST]", Some((ReasoningStyle::BracketThink, false)));
        check_reasoning("<|channel>", "<|channel>thought\n<channel|>", Some((ReasoningStyle::GemmaChannel, false)));
        check_reasoning("<|channel|><|message|>", "<|start|>assistant", Some((ReasoningStyle::Harmony, false)));
        check_reasoning("plain", "<think>", None);
    }
}
