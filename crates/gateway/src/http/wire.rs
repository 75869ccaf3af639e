//! OpenAI's requests: reads what deciding needs to know, and changes only what must be changed. Every other byte goes
//! to the provider as it came.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tollgate_serving::top_level::TopLevel;
use tollgate_types::{Call, OutputLimit, Refusal, Surface};

/// A request as it came, and where in it the parts are that may have to change.
#[derive(Debug)]
pub struct WireRequest<'a> {
    pub call: Call<'a>,
    top: TopLevel<'a>,
}

/// What the request has to become before it may go out.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// The model's name at the provider.
    pub model: &'a str,
    /// Output tokens per choice that are paid for. `None` where there is no output to bound.
    pub output_tokens: Option<u64>,
    /// The name to send that bound under if the caller sent none.
    pub output_limit_name: &'static str,
}

/// Most answers to one question (`n`).
pub const CHOICES_MAX: u64 = 128;
/// Largest bound on output that is accepted; above it the arithmetic of holds would be meaningless.
pub const OUTPUT_TOKENS_MAX: u64 = 1_000_000_000;
/// Allowance for a provider's chat template, in tokens a request.
pub const TEMPLATE_TOKENS: u64 = 128;
/// Allowance for a provider's instructions on tools and structured output, in tokens a request.
pub const STRUCTURE_TOKENS: u64 = 512;

/// Reads a request of either kind.
pub fn read_request(surface: Surface, body: &[u8]) -> Result<WireRequest<'_>, Refusal> {
    match surface {
        Surface::Chat => read_chat(body),
        Surface::Embeddings | Surface::Classify => read_embeddings(surface, body),
        Surface::Runs => read_run(body),
    }
}

/// Reads a chat completion request.
pub fn read_chat(body: &[u8]) -> Result<WireRequest<'_>, Refusal> {
    let top = read_object(body)?;
    let content = match top.present("messages") {
        Some(raw) => read::<Messages>(raw, "messages")?,
        None => return Err(Refusal::invalid_param("'messages' is required", "messages")),
    };
    let stream = optional::<bool>(&top, "stream")?.unwrap_or(false);
    let call = Call {
        surface: Surface::Chat,
        route: model(&top)?,
        stream,
        include_usage: include_usage(&top)?,
        output_limit: OutputLimit {
            max_tokens: output_tokens(&top, "max_tokens")?,
            max_completion_tokens: output_tokens(&top, "max_completion_tokens")?,
        },
        choices: choices(&top)?,
        input_bytes: bytes_of(body.len()).saturating_sub(content.image_bytes).saturating_add(template_tokens(&top)),
        images: content.images,
        prediction_bytes: top.present("prediction").map_or(0, |raw| bytes_of(raw.get().len())),
        unbounded: content.unbounded.or_else(|| unbounded_member(&top)),
        priced_apart: service_tier(&top)?,
    };
    Ok(WireRequest { call, top })
}

/// Reads a request about texts: to be embedded, or classified.
pub fn read_embeddings(surface: Surface, body: &[u8]) -> Result<WireRequest<'_>, Refusal> {
    let top = read_with_input(body)?;
    let call = Call {
        unbounded: embedded(&top)?,
        priced_apart: service_tier(&top)?,
        ..about_texts(surface, model(&top)?, body)
    };
    Ok(WireRequest { call, top })
}

/// Reads a run: whether its input is as its template wants it is seen where the template is known.
fn read_run(body: &[u8]) -> Result<WireRequest<'_>, Refusal> {
    let top = read_with_input(body)?;
    let call = about_texts(Surface::Runs, name(&top, "template")?, body);
    Ok(WireRequest { call, top })
}

fn read_with_input(body: &[u8]) -> Result<TopLevel<'_>, Refusal> {
    let top = read_object(body)?;
    match top.present("input") {
        Some(_) => Ok(top),
        None => Err(Refusal::invalid_param("'input' is required", "input")),
    }
}

/// A call without output, whose input is all of its body.
fn about_texts<'a>(surface: Surface, route: Cow<'a, str>, body: &[u8]) -> Call<'a> {
    Call {
        surface,
        route,
        stream: false,
        include_usage: false,
        output_limit: OutputLimit::default(),
        choices: 1,
        input_bytes: bytes_of(body.len()),
        images: 0,
        prediction_bytes: 0,
        unbounded: None,
        priced_apart: None,
    }
}

