//! Tells two configurations apart without giving any of their secrets away.

use jsonwebtoken::{Algorithm, EncodingKey, crypto};

/// 32 hex digits, the same on every replica and by every build for the same text and the same of what it takes from `outside`, by
/// name: a cut HMAC-SHA-256, for which this process has an implementation at hand already.
pub(super) fn of(text: &[u8], outside: &[(String, String)]) -> String {
    let mut all = text.to_vec();
    for (name, value) in outside {
        // Lengths first, so that no two of them read the same.
        all.extend_from_slice(format!("\n{}:{}:", name.len(), value.len()).as_bytes());
        all.extend_from_slice(name.as_bytes());
        all.extend_from_slice(value.as_bytes());
    }
    let mac = crypto::sign(&all, &EncodingKey::from_secret(b"fengda configuration"), Algorithm::HS256);
    hex(&mac.expect("HMAC takes any message and any key"))
}

/// The first 128 bits of base64url as hex digits.
fn hex(base64url: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let sextets = base64url.bytes().filter_map(|c| ALPHABET.iter().position(|a| *a == c));
    let bits = sextets.flat_map(|sextet| (0..6).rev().map(move |i| sextet >> i & 1)).collect::<Vec<_>>();
    bits.chunks_exact(4).take(32).map(|nibble| char::from(b"0123456789abcdef"[nibble.iter().fold(0, |n, bit| n << 1 | bit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_turned_into_hex() {
        assert_eq!(hex("3q2-7wABAgMEBQYHCAkKC_8"), "deadbeef000102030405060708090a0b");
    }

    #[test]
    fn the_hash_follows_text_and_environment() {
        let env = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
        let hashes = [of(b"a", &[]), of(b"b", &[]), of(b"a", &env("X", "1")), of(b"a", &env("X", "2")), of(b"a", &env("X1", ""))];
        assert!(hashes.iter().all(|h| h.len() == 32));
        assert!((1..hashes.len()).all(|i| !hashes[..i].contains(&hashes[i])), "{hashes:?}");
        assert_eq!(hashes[2], of(b"a", &env("X", "1")));
    }
}
