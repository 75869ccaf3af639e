//! Modules as text: their tokens, and what stands between two places of the syntax tree.

use regorus::unstable::{Lexer, Source, Span, TokenKind};

use crate::bundle::Module;
use crate::law::LawError;

/// What the parser may have to try, at some microseconds each.
const TRIES_MAX: u64 = 1 << 18;

/// The engine's parser tries each bracket twice, also those within: what it has to try altogether is bounded before.
pub fn check_nesting(module: &Module) -> Result<(), LawError> {
    let (mut depth, mut tries) = (0_u32, 0_u64);
    for_each_token(module, |kind, span| match span.text() {
        "[" | "{" | "(" if kind == TokenKind::Symbol => {
            depth += 1;
            tries = tries.saturating_add(1_u64.checked_shl(depth).unwrap_or(u64::MAX));
        }
        "]" | "}" | ")" if kind == TokenKind::Symbol => depth = depth.saturating_sub(1),
        _ => {}
    });
    if tries > TRIES_MAX {
        return Err(LawError::Syntax(format!("{}: brackets are nested too deep; name a part of it", module.path)));
    }
    Ok(())
}

/// A module without its comments and its layout.
pub fn tokens(module: &Module) -> String {
    let (mut text, mut line) = (String::new(), 0);
    for_each_token(module, |kind, span| {
        // A statement ends with its line.
        text.push(if span.line == line { ' ' } else { '\n' });
        line = span.line;
        let quote = match kind {
            TokenKind::String => "\"",
            TokenKind::RawString => "`",
            _ => "",
        };
        text.extend([quote, span.text(), quote]);
    });
    text
}

/// Up to the end, or to where the text is no Rego.
pub fn for_each_token(module: &Module, mut each: impl FnMut(TokenKind, &Span)) {
    let Ok(source) = Source::from_contents(module.path.clone(), module.text.clone()) else { return };
    let mut lexer = Lexer::new(&source);
    while let Ok(token) = lexer.next_token()
        && token.0 != TokenKind::Eof
    {
        each(token.0, &token.1);
    }
}

/// What is written from one place to another.
pub fn between<'a>(from: &'a Span, to: &'a Span) -> &'a str {
    let (start, end) = ends(from, to);
    from.source.contents().get(start..end).unwrap_or_default()
}

/// Where that begins and ends, in bytes. The engine leaves quotes out of the places of texts.
pub fn ends(from: &Span, to: &Span) -> (usize, usize) {
    let source: &str = from.source.contents();
    let is_quote = |byte: Option<&u8>| matches!(byte, Some(b'"' | b'`'));
    let (mut start, mut end) = (from.start as usize, to.end as usize);
    if start > 0 && is_quote(source.as_bytes().get(start - 1)) {
        start -= 1;
    }
    if is_quote(source.as_bytes().get(end)) {
        end += 1;
    }
    (start, end)
}
