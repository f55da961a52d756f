//! The spool's files: who may have them, how large they get, and what damage does.

use std::{cell::Cell, fs, os::unix::fs::PermissionsExt as _, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use super::rig::{FOREVER, Site};
use crate::{
    api::{Incident, Meters, TurnError, TurnPhase},
    context::{
        Context, OpenError,
        codec::{self, Kind},
        conformance::{TempDir, commit, session, user},
        spool::{SpoolConfig, file::Folder, record::put_frame, take_up, writer::Job},
    },
    testing::metric,
};

#[tokio::test]
async fn what_waits_survives_a_process_that_ends_and_is_stored_by_the_next() {
    let site = Site::new();
    let mut gateway = site.gateway("a");
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    for round in 0..3 {
        for i in 0..3 {
            let id = format!("m{}", 2 + round * 3 + i);
            match round {
                0 => assert!(gateway.turn(&key, &id).await.is_none()),
                // A new process remembers no conversation.
                _ => assert!(matches!(gateway.begin_seen(&key, &id, None).await, Err(TurnError::Unavailable(_)))),
            }
        }
        gateway.close();
        gateway.open();
        assert_eq!(gateway.waiting(), 3);
    }
    gateway.reach.cut(0);
    gateway.settled().await;
    assert_eq!(site.ids(&key).await, ["m1", "m2", "m3", "m4"]);
    assert_eq!(fs::metadata(gateway.spool_folder().join("waiting")).unwrap().len(), 0);
}

#[tokio::test]
async fn one_process_at_a_time_has_the_folder_and_nobody_else_looks_into_it() {
    let site = Site::new();
    let mut gateway = site.gateway("a");
    let again = || Context::new(gateway.reach.clone(), &gateway.config, site.clock.clone(), &Meters::default());
    assert!(matches!(again(), Err(OpenError::InUse(_))));
    let mode = |name: &str| fs::metadata(gateway.spool_folder().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(""), mode("waiting")], [0o700, 0o600]);
    gateway.close();
    gateway.open();
}

#[tokio::test]
async fn a_full_spool_takes_no_more_until_there_is_room() {
    let site = Site::new();
    let gateway = site.gateway_with("a", 2000);
    let (key, other) = (session("s"), user("shop", "u").session("s").unwrap());
    gateway.turn(&key, "m0").await;
    gateway.turn(&other, "m0").await;
    gateway.reach.cut(FOREVER);
    let mut kept = vec!["m0".to_owned()];
    for i in 1..100 {
        let (id, begun) = (format!("m{i}"), gateway.begin(&key, &format!("m{i}")).await);
        match gateway.end(&begun, &id).await {
            Ok(aside) => assert!(aside.is_none()),
            Err(TurnError::Unavailable(why)) => {
                assert!(why.contains("no room"), "{why}");
                break;
            }
            Err(other) => panic!("{other}"),
        }
        kept.push(id);
    }
    assert!((5..50).contains(&kept.len()) && gateway.outcomes("no_room") == 1.0, "{}", kept.len());
    assert!(gateway.turn(&other, "m1").await.is_none(), "there is room for another tenant");
    assert!(gateway.context().spool().unwrap().bytes <= 2000);
    gateway.reach.cut(0);
    gateway.settled().await;
    assert_eq!(site.ids(&key).await, kept);
    assert_eq!(site.ids(&other).await, ["m0", "m1"]);
    gateway.reach.cut(FOREVER);
    assert!(gateway.turn(&key, "again").await.is_none());
}

#[tokio::test]
async fn the_file_is_no_larger_than_twice_what_may_wait() {
    let site = Site::new();
    let gateway = site.gateway_with("a", 4000);
    let (held, busy) = (session("held"), user("bank", "v").session("busy").unwrap());
    let blocker = site.gateway("b");
    for key in [&held, &busy] {
        gateway.turn(key, "m0").await;
    }
    // The turn of one session cannot be stored, because another gateway has it; so the file is never empty.
    let claimed = blocker.begin(&held, "long").await;
    gateway.reach.cut(FOREVER);
    gateway.turn(&held, "waits").await;
    let mut expected = vec!["m0".to_owned()];
    for i in 1..60 {
        gateway.reach.cut(FOREVER);
        let id = format!("m{i}");
        gateway.turn(&busy, &id).await;
        expected.push(id);
        gateway.reach.cut(0);
        gateway.context().spool.as_ref().unwrap().settle(&busy, std::time::Duration::from_secs(5)).await.unwrap();
        let size = fs::metadata(gateway.spool_folder().join("waiting")).unwrap().len();
        assert!((1..=8000).contains(&size), "{size}");
    }
    blocker.context().release(claimed.claim.as_ref().unwrap());
    gateway.settled().await;
    assert_eq!((site.ids(&busy).await, site.ids(&held).await), (expected, vec!["m0".to_owned(), "waits".to_owned()]));
}

