//! Headers in RocketMQ's binary encoding.

use super::*;

pub fn encode(frame: &Frame, out: &mut BytesMut) {
    out.put_i16(frame.code as i16);
    out.put_u8(frame.language);
    out.put_i16(frame.version as i16);
    out.put_i32(frame.opaque);
    out.put_i32(frame.flag);
    out.put_u32(frame.remark.len() as u32);
    out.put_slice(frame.remark.as_bytes());
    out.put_u32(frame.fields.0.len() as u32);
    out.put_slice(&frame.fields.0);
}

pub fn decode(header: &Bytes) -> Result<Frame, String> {
    let mut rest = header.clone();
    if rest.len() < 13 {
        return Err(format!("{} bytes are too few for a binary header", rest.len()));
    }
    let code = i32::from(rest.get_i16());
    let language = rest.get_u8();
    let version = i32::from(rest.get_i16());
    let opaque = rest.get_i32();
    let flag = rest.get_i32();
    let remark = take(&mut rest, "remark")?;
    let remark = std::str::from_utf8(&remark).map_err(|_| "the remark is not UTF-8")?;
    let fields = take(&mut rest, "extFields")?;
    check_fields(&fields)?;
    Ok(Frame {
        code,
        language,
        version,
        opaque,
        flag,
        remark: remark.to_owned(),
        fields: Fields(fields),
        body: Bytes::new(),
        encoding: Encoding::Binary,
    })
}

fn take(rest: &mut Bytes, what: &str) -> Result<Bytes, String> {
    // Java leaves both lengths out when there is nothing to say.
    if rest.is_empty() {
        return Ok(Bytes::new());
    }
    if rest.len() < 4 {
        return Err(format!("the length of {what} is cut short"));
    }
    let len = rest.get_u32() as usize;
    if len > rest.len() {
        return Err(format!("{what} claims {len} bytes, {} are left", rest.len()));
    }
    Ok(rest.split_to(len))
}

fn check_fields(fields: &[u8]) -> Result<(), String> {
    let mut rest = fields;
    while !rest.is_empty() {
        let whole = take_text(&mut rest, 2).and_then(|_| take_text(&mut rest, 4));
        if whole.is_none() {
            let at = fields.len() - rest.len();
            return Err(format!("extFields are cut short or not UTF-8 near byte {at}"));
        }
    }
    Ok(())
}
