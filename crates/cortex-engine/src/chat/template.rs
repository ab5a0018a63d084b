//! The chat template of a model: hostile code, rendered in a sandbox.

use super::{
    Chat, ChatTurn, Rendered, ToolChoice, ToolUse, guard,
    legacy::LegacyTemplate,
    reply::{Beside, ReplyFormat, ReplyParser, answer_rule, grammar},
    tools::{self, Abilities},
};
use crate::EngineError;
use cortex_api::{
    openai::{Function, FunctionCall, ToolCall},
    worker::{Constraint, Loaded, Segment},
};
use minijinja::{
    Environment, ErrorKind, UndefinedBehavior, Value as JinjaValue,
    value::{Kwargs, Serde},
};
use serde_json::{Map, Value};
use std::{
    io::{self, Write},
    sync::OnceLock,
};

/// Instructions that one rendering may take.
const FUEL: u64 = 20_000_000;
/// Bytes that a rendering may add to what it was given.
const OUTPUT_CAP: usize = 4 * 1024 * 1024;
/// Nesting of includes, macros and loops.
const RECURSION: usize = 64;
/// Used when a model brings no template.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const NAME: &str = "chat";
/// A word that no template has of its own.
const NEEDLE: &str = "needle_of_ours";

/// A compiled template with the facts it needs.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
    control_tokens: Vec<String>,
    /// The template is the model's, and not ours.
    is_own: bool,
    source: String,
    abilities: OnceLock<Abilities>,
    next_turn: OnceLock<String>,
}

/// What becomes of a prompt template of the settings, beside the model's own chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptTemplateUse {
    /// Both say the same but for the first token and outer white space: the model's own is used.
    Same,
    /// It says something else, or the model has none: it is used for chats without tools.
    Legacy,
    /// It has no place for what the user says: the model's own is used.
    Unusable,
}

impl PromptTemplateUse {
    /// Why, for a person.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Same => "it says the same as the chat template of the model, which is used",
            Self::Legacy => "it differs from the chat template of the model, and is used for chats without tools",
            Self::Unusable => "it has no {prompt}; the chat template of the model is used",
        }
    }

    /// Which one is used: `settings` or `model`.
    pub fn used(self) -> &'static str {
        if self == Self::Legacy { "settings" } else { "model" }
    }
}

/// What becomes of a prompt template, as far as the header of the weights tells: its chat template and the text of
/// its first token.
pub fn prompt_template_use(chat_template: Option<&str>, bos_token: &str, prompt_template: &str) -> PromptTemplateUse {
    let loaded = Loaded {
        chat_template: chat_template.map(str::to_owned),
        bos_token: bos_token.to_owned(),
        ..Loaded::default()
    };
    ChatTemplate::new(&loaded).0.compare(prompt_template)
}

/// The chat template of a model in the older language, with `{system_message}` where it has a place for one, and
/// `{prompt}`; `None` when that cannot say the same. The text of the first token is left out: older programs add it.
pub fn legacy_prompt_template(chat_template: &str) -> Option<String> {
    let loaded = Loaded { chat_template: Some(chat_template.to_owned()), ..Loaded::default() };
    let template = ChatTemplate::new(&loaded).0;
    let turns = [turn("system", "{system_message}"), turn("user", "{prompt}")];
    let mut texts =
        [&turns[..], &turns[1..]].into_iter().filter_map(|turns| template.render_text(turns, &Map::new()).ok());
    texts.find(|text| template.is_own && template.compare(text) == PromptTemplateUse::Same)
}

/// A message of plain text.
fn turn(role: &str, content: &str) -> ChatTurn {
    ChatTurn { role: role.into(), content: content.into(), ..ChatTurn::default() }
}

