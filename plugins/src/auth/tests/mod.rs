//! Every kind of bad token with the words the client reads, and the ways in which a good one is bound to its tenant.

mod claims;
mod forms;
mod keys;

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
const BANK: &str = "bank-secret-bank-secret-bank-secret-bank-secret-bank-secret-bank-2";
const RSA: &str = include_str!("../testdata/rsa.pem");
const RSA_PUB: &str = include_str!("../testdata/rsa.pub.pem");
const EC: &str = include_str!("../testdata/ec.pem");
const EC_PUB: &str = include_str!("../testdata/ec.pub.pem");
const ED: &str = include_str!("../testdata/ed.pem");
const ED_PUB: &str = include_str!("../testdata/ed.pub.pem");
const ED_NEXT: &str = include_str!("../testdata/ed_next.pem");
const ED_NEXT_PUB: &str = include_str!("../testdata/ed_next.pub.pem");
const EC384: &str = include_str!("../testdata/ec384.pem");
const EC384_PUB: &str = include_str!("../testdata/ec384.pub.pem");
const EC521_PUB: &str = include_str!("../testdata/ec521.pub.pem");
const RSA2040_PUB: &str = include_str!("../testdata/rsa2040.pub.pem");

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
        Self::of(&tenants())
    }

    fn of(tenants: &[TenantBuild]) -> Self {
        let clock = Clock::manual(NOW);
        let plugin = Place { config: "{}", tenants, clock: &clock, previous: None }.build(&spec());
        Self { plugin, clock }
    }

    /// The same place after a reload.
    fn reloaded(&self, tenants: &[TenantBuild]) -> Self {
        let (clock, previous) = (self.clock.clone(), Some(Arc::clone(&self.plugin)));
        let plugin = Place { config: "{}", tenants, clock: &clock, previous }.build(&spec());
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
fn a_good_token_gives_its_tenant_user_and_seq() {
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
    refused(
        &twice,
        r#"Bearer error="invalid_request""#,
        "more than one credential: send one Authorization header, and no `access_token` in the URL",
    );
}

#[test]
fn a_token_in_the_url_is_none_and_beside_another_one_too_many() {
    let gate = Gate::new();
    let token = acme(&acme_claims());
    let refusal = |uri: String, header: Option<&str>| {
        let mut head = head(&header.map(|h| ("authorization", h)).into_iter().collect::<Vec<_>>());
        head.uri = uri.parse().unwrap();
        match ask(&*gate.plugin, &head, &mut ctx("127.0.0.1")) {
            Decision::Continue => None,
            Decision::Reject(reject) => Some(reject.headers[0].1.to_str().unwrap().to_owned()),
        }
    };
    let header = format!("Bearer {token}");
    for query in ["access_token", "access_token=", "a=b&access_token=x", &format!("access_token={token}")] {
        assert_eq!(refusal(format!("/v1/chat?{query}"), Some(&header)).as_deref(), Some(r#"Bearer error="invalid_request""#), "{query}");
        assert_eq!(refusal(format!("/v1/chat?{query}"), None).as_deref(), Some("Bearer"), "{query}");
    }
    for query in ["token=x", "my_access_token=x", "a=access_token"] {
        assert_eq!(refusal(format!("/v1/chat?{query}"), Some(&header)), None, "{query}");
    }
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