/// Two turns of each of two sessions wait, and somebody tampers with the file before the next process opens it.
async fn after(tamper: impl FnOnce(&mut Vec<u8>, &[usize])) -> (Vec<String>, Vec<String>, f64, u64) {
    let site = Site::new();
    let mut gateway = site.gateway("a");
    let (a, b) = (session("a"), session("b"));
    for key in [&a, &b] {
        gateway.turn(key, "m0").await;
    }
    gateway.reach.cut(FOREVER);
    let path = gateway.spool_folder().join("waiting");
    let mut ends = vec![0];
    for id in ["m1", "m2"] {
        for key in [&a, &b] {
            gateway.turn(key, id).await;
            ends.push(usize::try_from(fs::metadata(&path).unwrap().len()).unwrap());
        }
    }
    gateway.close();
    let mut bytes = fs::read(&path).unwrap();
    tamper(&mut bytes, &ends);
    fs::write(&path, bytes).unwrap();
    gateway.reach.cut(0);
    gateway.open();
    gateway.settled().await;
    let damaged = metric(&gateway.meters, "fengda_spool_damaged_bytes_total", &[]).unwrap();
    let refused = fs::metadata(gateway.spool_folder().join("refused")).map_or(0, |m| m.len());
    (site.ids(&a).await, site.ids(&b).await, damaged, refused)
}

#[tokio::test]
async fn a_write_that_was_cut_short_costs_nothing_but_itself() {
    for cut in [1, 3, 40] {
        let (a, b, damaged, refused) = after(|bytes, ends| bytes.truncate(ends[4] - cut)).await;
        assert_eq!((a, b, damaged, refused), (vec!["m0".into(), "m1".into(), "m2".into()], vec!["m0".into(), "m1".into()], 0.0, 0));
    }
    let (a, b, ..) = after(|bytes, _| bytes.extend_from_slice(&[9])).await;
    assert_eq!((a.len(), b.len()), (3, 3));
}

#[tokio::test]
async fn damage_costs_the_turn_it_hits_and_is_reported_and_kept() {
    // In the length, in the checksum, in the words; in the first record, amid, and in the last.
    for at in [0, 3, 7, 60] {
        for hit in [0, 2, 3] {
            let (a, b, damaged, refused) = after(|bytes, ends| bytes[ends[hit] + at] ^= 0x10).await;
            let left = a.len() + b.len();
            assert_eq!(left, 5, "{at} in {hit}: {a:?} {b:?}");
            let last_looks_torn = hit == 3 && at < 4;
            assert!(last_looks_torn || (damaged > 50.0 && refused > 50), "{at} in {hit}: {damaged} {refused}");
        }
    }
}

#[tokio::test]
async fn a_turn_of_a_tenant_that_is_gone_is_refused_and_kept() {
    let site = Site::new();
    let mut gateway = site.gateway("a");
    let (gone, stays) = (user("shop", "u").session("s").unwrap(), session("s"));
    for key in [&gone, &stays] {
        gateway.turn(key, "m0").await;
    }
    gateway.reach.cut(FOREVER);
    for key in [&gone, &stays] {
        let begun = gateway.begin(key, "m1").await;
        gateway.context().commit(&begun, commit("m1")).await.unwrap();
    }
    gateway.close();
    gateway.config.spool.as_mut().unwrap().tenants.retain(|tenant| tenant.name() == "bank");
    gateway.reach.cut(0);
    gateway.open();
    gateway.settled().await;
    assert_eq!((site.ids(&gone).await.len(), site.ids(&stays).await.len()), (1, 2));
    assert_eq!(metric(&gateway.meters, "fengda_spool_outcomes_total", &["refused", "-"]), Some(1.0));
    assert!(fs::metadata(gateway.spool_folder().join("refused")).unwrap().len() > 50);
}

#[test]
fn what_cannot_be_read_may_be_an_erased_users_and_goes_with_it() {
    let dir = TempDir::new();
    let (folder, _) = Folder::open(dir.path()).unwrap();
    let refused = || fs::read(dir.path().join("spool/refused")).unwrap();
    folder.refuse(b"\x01\0\0\0words", 1000).unwrap();
    folder.forget_refused(&[session("s").as_bytes().into()]).unwrap();
    assert!(refused().is_empty(), "{:?}", refused());
}

#[tokio::test]
async fn a_folder_that_is_removed_while_in_use_is_made_anew_with_all_that_waits() {
    let site = Site::new();
    let mut gateway = site.gateway("a");
    let key = session("s");
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    gateway.turn(&key, "m2").await;
    fs::remove_dir_all(gateway.spool_folder()).unwrap();
    assert!(gateway.turn(&key, "m3").await.is_none());
    gateway.close();
    gateway.open();
    assert_eq!(gateway.waiting(), 2);
    gateway.reach.cut(0);
    gateway.settled().await;
    assert_eq!(site.ids(&key).await, ["m1", "m2", "m3"]);
}

