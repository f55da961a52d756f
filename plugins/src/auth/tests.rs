//! Every kind of bad token with the words the client reads, and the ways in which a good one is bound to its tenant.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, header::WWW_AUTHENTICATE};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{SignError, sign, spec};
use crate::{
    api::{Clock, Decision, Plugin, Problem, RequestCtx, Scope, Tenant, TenantBuild},
    testing::{NOW, Place, ask, ctx, head, tenant, yaml},
};

const ACME: &str = "acme-secret-acme-secret-acme-secret-1";
const BANK: &str = "bank-secret-bank-secret-bank-secret-2";
const RSA: &str = include_str!("testdata/rsa.pem");
const RSA_PUB: &str = include_str!("testdata/rsa.pub.pem");
const EC: &str = include_str!("testdata/ec.pem");
const EC_PUB: &str = include_str!("testdata/ec.pub.pem");
const ED: &str = include_str!("testdata/ed.pem");
const ED_PUB: &str = include_str!("testdata/ed.pub.pem");
const EC384_PUB: &str = include_str!("testdata/ec384.pub.pem");

fn keys(list: &Value) -> String {
    serde_yaml::to_string(list).unwrap()
}

fn tenants() -> Vec<TenantBuild> {
    let bank = json!([
        { "alg": "HS384", "secret": BANK, "kid": "old" },
        { "alg": "RS256", "public_key": RSA_PUB, "kid": "rsa" },
        { "alg": "ES256", "public_key": EC_PUB },
        { "alg": "EdDSA", "public_key": ED_PUB },
    ]);
    vec![
        tenant("acme-shop", "{}", &keys(&json!([{ "alg": "HS256", "secret": ACME }]))),
        tenant("harbor-bank", "{iss: bank-idp, aud: fengda, leeway: 5s}", &keys(&bank)),
    ]
}

struct Gate {
    plugin: Arc<dyn Plugin>,
    clock: Clock,
}

impl Gate {
    fn new() -> Self {
        let clock = Clock::manual(NOW);
        let plugin = Place { config: "{}", tenants: &tenants(), clock: &clock, previous: None }.build(&spec());
        Self { plugin, clock }
    }

    fn send(&self, headers: &[(&str, &str)]) -> (Decision, RequestCtx) {
        let mut ctx = ctx("127.0.0.1");
        (ask(&*self.plugin, &head(headers), &mut ctx), ctx)
    }

