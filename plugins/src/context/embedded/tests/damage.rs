//! What is stored and cannot be ours: it is reported, left as it is, and hurts nobody else.

use std::sync::Arc;

use super::open;
use crate::{
    api::{Change, Commit, SessionKey, SlotDelta, SlotValue, TurnError},
    context::{
        Durability,
        codec::{self, Kind},
        conformance::{Subject, TempDir, clock, commit, session, user},
        embedded::Embedded,
        settle,
    },
};

struct Damaged {
    store: Arc<Embedded>,
    s: Subject,
    key: SessionKey,
    other: SessionKey,
}

/// Two users' sessions with two turns and a user slot each.
async fn intact() -> Damaged {
    let (dir, clock) = (TempDir::new(), clock());
    let store = Arc::new(open(dir.path(), Durability::Os, &clock));
    let s = Subject::new(store.clone(), clock, dir);
    let (key, other) = (session("secret-session"), user("bank", "u2").session("secret-session").unwrap());
    for key in [&key, &other] {
        for id in ["m1", "m2"] {
            let (claim, base) = s.claim(key, id).await;
            let slot = SlotDelta { name: "n".into(), change: Change::Set(SlotValue::Text("secret-slot".into())) };
            s.store().commit(&claim, &base, Commit { user_slots: vec![slot], ..commit(id) }).await.unwrap();
        }
    }
    Damaged { store, s, key, other }
}

impl Damaged {
    fn places(&self) -> [Vec<u8>; 3] {
        let (session, user) = (self.key.as_bytes(), self.key.user().as_bytes());
        [codec::place(Kind::Session, session), codec::turn_place(session, 1), codec::place(Kind::User, user)]
    }

    fn record(&self, place: &[u8]) -> Option<Vec<u8>> {
        self.store.disk.with(|engine| Ok(engine.get(place)?.map(|r| r.to_vec()))).unwrap()
    }

    fn put(&self, place: &[u8], record: &[u8]) {
        self.store.disk.write(false, |batch| batch.put(place.into(), record.into())).unwrap();
    }

    async fn is_reported_and_contained(&self) {
        let begun = self.s.begin(&self.key, "m3", None).await.unwrap_err();
        let again = self.s.begin(&self.key, "m3", None).await.unwrap_err();
        let read = self.s.store().load(&self.key, None);
        let read = settle(read).await.unwrap_err();
        for error in [&begun, &again, &read] {
            assert!(matches!(error, TurnError::Corrupt(_)), "{error:?}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let (claim, base) = self.s.claim(&self.other, "next").await;
        assert_eq!(base.turns.len(), 2);
        self.s.store().release(&claim);
    }
}

#[tokio::test]
async fn a_damaged_record_is_reported_left_alone_and_hurts_nobody_else() {
    let d = intact().await;
    for place in d.places() {
        let good = d.record(&place).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 0x10;
        let mut other_format = good.clone();
        other_format[0] = 9;
        let foreign = d.record(&codec::place(Kind::Session, d.other.as_bytes())).unwrap();
        for bad in [&flipped, &other_format, &foreign, &good[..good.len() / 2].to_vec(), &Vec::new(), &b"{\"json\":1}".to_vec()] {
            d.put(&place, bad);
            d.is_reported_and_contained().await;
            assert_eq!(d.record(&place).as_ref(), Some(bad), "left as it was");
        }
        d.put(&place, &good);
        assert_eq!(d.s.state(&d.key).await.turns.len(), 2);
    }
}

#[tokio::test]
async fn a_missing_turn_is_reported() {
    let d = intact().await;
    d.store.disk.write(false, |batch| batch.remove(codec::turn_place(d.key.as_bytes(), 1))).unwrap();
    d.is_reported_and_contained().await;
}

#[tokio::test]
async fn what_is_damaged_can_be_erased() {
    let d = intact().await;
    for place in d.places() {
        d.put(&place, b"damaged");
    }
    d.s.store().erase_user(d.key.user(), None).await.unwrap();
    assert_eq!(d.s.state(&d.key).await.seq, 0);
    assert_eq!(d.s.turn(&d.key, "m1").await.turn.seq, 1);
}
