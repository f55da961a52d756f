//! Which script a tenant runs: the one in its file, or, while that one is broken, the last that was good, also across a restart.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    config::TenantConfig,
    flow::{Limits, MAX_SOURCE, Script, ScriptError},
    private,
    telemetry::{Event, logger},
};

/// A tenant's script as it was found.
pub(crate) struct Loaded {
    /// What runs.
    pub script: Option<Arc<Script>>,
    /// What is wrong with the file; the script is then an older one.
    pub problem: Option<String>,
}

/// Loads a tenant's script, and keeps a copy if it is good. `current` is the one that runs now; an unchanged file leaves it, with its VMs.
pub(crate) fn load(config: &TenantConfig, data: &Path, current: Option<&Arc<Script>>) -> Loaded {
    let kept = last_good(data, config);
    let problem = match read(config, &config.flow) {
        Ok((script, source)) => {
            if let Err(e) = keep(&kept, &source) {
                let (tenant, file) = (config.tenant.name(), kept.display().to_string());
                logger::emit(&Event::FlowNotKept { tenant, file, error: e.to_string() });
            }
            let unchanged = current.filter(|current| current.hash() == script.hash());
            return Loaded { script: Some(unchanged.cloned().unwrap_or(script)), problem: None };
        }
        Err(problem) => problem,
    };
    let script = current.cloned().or_else(|| read(config, &kept).ok().map(|(script, _)| script));
    let serving = if script.is_some() { "the last good script" } else { "the canned text `busy`" };
    logger::emit(&Event::FlowRefused { tenant: config.tenant.name(), problem: &problem, serving });
    Loaded { script, problem: Some(problem) }
}

/// Compiles a tenant's script and runs its top level once.
///
/// # Errors
/// `file:line: what is wrong`, for the person who wrote it; without the line if it is about the whole.
pub(crate) fn check(config: &TenantConfig) -> Result<(), String> {
    read(config, &config.flow).map(|_| ())
}

fn read(config: &TenantConfig, path: &Path) -> Result<(Arc<Script>, Vec<u8>), String> {
    let source = source(path).map_err(|e| format!("{}: cannot be read: {e}", path.display()))?;
    let name = config.flow.file_name().map_or("main.lua".into(), |n| n.to_string_lossy());
    let describe = |e: ScriptError| {
        let line = e.line.map_or(String::new(), |line| format!(":{line}"));
        format!("{}{line}: {}", path.display(), e.message.expose())
    };
    let script = Arc::new(Script::compile(&config.tenant, &name, &source).map_err(describe)?);
    let limits = Limits { cpu: config.flow_limits.cpu, memory: config.flow_limits.memory, ..Limits::default() };
    script.check(limits, &config.canned).map_err(describe)?;
    Ok((script, source))
}

/// A file's text, or, if it is too long for a script, enough of it to see that.
fn source(path: &Path) -> io::Result<Vec<u8>> {
    let mut source = Vec::new();
    let limit = u64::try_from(MAX_SOURCE).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut source)?;
    Ok(source)
}

fn last_good(data: &Path, config: &TenantConfig) -> PathBuf {
    data.join("flows").join(format!("{}.lua", config.tenant.name()))
}

/// Replaces the copy in one step, so that a crash leaves the old or the new one.
fn keep(path: &Path, source: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == source) {
        return Ok(());
    }
    private::create_folder(path.parent().expect("a file in the data directory has a parent"))?;
    let new = path.with_extension("lua.new");
    private::create_file().write(true).truncate(true).open(&new)?.write_all(source)?;
    fs::rename(new, path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_kept_script_is_replaced_whole_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows/a.lua");
        for source in ["return 'a longer one'", "return 1"] {
            keep(&path, source.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), source);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path().join("flows")).unwrap().count(), 1, "nothing is left behind");
    }
}
