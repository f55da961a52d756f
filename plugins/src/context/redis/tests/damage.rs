//! What stands under our keys and cannot be ours: it is reported, left as it is, never served, and can be erased.

use std::time::Duration;

use super::{Subject, keys, send, shared, standalone};
use crate::{
    api::{Change, Commit, MAX_JOURNAL, SessionKey, SlotDelta, SlotValue, TurnError},
    context::{
        conformance::{commit, journal},
        settle,
    },
};

/// Which of a session's keys.
const USER: usize = 0;
const INDEX: usize = 1;
const SESSION: usize = 2;
const TURNS: usize = 3;
const CLAIM: usize = 4;
const WAITING: usize = 5;

struct Damaged {
    s: Subject,
    key: SessionKey,
    other: SessionKey,
}

/// Two users' sessions with two turns and two user slots each.
async fn intact() -> Damaged {
    let s = standalone().await;
    let (key, other) = (s.session("secret-session"), s.user("bank", "u2").session("secret-session").unwrap());
    for key in [&key, &other] {
        for id in ["m1", "m2"] {
            let (claim, base) = s.claim(key, id).await;
            let words = SlotDelta { name: "t".into(), change: Change::Set(SlotValue::Text("secret-slot".into())) };
            let count = SlotDelta { name: "n".into(), change: Change::Add(1.0) };
            let slots = vec![words.clone()];
            s.store()
                .commit(&claim, &base, Commit { slots, user_slots: vec![words, count], journal: journal("secret-journal"), ..commit(id) })
                .await
                .unwrap();
        }
    }
    Damaged { s, key, other }
}

fn name(key: &SessionKey, which: usize) -> Vec<u8> {
    keys::session(key).get(which).to_vec()
}

impl Damaged {
    fn name(&self, which: usize) -> Vec<u8> {
        name(&self.key, which)
    }

    fn send<T: redis::FromRedisValue>(&self, command: &str, parts: &[&[u8]]) -> T {
        send(shared(), command, parts)
    }

    fn dump(&self, which: usize) -> Option<Vec<u8>> {
        self.send("DUMP", &[&self.name(which)])
    }

    fn restore(&self, which: usize, good: Option<&Vec<u8>>) {
        self.send::<()>("DEL", &[&self.name(which)]);
        if let Some(good) = good {
            self.send::<()>("RESTORE", &[&self.name(which), b"60000", good]);
        }
    }

    /// Does damage to one key, looks, and puts it right.
    async fn with(&self, what: &str, which: usize, damage: impl FnOnce(&Self)) {
        let good = self.dump(which);
        damage(self);
        let bad = self.dump(which);
        self.is_reported_and_contained(what).await;
        assert_eq!(self.dump(which), bad, "{what}: left as it was");
        self.restore(which, good.as_ref());
        assert_eq!(self.s.state(&self.key).await.turns.len(), 2, "{what}: put right");
    }

    async fn is_reported_and_contained(&self, what: &str) {
        let begun = self.s.begin(&self.key, "m3", None).await.unwrap_err();
        let again = self.s.begin(&self.key, "m3", None).await.unwrap_err();
        for error in [&begun, &again] {
            assert!(matches!(error, TurnError::Corrupt(_)), "{what}: {error:?}");
            assert!(!error.to_string().contains("secret"), "{what}: {error}");
        }
        let (claim, base) = self.s.claim(&self.other, "next").await;
        assert_eq!(base.turns.len(), 2, "{what}");
        self.s.store().release(&claim);
    }

    /// Flips a bit of each byte of a value, cuts it, empties it, and puts another's in its place.
    async fn with_each_damage(&self, what: &str, which: usize, good: &[u8], other: &[u8], write: impl Fn(&Self, &[u8])) {
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1 << (at % 7);
            self.with(&format!("{what}, byte {at} flipped"), which, |d| write(d, &bad)).await;
        }
        for bad in [&good[..good.len() - 1], &good[..good.len() / 2], &[good, b"x"].concat(), other, b"{\"json\":1}"] {
            self.with(&format!("{what}, {} bytes of {}", bad.len(), good.len()), which, |d| write(d, bad)).await;
        }
    }

    fn field(&self, key: &SessionKey, which: usize, field: &str) -> Vec<u8> {
        self.send("HGET", &[&name(key, which), field.as_bytes()])
    }

    async fn with_each_damage_of_field(&self, which: usize, field: &str) {
        let (good, other) = (self.field(&self.key, which, field), self.field(&self.other, which, field));
        let write = |d: &Self, bad: &[u8]| d.send("HSET", &[&d.name(which), field.as_bytes(), bad]);
        self.with_each_damage(field, which, &good, &other, write).await;
        self.with(&format!("{field} removed"), which, |d| d.send("HDEL", &[&d.name(which), field.as_bytes()])).await;
    }
}

#[tokio::test]
async fn a_damaged_head_is_refused() {
    let d = intact().await;
    d.with_each_damage_of_field(SESSION, "h").await;
    d.with_each_damage_of_field(USER, "h").await;
}