// === impl WireRequest ===

impl WireRequest<'_> {
    /// The request as it goes out: `body` itself if nothing has to change.
    pub fn bounded(&self, body: &Bytes, bounds: Bounds<'_>) -> Bytes {
        let mut edits = Edits::default();
        if self.call.route != bounds.model
            && let Some(raw) = self.top.get("model")
        {
            edits.replace(self.top.range_of(raw), quoted(bounds.model));
        }
        if let Some(tokens) = bounds.output_tokens {
            self.bound_output(&mut edits, tokens, bounds.output_limit_name);
        }
        if self.call.stream && !self.call.include_usage {
            self.ask_for_usage(&mut edits);
        }
        edits.apply(body, self.top.end())
    }

    fn bound_output(&self, edits: &mut Edits, tokens: u64, name: &'static str) {
        let sent = [
            ("max_tokens", self.call.output_limit.max_tokens),
            ("max_completion_tokens", self.call.output_limit.max_completion_tokens),
        ];
        for (field, value) in sent {
            if let Some(raw) = self.top.present(field)
                && value.is_some_and(|value| value > tokens)
            {
                edits.replace(self.top.range_of(raw), tokens.to_string());
            }
        }
        // Sent under the other name alone, it would go unread by a provider that knows only its own.
        let renamed = self.call.output_limit.max_tokens.is_none() && name == "max_tokens";
        if let (true, Some(sent)) = (renamed, self.call.output_limit.max_completion_tokens) {
            if let Some(member) = self.top.range_of_member("max_completion_tokens") {
                edits.replaced.retain(|(range, _)| range.start < member.start || range.end > member.end);
                edits.replace(member, String::new());
            }
            return self.set(edits, name, sent.min(tokens));
        }
        if self.call.output_limit.tokens().is_none() {
            self.set(edits, name, tokens);
        }
    }

    /// Sets a member to a number, whether it is there (and null) or not.
    fn set(&self, edits: &mut Edits, name: &str, number: u64) {
        match self.top.get(name) {
            Some(raw) => edits.replace(self.top.range_of(raw), number.to_string()),
            None => edits.insert(name, &number.to_string()),
        }
    }

    /// Usage is always asked for at the end of a stream: without it the stream could only be bounded, not measured.
    fn ask_for_usage(&self, edits: &mut Edits) {
        const ASK: &str = r#"{"include_usage":true}"#;
        let Some(options) = self.top.get("stream_options") else {
            return edits.insert("stream_options", ASK);
        };
        let inner = TopLevel::parse(options.get().as_bytes());
        let (Ok(inner), range) = (inner, self.top.range_of(options)) else {
            return edits.replace(self.top.range_of(options), ASK.to_owned());
        };
        match inner.get("include_usage") {
            Some(value) => {
                let value = inner.range_of(value);
                edits.replace(range.start + value.start..range.start + value.end, "true".to_owned());
            }
            None => {
                let comma = if inner.is_empty() { "" } else { "," };
                let end = range.start + inner.end();
                edits.replace(end..end, format!(r#"{comma}"include_usage":true"#));
            }
        }
    }
}

/// Changes to a text, applied all at once.
#[derive(Debug, Default)]
struct Edits {
    replaced: Vec<(Range<usize>, String)>,
    inserted: String,
}

// === impl Edits ===

impl Edits {
    fn replace(&mut self, range: Range<usize>, text: String) {
        self.replaced.push((range, text));
    }

    /// A new member at the end of the object. The object is never empty: it has a model at least.
    fn insert(&mut self, name: &str, value: &str) {
        self.inserted.push_str(",\"");
        self.inserted.push_str(name);
        self.inserted.push_str("\":");
        self.inserted.push_str(value);
    }

    fn apply(mut self, body: &Bytes, end: usize) -> Bytes {
        if !self.inserted.is_empty() {
            self.replaced.push((end..end, self.inserted));
        }
        if self.replaced.is_empty() {
            return body.clone();
        }
        self.replaced.sort_by_key(|(range, _)| range.start);
        let mut out = Vec::with_capacity(body.len() + 96);
        let mut from = 0;
        for (range, text) in self.replaced {
            out.extend_from_slice(&body[from..range.start]);
            out.extend_from_slice(text.as_bytes());
            from = range.end;
        }
        out.extend_from_slice(&body[from..]);
        out.into()
    }
}

fn read_object(body: &[u8]) -> Result<TopLevel<'_>, Refusal> {
    let top = TopLevel::parse(body).map_err(|error| Refusal::invalid(error.to_string()))?;
    if let Some(twin) = top.keys().find(|key| is_twin_of(key, &READ)) {
        let shown: String = twin.chars().take(64).collect();
        return Err(Refusal::invalid(format!("'{shown}' is a name that must be written in lower case")));
    }
    Ok(top)
}

