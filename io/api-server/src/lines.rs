//! The lines of a stream, whatever pieces it comes in.

use crate::event::{EventError, LINE_MAX};

/// How much room is kept between lines; what a large object needed is given back.
const KEPT_MAX: usize = 256 << 10;

/// Bytes that were received and not yet read. At most one line of [`LINE_MAX`] and one piece.
#[derive(Default)]
pub(crate) struct Lines {
    bytes: Vec<u8>,
    /// Before this everything was read.
    start: usize,
    /// Before this there is no further end of a line.
    searched: usize,
}

impl Lines {
    /// Adds what was received.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_MAX {
            self.bytes = Vec::new();
        }
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole line, without its end; empty ones are passed over.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, EventError> {
        loop {
            let unsearched = &self.bytes[self.searched..];
            let Some(length) = unsearched.iter().position(|byte| *byte == b'\n') else {
                self.searched = self.bytes.len();
                let is_long = self.searched - self.start > LINE_MAX;
                return if is_long { Err(EventError::TooLong) } else { Ok(None) };
            };
            let line = self.start..self.searched + length;
            self.searched = line.end + 1;
            self.start = self.searched;
            if line.len() > LINE_MAX {
                return Err(EventError::TooLong);
            }
            if !self.bytes[line.clone()].trim_ascii().is_empty() {
                return Ok(Some(&self.bytes[line]));
            }
        }
    }

    /// Whether the stream may end here: nothing is left of a line.
    pub(crate) fn is_at_end_of_line(&self) -> bool {
        self.bytes[self.start..].trim_ascii().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
        let mut lines = Lines::default();
        let mut read = Vec::new();
        for piece in pieces {
            lines.push(piece);
            while let Some(line) = lines.next().expect("short lines") {
                read.push(line.to_vec());
            }
        }
        (read, lines.is_at_end_of_line())
    }

    #[test]
    fn a_line_may_come_in_any_pieces() {
        let text = b"one\n\ntwo\r\n  \nthree\nrest";
        let want = vec![b"one".to_vec(), b"two\r".to_vec(), b"three".to_vec()];
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(read(&pieces), (want.clone(), false), "{first} {second}");
            }
        }
        assert_eq!(read(&[b"one\n"]), (vec![b"one".to_vec()], true));
        assert_eq!(read(&[]), (vec![], true));
    }

    #[test]
    fn a_line_without_end_is_refused_when_it_is_too_long() {
        let piece = vec![b'x'; LINE_MAX];
        let mut lines = Lines::default();
        lines.push(&piece);
        assert!(matches!(lines.next(), Ok(None)));
        lines.push(b"\n");
        assert!(matches!(lines.next(), Ok(Some(line)) if line.len() == LINE_MAX));
        lines.push(&piece);
        lines.push(b"x");
        assert!(matches!(lines.next(), Err(EventError::TooLong)));
        let mut lines = Lines::default();
        lines.push(&piece);
        lines.push(b"x\n");
        assert!(matches!(lines.next(), Err(EventError::TooLong)));
    }

    #[test]
    fn room_is_given_back() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; KEPT_MAX * 2]);
        lines.push(b"\n");
        assert!(matches!(lines.next(), Ok(Some(_))));
        lines.push(b"y\n");
        assert!(lines.bytes.capacity() <= KEPT_MAX);
        assert!(matches!(lines.next(), Ok(Some(b"y"))));
    }
}
