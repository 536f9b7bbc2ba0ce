//! The body of a batch (320, or 310 and 10 with the batch flag): records of
//! `total size, magic, crc, flag, body length, body, properties length,
//! properties`.

use crate::{error::Rejected, wire::code};

/// Everything of a record but its body and properties, in bytes.
const OVERHEAD: usize = 4 + 4 + 4 + 4 + 4 + 2;

/// One message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRecord<'a> {
    pub flag: i32,
    pub body: &'a [u8],
    /// May lack the final separator: C++ and old Java leave it out.
    pub properties: &'a [u8],
}

/// Appends one message to a batch's body. `properties` is at most
/// `message::MAX_PROPERTIES` bytes and `body` at most `message::MAX_BODY`.
pub fn put_batch_record(out: &mut Vec<u8>, record: BatchRecord<'_>) {
    let size = OVERHEAD + record.body.len() + record.properties.len();
    out.reserve(size);
    out.extend_from_slice(&(size as u32).to_be_bytes());
    // Magic and checksum are written as zero and ignored by every broker.
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&record.flag.to_be_bytes());
    out.extend_from_slice(&(record.body.len() as u32).to_be_bytes());
    out.extend_from_slice(record.body);
    out.extend_from_slice(&(record.properties.len() as u16).to_be_bytes());
    out.extend_from_slice(record.properties);
}

/// The messages of a batch, in order. Ends after the first damage.
pub struct BatchRecords<'a> {
    rest: &'a [u8],
}

impl<'a> BatchRecords<'a> {
    pub fn new(body: &'a [u8]) -> BatchRecords<'a> {
        BatchRecords { rest: body }
    }
}

impl<'a> Iterator for BatchRecords<'a> {
    type Item = Result<BatchRecord<'a>, Rejected>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match take_record(self.rest) {
            Some((record, rest)) => {
                self.rest = rest;
                Some(Ok(record))
            }
            None => {
                self.rest = &[];
                let why = "the batch's lengths do not add up";
                Some(Err(Rejected::new(code::MESSAGE_ILLEGAL, why)))
            }
        }
    }
}

fn take_record(bytes: &[u8]) -> Option<(BatchRecord<'_>, &[u8])> {
    let size = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
    let (record, rest) = bytes.split_at_checked(size)?;
    let flag = i32::from_be_bytes(record.get(12..16)?.try_into().ok()?);
    let body_len = u32::from_be_bytes(record.get(16..20)?.try_into().ok()?) as usize;
    let (body, after) = record[20..].split_at_checked(body_len)?;
    let properties_len = i16::from_be_bytes(*after.first_chunk()?);
    let properties = &after[2..];
    if usize::try_from(properties_len).ok()? != properties.len() {
        return None;
    }
    Some((BatchRecord { flag, body, properties }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_prefix_passes(
            messages in prop::collection::vec(
                (any::<i32>(), prop::collection::vec(any::<u8>(), 0..20), "[a-z]{0,9}"), 1..5),
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for (flag, body, properties) in &messages {
                let record =
                    BatchRecord { flag: *flag, body, properties: properties.as_bytes() };
                put_batch_record(&mut bytes, record);
                ends.push(bytes.len());
            }
            let read: Result<Vec<_>, _> = BatchRecords::new(&bytes).collect();
            let read: Vec<_> = read.unwrap().into_iter()
                .map(|r| (r.flag, r.body.to_vec(), String::from_utf8(r.properties.to_vec()).unwrap()))
                .collect();
            prop_assert_eq!(read, messages);
            for cut in 0..bytes.len() {
                let whole = BatchRecords::new(&bytes[..cut]).all(|record| record.is_ok());
                prop_assert_eq!(whole, ends.contains(&cut));
            }
        }
    }

    #[test]
    fn a_record_that_claims_nothing_does_not_loop() {
        let found: Vec<_> = BatchRecords::new(&[0; 64]).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].is_err());
    }
}