    /// Sends a token; the message of the refusal, if any. A refused request stays without identity.
    fn refusal(&self, token: &str) -> Option<String> {
        match self.send(&[("authorization", &format!("Bearer {token}"))]) {
            (Decision::Continue, ctx) => ctx.identity().map(|_| None).expect("a passed request has an identity"),
            (Decision::Reject(r), ctx) => {
                assert!(ctx.identity().is_none());
                assert_eq!(r.headers, [(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer error="invalid_token""#))]);
                Some(r.message.into_owned())
            }
        }
    }

    fn refuses(&self, token: &str, why: &str) {
        assert_eq!(self.refusal(token).as_deref(), Some(why));
    }
}

fn now() -> u64 {
    NOW.0 / 1000
}

fn acme_claims() -> Value {
    json!({ "tenant_id": "acme-shop", "user_id": "u1", "exp": now() + 60 })
}

fn bank_claims() -> Value {
    json!({ "tenant_id": "harbor-bank", "user_id": "u1", "exp": now() + 60, "iss": "bank-idp", "aud": ["x", "fengda"] })
}

/// `claims` with one changed, or removed if `null`.
fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => claims.as_object_mut().unwrap().remove(name),
        value => claims.as_object_mut().unwrap().insert(name.into(), value),
    };
    claims
}

fn hs256(claims: &Value, secret: &str) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn acme(claims: &Value) -> String {
    hs256(claims, ACME)
}

/// A token whose header jsonwebtoken would not make, signed with acme's key.
fn with_header(header: &Value, claims: &Value) -> String {
    let key = EncodingKey::from_secret(ACME.as_bytes());
    let part = |v: &Value| acme(v).split('.').nth(1).unwrap().to_owned();
    let message = [part(header), part(claims)].join(".");
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    [message, signature].join(".")
}

#[test]
fn a_good_token_of_every_algorithm_gives_its_tenant_user_and_seq() {
    let gate = Gate::new();
    let hs384 = Header { kid: Some("old".into()), ..Header::new(Algorithm::HS384) };
    let tokens = [
        encode(&hs384, &bank_claims(), &EncodingKey::from_secret(BANK.as_bytes())),
        encode(&Header::new(Algorithm::RS256), &bank_claims(), &EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap()),
        encode(&Header::new(Algorithm::ES256), &bank_claims(), &EncodingKey::from_ec_pem(EC.as_bytes()).unwrap()),
        encode(&Header::new(Algorithm::EdDSA), &bank_claims(), &EncodingKey::from_ed_pem(ED.as_bytes()).unwrap()),
        Ok(acme(&with(acme_claims(), "seq_no", json!(7)))),
    ];
    for (token, name) in tokens.into_iter().zip(["harbor-bank", "harbor-bank", "harbor-bank", "harbor-bank", "acme-shop"]) {
        for header in ["Bearer ", "bearer ", "BEARER   "] {
            let (decision, ctx) = gate.send(&[("authorization", &[header, token.as_ref().unwrap()].concat())]);
            assert!(matches!(decision, Decision::Continue), "{decision:?}");
            let identity = ctx.identity().unwrap();
            assert_eq!((ctx.tenant().unwrap().name(), identity.user.id()), (name, "u1"));
            assert_eq!(identity.seen, (name == "acme-shop").then_some(7));
        }
    }
}

#[test]
fn no_token_is_challenged_without_an_error_code_and_two_are_refused() {
    let gate = Gate::new();
    let token = format!("Bearer {}", acme(&acme_claims()));
    let missing = "send a token: `Authorization: Bearer <token>`";
    let refused = |headers: &[(&str, &str)], challenge: &'static str, message: &str| {
        let (Decision::Reject(reject), _) = gate.send(headers) else { panic!("refused") };
        assert_eq!((reject.message.as_ref(), reject.code.as_str()), (message, "unauthorized"));
        assert_eq!(reject.headers, [(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))]);
    };
    refused(&[], "Bearer", missing);
    for value in ["Bearer", "Bearer  ", "Basic dTpw", ""] {
        refused(&[("authorization", value)], "Bearer", missing);
    }
    let twice = [("authorization", token.as_str()), ("authorization", token.as_str())];
    refused(&twice, r#"Bearer error="invalid_request""#, "more than one Authorization header");
}

#[test]
fn malformed_tokens_are_refused() {
    let gate = Gate::new();
    let good = acme(&acme_claims());
    let (message, _) = good.rsplit_once('.').unwrap();
    let malformed = "the token is malformed: a signed JWT is needed";
    for bad in ["garbage", "a.b", "a.b.c", "..", "....", "é.é.é", &format!("{good}.x"), &format!("{good},{good}"), &format!("x{message}.")]
    {
        gate.refuses(bad, malformed);
    }
    gate.refuses(&acme(&json!([1])), malformed);
    gate.refuses(&"x".repeat(8193), "the token is longer than 8192 bytes");
    gate.refuses(&acme(&with(acme_claims(), "pad", json!("x".repeat(7000)))), "the token is longer than 8192 bytes");
}

#[test]
fn signatures_that_do_not_hold_are_refused_alike_whether_the_tenant_exists_or_not() {
    let gate = Gate::new();
    let signature = "the token's signature does not verify with its tenant's keys";
    let good = acme(&acme_claims());
    let [header, payload, tag] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let other = acme(&with(acme_claims(), "user_id", json!("u2")));
    let other_payload = other.split('.').nth(1).unwrap();
    let flipped = format!("{}{}", if tag.starts_with('A') { 'B' } else { 'A' }, &tag[1..]);
    gate.refuses(&[header, other_payload, tag].join("."), signature);
    gate.refuses(&[header, payload, &flipped].join("."), signature);
    gate.refuses(&[header, payload, ""].join("."), signature);
    gate.refuses(&hs256(&acme_claims(), BANK), signature);
    gate.refuses(&hs256(&bank_claims(), ACME), signature);
    gate.refuses(&acme(&with(acme_claims(), "tenant_id", json!("no-such-tenant"))), signature);
    // The tenant has an RSA key; its public half must not pass as an HMAC secret.
    gate.refuses(&hs256(&bank_claims(), RSA_PUB), signature);
    gate.refuses(&hs256(&bank_claims(), RSA_PUB.trim()), signature);
    // Another algorithm of the same family, with the right secret.
    let hs512 = encode(&Header::new(Algorithm::HS512), &acme_claims(), &EncodingKey::from_secret(ACME.as_bytes())).unwrap();
    gate.refuses(&hs512, signature);
    // The right key under a `kid` that is another key's, or nobody's.
    for kid in ["rsa", "nobody"] {
        let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::HS384) };
        gate.refuses(&encode(&header, &bank_claims(), &EncodingKey::from_secret(BANK.as_bytes())).unwrap(), signature);
    }
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
    // Keys that come with the token are ignored, and a `kid` that looks like a path is only a name.
    let header = json!({ "alg": "HS256", "kid": "../../etc/passwd", "jku": "http://127.0.0.1/keys", "jwk": { "kty": "oct", "k": "AA" } });
    assert_eq!(gate.refusal(&with_header(&header, &acme_claims())), None);
}

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
        ("nbf", json!("0"), "the token's claim `nbf` is not a number"),
        ("nbf", json!(now() + 1), "the token is not valid yet"),
        ("nbf", json!(now() as f64 + 0.5), "the token is not valid yet"),
        ("nbf", json!(now()), ""),
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
    for bad in [json!(null), json!("other"), json!(1), json!(["bank-idp"])] {
        gate.refuses(&token("iss", bad), "the token's claim `iss` is not the one required");
    }
    for bad in [json!(null), json!("other"), json!([]), json!(["fengda2"]), json!({ "fengda": 1 })] {
        gate.refuses(&token("aud", bad), "the token's claim `aud` is not the one required");
    }
    assert_eq!(gate.refusal(&token("aud", json!("fengda"))), None);
}

