//! The binary format of protocol and handover: a sequence of 64-bit words in native byte order, since both
//! ends run on the same machine.

use nix::errno::Errno;

/// A signed number as a word.
pub(super) fn i32_to_word(number: i32) -> u64 {
    u64::from(number.cast_unsigned())
}

/// The signed number in a word.
pub(super) fn word_to_i32(word: u64) -> i32 {
    (word as u32).cast_signed()
}

/// Writes words and text: [`FixedWriter`] for packets, a growing buffer for the handover.
pub(super) trait WordSink {
    fn bytes(&mut self, bytes: &[u8]);

    fn word(&mut self, word: u64) {
        self.bytes(&word.to_ne_bytes());
    }
}

/// A buffer of fixed size; what does not fit is cut off.
pub(super) struct FixedWriter<'a> {
    buffer: &'a mut [u8],
    used: usize,
}

impl<'a> FixedWriter<'a> {
    pub(super) fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, used: 0 }
    }

    pub(super) fn finish(self) -> &'a [u8] {
        let Self { buffer, used } = self;
        &buffer[..used]
    }
}

impl WordSink for FixedWriter<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(self.buffer.len() - self.used);
        self.buffer[self.used..self.used + fits].copy_from_slice(&bytes[..fits]);
        self.used += fits;
    }
}

/// Reads words and text.
pub(super) struct WordReader<'a>(pub(super) &'a [u8]);

impl<'a> WordReader<'a> {
    /// # Errors
    /// `EBADMSG`: the end is reached.
    pub(super) fn next_word(&mut self) -> nix::Result<u64> {
        let (word, rest) = self.0.split_first_chunk::<8>().ok_or(Errno::EBADMSG)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*word))
    }

    /// # Errors
    /// `EBADMSG`: fewer bytes are left.
    pub(super) fn next_bytes(&mut self, length: usize) -> nix::Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Errno::EBADMSG)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// # Errors
    /// `EBADMSG`: fewer bytes are left, or they are not UTF-8.
    pub(super) fn next_text(&mut self, length: usize) -> nix::Result<&'a str> {
        std::str::from_utf8(self.next_bytes(length)?).map_err(|_| Errno::EBADMSG)
    }
}
