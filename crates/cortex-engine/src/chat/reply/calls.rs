//! Finds tool calls in the text of a reply.

use super::{
    Tool, ToolFormat,
    formats::{After, BodyKind, NONE, Step, Syntax, Tail, syntax_of},
    gemma::GemmaReader,
    input::{Input, Search, Stands},
    json::{ObjectReader, Progress, ValueReader},
    parameters::ParameterReader,
    pieces::Output,
};

/// Longest name of a tool that is believed.
const LONGEST_NAME: usize = 256;

/// Splits text in visible text and calls.
#[derive(Debug)]
pub(super) struct Calls {
    syntax: Syntax,
    tools: Vec<Tool>,
    single: bool,
    input: Input,
    state: State,
    /// White space since the last call, as long as nothing else followed; it is dropped when a call comes next.
    blank: Option<String>,
    /// What may still stand behind the last call.
    after: &'static [After],
    had_one: bool,
    is_done: bool,
}

/// What is read now.
#[derive(Debug)]
enum State {
    Text,
    Opening(Opening),
    Body(Reader, Tail),
}

/// Something that begins like a call.
#[derive(Debug, Default)]
struct Opening {
    steps: &'static [Step],
    /// All that was read of it, in case that it is none.
    raw: String,
    name: String,
    is_sure: bool,
    /// Length of the word that is being read.
    word: usize,
    object: Option<ObjectReader>,
    /// Arguments that came before the name.
    arguments: String,
}

/// Reads the arguments of a call whose name is known.
#[derive(Debug)]
enum Reader {
    Object(ObjectReader),
    Value(ValueReader),
    Parameters(ParameterReader),
    Gemma(GemmaReader),
}

/// What a step came to.
enum Outcome {
    /// It is done, the next one follows.
    Next,
    /// More text is needed.
    Wait,
    /// It is no call.
    Fail,
    /// It is one.
    Commit(Reader, Tail),
    /// It is visible text that follows.
    Prose,
}

impl Calls {
    /// Reads calls in this format, or none.
    pub(super) fn new(format: Option<ToolFormat>, tools: Vec<Tool>, single: bool) -> Self {
        let syntax = format.map_or(NONE, syntax_of);
        let state = if syntax.start.is_empty() { State::Text } else { State::Opening(Opening::new(syntax.start)) };
        Self {
            syntax,
            tools,
            single,
            input: Input::default(),
            state,
            blank: Some(String::new()),
            after: &[],
            had_one: false,
            is_done: false,
        }
    }

    /// Whether the only call that is allowed is complete.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Takes a chunk.
    pub(super) fn push(&mut self, text: &str, output: &mut Output) {
        if !self.is_done {
            self.input.push(text);
            while self.step(output) {}
        }
    }

    /// The reply ends.
    pub(super) fn finish(&mut self, output: &mut Output) {
        self.cut_off(output);
        self.input.end();
        while self.step(output) {}
        self.cut_off(output);
        if let (Some(blank), false) = (self.blank.take(), self.had_one) {
            output.text(&blank);
        }
    }

    /// Ends a call that waits for more; what was held back for it is no visible text.
    fn cut_off(&mut self, output: &mut Output) {
        match std::mem::replace(&mut self.state, State::Text) {
            State::Opening(opening) if opening.is_sure => {
                self.begin_call(&opening, output);
                self.end_call(Tail::Nothing, output);
                self.input.skip();
            }
            State::Body(reader, tail) => {
                let mut arguments = String::new();
                reader.finish(self.input.rest(), &mut arguments);
                output.arguments(&arguments);
                self.end_call(tail, output);
                self.input.skip();
            }
            // The beginning of the end of the last call.
            State::Text if !self.after.is_empty() => self.input.skip(),
            state => self.state = state,
        }
    }

