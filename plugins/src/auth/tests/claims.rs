//! Claims: there, of their types, and true now.

use super::*;

#[test]
fn claims_must_be_there_have_their_types_and_hold() {
    let gate = Gate::new();
    let cases = [
        ("tenant_id", json!(null), "the token has no claim `tenant_id`"),
        ("tenant_id", json!(["acme-shop"]), "the token's claim `tenant_id` is not a string"),
        ("user_id", json!(null), "the token has no claim `user_id`"),
        ("user_id", json!(7), "the token's claim `user_id` is not a string"),
        ("user_id", json!(""), "the token's claim `user_id` is not 1 to 128 bytes long"),
        ("user_id", json!("u".repeat(129)), "the token's claim `user_id` is not 1 to 128 bytes long"),
        ("exp", json!(null), "the token has no claim `exp`"),
        ("exp", json!("9999999999"), "the token's claim `exp` is not a number"),
        ("exp", json!(true), "the token's claim `exp` is not a number"),
        ("exp", json!(-1), "the token has expired"),
        ("exp", json!(now()), "the token has expired"),
        ("exp", json!(1e300), ""),
        ("exp", json!(u64::MAX), ""),
        ("exp", json!(now() as f64 + 0.01), ""),
        ("exp", json!(now() as f64 - 0.01), "the token has expired"),
        ("exp", json!([now() + 60]), "the token's claim `exp` is not a number"),
        ("exp", json!({}), "the token's claim `exp` is not a number"),
        ("nbf", json!("0"), "the token's claim `nbf` is not a number"),
        ("nbf", json!(now() + 1), "the token is not valid yet"),
        ("nbf", json!(now() as f64 + 0.5), "the token is not valid yet"),
        ("nbf", json!(now()), ""),
        ("nbf", json!(-1), ""),
        ("nbf", json!(true), "the token's claim `nbf` is not a number"),
        ("seq_no", json!("7"), "the token's claim `seq_no` is not a whole number"),
        ("seq_no", json!(-7), "the token's claim `seq_no` is not a whole number"),
        ("seq_no", json!(1.5), "the token's claim `seq_no` is not a whole number"),
    ];
    for (name, value, why) in cases {
        let token = acme(&with(acme_claims(), name, value));
        assert_eq!(gate.refusal(&token).unwrap_or_default(), why, "{name}");
    }
}

#[test]
fn issuer_and_audience_are_required_once_configured() {
    let gate = Gate::new();
    let key = EncodingKey::from_ed_pem(ED.as_bytes()).unwrap();
    let token = |name, value| encode(&Header::new(Algorithm::EdDSA), &with(bank_claims(), name, value), &key).unwrap();
    for bad in [json!(null), json!("other"), json!("bank-idp/"), json!("Bank-idp"), json!("")] {
        gate.refuses(&token("iss", bad), "the token's claim `iss` is not the one required");
    }
    for bad in [json!(null), json!("other"), json!([]), json!(["fengda2"]), json!("FENGDA")] {
        gate.refuses(&token("aud", bad), "the token's claim `aud` is not the one required");
    }
    for good in [json!("fengda"), json!(["fengda"]), json!(["a", "b", "fengda"])] {
        assert_eq!(gate.refusal(&token("aud", good)), None);
    }
}

#[test]
fn issuer_and_audience_have_their_types_whether_configured_or_not() {
    let gate = Gate::new();
    let key = EncodingKey::from_ed_pem(ED.as_bytes()).unwrap();
    let bank = |name, value| encode(&Header::new(Algorithm::EdDSA), &with(bank_claims(), name, value), &key).unwrap();
    for bad in [json!(1), json!(["bank-idp"]), json!({ "bank-idp": 1 }), json!(true)] {
        for token in [bank("iss", bad.clone()), acme(&with(acme_claims(), "iss", bad))] {
            gate.refuses(&token, "the token's claim `iss` is not a string");
        }
    }
    for bad in [json!(1), json!(["fengda", 1]), json!({ "fengda": 1 }), json!([["fengda"]])] {
        for token in [bank("aud", bad.clone()), acme(&with(acme_claims(), "aud", bad))] {
            gate.refuses(&token, "the token's claim `aud` is not a string or a list of strings");
        }
    }
}

#[test]
fn without_configured_ones_any_issuer_passes_and_no_audience() {
    let gate = Gate::new();
    assert_eq!(gate.refusal(&acme(&with(acme_claims(), "iss", json!("anybody")))), None);
    for aud in [json!("another-service"), json!(["fengda"]), json!([])] {
        let why = "the token is for an audience (`aud`), and this gateway is not configured to be one";
        gate.refuses(&acme(&with(acme_claims(), "aud", aud)), why);
    }
}

#[test]
fn leeway_moves_both_ends_by_exactly_as_much() {
    let hs256 = keys(&json!([{ "alg": "HS256", "secret": ACME }]));
    for leeway in [0, 1, 30, 300] {
        let gate = Gate::of(&[tenant("acme-shop", &format!("{{leeway: {leeway}s}}"), &hs256)]);
        let at = |name, seconds: u64| gate.refusal(&acme(&with(acme_claims(), name, json!(seconds))));
        assert_eq!(at("exp", now() - leeway).as_deref(), Some("the token has expired"), "{leeway}");
        assert_eq!(at("exp", now() - leeway + 1), None, "{leeway}");
        assert_eq!(at("nbf", now() + leeway + 1).as_deref(), Some("the token is not valid yet"), "{leeway}");
        assert_eq!(at("nbf", now() + leeway), None, "{leeway}");
    }
}