impl ChatTemplate {
    /// Compiles the template of a loaded model. One that is absent or does not compile is replaced by
    /// `ChatML`; the second value says so.
    pub(crate) fn new(loaded: &Loaded) -> (Self, Option<String>) {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<JinjaValue, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| -> Result<String, minijinja::Error> {
            jiff::fmt::strtime::format(&format, &jiff::Zoned::now())
                .map_err(|why| minijinja::Error::new(ErrorKind::InvalidOperation, why.to_string()))
        });
        // Transformers' own `tojson` takes arguments that change nothing a model was trained on.
        environment.add_filter("tojson", |value: JinjaValue, _arguments: Kwargs| -> Result<String, minijinja::Error> {
            serde_json::to_string(&value)
                .map_err(|why| minijinja::Error::new(ErrorKind::BadSerialization, why.to_string()))
        });
        if let Ok(syntax) = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
            environment.set_syntax(syntax);
        }
        let warning = match &loaded.chat_template {
            Some(source) => environment
                .add_template_owned(NAME, without_generation_tags(source))
                .err()
                .map(|why| format!("the model's chat template does not compile ({why}); ChatML is used")),
            None => Some("the model has no chat template; ChatML is used".to_owned()),
        };
        if warning.is_some() {
            environment.add_template_owned(NAME, CHATML).expect("our own template compiles");
        }
        let template = Self {
            environment,
            bos_token: loaded.bos_token.clone(),
            eos_token: loaded.eos_token.clone(),
            control_tokens: loaded.control_tokens.clone(),
            is_own: warning.is_none(),
            source: loaded.chat_template.clone().filter(|_| warning.is_none()).unwrap_or_else(|| CHATML.to_owned()),
            abilities: OnceLock::new(),
            next_turn: OnceLock::new(),
        };
        (template, warning)
    }

    /// The prompt for an assistant's next message, and how its answer is read. A template of the model's settings from the
    /// time before chat templates counts where it says something else than the model's own. `own` is what the
    /// answer must be by the request.
    pub(crate) fn render(&self, chat: &Chat, own: Option<&Constraint>) -> Result<Rendered, EngineError> {
        let marked: Vec<ChatTurn> = chat.turns.iter().map(|turn| self.marked(turn, chat.allows_control)).collect();
        if let Some(legacy) =
            chat.legacy.as_deref().filter(|_| chat.tools.is_none() && !chat.extra.contains_key("tools"))
            && let (PromptTemplateUse::Legacy, Some(legacy)) = (self.compare(legacy), LegacyTemplate::parse(legacy))
        {
            let turns = tools::written_out(&marked, None);
            let segments = guard::split(&legacy.render(&turns), &self.control_tokens, &chat.images);
            return with_all_images(&segments, chat).map(|()| Rendered::plain(segments));
        }
        let has_tools = chat.tools.is_some();
        let speaks_of_tools = has_tools || marked.iter().any(|turn| turn.role == "tool" || !turn.tool_calls.is_empty());
        let shows_tools = !speaks_of_tools || self.abilities().shows_tools;
        let mut extra = chat.extra.clone();
        let turns = if shows_tools {
            marked
        } else {
            let mut turns = tools::written_out(&marked, chat.tools.as_ref());
            if let Some(system) = turns.first_mut().filter(|_| has_tools && !chat.allows_control) {
                system.content = guard::mark(&system.content, &self.control_tokens).into_owned();
            }
            turns
        };
        if let Some(tools) = chat.tools.as_ref().filter(|_| shows_tools) {
            let mut listed = Value::Array(tools::listed(tools));
            if !chat.allows_control {
                // What a tool says of itself is often not the client's own.
                mark_texts(&mut listed, &self.control_tokens);
            }
            extra.insert("tools".into(), listed);
        }
        let mut text = match self.render_text(&turns, &extra) {
            // Some templates know no system message: it then stands before the first of the user.
            Err(_) if turns.first().is_some_and(|turn| turn.role == "system") && turns.len() > 1 => {
                self.render_text(&with_system_in_first_turn(&turns), &extra)?
            }
            other => other?,
        };
        let source = if shows_tools { self.source.as_str() } else { "" };
        let mut format = ReplyFormat::detect(source, &text, has_tools);
        if !shows_tools {
            // What it thinks is told as its template says it, also where calls are not.
            format.reasoning = ReplyFormat::detect(&self.source, &text, false).reasoning;
        }
        let (constraint, beside) = match &chat.tools {
            Some(tools) => self.call_constraint(tools, format, own)?,
            None => (None, Beside::Text),
        };
        let is_constrained = own.is_some() && constraint.is_none();
        if is_constrained || constraint.is_some() && beside != Beside::Text {
            // An answer that must be something has no room for thoughts before it.
            text.push_str(format.end_of_thoughts(constraint.is_none()));
            format.reasoning = None;
        }
        if !chat.splits_reasoning {
            format.reasoning = None;
        }
        let is_plain = is_constrained || (format.tools.is_none() && format.reasoning.is_none());
        let shows_control = !is_plain && self.control_tokens.iter().any(|control| ReplyFormat::is_marker(control));
        let parser = (!is_plain).then(|| {
            let functions = chat.tools.as_ref().map(tools::callable).unwrap_or_default();
            let is_single = chat.tools.as_ref().is_some_and(|tools| !tools.parallel);
            ReplyParser::new(format, functions, is_single)
        });
        let has_calls_only = constraint.is_some() && beside == Beside::Nothing;
        let segments = guard::split(&text, &self.control_tokens, &chat.images);
        with_all_images(&segments, chat)?;
        // What was thought or called is told in another way in the next turn than it was said.
        let next_turn = if is_plain && !has_tools { self.next_turn().to_owned() } else { String::new() };
        Ok(Rendered { segments, constraint, parser, has_calls_only, shows_control, next_turn })
    }

    /// What the answer must be when something has to be called, when calls have to follow their schemas, or when what is no call
    /// must be something; and what may stand beside calls.
    fn call_constraint(
        &self,
        tools: &ToolUse,
        format: ReplyFormat,
        own: Option<&Constraint>,
    ) -> Result<(Option<Constraint>, Beside), EngineError> {
        let Some(tool_format) = format.tools else { return Ok((None, Beside::Text)) };
        let mut callable = tools::callable(tools);
        let (is_single, beside) = match (&tools.choice, own) {
            (ToolChoice::Named(name), _) => {
                callable.retain(|tool| tool.name == *name);
                (true, Beside::Nothing)
            }
            (ToolChoice::Required, _) => (!tools.parallel, Beside::Nothing),
            (ToolChoice::Auto, Some(own)) => {
                let message = || "a grammar cannot be combined with tools".into();
                let rule = answer_rule(own).ok_or_else(|| EngineError::Constraint { message: message() })?;
                (!tools.parallel, Beside::Answer(rule))
            }
            // Where a reply begins is not where its first call may stand.
            (ToolChoice::Auto, None) if format.is_led_by_thoughts() => return Ok((None, Beside::Text)),
            (ToolChoice::Auto, None) if tools.functions.iter().any(|it| it.strict == Some(true)) => {
                // Where nobody asked for it, arguments are what the model writes.
                for (tool, function) in callable.iter_mut().zip(&tools.functions) {
                    if function.strict != Some(true) {
                        tool.parameters = serde_json::json!({"type": "object"});
                    }
                }
                (!tools.parallel, Beside::Text)
            }
            (ToolChoice::Auto, None) => return Ok((None, Beside::Text)),
        };
        let grammar = grammar(tool_format, &callable, is_single, &self.control_tokens, &beside);
        Ok((grammar.map(|grammar| Constraint::Lark { grammar }), beside))
    }

    /// A message in which text of users and tools cannot spell control tokens, and images have their marks.
    fn marked(&self, turn: &ChatTurn, allows_control: bool) -> ChatTurn {
        let is_foreign = matches!(turn.role.as_str(), "user" | "tool") && !allows_control;
        let text = |text: &str| {
            if is_foreign { guard::mark(text, &self.control_tokens).into_owned() } else { text.to_owned() }
        };
        let (mut content, mut end) = (String::new(), 0);
        for &(at, number) in &turn.images {
            content.push_str(&text(turn.content.get(end..at).unwrap_or_default()));
            content.push_str(&guard::image_mark(number));
            end = at;
        }
        content.push_str(&text(turn.content.get(end..).unwrap_or_default()));
        ChatTurn { content, images: vec![], ..turn.clone() }
    }

    /// What the template does with tools: found out once, by what appears in its text.
    fn abilities(&self) -> Abilities {
        *self.abilities.get_or_init(|| {
            let function = Function { name: NEEDLE.into(), ..Function::default() };
            let tools = ToolUse { functions: vec![function], choice: ToolChoice::Auto, parallel: true };
            let extra = Map::from_iter([("tools".to_owned(), Value::Array(tools::listed(&tools)))]);
            let shows = |turns: &[ChatTurn]| self.render_text(turns, &extra).is_ok_and(|text| text.contains(NEEDLE));
            let turns = [turn("user", "x")];
            let shows_tools = shows(&turns) || shows(&[turn("system", "x"), turn("user", "x")]);
            let call = ToolCall {
                id: "call00000".into(),
                kind: "function".into(),
                function: FunctionCall { name: "f".into(), arguments: format!("{{\"{NEEDLE}\":1}}") },
            };
            let calls = ChatTurn { tool_calls: vec![call], ..turn("assistant", "") };
            let rendered = |wants_text| {
                let values: Vec<Value> = [&turns[0], &calls].map(|turn| tools::message(turn, wants_text)).to_vec();
                self.render_values(values.into(), &Map::new()).unwrap_or_default()
            };
            // Text in a template that writes it as JSON has its quotes escaped.
            let is_plain = |text: &str| text.contains(NEEDLE) && !text.contains(&format!("\\\"{NEEDLE}"));
            let wants_text = !is_plain(&rendered(false)) && is_plain(&rendered(true));
            Abilities { shows_tools, wants_text }
        })
    }

    /// What it writes between an answer and what a user says next: found out once. Empty when an answer does not stand where the
    /// prompt for it ended.
    fn next_turn(&self) -> &str {
        self.next_turn.get_or_init(|| {
            let turns = [turn("user", "x"), turn("assistant", NEEDLE), turn("user", NEEDLE)];
            let [prompt, whole] = [&turns[..1], &turns[..]].map(|turns| self.render_text(turns, &Map::new()));
            let (Ok(prompt), Ok(whole)) = (prompt, whole) else { return String::new() };
            let mut parts = whole.split(NEEDLE);
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(before), Some(between), Some(_), None) if before == prompt => between.to_owned(),
                _ => String::new(),
            }
        })
    }

    /// Which of the two templates counts.
    fn compare(&self, legacy: &str) -> PromptTemplateUse {
        let Some(parsed) = LegacyTemplate::parse(legacy) else { return PromptTemplateUse::Unusable };
        if !self.is_own {
            // The model brings none: its settings know better than our guess.
            return PromptTemplateUse::Legacy;
        }
        let mut turns = vec![turn("user", "the question")];
        if parsed.has_system() {
            turns.insert(0, turn("system", "the instruction"));
        }
        let plain = |text: &str| {
            let text = text.trim();
            let bos = self.bos_token.as_str();
            if bos.is_empty() { text.to_owned() } else { text.trim_start_matches(bos).trim().to_owned() }
        };
        match self.render_text(&turns, &Map::new()) {
            Ok(own) if plain(&own) == plain(&parsed.render(&turns)) => PromptTemplateUse::Same,
            _ => PromptTemplateUse::Legacy,
        }
    }

    fn render_text(&self, turns: &[ChatTurn], extra: &Map<String, Value>) -> Result<String, EngineError> {
        let wants_text = turns.iter().any(|turn| !turn.tool_calls.is_empty()) && self.abilities().wants_text;
        self.render_values(turns.iter().map(|turn| tools::message(turn, wants_text)).collect(), extra)
    }

    fn render_values(&self, messages: Value, extra: &Map<String, Value>) -> Result<String, EngineError> {
        let mut values = extra.clone();
        values.insert("messages".into(), messages);
        values.insert("add_generation_prompt".into(), true.into());
        values.insert("bos_token".into(), self.bos_token.clone().into());
        values.insert("eos_token".into(), self.eos_token.clone().into());
        let template = self.environment.get_template(NAME).map_err(|why| template_error(&why))?;
        let mut output = Capped { bytes: Vec::new(), left: OUTPUT_CAP + input_size(&values) };
        template
            .render_captured_to(JinjaValue::from(Serde(&values)), &mut output)
            .map_err(|why| template_error(&why))?;
        String::from_utf8(output.bytes).map_err(|why| template_error(&why))
    }
}

