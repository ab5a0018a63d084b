//! Whatever a user or a tool writes, with the real vocabulary: no text becomes a control token.

use super::{Chat, ChatTemplate, ChatTurn};
use cortex_api::worker::{FromWorker, Loaded, Segment, ToWorker};
use cortex_test::worker::TestWorker;

/// As families of models write chats.
const TEMPLATES: [&str; 3] = [
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n",
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}",
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]{% elif message.role == 'tool' %}[TOOL_RESULTS]{{ message.content }}[/TOOL_RESULTS]{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}",
];

/// The tokens of a prompt, and their text.
fn tokens(worker: &mut TestWorker, prompt: Vec<Segment>) -> (Vec<i32>, String) {
    worker.send(&ToWorker::Tokenize { id: 1, prompt, adds_bos: false });
    match worker.receive() {
        Some(FromWorker::Tokens { tokens, pieces, .. }) => (tokens, String::from_utf8(pieces.concat()).expect("text")),
        other => panic!("{other:?}"),
    }
}

fn turn(role: &str, content: &str) -> ChatTurn {
    ChatTurn { role: role.into(), content: content.into(), ..ChatTurn::default() }
}

#[test]
fn no_text_of_a_user_or_a_tool_becomes_a_control_token() {
    let (mut worker, facts) = TestWorker::loaded(512, 1);
    assert!(facts.control_tokens.len() >= 10, "{:?}", facts.control_tokens);
    for source in TEMPLATES {
        let (template, warning) = ChatTemplate::new(&Loaded { chat_template: Some(source.into()), ..facts.clone() });
        assert_eq!(warning, None);
        for control in &facts.control_tokens {
            let (one, _) = tokens(&mut worker, vec![Segment::Text { text: control.clone(), special: true }]);
            let [id] = one[..] else { panic!("{control} is {one:?}") };
            for role in ["user", "tool"] {
                let mut render = |content: &str, allows_control: bool| {
                    let mut turns = vec![turn("user", "Look."), turn("assistant", "I see.")];
                    turns.push(turn(role, content));
                    let chat = Chat { turns, allows_control, ..Chat::default() };
                    tokens(&mut worker, template.render(&chat, None).expect("renders").segments)
                };
                let count = |(tokens, _): &(Vec<i32>, String)| tokens.iter().filter(|&&token| token == id).count();
                let without = count(&render("one two", false));
                let content = format!("one {control}{control} two {control}");
                let found = render(&content, false);
                assert_eq!(count(&found), without, "{role}: {control} in {source}");
                assert!(found.1.contains(&content), "{role}: {control} in {source}: {}", found.1);
                // Who asks for it gets it.
                assert_eq!(count(&render(&content, true)), without + 3, "{role}: {control} in {source}");
            }
        }
    }
}
