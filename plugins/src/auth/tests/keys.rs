//! Keys: every algorithm with real ones, their change without a gap, and which are refused at load.

use super::*;

/// Every algorithm with a key to sign with, that key's algorithm family, and what the configuration has of it.
fn algorithms() -> Vec<(Algorithm, EncodingKey, &'static str, Value)> {
    let secret = |alg| (alg, EncodingKey::from_secret(BANK.as_bytes()), "secret", json!(BANK));
    let rsa = |alg| (alg, EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap(), "public_key", json!(RSA_PUB));
    let ec = |alg, private: &str, public| (alg, EncodingKey::from_ec_pem(private.as_bytes()).unwrap(), "public_key", json!(public));
    let ed = (Algorithm::EdDSA, EncodingKey::from_ed_pem(ED.as_bytes()).unwrap(), "public_key", json!(ED_PUB));
    let mut all: Vec<_> = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512].map(secret).into();
    all.extend([Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512].map(rsa));
    all.extend([ec(Algorithm::ES256, EC, EC_PUB), ec(Algorithm::ES384, EC384, EC384_PUB), ed]);
    all
}

#[test]
fn a_key_takes_tokens_of_its_own_algorithm_and_no_other() {
    let tokens: Vec<_> =
        algorithms().iter().map(|(alg, key, ..)| (*alg, encode(&Header::new(*alg), &acme_claims(), key).unwrap())).collect();
    assert_eq!(tokens.len(), 12);
    for (alg, _, field, key) in algorithms() {
        let gate = Gate::of(&[tenant("acme-shop", "{}", &keys(&json!([{ "alg": format!("{alg:?}"), field: key }])))]);
        for (other, token) in &tokens {
            let refusal = gate.refusal(token);
            if *other == alg {
                assert_eq!(refusal, None, "{alg:?}");
            } else {
                assert_eq!(refusal.as_deref(), Some("the token's signature does not verify with its tenant's keys"), "{alg:?} {other:?}");
            }
        }
    }
}

#[test]
fn a_public_key_does_not_pass_as_a_secret() {
    for (alg, _, field, key) in algorithms().into_iter().filter(|(.., field, _)| *field == "public_key") {
        let gate = Gate::of(&[tenant("acme-shop", "{}", &keys(&json!([{ "alg": format!("{alg:?}"), field: key }])))]);
        for secret in [key.as_str().unwrap(), key.as_str().unwrap().trim()] {
            for hmac in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let token = encode(&Header::new(hmac), &acme_claims(), &EncodingKey::from_secret(secret.as_bytes())).unwrap();
                gate.refuses(&token, "the token's signature does not verify with its tenant's keys");
            }
        }
    }
}

#[test]
fn keys_change_with_an_overlap_and_what_a_removed_one_signed_is_refused_at_once() {
    let old = json!({ "alg": "EdDSA", "public_key": ED_PUB, "kid": "2025" });
    let new = json!({ "alg": "EdDSA", "public_key": ED_NEXT_PUB, "kid": "2026" });
    let site = |list: &[&Value]| [tenant("acme-shop", "{}", &keys(&json!(list)))];
    let token = |kid: Option<&str>, pem: &str| {
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
        encode(&header, &acme_claims(), &EncodingKey::from_ed_pem(pem.as_bytes()).unwrap()).unwrap()
    };
    let [of_old, of_new, unnamed] = [token(Some("2025"), ED), token(Some("2026"), ED_NEXT), token(None, ED)];
    let why = Some("the token's signature does not verify with its tenant's keys".to_owned());
    let refusals = |gate: &Gate| [&of_old, &of_new, &unnamed].map(|t| gate.refusal(t));

    let before = Gate::of(&site(&[&old]));
    assert_eq!(refusals(&before), [None, why.clone(), None]);
    let both = before.reloaded(&site(&[&old, &new]));
    for _ in 0..2 {
        assert_eq!(refusals(&both), [None, None, None]);
    }
    // Each is taken only for the key whose name it has.
    assert_eq!(both.refusal(&token(Some("2026"), ED)), why);
    assert_eq!(refusals(&both.reloaded(&site(&[&new]))), [why.clone(), None, why]);
}

