//! What a token looks like: only its one canonical form is read, and nothing in its header decides how.

use super::*;

#[test]
fn malformed_tokens_are_refused() {
    let gate = Gate::new();
    let good = acme(&acme_claims());
    let (message, _) = good.rsplit_once('.').unwrap();
    let malformed = "the token is malformed: a signed JWT is needed";
    for bad in [
        "garbage",
        "a.b",
        "a.b.c",
        "..",
        "....",
        "é.é.é",
        &format!("{good}."),
        &format!(".{good}"),
        &format!("{good}.x"),
        &format!("{good},{good}"),
        &format!("x{message}."),
    ] {
        gate.refuses(bad, malformed);
    }
    gate.refuses(&acme(&json!([1])), malformed);
    gate.refuses(&"x".repeat(8193), "the token is longer than 8192 bytes");
    gate.refuses(&acme(&with(acme_claims(), "pad", json!("x".repeat(7000)))), "the token is longer than 8192 bytes");
}

#[test]
fn the_header_cannot_choose_how_it_is_verified() {
    let gate = Gate::new();
    let algorithm = "the token's algorithm is not accepted";
    for alg in [json!("none"), json!("None"), json!("ES512"), json!("hs256"), json!(""), json!(null), json!(1)] {
        gate.refuses(&with_header(&json!({ "alg": alg }), &acme_claims()), algorithm);
    }
    gate.refuses(&with_header(&json!({}), &acme_claims()), algorithm);
    let none = with_header(&json!({ "alg": "none" }), &acme_claims());
    gate.refuses(&format!("{}.", none.rsplit_once('.').unwrap().0), algorithm);
    for crit in [json!(["exp"]), json!([]), json!(null), json!("b64")] {
        let header = json!({ "alg": "HS256", "crit": crit, "b64": false });
        gate.refuses(&with_header(&header, &acme_claims()), "the token has a `crit` header, none is understood");
    }
    for kid in [json!(1), json!(""), json!("k".repeat(65)), json!(["a"])] {
        gate.refuses(
            &with_header(&json!({ "alg": "HS256", "kid": kid }), &acme_claims()),
            "the token's `kid` is not a string of 1 to 64 bytes",
        );
    }
    for b64 in [json!(false), json!(null), json!("true")] {
        gate.refuses(
            &with_header(&json!({ "alg": "HS256", "b64": b64 }), &acme_claims()),
            "the token is malformed: a signed JWT is needed",
        );
    }
    // Keys that come with the token are ignored, and a `kid` that looks like a path is only a name.
    let header = json!({ "alg": "HS256", "kid": "../../etc/passwd", "jku": "http://127.0.0.1/keys", "jwk": { "kty": "oct", "k": "AA" } });
    assert_eq!(gate.refusal(&with_header(&header, &acme_claims())), None);
}

/// base64url without padding, of which all but this file's tests get theirs from jsonwebtoken.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let group = |three: &[u8]| {
        let bits = three.iter().fold(0_usize, |bits, b| bits << 8 | usize::from(*b)) << (8 * (3 - three.len()));
        (0..=three.len()).map(move |i| char::from(DIGITS[bits >> (18 - 6 * i) & 63])).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// A token with these bytes for a header and claims, well signed with acme's key.
fn signed(header: &str, claims: &str) -> String {
    with_parts(&base64url(header.as_bytes()), &base64url(claims.as_bytes()))
}