/// Names that we read, or refuse. Some servers take `MAX_TOKENS` for `max_tokens`, and the last one counts: a twin that
/// we passed on as unknown would undo what we held for.
const READ: [&str; 21] = [
    "model",
    "messages",
    "input",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "best_of",
    "prediction",
    "service_tier",
    "tools",
    "modalities",
    "audio",
    "models",
    "plugins",
    "web_search",
    "web_search_options",
    "search_parameters",
    "documents",
    "chat_template",
];

/// Whether `key` is one of `names` but for the case of its letters, as Go's JSON reader folds them.
fn is_twin_of(key: &str, names: &[&str]) -> bool {
    let is_plain = key.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase());
    if is_plain {
        return false;
    }
    let folded = key.to_uppercase().to_lowercase();
    names.contains(&&*folded)
}

fn read<'a, T: Deserialize<'a>>(raw: &'a RawValue, param: &'static str) -> Result<T, Refusal> {
    serde_json::from_str(raw.get()).map_err(|error| Refusal::invalid_param(format!("'{param}': {error}"), param))
}

fn optional<'a, T: Deserialize<'a>>(top: &TopLevel<'a>, param: &'static str) -> Result<Option<T>, Refusal> {
    top.present(param).map(|raw| read(raw, param)).transpose()
}

fn model<'a>(top: &TopLevel<'a>) -> Result<Cow<'a, str>, Refusal> {
    name(top, "model")
}

fn name<'a>(top: &TopLevel<'a>, member: &'static str) -> Result<Cow<'a, str>, Refusal> {
    let raw = top.present(member).ok_or_else(|| Refusal::invalid_param(format!("'{member}' is required"), member))?;
    // Borrowed where the text has no escapes, which is always in practice.
    match serde_json::from_str::<&str>(raw.get()) {
        Ok(plain) => Ok(Cow::Borrowed(plain)),
        Err(_) => read::<String>(raw, member).map(Cow::Owned),
    }
}

fn output_tokens(top: &TopLevel<'_>, param: &'static str) -> Result<Option<u64>, Refusal> {
    let tokens = optional::<u64>(top, param)?;
    match tokens {
        Some(0) => Err(Refusal::invalid_param(format!("'{param}' must be at least 1"), param)),
        Some(n) if n > OUTPUT_TOKENS_MAX => {
            Err(Refusal::invalid_param(format!("'{param}' must be at most {OUTPUT_TOKENS_MAX}"), param))
        }
        tokens => Ok(tokens),
    }
}

/// Answers that may be generated: `n`, or vLLM's `best_of`, which generates more and shows `n`.
fn choices(top: &TopLevel<'_>) -> Result<u64, Refusal> {
    let n = optional::<u64>(top, "n")?.unwrap_or(1);
    let best_of = optional::<u64>(top, "best_of")?.unwrap_or(1);
    let choices = n.max(best_of);
    if n == 0 || choices > CHOICES_MAX {
        return Err(Refusal::invalid_param(format!("'n' must be from 1 to {CHOICES_MAX}"), "n"));
    }
    Ok(choices)
}

fn include_usage(top: &TopLevel<'_>) -> Result<bool, Refusal> {
    #[derive(Deserialize)]
    struct StreamOptions {
        #[serde(default)]
        include_usage: Option<bool>,
    }
    let options = optional::<StreamOptions>(top, "stream_options")?;
    Ok(options.and_then(|options| options.include_usage).unwrap_or(false))
}

