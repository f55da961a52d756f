//! Programs that tests run besides our own: from PATH, or from where `make tools` unpacks them.

use std::path::{Path, PathBuf};

/// Where the program is.
pub fn find(name: &str) -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/usr/bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|folder| folder.join(name));
    places.chain([unpacked]).find(|at| at.is_file()).unwrap_or_else(|| panic!("`{name}` is not installed: run `make tools`"))
}