#[tokio::test]
async fn damaged_slots_are_refused() {
    let d = intact().await;
    d.with_each_damage_of_field(SESSION, "d").await;
    d.with_each_damage_of_field(USER, ":t").await;
    d.with_each_damage_of_field(USER, ":n").await;
    d.with("a slot too many", USER, |d| d.send("HSET", &[&d.name(USER), b":x", b"y"])).await;
    let (t, n) = (d.field(&d.key, USER, ":t"), d.field(&d.key, USER, ":n"));
    d.with("slots changed about", USER, |d| d.send("HSET", &[&d.name(USER), b":t", &n, b":n", &t])).await;
}

#[tokio::test]
async fn damaged_turns_are_refused() {
    let d = intact().await;
    let element = |key: &SessionKey, at: &str| -> Vec<u8> { send(shared(), "LINDEX", &[&name(key, TURNS), at.as_bytes()]) };
    for at in ["0", "1", "2", "3"] {
        let (good, other) = (element(&d.key, at), element(&d.other, at));
        let other = if good == other { b"m9".to_vec() } else { other };
        let write = |d: &Damaged, bad: &[u8]| d.send("LSET", &[&d.name(TURNS), at.as_bytes(), bad]);
        d.with_each_damage(&format!("element {at}"), TURNS, &good, &other, write).await;
    }
    d.send::<()>("RPUSH", &[&d.name(TURNS), b"x"]);
    let told = d.s.begin(&d.key, "m3", None).await.unwrap_err();
    assert_eq!(told, TurnError::Corrupt("turns are missing".into()));
    d.send::<()>("RPOP", &[&d.name(TURNS)]);
    d.with("a turn less", TURNS, |d| d.send("LTRIM", &[&d.name(TURNS), b"2", b"-1"])).await;
    d.with("half a turn more", TURNS, |d| d.send("RPUSH", &[&d.name(TURNS), b"m3"])).await;
    let (first, second) = (element(&d.key, "1"), element(&d.key, "3"));
    d.with("turns changed about", TURNS, |d| {
        d.send::<()>("LSET", &[&d.name(TURNS), b"1", &second]);
        d.send::<()>("LSET", &[&d.name(TURNS), b"3", &first]);
    })
    .await;
    d.with("no turns", TURNS, |d| d.send("DEL", &[&d.name(TURNS)])).await;
    d.with("turns without a session", SESSION, |d| d.send("DEL", &[&d.name(SESSION)])).await;
}

#[tokio::test]
async fn a_damaged_claim_is_refused() {
    let d = intact().await;
    let (_held, _) = d.s.claim(&d.key, "m3").await;
    let (_other, _) = d.s.claim(&d.other, "m3").await;
    let (good, other): (Vec<u8>, Vec<u8>) = (d.send("GET", &[&d.name(CLAIM)]), d.send("GET", &[&name(&d.other, CLAIM)]));
    d.send::<()>("DEL", &[&name(&d.other, CLAIM)]);
    let write = |d: &Damaged, bad: &[u8]| d.send("SET", &[&d.name(CLAIM), bad]);
    d.with_each_damage("claim", CLAIM, &good, &other, write).await;
}

#[tokio::test]
async fn another_keys_value_and_another_type_are_refused() {
    let d = intact().await;
    let all: [&[&[u8]]; 4] = [&[b"SET", b"x"], &[b"LPUSH", b"x"], &[b"HSET", b"f", b"x"], &[b"ZADD", b"1", b"x"]];
    for which in [USER, SESSION, TURNS, CLAIM] {
        for words in all {
            let kind = String::from_utf8_lossy(words[0]);
            let put = |d: &Damaged| {
                d.send::<()>("DEL", &[&d.name(which)]);
                d.send::<()>(
                    "EVAL",
                    &[&[b"return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))", &b"1"[..], &d.name(which)], words].concat(),
                );
            };
            d.with(&format!("{kind} at {which}"), which, put).await;
        }
    }
    for which in [USER, SESSION, TURNS] {
        let put = |d: &Damaged| d.send("COPY", &[&name(&d.other, which), &d.name(which), b"REPLACE"]);
        d.with(&format!("another's {which}"), which, put).await;
    }
}

#[tokio::test]
async fn a_commit_over_another_type_writes_nothing() {
    let d = intact().await;
    for which in [INDEX, WAITING, CLAIM, USER, SESSION, TURNS] {
        let (claim, base) = d.s.claim(&d.key, "m3").await;
        let good: Vec<_> = (0..6).map(|i| d.dump(i)).collect();
        d.send::<()>("DEL", &[&d.name(which)]);
        d.send::<()>("SADD", &[&d.name(which), b"x"]);
        let before: Vec<_> = (0..6).map(|i| d.dump(i)).collect();
        let add = SlotDelta { name: "n".into(), change: Change::Add(1.0) };
        let done = d.s.store().commit(&claim, &base, Commit { user_slots: vec![add], ..commit("m3") }).await;
        assert!(matches!(done, Err(TurnError::Corrupt(_))), "{which}: {done:?}");
        assert_eq!((0..6).map(|i| d.dump(i)).collect::<Vec<_>>(), before, "{which}");
        d.restore(which, good[which].as_ref());
        d.s.store().release(&claim);
    }
    assert_eq!(d.s.turn(&d.key, "m3").await.turn.seq, 3);
}