/// What has no bound on its cost that we know of: tools that the provider runs itself, sound, other models.
fn unbounded_member(top: &TopLevel<'_>) -> Option<&'static str> {
    const UNBOUNDED: [(&str, &str); 10] = [
        ("documents", "documents beside the messages ('documents')"),
        ("chat_template", "a chat template of the caller's ('chat_template')"),
        ("preset", "a preset kept by the provider ('preset')"),
        ("compound_custom", "tools that the provider runs ('compound_custom')"),
        ("web_search_options", "a web search by the provider ('web_search_options')"),
        ("search_parameters", "a search by the provider ('search_parameters')"),
        ("web_search", "a web search by the provider ('web_search')"),
        ("plugins", "a plugin of the provider ('plugins')"),
        ("audio", "spoken output ('audio')"),
        ("models", "a choice of models by the provider ('models')"),
    ];
    let member = UNBOUNDED.iter().find(|(name, _)| top.present(name).is_some()).map(|(_, what)| *what);
    let kept = || {
        let extra = top.present("extra_body")?;
        extra.get().contains("cached_content").then_some("content kept by the provider ('cached_content')")
    };
    member.or_else(kept).or_else(|| hosted_tool(top)).or_else(|| spoken(top))
}

/// A tool of any type but those that the caller runs; what cannot be read for certain is taken to be one.
fn hosted_tool(top: &TopLevel<'_>) -> Option<&'static str> {
    let raw = top.present("tools")?;
    let Ok(tools) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
        return Some("a list of tools that cannot be read ('tools')");
    };
    (!tools.iter().all(|tool| is_the_caller_s(tool))).then_some("a tool that the provider runs itself")
}

fn is_the_caller_s(tool: &RawValue) -> bool {
    let Ok(tool) = TopLevel::parse(tool.get().as_bytes()) else { return false };
    let kind = tool.get("type").and_then(|kind| serde_json::from_str::<Cow<str>>(kind.get()).ok());
    matches!(kind.as_deref(), Some("function" | "custom")) && !tool.keys().any(|key| is_twin_of(key, &["type"]))
}

/// Input tokens that a provider may add to what is sent: the preamble of its chat template, and its instructions for
/// tools and structured output. Measured ones lie below 100 and 350.
fn template_tokens(top: &TopLevel<'_>) -> u64 {
    let structured = ["tools", "functions", "response_format"].iter().any(|name| top.present(name).is_some());
    TEMPLATE_TOKENS + if structured { STRUCTURE_TOKENS } else { 0 }
}

fn spoken(top: &TopLevel<'_>) -> Option<&'static str> {
    let modalities = serde_json::from_str::<Vec<Cow<str>>>(top.present("modalities")?.get());
    let only_text = modalities.is_ok_and(|all| all.iter().all(|modality| modality == "text"));
    (!only_text).then_some("output that is not text ('modalities')")
}

/// What is embedded must be text or tokens, whose number their bytes bound.
fn embedded(top: &TopLevel<'_>) -> Result<Option<&'static str>, Refusal> {
    let all_text = optional::<Embedded>(top, "input")?.is_none_or(|Embedded { all_text }| all_text);
    let messages = top.present("messages").is_some();
    Ok((!all_text || messages).then_some("an input that is neither text nor tokens"))
}

/// A tier of service that costs more than the price book says.
fn service_tier(top: &TopLevel<'_>) -> Result<Option<&'static str>, Refusal> {
    let tier = optional::<Cow<str>>(top, "service_tier")?;
    Ok(match tier.as_deref() {
        None | Some("auto" | "default" | "standard_only") => None,
        Some(_) => Some("this 'service_tier'"),
    })
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn bytes_of(length: usize) -> u64 {
    length as u64
}

/// What the messages hold that bytes do not bound.
#[derive(Debug, Default)]
struct Messages {
    images: u64,
    /// Bytes of images inside the request: they are counted as images, not as text.
    image_bytes: u64,
    unbounded: Option<&'static str>,
}

// === impl Messages ===

impl Messages {
    fn add(&mut self, other: Self) {
        self.images += other.images;
        self.image_bytes += other.image_bytes;
        self.unbounded = self.unbounded.or(other.unbounded);
    }
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(MessageList)
    }
}

struct MessageList;

impl<'de> Visitor<'de> for MessageList {
    type Value = Messages;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Messages, A::Error> {
        let mut all = Messages::default();
        while let Some(Message(one)) = list.next_element()? {
            all.add(one);
        }
        Ok(all)
    }
}

struct Message(Messages);

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Message;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
                let mut all = Messages::default();
                while let Some(key) = map.next_key::<Cow<str>>()? {
                    match &*key {
                        "content" => all.add(map.next_value::<Content>()?.0),
                        "audio" => {
                            if map.next_value::<Option<IgnoredAny>>()?.is_some() {
                                all.unbounded = Some("an earlier spoken answer ('audio')");
                            }
                        }
                        twin if is_twin_of(twin, &["content", "audio"]) => {
                            map.next_value::<IgnoredAny>()?;
                            all.unbounded = Some("a message with a known name in other letters");
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Message(all))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A text, or a list of parts, or nothing.
struct Content(Messages);

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;
        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of parts")
            }
            fn visit_str<E>(self, _: &str) -> Result<Content, E> {
                Ok(Content(Messages::default()))
            }
            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content(Messages::default()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
                let mut all = Messages::default();
                while let Some(raw) = list.next_element::<&RawValue>()? {
                    let part: Part = serde_json::from_str(raw.get()).map_err(A::Error::custom)?;
                    all.add(part.weigh());
                    if !is_plainly_named(raw) {
                        all.unbounded = Some("a part of a message with a known name twice or in other letters");
                    }
                }
                Ok(Content(all))
            }
        }
        deserializer.deserialize_any(TextOrParts)
    }
}

/// The input of an embedding: a text, tokens, or a list of these.
struct Embedded {
    all_text: bool,
}

impl<'de> Deserialize<'de> for Embedded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrTokens;
        impl<'de> Visitor<'de> for TextOrTokens {
            type Value = Embedded;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, tokens, or a list of these")
            }
            fn visit_str<E>(self, _: &str) -> Result<Embedded, E> {
                Ok(Embedded { all_text: true })
            }
            fn visit_u64<E>(self, _: u64) -> Result<Embedded, E> {
                Ok(Embedded { all_text: true })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Embedded, A::Error> {
                let mut all_text = true;
                while let Some(one) = list.next_element::<Embedded>()? {
                    all_text &= one.all_text;
                }
                Ok(Embedded { all_text })
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Embedded, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Embedded { all_text: false })
            }
        }
        deserializer.deserialize_any(TextOrTokens)
    }
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    image_url: Option<ImageUrl<'a>>,
}

