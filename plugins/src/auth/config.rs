//! What auth can be told: the names of the claims, the leeway, who must have issued a token for whom, and each tenant's keys.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_yaml::Value;

use crate::{
    api::{BuildCtx, Problem, Scope, Secret, Tenant, TenantBuild, parse_config, parse_items},
    units,
};

/// Longest `kid` in bytes.
pub(super) const MAX_KID: usize = 64;
/// Most keys of one tenant: each may have to be tried.
const MAX_KEYS: usize = 16;
/// Longest leeway: more would keep tokens alive rather than bridge two clocks.
const MAX_LEEWAY: Duration = Duration::from_secs(300);

/// The plugin's configuration, for all tenants or for one.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// What the claims are called.
    pub claims: ClaimNames,
    /// How far the clocks of the issuer and of this machine may be apart; added to both ends of a token's life.
    #[serde(with = "units::DurationText")]
    pub leeway: Duration,
    /// Most verified tokens remembered; 0 turns the cache off. Not per tenant.
    pub cache: u64,
    /// The `iss` that a token must have, if set.
    pub iss: Option<String>,
    /// What a token's `aud` must be or hold, if set.
    pub aud: Option<String>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self { claims: ClaimNames::default(), leeway: Duration::ZERO, cache: 10_000, iss: None, aud: None }
    }
}

/// Names of the claims that a token must, or may, have besides the registered ones.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimNames {
    /// Required: the tenant's name. Not per tenant, since it says which tenant.
    pub tenant: String,
    /// Required: the user's id, 1 to 128 bytes.
    pub user: String,
    /// Optional: the newest turn the client saw.
    pub seq: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self { tenant: "tenant_id".into(), user: "user_id".into(), seq: "seq_no".into() }
    }
}

/// One of a tenant's keys. The gateway hands `public_key` over as PEM text.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// How tokens are signed. A token's own word for it counts for nothing.
    #[schemars(with = "AlgorithmName")]
    pub(super) alg: Algorithm,
    /// Names the key: tokens with a `kid` are verified with the key of that name only. 1 to 64 bytes.
    pub(super) kid: Option<String>,
    /// The shared secret of an HS algorithm: at least as long as its digest, 32, 48 or 64 bytes.
    pub(super) secret: Option<Secret>,
    /// The public key of any other algorithm, in PEM form: its text, or the path of a file with it.
    public_key: Option<String>,
}

/// The names of [`Algorithm`], for the schema.
struct AlgorithmName;

impl JsonSchema for AlgorithmName {
    fn schema_name() -> Cow<'static, str> {
        "algorithm".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
        json_schema!({ "type": "string", "enum": names })
    }
}

/// One of a tenant's keys, ready to verify with.
pub(super) struct Key {
    pub(super) alg: Algorithm,
    pub(super) kid: Option<String>,
    pub(super) verify: DecodingKey,
}

/// A tenant with its rules and keys.
pub(super) struct TenantAuth {
    pub(super) tenant: Tenant,
    pub(super) config: AuthConfig,
    pub(super) keys: Vec<Key>,
}

/// Checks everything and loads the keys.
pub(super) fn load(ctx: &BuildCtx<'_>) -> Result<(AuthConfig, Vec<TenantAuth>), Vec<Problem>> {
    let mut problems = Vec::new();
    let base = read(&Scope::Plugin, ctx.config).map_err(|p| problems.extend(p)).ok();
    let mut tenants = Vec::new();
    for build in ctx.tenants {
        let config = tenant_config(base.as_ref(), build).map_err(|p| problems.extend(p));
        let keys = tenant_keys(build).map_err(|p| problems.extend(p));
        if let (Ok(config), Ok(keys)) = (config, keys) {
            tenants.push(TenantAuth { tenant: build.tenant.clone(), config, keys });
        }
    }
    problems.extend(shared_secrets(&tenants));
    match base {
        Some(base) if problems.is_empty() => Ok((base, tenants)),
        _ => Err(problems),
    }
}

fn read(scope: &Scope, value: &Value) -> Result<AuthConfig, Vec<Problem>> {
    let config: AuthConfig = parse_config(scope, value)?;
    if config.leeway > MAX_LEEWAY {
        let message = format!("must be at most {}s", MAX_LEEWAY.as_secs());
        return Err(vec![Problem { scope: scope.clone(), path: "leeway".into(), message }]);
    }
    Ok(config)
}

/// Who holds a secret can make tokens for every tenant that has it. A common issuer signs with a private key instead.
fn shared_secrets(tenants: &[TenantAuth]) -> Vec<Problem> {
    let mut owners = HashMap::new();
    let mut problems = Vec::new();
    for TenantAuth { tenant, keys, .. } in tenants {
        for key in keys.iter().filter(|k| k.alg.family() == AlgorithmFamily::Hmac) {
            let owner = *owners.entry(key.verify.try_get_as_bytes().unwrap_or_default()).or_insert(tenant);
            if owner != tenant {
                let message = format!("shares a secret with {}: whoever holds it can make tokens for both", owner.name());
                problems.push(Problem { scope: Scope::Keys(tenant.clone()), path: String::new(), message });
            }
        }
    }
    problems
}