fn with_parts(header: &str, claims: &str) -> String {
    let message = [header, claims].join(".");
    let key = EncodingKey::from_secret(ACME.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    [message, signature].join(".")
}

#[test]
fn names_that_occur_twice_are_refused() {
    let gate = Gate::new();
    let (header, exp) = (r#"{"alg":"HS256"}"#, now() + 60);
    let good = format!(r#"{{"tenant_id":"acme-shop","user_id":"u1","exp":{exp}}}"#);
    assert_eq!(gate.refusal(&signed(header, &good)), None);
    let malformed = "the token is malformed: a signed JWT is needed";
    for (header, claims) in [
        (r#"{"alg":"HS256","alg":"HS256"}"#, good.clone()),
        (r#"{"alg":"none","alg":"HS256"}"#, good.clone()),
        (r#"{"alg":"HS256","typ":"JWT","typ":"JWT"}"#, good),
        (header, format!(r#"{{"tenant_id":"acme-shop","user_id":"u2","user_id":"u1","exp":{exp}}}"#)),
        (header, format!(r#"{{"tenant_id":"acme-shop","user_id":"u1","exp":{exp},"exp":{exp}}}"#)),
        (header, format!(r#"{{"tenant_id":"acme-shop","user_id":"u1","exp":{exp},"x":1,"\u0078":1}}"#)),
    ] {
        gate.refuses(&signed(header, &claims), malformed);
    }
}

#[test]
fn headers_and_claims_are_one_json_object_and_nothing_more() {
    let gate = Gate::new();
    let (header, claims) = (r#"{"alg":"HS256"}"#, acme_claims().to_string());
    assert_eq!(gate.refusal(&signed(&format!(" \t\r\n{header}\n"), &claims)), None, "white space is no part of JSON's meaning");
    for bad in ["", "null", "[]", "\"x\"", "{}{}", "{\"a\":1,}", "\u{feff}{}", "{\"a\":NaN}", "{'a':1}"] {
        gate.refuses(&signed(bad, &claims), "the token is malformed: a signed JWT is needed");
        gate.refuses(&signed(header, bad), "the token is malformed: a signed JWT is needed");
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(2000), "]".repeat(2000));
    gate.refuses(&signed(header, &deep), "the token is malformed: a signed JWT is needed");
}

#[test]
fn base64_that_is_not_canonical_is_refused_in_every_part() {
    let gate = Gate::new();
    // A byte over a multiple of three leaves four bits of the last digit unused.
    let unused = |part: &str| {
        let last = part.chars().last().unwrap();
        let next = char::from_u32(u32::from(last) + 1).unwrap();
        format!("{}{next}", &part[..part.len() - 1])
    };
    let fill = |text: &str| format!("{text}{}", " ".repeat((4 - text.len() % 3) % 3));
    let header = base64url(fill(r#"{"alg":"HS256"}"#).as_bytes());
    let claims = base64url(fill(&acme_claims().to_string()).as_bytes());
    let good = with_parts(&header, &claims);
    assert_eq!(gate.refusal(&good), None);
    let malformed = "the token is malformed: a signed JWT is needed";
    for alter in [
        unused,
        |p: &str| format!("{p}="),
        |p: &str| format!("{p}=="),
        |p: &str| format!("{p}\t"),
        |p: &str| format!("{} {}", &p[..4], &p[4..]),
        |p: &str| format!("+/{p}"),
    ] {
        gate.refuses(&with_parts(&alter(&header), &claims), malformed);
        gate.refuses(&with_parts(&header, &alter(&claims)), malformed);
    }
    let (message, signature) = good.rsplit_once('.').unwrap();
    let why = "the token's signature does not verify with its tenant's keys";
    for signature in [unused(signature), format!("{signature}="), format!("{signature}A"), signature[..42].to_owned()] {
        gate.refuses(&[message, &signature].join("."), why);
    }
}

#[test]
fn a_token_with_any_one_character_changed_is_refused() {
    let gate = Gate::new();
    let good = signed(r#"{"alg":"HS256"}"#, &acme_claims().to_string());
    assert_eq!(gate.refusal(&good), None);
    for at in 0..good.len() {
        for other in ["", "A", "B", "_", "-", ".", "=", "+", "/", "%", "AA"] {
            let changed = [&good[..at], other, &good[at + 1..]].concat();
            assert!(changed == good || gate.refusal(&changed).is_some(), "{changed}");
        }
    }
}