#[derive(Deserialize)]
struct ImageUrl<'a> {
    #[serde(borrow, default)]
    url: Cow<'a, str>,
}

/// Whether every reader finds the same `type` and `image_url` in a part.
fn is_plainly_named(part: &RawValue) -> bool {
    let top = TopLevel::parse(part.get().as_bytes());
    top.is_ok_and(|top| !top.keys().any(|key| is_twin_of(key, &["type", "image_url", "input_audio", "file"])))
}

// === impl Part ===

impl Part<'_> {
    fn weigh(&self) -> Messages {
        let nothing = Messages::default();
        match &*self.kind {
            "text" | "refusal" => nothing,
            "image_url" => match self.image_url.as_ref().map(|image| &*image.url) {
                Some(url) if url.starts_with("data:") && !url.starts_with("data:image/") => {
                    Messages { unbounded: Some("a file in a message (an 'image_url' that is no image)"), ..nothing }
                }
                url => Messages { images: 1, image_bytes: bytes_of(url.map_or(0, str::len)), ..nothing },
            },
            "input_audio" => Messages { unbounded: Some("sound in a message ('input_audio')"), ..nothing },
            "file" => Messages { unbounded: Some("a file in a message ('file')"), ..nothing },
            _ => Messages { unbounded: Some("a part of a message that is neither text nor an image"), ..nothing },
        }
    }
}

#[cfg(test)]
mod tests;
