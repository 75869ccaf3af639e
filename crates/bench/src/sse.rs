//! Reads server-sent events off a byte stream, cut anywhere. What an event says is left to whoever asked for it.

/// Longest line kept. A longer one is cut: this is a measuring instrument, not a client.
const LINE_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The `data:` of one event, its lines joined by a line feed.
    Data(&'a [u8]),
    /// OpenAI's end of a stream, `data: [DONE]`.
    Done,
    /// A comment line, without its colon.
    Comment(&'a [u8]),
}

#[derive(Debug, Default)]
pub struct SseReader {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
}

// === impl SseReader ===

impl SseReader {
    /// Takes the next bytes and calls `on_event` for each event that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut on_event: impl FnMut(Event<'_>)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let Some(rest) = piece.strip_suffix(b"\n") else {
                self.keep(piece);
                return;
            };
            if self.line.is_empty() {
                self.end_line(rest, &mut on_event);
                continue;
            }
            self.keep(rest);
            let mut line = std::mem::take(&mut self.line);
            self.end_line(&line, &mut on_event);
            line.clear();
            self.line = line;
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn end_line(&mut self, line: &[u8], on_event: &mut impl FnMut(Event<'_>)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return self.end_event(on_event);
        }
        if let Some(comment) = line.strip_prefix(b":") {
            return on_event(Event::Comment(without_space(comment)));
        }
        if let Some(data) = line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(without_space(data));
            self.has_data = true;
        }
    }

    fn end_event(&mut self, on_event: &mut impl FnMut(Event<'_>)) {
        if !std::mem::take(&mut self.has_data) {
            return;
        }
        match self.data.as_slice() {
            b"[DONE]" => on_event(Event::Done),
            data => on_event(Event::Data(data)),
        }
        self.data.clear();
    }
}

fn without_space(value: &[u8]) -> &[u8] {
    value.strip_prefix(b" ").unwrap_or(value)
}

/// Whether a chunk of a chat stream carries text, as opposed to the role or the usage. It looks for the field instead of
/// parsing: this runs once per chunk of the load.
pub fn carries_text(data: &[u8]) -> bool {
    const FIELD: &[u8] = b"\"content\":";
    data.windows(FIELD.len()).position(|window| window == FIELD).is_some_and(|at| {
        let value = data[at + FIELD.len()..].trim_ascii_start();
        value.first() == Some(&b'"') && value.get(1).is_some_and(|&byte| byte != b'"')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in_pieces_of(size: usize, stream: &[u8]) -> Vec<String> {
        let mut reader = SseReader::default();
        let mut seen = Vec::new();
        for piece in stream.chunks(size) {
            reader.feed(piece, |event| {
                seen.push(match event {
                    Event::Data(data) => format!("data {}", String::from_utf8_lossy(data)),
                    Event::Comment(text) => format!("comment {}", String::from_utf8_lossy(text)),
                    Event::Done => "done".to_owned(),
                });
            });
        }
        seen
    }

    #[test]
    fn events_are_the_same_however_the_stream_is_cut() {
        let stream = b": hello\r\n\r\ndata: {\"a\":1}\n\ndata:x\ndata: y\n\nevent: ping\nid: 3\n\ndata: [DONE]\n\n";
        let wanted = ["comment hello", "data {\"a\":1}", "data x\ny", "done"];
        for size in 1..=stream.len() {
            assert_eq!(read_in_pieces_of(size, stream), wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_its_blank_line_is_not_an_event() {
        assert!(read_in_pieces_of(7, b"data: [DONE]\n").is_empty());
    }

    #[test]
    fn an_endless_line_is_cut_not_kept() {
        let mut reader = SseReader::default();
        reader.feed(&vec![b'x'; 3 * LINE_BYTES_MAX], |_| panic!("a line that never ended is no event"));
        assert_eq!(reader.line.len(), LINE_BYTES_MAX);
    }

    #[test]
    fn text_is_told_from_role_and_usage() {
        assert!(carries_text(br#"{"choices":[{"delta":{"content":"Hi"}}]}"#));
        assert!(carries_text(br#"{"choices":[{"delta":{"content" : "x","content": "Hi"}}]}"#));
        assert!(!carries_text(br#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#));
        assert!(!carries_text(br#"{"choices":[{"delta":{"content":null}}]}"#));
        assert!(!carries_text(br#"{"choices":[],"usage":{"total_tokens":3}}"#));
    }
}