fn tenant_config(base: Option<&AuthConfig>, build: &TenantBuild) -> Result<AuthConfig, Vec<Problem>> {
    let scope = Scope::Tenant(build.tenant.clone());
    let config = read(&scope, &build.config)?;
    let differs = |what: fn(&AuthConfig, &AuthConfig) -> bool| base.is_some_and(|base| what(base, &config));
    let common = [
        ("claims.tenant", differs(|a, b| a.claims.tenant != b.claims.tenant), "it is read to find out which tenant a token is of"),
        ("cache", differs(|a, b| a.cache != b.cache), "there is one cache"),
    ];
    let problem = |(path, _, why): (&str, bool, &str)| Problem {
        scope: scope.clone(),
        path: path.into(),
        message: format!("the same for all tenants: {why}"),
    };
    let problems: Vec<_> = common.into_iter().filter(|(_, differs, _)| *differs).map(problem).collect();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn tenant_keys(build: &TenantBuild) -> Result<Vec<Key>, Vec<Problem>> {
    let problem = |path: String, message: String| Problem { scope: Scope::Keys(build.tenant.clone()), path, message };
    let (raw, mut problems) = key_configs(&build.keys, &build.tenant);
    if problems.is_empty() && !(1..=MAX_KEYS).contains(&raw.len()) {
        problems.push(problem(String::new(), format!("a tenant has 1 to {MAX_KEYS} keys, here are {}", raw.len())));
    }
    let mut keys = Vec::<Key>::new();
    for (i, config) in raw.into_iter().enumerate().filter_map(|(i, config)| Some((i, config?))) {
        match load_key(&config) {
            Ok(_) if config.kid.is_some() && keys.iter().any(|k| k.kid == config.kid) => {
                problems.push(problem(format!("[{i}].kid"), "another key has this `kid`".into()));
            }
            Ok(verify) => keys.push(Key { alg: config.alg, kid: config.kid, verify }),
            Err((field, message)) => problems.push(problem(format!("[{i}].{field}"), message)),
        }
    }
    if problems.is_empty() { Ok(keys) } else { Err(problems) }
}

/// A tenant's `keys` as written; `None` for one that is not in order, and why.
pub(super) fn key_configs(keys: &Value, tenant: &Tenant) -> (Vec<Option<KeyConfig>>, Vec<Problem>) {
    let scope = Scope::Keys(tenant.clone());
    let items = if keys.is_null() { Ok(Vec::new()) } else { parse_config::<Vec<Value>>(&scope, keys) };
    items.map_or_else(|problems| (Vec::new(), problems), |items| parse_items(&scope, "", &items))
}

type KeyProblem = (&'static str, String);

fn load_key(config: &KeyConfig) -> Result<DecodingKey, KeyProblem> {
    if config.kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID) {
        return Err(("kid", format!("a `kid` has 1 to {MAX_KID} bytes")));
    }
    match (config.alg.family(), &config.secret, &config.public_key) {
        (AlgorithmFamily::Hmac, Some(secret), None) => {
            check_secret(config.alg, secret)?;
            Ok(DecodingKey::from_secret(secret.expose().as_bytes()))
        }
        (AlgorithmFamily::Hmac, ..) => Err(("alg", format!("{:?} takes a `secret` and no `public_key`", config.alg))),
        (_, None, Some(pem)) => public_key(config.alg, pem).map_err(|m| ("public_key", m)),
        _ => Err(("alg", format!("{:?} takes a `public_key` and no `secret`", config.alg))),
    }
}

/// A secret is at least as long as the digest (RFC 7518, 3.2).
pub(super) fn check_secret(alg: Algorithm, secret: &Secret) -> Result<(), KeyProblem> {
    let least = match alg {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => 32,
    };
    match secret.expose().len() {
        len if len < least => Err(("secret", format!("has {len} bytes, {alg:?} needs at least {least}"))),
        _ => Ok(()),
    }
}

/// jsonwebtoken takes private keys, certificates and keys of another curve or length here, and then verifies nothing with them.
fn public_key(alg: Algorithm, pem: &str) -> Result<DecodingKey, String> {
    if pem.contains("PRIVATE KEY-----") {
        return Err("this is a private key: the gateway needs, and should have, only the public one".into());
    }
    let wrong = || format!("not a public key for {alg:?} in PEM form");
    if !pem.contains("PUBLIC KEY-----") {
        return Err(wrong());
    }
    let pem = pem.trim().as_bytes();
    let key = match alg.family() {
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem),
        AlgorithmFamily::Hmac => return Err(wrong()),
    };
    let key = key.map_err(|_| wrong())?;
    let bytes = key.try_get_as_bytes().unwrap_or_default();
    match (alg, bytes.len()) {
        // An uncompressed point: 0x04, x, y.
        (Algorithm::ES256, 65) | (Algorithm::ES384, 97) | (Algorithm::EdDSA, 32) => Ok(key),
        (Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDSA, _) => Err(format!("a key of another curve than {alg:?} takes")),
        _ => match modulus_bits(bytes) {
            // What aws-lc verifies with; the least is that of RFC 7518, 3.3.
            Some(2048..=8192) => Ok(key),
            Some(bits) => Err(format!("an RSA key of {bits} bits, {alg:?} takes 2048 to 8192")),
            None => Err(wrong()),
        },
    }
}

/// The length of an RSA key: of the modulus, which comes first in it (RFC 8017, A.1.1, in DER).
fn modulus_bits(der: &[u8]) -> Option<usize> {
    let (sequence, _) = der_value(der, 0x30)?;
    let (modulus, _) = der_value(sequence, 0x02)?;
    let significant = modulus.iter().position(|b| *b != 0).map_or(&[][..], |at| &modulus[at..]);
    Some(8 * significant.len() - usize::try_from(significant.first()?.leading_zeros()).ok()?)
}

/// A value with this tag, and what comes after it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, short], rest) = der.split_first_chunk()?;
    let (len, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(short - 0x80))?;
            (len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len).filter(|_| found == tag)
}
