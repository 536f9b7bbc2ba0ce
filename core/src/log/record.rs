//! One entry as bytes.

/// What an entry's parts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Message records in their wire layout. All of them exist or none (D6).
    #[default]
    Messages,
    /// Encoded commands.
    Command,
    /// Nothing. Appended to an idle log so that its claim covers what was
    /// synced last.
    Mark,
}

/// An entry under construction, made to be reused: clearing it keeps its
/// memory.
#[derive(Default)]
pub struct Draft {
    kind: Kind,
    bytes: Vec<u8>,
}

impl Draft {
    /// Forgets all parts and starts an entry of this kind.
    pub fn clear(&mut self, kind: Kind) {
        self.kind = kind;
        self.bytes.clear();
    }

    /// Adds one part: the bytes that `write` appends to the vector.
    pub fn part(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
    }

    /// The bytes that the entry will take in the log.
    pub fn size(&self) -> usize {
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        todo!()
    }
}