#[test]
fn problems_in_keys_and_configuration_are_all_named_without_showing_secrets() {
    let bad_keys = json!([
        { "alg": "HS256", "secret": "short" },
        { "alg": "HS256", "public_key": RSA_PUB },
        { "alg": "RS256", "public_key": RSA },
        { "alg": "RS256", "public_key": EC_PUB },
        { "alg": "ES256", "public_key": EC384_PUB },
        { "alg": "EdDSA", "public_key": "/no/such/file.pem" },
        { "alg": "ES256", "public_key": EC_PUB, "kid": "" },
        { "alg": "HS384", "secret": "x".repeat(47) },
        { "alg": "HS512", "secret": "x".repeat(63) },
        { "alg": "PS256", "public_key": RSA2040_PUB },
        { "alg": "ES384", "public_key": EC_PUB },
        { "alg": "ES384", "public_key": EC521_PUB },
        { "alg": "ES256" },
        { "alg": "none", "kid": 7, "secert": "x" },
    ]);
    let tenants = [
        tenant("a", "{}", &keys(&bad_keys)),
        tenant("b", "{claims: {tenant: t}}", "[{alg: HS256, secret: 123456789}]"),
        tenant("c", "{leeway: 5}", "[]"),
        tenant("d", "{}", "[{alg: ES512, public_key: x}]"),
    ];
    let clock = Clock::manual(NOW);
    let problems = Place { config: "{}", tenants: &tenants, clock: &clock, previous: None }.try_build(&spec()).err().unwrap();
    let shown: Vec<String> = problems
        .iter()
        .map(|Problem { scope, path, message }| {
            let scope = match scope {
                Scope::Plugin => "plugin".to_owned(),
                Scope::Tenant(t) => t.name().to_owned(),
                Scope::Keys(t) => format!("{}.keys", t.name()),
            };
            format!("{scope} {path}: {message}")
        })
        .collect();
    let expected = [
        "a.keys [0].secret: has 5 bytes, HS256 needs at least 32",
        "a.keys [1].alg: HS256 takes a `secret` and no `public_key`",
        "a.keys [2].public_key: this is a private key: the gateway needs, and should have, only the public one",
        "a.keys [3].public_key: not a public key for RS256 in PEM form",
        "a.keys [4].public_key: a key of another curve than ES256 takes",
        "a.keys [5].public_key: not a public key for EdDSA in PEM form",
        "a.keys [6].kid: a `kid` has 1 to 64 bytes",
        "a.keys [7].secret: has 47 bytes, HS384 needs at least 48",
        "a.keys [8].secret: has 63 bytes, HS512 needs at least 64",
        "a.keys [9].public_key: an RSA key of 2040 bits, PS256 takes 2048 to 8192",
        "a.keys [10].public_key: a key of another curve than ES384 takes",
        "a.keys [11].public_key: a key of another curve than ES384 takes",
        "a.keys [12].alg: ES256 takes a `public_key` and no `secret`",
        "b claims.tenant: the same for all tenants: it is read to find out which tenant a token is of",
        "b.keys [0].secret: invalid type: a number, expected a secret as text, in quotes if it looks like a number",
        "c leeway: invalid type: integer `5`, expected a duration with its unit, as `500ms`, `30s` or `5m`",
        "c.keys : a tenant has 1 to 16 keys, here are 0",
    ];
    for want in expected {
        assert!(shown.iter().any(|s| s == want), "{want} in {shown:#?}");
    }
    for beginning in [
        "a.keys [13].alg: unknown variant `none`",
        "a.keys [13].kid: invalid type: integer `7`",
        "a.keys [13].secert: unknown field `secert`",
        "d.keys [0].alg: unknown variant `ES512`",
    ] {
        assert!(shown.iter().any(|s| s.starts_with(beginning)), "{beginning} in {shown:#?}");
    }
    assert_eq!(shown.len(), expected.len() + 4, "{shown:#?}");
}

#[test]
fn a_secret_belongs_to_one_tenant_and_a_leeway_is_short() {
    let secret = keys(&json!([{ "alg": "HS256", "secret": ACME }]));
    let public = keys(&json!([{ "alg": "EdDSA", "public_key": ED_PUB }]));
    let clock = Clock::manual(NOW);
    let problems = |tenants: &[TenantBuild]| {
        let built = Place { config: "{}", tenants, clock: &clock, previous: None }.try_build(&spec());
        built.err().unwrap_or_default().into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect::<Vec<_>>()
    };
    let shared = "shares a secret with acme-shop: whoever holds it can make tokens for both";
    assert_eq!(problems(&[tenant("acme-shop", "{}", &secret), tenant("harbor-bank", "{}", &secret)]), [format!(": {shared}")]);
    assert_eq!(problems(&[tenant("acme-shop", "{}", &public), tenant("harbor-bank", "{}", &public)]), [""; 0]);
    assert_eq!(problems(&[tenant("acme-shop", "{leeway: 6m}", &secret)]), ["leeway: must be at most 300s"]);
}