#[tokio::test]
async fn a_giant_value_is_refused_before_it_is_sent() {
    let d = intact().await;
    let giant = vec![b'x'; 1 << 20];
    d.with("a giant turn", TURNS, |d| d.send("LSET", &[&d.name(TURNS), b"1", &giant])).await;
    d.with("giant slots", SESSION, |d| d.send("HSET", &[&d.name(SESSION), b"d", &giant])).await;
    d.with("a giant head", SESSION, |d| d.send("HSET", &[&d.name(SESSION), b"h", &giant])).await;
    d.with("a giant user", USER, |d| d.send("HSET", &[&d.name(USER), b":t", &giant])).await;
    d.with("a giant claim", CLAIM, |d| d.send("SET", &[&d.name(CLAIM), &giant])).await;
}

#[tokio::test]
async fn what_was_written_is_never_too_large_to_be_read() {
    let s = standalone().await;
    for (i, size) in [1, 5 << 20, 100, 1 << 20, 3, 70_000, 2, 1, 1].into_iter().enumerate() {
        let (claim, base) = s.claim(&s.session("a"), &format!("m{i}")).await;
        let large = Commit { a: "x".repeat(size).into(), journal: journal(&"x".repeat(size.min(MAX_JOURNAL))), ..commit(&format!("m{i}")) };
        let stored = s.store().commit(&claim, &base, large).await.unwrap();
        assert_eq!(s.state(&s.session("a")).await.turns, stored.state.turns);
    }
}

#[tokio::test]
async fn a_hot_turn_is_not_harmed_by_what_it_does_not_read() {
    let d = intact().await;
    let known = d.s.state(&d.key).await;
    d.send::<()>("HSET", &[&d.name(SESSION), b"d", b"damaged"]);
    assert!(settle(d.s.store().load(&d.key, Some(&known))).await.unwrap().is_none());
    let crate::context::StoreBegin::Claimed { claim, state: None } = d.s.begin(&d.key, "m3", Some(&known)).await.unwrap() else { panic!() };
    assert_eq!(d.s.store().commit(&claim, &known, commit("m3")).await.unwrap().state.flow.slots, known.flow.slots);
    assert_eq!(d.s.state(&d.key).await.flow.slots, known.flow.slots, "what was damaged is written anew");
}

/// A primary was replaced by one that had not got the last turn, and another turn took its number, even its id.
#[tokio::test]
async fn a_copy_of_what_a_failover_lost_is_not_mixed_with_what_came_instead() {
    let d = intact().await;
    let all = [USER, SESSION, TURNS];
    let replica: Vec<_> = all.map(|which| d.dump(which)).into();
    let lost = d.s.turn(&d.key, "m3").await.state;
    for ids in [&["m3"][..], &["m4", "m3"], &["m4"], &["m4", "m5", "m6"]] {
        all.into_iter().zip(&replica).for_each(|(which, value)| d.restore(which, value.as_ref()));
        for id in ids {
            d.s.clock().advance(Duration::from_millis(1));
            d.s.turn(&d.key, id).await;
        }
        let whole = d.s.state(&d.key).await;
        let read = settle(d.s.store().load(&d.key, Some(&lost))).await.unwrap().unwrap();
        assert_eq!((read.version, read.seq, &read.turns), (whole.version, whole.seq, &whole.turns), "{ids:?}");
        assert!(read.turns.iter().all(|turn| turn.seq < 3 || turn.at > lost.turns[2].at));
    }
}

#[tokio::test]
async fn what_is_damaged_can_be_erased() {
    let whole = [USER, INDEX, SESSION, TURNS, CLAIM, WAITING];
    for which in [&whole[..], &whole[..1], &whole[1..2], &whole[2..3], &whole[3..4], &whole[4..5], &whole[5..6]] {
        for kind in ["SET", "SADD"] {
            let d = intact().await;
            for key in which {
                d.send::<()>("DEL", &[&d.name(*key)]);
                d.send::<()>(kind, &[&d.name(*key), b"x"]);
            }
            d.s.store().erase_session(&d.key, None).await.unwrap();
            d.s.store().erase_user(d.key.user(), None).await.unwrap();
            assert!(d.s.state(&d.key).await.turns.is_empty(), "{which:?}");
            assert_eq!(d.s.turn(&d.key, "m1").await.state.turns.len(), 1);
            super::all_expire(shared(), d.key.user());
            assert_eq!(d.s.state(&d.other).await.turns.len(), 2);
        }
    }
}
