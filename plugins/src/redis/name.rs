//! How ids stand in the names of keys.

/// Letters as they are; what has a meaning in a key, or cannot be seen, as `%` and two digits a byte.
pub(crate) fn put_id(out: &mut Vec<u8>, id: &str) {
    for c in id.chars() {
        let mut utf8 = [0; 4];
        let bytes = c.encode_utf8(&mut utf8).as_bytes();
        if c.is_control() || c.is_whitespace() || matches!(c, '%' | '/' | '{' | '}') {
            for byte in bytes {
                let digit = |d: u8| b"0123456789ABCDEF"[usize::from(d)];
                out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
            }
        } else {
            out.extend_from_slice(bytes);
        }
    }
}
