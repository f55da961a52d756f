//! Words that give away whose they are, and finding them again in whatever comes out of a gateway.
//!
//! They are letters and digits, so that JSON, percent-encoding and `Debug` leave them as they are; hex, base64 and lists of bytes
//! are looked for besides.

use std::{collections::BTreeSet, sync::LazyLock};

use serde_json::json;

pub const TENANTS: [&str; 3] = ["alpha", "beta", "gamma"];
/// A tenant's word for one way in.
pub fn word(tenant: &str, channel: &str) -> String {
    format!("zq{tenant}{channel}qz")
}

/// How a tenant's words would look wherever they turned up, in lower case.
fn traces(tenant: &str) -> Vec<String> {
    let plain = format!("zq{tenant}");
    let hex: String = plain.bytes().map(|b| format!("{b:02x}")).collect();
    let list = plain.bytes().map(|b| b.to_string()).collect::<Vec<_>>().join(", ");
    // Base64 of a text in a longer one depends on where it begins, and its ends on what is around it.
    let shifted = (0..3).map(|shift| {
        let whole = base64(&[&[0; 3][..shift], plain.as_bytes()].concat());
        whole[(shift * 8).div_ceil(6)..(shift + plain.len()) * 8 / 6].to_lowercase()
    });
    [plain.clone(), hex, list].into_iter().chain(shifted).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = bytes.iter().flat_map(|b| (0..8).rev().map(move |i| b >> i & 1)).collect();
    let digit = |six: &[u8]| six.iter().chain([0; 5].iter()).take(6).fold(0, |sum, bit| sum * 2 + usize::from(*bit));
    bits.chunks(6).map(|six| char::from(DIGITS[digit(six)])).collect()
}

/// The tenants whose words are in there.
pub fn found_in(place: &[u8]) -> BTreeSet<&'static str> {
    static TRACES: LazyLock<[Vec<String>; 3]> = LazyLock::new(|| TENANTS.map(traces));
    let place = place.to_ascii_lowercase();
    let text = String::from_utf8_lossy(&place);
    let found = |traces: &Vec<String>| traces.iter().any(|trace| text.contains(trace));
    TENANTS.into_iter().zip(&*TRACES).filter(|(_, traces)| found(traces)).map(|(tenant, _)| tenant).collect()
}

/// Asserts that only this tenant's words are there, or nobody's.
pub fn only(tenant: Option<&str>, place: &[u8], what: &str) {
    let others: Vec<_> = found_in(place).into_iter().filter(|found| Some(*found) != tenant).collect();
    assert!(others.is_empty(), "words of {others:?} in {what}: {}", String::from_utf8_lossy(place));
}

#[test]
fn words_are_found_however_they_are_written() {
    let said = word("alpha", "query");
    let hex: String = said.bytes().map(|b| format!("{b:02X}")).collect();
    let mut ways =
        vec![json!({ "a": said }).to_string(), format!("%7B{said}%7D"), format!("{:?}", said.as_bytes()), hex, said.to_uppercase()];
    ways.extend((0..3).map(|n| base64(format!("{}{said} and more", "x".repeat(n)).as_bytes())));
    for way in &ways {
        assert_eq!(found_in(way.as_bytes()), ["alpha"].into(), "{way}");
    }
    assert!(found_in(b"zq zqdelta alpha 7a71").is_empty());
}