#[test]
fn a_remembered_token_is_refused_as_soon_as_it_expires() {
    let gate = Gate::new();
    let plain = acme(&acme_claims());
    let key = EncodingKey::from_ed_pem(ED.as_bytes()).unwrap();
    let lenient = encode(&Header::new(Algorithm::EdDSA), &bank_claims(), &key).unwrap();
    for token in [&plain, &lenient, &plain, &lenient] {
        assert_eq!(gate.refusal(token), None);
    }
    gate.clock.advance(Duration::from_millis(59_999));
    assert_eq!(gate.refusal(&plain), None);
    gate.clock.advance(Duration::from_millis(1));
    gate.refuses(&plain, "the token has expired");
    assert_eq!(gate.refusal(&lenient), None, "this tenant allows five seconds");
    gate.clock.advance(Duration::from_secs(5));
    gate.refuses(&lenient, "the token has expired");
}

#[test]
fn signed_tokens_pass_and_tenants_without_a_secret_are_told_so() {
    let gate = Gate::new();
    let [acme, bank] = &tenants()[..] else { panic!("two tenants") };
    let ttl = Duration::from_secs(3600);
    for t in [acme, bank] {
        let token = sign(&t.keys, &t.config, &t.tenant, "用户/1", ttl, &gate.clock).unwrap();
        assert_eq!(gate.refusal(&token), None);
    }
    let public = yaml(&keys(&json!([{ "alg": "EdDSA", "public_key": ED_PUB }])));
    let name = Tenant::from_config("acme-shop").unwrap();
    let error = sign(&public, &yaml("{}"), &name, "u1", ttl, &gate.clock).unwrap_err();
    assert_eq!(error.to_string(), "acme-shop has only public keys; sign with your own private key");
    assert!(matches!(sign(&acme.keys, &acme.config, &name, "", ttl, &gate.clock), Err(SignError::User(_))));
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
        "a.keys [0].secret: has 5 bytes, at least 32 are needed",
        "a.keys [1].alg: HS256 takes a `secret` and no `public_key`",
        "a.keys [2].public_key: this is a private key: the gateway needs, and should have, only the public one",
        "a.keys [3].public_key: not a public key for RS256 in PEM form",
        "a.keys [4].public_key: a key of another length or curve than ES256 takes",
        "a.keys [5].public_key: not a public key for EdDSA in PEM form",
        "a.keys [6].kid: a `kid` has 1 to 64 bytes",
        "b claims.tenant: the same for all tenants: it is read to find out which tenant a token is of",
        "b.keys [0].secret: invalid type: a number, expected a secret as text, in quotes if it looks like a number",
        "c leeway: invalid type: integer `5`, expected a duration with its unit, as `500ms`, `30s` or `5m`",
        "c.keys : a tenant has 1 to 16 keys, here are 0",
    ];
    for (i, want) in expected.iter().enumerate() {
        assert_eq!(shown.get(i).map(String::as_str), Some(*want));
    }
    assert!(shown[expected.len()].starts_with("d.keys [0].alg: unknown variant `ES512`"), "{shown:?}");
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
