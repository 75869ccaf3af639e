//! Known providers that speak OpenAI's API: data, not code. Anything else that speaks it is `custom` with a `base_url`.

/// What is known of a provider before it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    pub name: &'static str,
    /// `None` where the address is the operator's own.
    pub base_url: Option<&'static str>,
    /// Where its key is looked for if the configuration names none.
    pub key_env: Option<&'static str>,
    /// Which name it reads a bound on output under, when Tollgate has to send one.
    pub output_limit: OutputLimitName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputLimitName {
    MaxTokens,
    MaxCompletionTokens,
}

use OutputLimitName::{MaxCompletionTokens, MaxTokens};

#[rustfmt::skip]
pub const PRESETS: &[Preset] = &[
    preset("openai",     Some("https://api.openai.com/v1"),                               Some("OPENAI_API_KEY"),     MaxCompletionTokens),
    preset("gemini",     Some("https://generativelanguage.googleapis.com/v1beta/openai"), Some("GEMINI_API_KEY"),     MaxTokens),
    preset("groq",       Some("https://api.groq.com/openai/v1"),                          Some("GROQ_API_KEY"),       MaxCompletionTokens),
    preset("mistral",    Some("https://api.mistral.ai/v1"),                               Some("MISTRAL_API_KEY"),    MaxTokens),
    preset("deepseek",   Some("https://api.deepseek.com/v1"),                             Some("DEEPSEEK_API_KEY"),   MaxTokens),
    preset("together",   Some("https://api.together.xyz/v1"),                             Some("TOGETHER_API_KEY"),   MaxTokens),
    preset("openrouter", Some("https://openrouter.ai/api/v1"),                            Some("OPENROUTER_API_KEY"), MaxTokens),
    preset("fireworks",  Some("https://api.fireworks.ai/inference/v1"),                   Some("FIREWORKS_API_KEY"),  MaxTokens),
    preset("xai",        Some("https://api.x.ai/v1"),                                     Some("XAI_API_KEY"),        MaxCompletionTokens),
    preset("ollama",     Some("http://127.0.0.1:11434/v1"),                               None,                       MaxTokens),
    preset("vllm",       Some("http://127.0.0.1:8000/v1"),                                None,                       MaxTokens),
    preset("simulator",  Some("http://127.0.0.1:8089/v1"),                                None,                       MaxCompletionTokens),
    preset("custom",     None,                                                            None,                       MaxTokens),
];

const fn preset(
    name: &'static str,
    base_url: Option<&'static str>,
    key_env: Option<&'static str>,
    output_limit: OutputLimitName,
) -> Preset {
    Preset { name, base_url, key_env, output_limit }
}

pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// All names, for messages.
pub fn names() -> String {
    PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ")
}

// === impl OutputLimitName ===

impl OutputLimitName {
    pub fn field(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}
