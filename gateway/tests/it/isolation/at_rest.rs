//! What a gateway's own folder holds.

use std::{collections::BTreeSet, fs, path::Path};

use crate::words::{TENANTS, found_in, only};

/// Names of files are nobody's words; a tenant's log and last good script hold its own.
pub fn look_at_files(folder: &Path, data: &Path) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        only(None, entry.as_os_str().as_encoded_bytes(), "the name of a file");
        let inside = entry.strip_prefix(data).unwrap();
        if inside == Path::new("context") {
            continue; // record by record, when it is closed
        } else if inside.starts_with("spool") && !entry.is_dir() {
            look_at_spool(&entry);
        } else if entry.is_dir() {
            look_at_files(&entry, data);
        } else if let Some(owner) =
            TENANTS.into_iter().find(|t| inside == Path::new(&format!("logs/{t}.log")) || inside == Path::new(&format!("flows/{t}.lua")))
        {
            let text = fs::read(&entry).unwrap();
            only(Some(owner), &text, &inside.display().to_string());
            assert_eq!(found_in(&text), [owner].into(), "{} is where they belong", inside.display());
        } else {
            only(None, &fs::read(&entry).unwrap(), &inside.display().to_string());
        }
    }
}

/// The store's promise: a record's key begins with its tenant, and the record has words of no other. (Keys hold ids of users and
/// sessions as they are.)
pub fn look_at_records(folder: &Path) {
    let database = fjall::Database::builder(folder).open().unwrap();
    let mut holders = BTreeSet::new();
    for name in database.list_keyspace_names() {
        let keyspace = database.keyspace(&name, fjall::KeyspaceCreateOptions::default).unwrap();
        for record in keyspace.iter() {
            let (key, value) = record.into_inner().unwrap();
            let owner = TENANTS.into_iter().find(|tenant| key[1..].starts_with(&counted(tenant)));
            only(owner, &key, "a record's key");
            only(owner, &value, "a record");
            holders.extend(found_in(&value));
        }
    }
    assert_eq!(holders, TENANTS.into(), "those whose words are stored");
    is_private(folder);
}

/// A record of a turn that waits names its session, and so its tenant, at its front, and has words of no other.
fn look_at_spool(file: &Path) {
    is_private(file.parent().unwrap());
    for record in records(&fs::read(file).unwrap()) {
        let front = &record[..record.len().min(64)];
        let owner = TENANTS.into_iter().find(|tenant| front.windows(tenant.len() + 1).any(|part| part == counted(tenant)));
        only(owner, record, &file.display().to_string());
    }
}

/// Those whose turns stand among those that wait.
pub fn spooled(data: &Path) -> BTreeSet<&'static str> {
    found_in(&fs::read(data.join("spool/waiting")).unwrap())
}

/// Each stands after its length.
fn records(mut file: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some((length, rest)) = file.split_first_chunk() {
        let (record, rest) = rest.split_at(usize::try_from(u32::from_le_bytes(*length)).unwrap());
        records.push(record);
        file = rest;
    }
    records
}

/// A tenant's name as keys have it.
fn counted(tenant: &str) -> Vec<u8> {
    [&[u8::try_from(tenant.len()).unwrap()], tenant.as_bytes()].concat()
}

/// Nobody but the gateway's user may read the folder.
fn is_private(folder: &Path) {
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(folder).unwrap()) & 0o777, 0o700, "{}", folder.display());
}