/// Fails when a template has left out an image.
fn with_all_images(segments: &[Segment], chat: &Chat) -> Result<(), EngineError> {
    let shown = segments.iter().filter(|segment| matches!(segment, Segment::Image { .. })).count();
    if shown == chat.images.len() {
        return Ok(());
    }
    Err(template_error(&format_args!("the template shows {shown} images of {}", chat.images.len())))
}

/// The same in all texts of a value.
fn mark_texts(value: &mut Value, controls: &[String]) {
    match value {
        Value::String(text) => *text = guard::mark(text, controls).into_owned(),
        Value::Array(values) => values.iter_mut().for_each(|value| mark_texts(value, controls)),
        Value::Object(members) => {
            let marked = std::mem::take(members).into_iter().map(|(name, mut value)| {
                mark_texts(&mut value, controls);
                (guard::mark(&name, controls).into_owned(), value)
            });
            *members = marked.collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn template_error(why: &dyn std::fmt::Display) -> EngineError {
    EngineError::Template { message: why.to_string() }
}

fn input_size(values: &Map<String, Value>) -> usize {
    values["messages"]
        .as_array()
        .map_or(0, |turns| turns.iter().map(|turn| turn["content"].as_str().map_or(0, str::len)).sum::<usize>())
}

fn with_system_in_first_turn(turns: &[ChatTurn]) -> Vec<ChatTurn> {
    let mut rest = turns[1..].to_vec();
    rest[0].content = format!("{}\n\n{}", turns[0].content, rest[0].content);
    rest
}

/// `{% generation %}` marks what a training run learns from; for us it is a block that is always there.
/// The white space marks of the tag are kept.
fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let inside = &rest[start + 2..start + length];
        let word = inside.trim_matches(|letter: char| letter.is_whitespace() || letter == '-' || letter == '+');
        let replacement = match word {
            "generation" => Some(inside.replacen("generation", "if true", 1)),
            "endgeneration" => Some(inside.replacen("endgeneration", "endif", 1)),
            _ => None,
        };
        result.push_str(&rest[..start + 2]);
        result.push_str(replacement.as_deref().unwrap_or(inside));
        result.push_str("%}");
        rest = &rest[start + length + 2..];
    }
    result.push_str(rest);
    result
}

/// Takes so many bytes and no more.
struct Capped {
    bytes: Vec<u8>,
    left: usize,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| io::Error::other("the output is too large"))?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: Option<&str>) -> (ChatTemplate, Option<String>) {
        ChatTemplate::new(&Loaded {
            chat_template: source.map(str::to_owned),
            bos_token: "<s>".into(),
            eos_token: "</s>".into(),
            control_tokens: vec!["<s>".into(), "</s>".into()],
            ..Loaded::default()
        })
    }

    fn render(template: &ChatTemplate, turns: &[ChatTurn]) -> Vec<Segment> {
        let chat = Chat { turns: turns.to_vec(), ..Chat::default() };
        template.render(&chat, None).expect("renders").segments
    }

    #[track_caller]
    fn check(source: &str, turns: &[ChatTurn], expected: &str) {
        let (template, warning) = template(Some(source));
        assert_eq!(warning, None);
        let segments = render(&template, turns);
        let text: String = segments
            .into_iter()
            .map(|segment| match segment {
                Segment::Text { text, .. } => text,
                Segment::Tokens { .. } | Segment::Image { .. } => String::new(),
            })
            .collect();
        assert_eq!(text, expected);
    }

    #[test]
    fn what_stands_before_the_next_turn_is_what_the_template_writes_there() {
        let next_turn = |source: Option<&str>| template(source).0.next_turn().to_owned();
        assert_eq!(next_turn(None), "<|im_end|>\n<|im_start|>user\n");
        let named = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
        assert_eq!(next_turn(Some(named)), "</s>[user]");
        // Earlier answers are told in another way, or not at all.
        let thinking = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]<think>{% endif %}";
        let last_only = "{{ messages[-1].content }}";
        assert_eq!((next_turn(Some(thinking)), next_turn(Some(last_only))), (String::new(), String::new()));
        // Where calls may be, or thoughts, it is not told.
        let chat = Chat { turns: vec![turn("user", "hi")], ..Chat::default() };
        assert_eq!(template(Some(named)).0.render(&chat, None).expect("renders").next_turn, "</s>[user]");
        let function = Function { name: "f".into(), ..Function::default() };
        let tools = Some(ToolUse { functions: vec![function], choice: ToolChoice::Auto, parallel: true });
        assert_eq!(template(Some(named)).0.render(&Chat { tools, ..chat }, None).expect("renders").next_turn, "");
    }

    #[test]
    fn python_methods_loops_and_namespaces_work() {
        check(
            "{%- set ns = namespace(n=0) -%}{%- for m in messages[::-1] -%}{%- set ns.n = ns.n + 1 -%}{{ m.content.strip() }}|{%- endfor -%}{{ ns.n }}{{ bos_token }}",
            &[turn("user", " a "), turn("assistant", "b")],
            "b|a|2<s>",
        );
    }

    #[test]
    fn generation_tags_are_transparent() {
        check("a {%- generation -%} {{ messages[0].content }} {%- endgeneration %} b", &[turn("user", "x")], "ax b");
    }

    #[test]
    fn a_template_without_system_messages_gets_it_in_the_first_turn() {
        check(
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}",
            &[turn("system", "be kind"), turn("user", "hi")],
            "user:be kind\n\nhi;",
        );
    }

    #[test]
    fn a_missing_or_broken_template_falls_back_to_chatml_and_says_so() {
        let (fallback, warning) = template(None);
        assert!(warning.expect("warned").contains("ChatML"));
        let segments = render(&fallback, &[turn("user", "hi")]);
        assert_eq!(
            segments,
            vec![Segment::Text {
                text: "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n".into(),
                special: true
            }]
        );
        assert!(template(Some("{% if %}")).1.expect("warned").contains("does not compile"));
    }

    #[test]
    fn a_hostile_template_ends_with_an_error() {
        for source in [
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% for a in range(90000) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ raise_exception('no') }}",
        ] {
            let (template, warning) = template(Some(source));
            assert_eq!(warning, None);
            let chat = Chat { turns: vec![turn("user", "hi")], ..Chat::default() };
            let error = template.render(&chat, None).err().expect(source);
            assert!(matches!(error, EngineError::Template { .. }), "{error}");
        }
    }

    #[test]
    fn text_of_a_user_never_becomes_a_control_token() {
        let (template, _) = template(Some("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"));
        let segments = render(&template, &[turn("user", "x</s>y")]);
        let texts: Vec<&str> = segments
            .iter()
            .map(|segment| match segment {
                Segment::Text { text, .. } => text.as_str(),
                Segment::Tokens { .. } | Segment::Image { .. } => "",
            })
            .collect();
        assert_eq!(texts, ["<s>x", "</s>", "y</s>"]);
    }

    #[test]
    fn a_chat_template_is_told_in_the_older_language_where_that_can_say_the_same() {
        let own =
            "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>{{ '\\n' }}";
        let no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}<u>{{ messages[0].content }}<a>";
        let shouting = "<u>{{ messages[-1].content | upper }}<a>";
        for (chat_template, expected) in [
            (own, Some("<system>{system_message}<user>{prompt}<assistant>\n")),
            (no_system, Some("<u>{prompt}<a>")),
            (shouting, None),
            ("no place for anything", None),
            ("{% broken", None),
        ] {
            let found = legacy_prompt_template(chat_template);
            assert_eq!(found.as_deref(), expected, "{chat_template}");
        }
    }

    #[test]
    fn the_settings_of_a_model_win_where_they_say_something_else() {
        let own = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>";
        let same = "<system>{system_message}<user>{prompt}<assistant>\n";
        for (chat_template, legacy, expected) in [
            (Some(own), same, PromptTemplateUse::Same),
            (Some(own), "<s><system>{system_message}<user>{prompt}<assistant>", PromptTemplateUse::Same),
            (Some(own), "<user>{prompt}<assistant>", PromptTemplateUse::Same),
            (Some(own), "[INST] {prompt} [/INST]", PromptTemplateUse::Legacy),
            (Some(own), "nothing", PromptTemplateUse::Unusable),
            (None, "[INST] {prompt} [/INST]", PromptTemplateUse::Legacy),
            (Some("{% broken"), "[INST] {prompt} [/INST]", PromptTemplateUse::Legacy),
        ] {
            assert_eq!(prompt_template_use(chat_template, "<s>", legacy), expected, "{chat_template:?} {legacy}");
        }
        let (template, _) = template(Some(own));
        let text = |legacy: &str, extra: &Map<String, Value>| {
            let turns = [turn("system", "be kind"), turn("user", "x</s>y")];
            let chat = Chat {
                turns: turns.to_vec(),
                extra: extra.clone(),
                legacy: Some(legacy.to_owned()),
                ..Chat::default()
            };
            let segments = template.render(&chat, None).expect("renders").segments;
            let text = |segment: Segment| match segment {
                Segment::Text { text, .. } => text,
                Segment::Tokens { .. } | Segment::Image { .. } => String::new(),
            };
            segments.into_iter().map(text).collect::<Vec<_>>()
        };
        // Text of a user stays text here too.
        assert_eq!(text("[I] {prompt} [/I]", &Map::new()), ["[I] x", "</s>", "y [/I]"]);
        assert_eq!(text(same, &Map::new()), ["<s><system>be kind<user>x", "</s>", "y<assistant>"]);
        let tools = Map::from_iter([("tools".to_owned(), Value::Array(vec![]))]);
        assert_eq!(text("[I] {prompt} [/I]", &tools)[0], "<s><system>be kind<user>x");
    }
}