    /// Reads on; whether there was something to do.
    fn step(&mut self, output: &mut Output) -> bool {
        if self.is_done {
            return false;
        }
        match std::mem::replace(&mut self.state, State::Text) {
            State::Text => !self.input.is_empty() && self.read_text(output),
            State::Opening(mut opening) => match opening.step(&mut self.input, &self.tools) {
                Outcome::Next => {
                    self.state = State::Opening(opening);
                    true
                }
                Outcome::Wait if !self.input.has_ended() => {
                    self.state = State::Opening(opening);
                    false
                }
                Outcome::Wait | Outcome::Fail => {
                    self.show(&opening.raw, output);
                    true
                }
                Outcome::Commit(reader, tail) => {
                    self.begin_call(&opening, output);
                    self.state = State::Body(reader, tail);
                    true
                }
                Outcome::Prose => {
                    self.blank = self.blank.take().map(|_| String::new());
                    true
                }
            },
            State::Body(mut reader, tail) => {
                if self.input.is_empty() {
                    self.state = State::Body(reader, tail);
                    return false;
                }
                let mut arguments = String::new();
                let progress = reader.read(&mut self.input, &mut arguments);
                output.arguments(&arguments);
                if progress == Progress::More {
                    self.state = State::Body(reader, tail);
                    return false;
                }
                self.end_call(tail, output);
                true
            }
        }
    }

    /// Reads visible text up to the next marker.
    fn read_text(&mut self, output: &mut Output) -> bool {
        if !self.after.is_empty() {
            return self.read_after();
        }
        match self.input.search(&self.syntax.openers.iter().map(|(marker, _)| *marker)) {
            Search::Found { at, index } => {
                let text = self.input.take(at).to_owned();
                self.show(&text, output);
                self.state = State::Opening(Opening::new(self.syntax.openers[index].1));
                true
            }
            Search::None { safe } => {
                let text = self.input.take(safe).to_owned();
                self.show(&text, output);
                false
            }
        }
    }

    /// Reads what may stand directly behind a call.
    fn read_after(&mut self) -> bool {
        let blank = self.input.take_while(char::is_whitespace);
        if let Some(before) = &mut self.blank {
            before.push_str(blank);
        }
        if self.input.is_empty() {
            return false;
        }
        for (index, after) in self.after.iter().enumerate() {
            let (After::Close(text) | After::Again(text, _)) = after;
            match self.input.stands(text) {
                Stands::No => {}
                Stands::Unknown => return false,
                Stands::Yes => {
                    match after {
                        After::Close(_) => {
                            self.input.take(text.len());
                            self.blank = Some(String::new());
                            self.after = &self.after[index + 1..];
                        }
                        After::Again(_, steps) => {
                            self.state = State::Opening(Opening::new(steps));
                            self.after = &[];
                        }
                    }
                    return true;
                }
            }
        }
        self.after = &[];
        true
    }

    /// Gives visible text; white space around calls waits for what comes next.
    fn show(&mut self, text: &str, output: &mut Output) {
        if let Some(blank) = &mut self.blank {
            let visible = text.trim_start();
            blank.push_str(&text[..text.len() - visible.len()]);
            if !visible.is_empty() {
                output.text(blank);
                output.text(visible);
                self.blank = None;
            }
        } else {
            output.text(text);
        }
    }

    fn begin_call(&mut self, opening: &Opening, output: &mut Output) {
        output.begin(&opening.name);
        output.arguments(&opening.arguments);
        self.blank = None;
        self.had_one = true;
    }

    fn end_call(&mut self, tail: Tail, output: &mut Output) {
        output.end();
        self.blank = Some(String::new());
        self.after = tail.after();
        self.is_done = self.single;
        self.state = State::Text;
    }
}

impl Opening {
    fn new(steps: &'static [Step]) -> Self {
        Self { steps, ..Self::default() }
    }

