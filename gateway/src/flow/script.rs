//! A tenant's script, compiled once and shared by all threads.

use std::{collections::BTreeMap, sync::Arc};

use fengda_plugins::api::{Tenant, Text};

use super::{ErrorKind, Limits, ScriptError, run, sandbox};

/// Largest source in bytes.
pub const MAX_SOURCE: usize = 256 * 1024;

/// What tells one VM from another: the tenant is part of it, so tenants with the same source share nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ScriptKey {
    tenant: Tenant,
    hash: Box<str>,
}

/// A compiled script of one tenant. Each thread makes its own VM for it on first use.
#[derive(Debug)]
pub struct Script {
    key: ScriptKey,
    name: Box<str>,
    bytecode: Vec<u8>,
}

impl Script {
    /// Compiles a script; `name` (its file name) stands in error messages. May take milliseconds: not for the request path.
    ///
    /// # Errors
    /// The source is not UTF-8, over [`MAX_SOURCE`], bytecode, or does not compile; kind `compile`, with the line if there is one.
    pub fn compile(tenant: &Tenant, name: &str, source: &[u8]) -> Result<Self, ScriptError> {
        let refused = |why: &str| Err(ScriptError::new(ErrorKind::Compile, why));
        if source.len() > MAX_SOURCE {
            return refused("the script is larger than 256 KiB");
        }
        let Ok(text) = std::str::from_utf8(source) else { return refused("the script is not UTF-8 text") };
        // Bytecode begins with its version, a control character. The VM trusts bytecode, so only the compiler's own may reach it.
        if text.starts_with(|c: char| c.is_ascii_control() && !c.is_ascii_whitespace()) || name.contains('\0') {
            return refused("the script is not text");
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let bytecode = sandbox::compiler().compile(text).map_err(|e| ScriptError::syntax(&e))?;
        let key = ScriptKey { tenant: tenant.clone(), hash: fingerprint(name, source).into() };
        Ok(Self { key, name: name.into(), bytecode })
    }

    /// The tenant whose script it is.
    pub fn tenant(&self) -> &Tenant {
        &self.key.tenant
    }

    /// Names this source: 32 hex digits, the same for the same file name and bytes. It does not withstand one who looks for collisions.
    pub fn hash(&self) -> &str {
        &self.key.hash
    }

    /// Runs the script's top level once, in a VM of its own, to see that it returns a function. Blocks for up to `limits.cpu`.
    ///
    /// # Errors
    /// The top level fails, names an unknown canned text, asks for an effect, or returns something else.
    pub fn check(self: &Arc<Self>, limits: Limits, canned: &Arc<BTreeMap<String, Text>>) -> Result<(), ScriptError> {
        run::check(self, limits, canned)
    }

    pub(super) fn key(&self) -> &ScriptKey {
        &self.key
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn bytecode(&self) -> &[u8] {
        &self.bytecode
    }
}

/// FNV-1a, 128 bits: it tells the versions of a tenant's file apart, and stays the same when a dependency or the compiler changes.
fn fingerprint(name: &str, source: &[u8]) -> String {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let bytes = name.as_bytes().iter().chain(&[0]).chain(source);
    format!("{:032x}", bytes.fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME)))
}