#[tokio::test]
async fn a_file_that_is_removed_or_replaced_while_in_use_is_made_anew_with_all_that_waits() {
    let site = Site::new();
    let mut gateway = site.gateway("a");
    let (key, file) = (session("s"), gateway.spool_folder().join("waiting"));
    gateway.turn(&key, "m1").await;
    gateway.reach.cut(FOREVER);
    gateway.turn(&key, "m2").await;
    fs::remove_file(&file).unwrap();
    assert!(gateway.turn(&key, "m3").await.is_none());
    fs::remove_file(&file).unwrap();
    fs::write(&file, "something else").unwrap();
    assert!(gateway.turn(&key, "m4").await.is_none());
    gateway.close();
    gateway.open();
    assert_eq!(gateway.waiting(), 3);
    gateway.reach.cut(0);
    gateway.settled().await;
    assert_eq!(site.ids(&key).await, ["m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn erased_words_that_cannot_be_taken_from_the_disk_go_as_soon_as_they_can_be() {
    let site = Site::new();
    let (gateway, other) = (site.gateway("a"), site.gateway("b"));
    let (erased, stays) = (session("s"), user("bank", "v").session("s").unwrap());
    let mut held = Vec::new();
    for key in [&erased, &stays] {
        gateway.turn(key, "m1").await;
        held.push(other.begin(key, "long").await); // so that recovery has to wait
    }
    gateway.reach.cut(FOREVER);
    gateway.turn(&erased, "secret").await;
    gateway.turn(&stays, "m2").await;
    let holds = || fs::read(gateway.spool_folder().join("waiting")).unwrap().windows(6).any(|w| w == b"secret");
    let in_the_way = gateway.spool_folder().join("waiting.new");
    fs::create_dir(&in_the_way).unwrap();
    gateway.reach.cut(0);
    gateway.context().erase_session(&erased, None).await.unwrap();
    gateway.reach.cut(FOREVER);
    assert!(gateway.turn(&stays, "m3").await.is_none(), "it is kept meanwhile");
    assert!(holds());
    fs::remove_dir(&in_the_way).unwrap();
    gateway.turn(&stays, "m4").await;
    assert!(!holds());
    held.iter().for_each(|begun| other.context().release(begun.claim.as_ref().unwrap()));
    gateway.reach.cut(0);
    gateway.settled().await;
    assert_eq!(site.ids(&stays).await, ["m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn erased_words_among_refused_turns_go_too_as_soon_as_they_can_be() {
    let site = Site::new();
    let gateway = site.gateway("a");
    let (erased, stays) = (session("s"), user("bank", "v").session("s").unwrap());
    let [theirs, others] = [&erased, &stays].map(|key| {
        let mut record = Vec::new();
        put_frame(&mut record, &codec::seal(Kind::Aside, key.as_bytes(), |out| codec::put_text(out, key.user().id())));
        record
    });
    let file = gateway.spool_folder().join("refused");
    fs::write(&file, [&*theirs, &*others].concat()).unwrap();
    let in_the_way = gateway.spool_folder().join("refused.new");
    fs::create_dir(&in_the_way).unwrap();
    gateway.context().erase_session(&erased, None).await.unwrap();
    assert!(fs::read(&file).unwrap().starts_with(&theirs));
    fs::remove_dir(&in_the_way).unwrap();
    gateway.turn(&stays, "m1").await;
    gateway.reach.cut(FOREVER);
    assert!(gateway.turn(&stays, "m2").await.is_none());
    assert!(fs::read(&file).unwrap() == others);
}

thread_local! {
    /// How often this test's own thread found the folder gone.
    static GONE: Cell<u32> = const { Cell::new(0) };
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_anew_does_not_flood_the_log() {
    Incident::log_with(|incident| GONE.set(GONE.get() + u32::from(matches!(incident, Incident::DataDirectoryGone))));
    let (dir, meters) = (TempDir::new(), Meters::default());
    let writer = take_up(&SpoolConfig { size: 4000, tenants: Vec::new() }, dir.path(), &Arc::default(), &meters).unwrap();
    let (jobs, queue) = mpsc::channel(1);
    let ask = async || {
        let (reply, answer) = oneshot::channel();
        jobs.send(Job::Forget(session("s").as_bytes().into(), reply)).await.unwrap();
        answer.await.unwrap();
    };
    let folder = dir.path().join("spool");
    let test = async {
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "in the way").unwrap();
        for _ in 0..3 {
            ask().await;
        }
        assert_eq!(GONE.get(), 0);
        fs::remove_file(&folder).unwrap();
        for _ in 0..3 {
            ask().await;
        }
        assert!(GONE.get() == 1 && folder.is_dir());
    };
    tokio::select! {
        () = writer.run(queue) => panic!("it ended"),
        () = test => {}
    }
}