    /// Does the next step, as far as the text goes.
    fn step(&mut self, input: &mut Input, tools: &[Tool]) -> Outcome {
        let Some(step) = self.steps.first() else { return Outcome::Fail };
        let outcome = match *step {
            Step::Blank => {
                self.raw.push_str(input.take_while(char::is_whitespace));
                if input.is_empty() { Outcome::Wait } else { Outcome::Next }
            }
            Step::Text(text) | Step::Maybe(text) => match input.stands(text) {
                Stands::Yes => {
                    self.raw.push_str(input.take(text.len()));
                    Outcome::Next
                }
                Stands::Unknown => Outcome::Wait,
                Stands::No if input.is_empty() => Outcome::Wait,
                Stands::No => {
                    if matches!(step, Step::Maybe(_)) {
                        Outcome::Next
                    } else {
                        Outcome::Fail
                    }
                }
            },
            Step::Name | Step::Word => self.word(matches!(step, Step::Name), input),
            Step::Sure => {
                self.is_sure = true;
                Outcome::Next
            }
            Step::Branch(branches) => {
                for (text, steps) in branches {
                    match input.stands(text) {
                        Stands::Yes => {
                            self.steps = steps;
                            // Not the step behind the branches.
                            return Outcome::Next;
                        }
                        Stands::Unknown => return Outcome::Wait,
                        Stands::No => {}
                    }
                }
                if input.is_empty() { Outcome::Wait } else { Outcome::Fail }
            }
            Step::Prose => Outcome::Prose,
            Step::Body(kind, tail) => self.body(kind, tail, input, tools),
        };
        if matches!(outcome, Outcome::Next) && !matches!(step, Step::Body(..)) {
            self.steps = &self.steps[1..];
        }
        outcome
    }

    /// Reads a word, which may be the name.
    fn word(&mut self, is_name: bool, input: &mut Input) -> Outcome {
        let word = input.take_while(is_part_of_name);
        self.raw.push_str(word);
        if is_name {
            // A second name takes the place of the first.
            if self.word == 0 {
                self.name.clear();
            }
            self.name.push_str(word);
        }
        self.word += word.len();
        if self.word > LONGEST_NAME {
            Outcome::Fail
        } else if input.is_empty() {
            Outcome::Wait
        } else if std::mem::take(&mut self.word) == 0 {
            Outcome::Fail
        } else {
            Outcome::Next
        }
    }

    /// Reads the beginning of the arguments, until it is certain that they are.
    fn body(&mut self, kind: BodyKind, tail: Tail, input: &mut Input, tools: &[Tool]) -> Outcome {
        if input.is_empty() {
            return Outcome::Wait;
        }
        let is_open = input.rest().starts_with('{');
        let reader = match kind {
            BodyKind::Object | BodyKind::KnownObject => return self.object(kind, tail, input, tools),
            BodyKind::Parameters(tags) => {
                let tool = tools.iter().find(|tool| tool.name == self.name);
                Reader::Parameters(ParameterReader::new(tags, tool.cloned()))
            }
            BodyKind::Arguments if is_open => Reader::Value(ValueReader::default()),
            BodyKind::Gemma { quote, end } if is_open => Reader::Gemma(GemmaReader::new(quote, end)),
            BodyKind::Arguments | BodyKind::Gemma { .. } => return Outcome::Fail,
        };
        Outcome::Commit(reader, tail)
    }

    /// Reads an object until the name in it is known.
    fn object(&mut self, kind: BodyKind, tail: Tail, input: &mut Input, tools: &[Tool]) -> Outcome {
        let mut object = self.object.take().unwrap_or_else(|| ObjectReader::new(kind == BodyKind::KnownObject));
        let progress = object.read(input, &mut self.raw, &mut self.arguments);
        match object.name() {
            Some(name) => {
                if kind == BodyKind::KnownObject && !tools.iter().any(|tool| tool.name == name) {
                    return Outcome::Fail;
                }
                name.clone_into(&mut self.name);
                Outcome::Commit(Reader::Object(object), tail)
            }
            None if progress == Progress::More => {
                self.object = Some(object);
                Outcome::Wait
            }
            None => Outcome::Fail,
        }
    }
}

impl Reader {
    fn read(&mut self, input: &mut Input, arguments: &mut String) -> Progress {
        match self {
            Self::Object(reader) => reader.read(input, &mut String::new(), arguments),
            Self::Value(reader) => reader.read(input, arguments),
            Self::Parameters(reader) => reader.read(input, arguments),
            Self::Gemma(reader) => reader.read(input, arguments),
        }
    }

    /// The reply ends here: gives what was held back, `rest` among it.
    fn finish(self, rest: &str, arguments: &mut String) {
        match self {
            Self::Object(_) | Self::Value(_) => {}
            Self::Parameters(reader) => reader.finish(rest, arguments),
            Self::Gemma(reader) => reader.finish(rest, arguments),
        }
    }
}

/// Whether names of tools have this letter.
fn is_part_of_name(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | '/' | ':')
}
