//! Reads server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>) out of chunks that end anywhere.

use bytes::BytesMut;

/// One event: its name (empty if it gave none) and its data lines joined by newlines.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SseEvent {
    pub name: String,
    pub data: Vec<u8>,
}

/// Collects bytes until an event is whole; the caller bounds what it pushes. Comments, ids and retry times are skipped.
#[derive(Debug, Default)]
pub(super) struct SseReader {
    buffer: BytesMut,
    /// How far the buffer was searched for the end of a line.
    searched: usize,
    name: String,
    data: Vec<u8>,
    has_data: bool,
}

impl SseReader {
    /// Adds what came from the wire.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event, if there is one.
    pub(super) fn next(&mut self) -> Option<SseEvent> {
        while let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
            let line = self.buffer.split_to(self.searched + end + 1);
            self.searched = 0;
            let line = &line[..line.len() - 1];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.is_empty() {
                self.field(line);
            } else if std::mem::take(&mut self.has_data) {
                return Some(SseEvent { name: std::mem::take(&mut self.name), data: std::mem::take(&mut self.data) });
            } else {
                self.name.clear();
            }
        }
        self.searched = self.buffer.len();
        None
    }

    fn field(&mut self, line: &[u8]) {
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..])),
            None => (line, &b""[..]),
        };
        match field {
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIRE: &[u8] =
        b": hello\r\nevent: delta\ndata: {\"text\":\"a\"}\n\n\nid: 7\ndata:x\ndata: y\r\n\r\nevent: lost\n\nevent: done\ndata\n\n";

    fn read_in_pieces_of(n: usize) -> Vec<(String, String)> {
        let mut reader = SseReader::default();
        let mut out = Vec::new();
        for chunk in WIRE.chunks(n) {
            reader.push(chunk);
            while let Some(event) = reader.next() {
                out.push((event.name, String::from_utf8(event.data).unwrap()));
            }
        }
        assert!(reader.buffer.is_empty() && reader.data.is_empty());
        out
    }

    #[test]
    fn events_are_the_same_wherever_the_chunks_end() {
        let whole = read_in_pieces_of(WIRE.len());
        let expected = [("delta", "{\"text\":\"a\"}"), ("", "x\ny"), ("done", "")];
        assert_eq!(whole, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        for n in 1..WIRE.len() {
            assert_eq!(read_in_pieces_of(n), whole, "pieces of {n}");
        }
    }
}
