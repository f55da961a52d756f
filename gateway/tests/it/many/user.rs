//! A user who hops from gateway to gateway, is impatient and forgetful, and knows what the conversation must be at any moment.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Clerk, TURNS, Town};
use crate::{
    client::{Http1, PATIENCE, Reply},
    harness::post,
    speaker::Speaker,
};

/// A message as it was sent, and its answer.
#[derive(Debug, Clone)]
struct Said {
    id: String,
    q: String,
    a: String,
    seq: u64,
    /// No time was left for the model: the canned text, which the model never sees.
    fallback: bool,
}

/// A conversation as it must be.
struct Session {
    id: String,
    seq: u64,
    turns: Vec<Said>,
}

pub struct User {
    town: Town,
    tenant: &'static str,
    token: String,
    name: String,
    random: Rng,
    sessions: [Session; 2],
    /// How many messages it has sent so far, and how many of them came too late for the model. Whether the script counted those is open.
    sent: usize,
    late: usize,
    /// A user who erases conversations does not walk off: what is left on the way would be a new message to an erased session.
    forgets: bool,
}

impl User {
    pub fn new(town: Town, tenant: &'static str, number: usize) -> Self {
        let user = format!("u/{number}");
        let session = |id: &str| Session { id: id.to_owned(), seq: 0, turns: Vec::new() };
        let token = Speaker::new(town.places()[0], tenant, &user).token;
        let forgets = number.is_multiple_of(4) && !town.mortal;
        let random = Rng::with_seed(u64::try_from(number).unwrap());
        let (name, sessions) = (format!("{tenant}/{user}"), [session("s/1"), session("default")]);
        Self { town, tenant, token, name, random, sessions, sent: 0, late: 0, forgets }
    }

    /// Lives through at least so many turns, and reads everything back from every gateway.
    pub async fn live(mut self, turns: usize) -> usize {
        while self.sent < turns {
            match self.random.u32(0..100) {
                0..55 => self.says().await,
                55..75 => self.says_it_everywhere_at_once().await,
                75..85 => self.says_several_things_at_once().await,
                85..95 if !self.forgets => self.walks_off_and_returns().await,
                85..95 => self.says().await,
                95..97 => self.reads().await,
                97..99 => self.mistakes_an_id().await,
                _ if self.forgets => self.forgets().await,
                _ => self.says().await,
            }
        }
        for place in 0..self.town.places().len() {
            for at in 0..self.sessions.len() {
                self.compare(place, at).await;
            }
        }
        let counted = self.deliver(self.place(), &self.message(0, "count")).await;
        let Ok(counted) = counted["answer"].as_str().unwrap().parse::<usize>() else {
            assert!(self.town.mortal, "{counted}");
            return self.sent;
        };
        let certain = self.sent - self.late;
        assert!((certain..=self.sent).contains(&counted), "{}: {counted} in the user's slot, of {} to {}", self.name, certain, self.sent);
        self.sent
    }

    async fn says(&mut self) {
        let (at, place) = (self.any_session(), self.place());
        let message = self.new_message(at);
        let reply = self.deliver(place, &message).await;
        self.heard(at, &message, &reply);
    }

    /// One message, and copies of it: to all gateways at the same time, to one of them twice.
    async fn says_it_everywhere_at_once(&mut self) {
        let at = self.any_session();
        let message = self.new_message(at);
        let mut places: Vec<usize> = (0..self.town.places().len()).collect();
        places.push(self.place());
        let replies = self.deliver_all(places.iter().map(|place| (*place, message.clone()))).await;
        assert!(replies.iter().all(|reply| same(reply, &replies[0])), "{}: {replies:?}", self.name);
        self.heard(at, &message, &replies[0]);
    }

    /// Different messages of both sessions at the same time: in what order they came shows in their numbers.
    async fn says_several_things_at_once(&mut self) {
        let mut sent = Vec::new();
        for _ in 0..3 {
            let (at, place) = (self.any_session(), self.place());
            sent.push((at, place, self.new_message(at)));
        }
        let replies = self.deliver_all(sent.iter().map(|(_, place, message)| (*place, message.clone()))).await;
        let mut heard: Vec<_> = sent.into_iter().zip(replies).collect();
        heard.sort_by_key(|(_, reply)| reply["seq"].as_u64());
        for ((at, _, message), reply) in heard {
            self.heard(at, &message, &reply);
        }
    }

    /// Goes away before there is an answer, and asks for it somewhere else.
    async fn walks_off_and_returns(&mut self) {
        let at = self.any_session();
        let message = self.new_message(at);
        if let Some(mut connection) = Http1::try_connect(self.town.places()[self.place()]).await {
            let patience = Duration::from_micros(self.random.u64(0..6000));
            let _ = tokio::time::timeout(patience, connection.try_begin(self.request(&message))).await; // whatever came is not looked at
        }
        let reply = self.deliver(self.place(), &message).await;
        self.heard(at, &message, &reply);
    }

    async fn mistakes_an_id(&mut self) {
        let at = self.any_session();
        let Some(said) = self.sessions[at].turns.last() else { return };
        let reused = json!({ "query": "another", "message_id": said.id, "session_id": self.sessions[at].id });
        if let Some(reply) = self.town.send(self.place(), self.request(&reused)).await {
            reply.error(409, "message_id_reused");
        }
    }

    async fn forgets(&mut self) {
        let at = self.any_session();
        let reply = self.town.send(self.place(), self.history("DELETE", at)).await.expect("gateways of users who forget stay");
        assert_eq!(reply.status, 204, "{}", reply.text());
        self.sessions[at].turns.clear();
    }

    async fn reads(&mut self) {
        let (place, at) = (self.place(), self.any_session());
        self.compare(place, at).await;
    }

    /// What a gateway says of a conversation is what was said in it, as far as it is kept.
    async fn compare(&self, place: usize, at: usize) {
        let Some(reply) = self.town.send(place, self.history("GET", at)).await else { return };
        let (history, session) = (reply.json(), &self.sessions[at]);
        let got = history["turns"].as_array().unwrap_or_else(|| panic!("{history}")).iter().map(|turn| {
            let text = |key: &str| turn[key].as_str().unwrap();
            (turn["seq"].as_u64().unwrap(), text("message_id"), text("q"), text("a"))
        });
        let kept = &session.turns[session.turns.len().saturating_sub(TURNS)..];
        let expected: Vec<_> = kept.iter().map(|said| (said.seq, said.id.as_str(), said.q.as_str(), said.a.as_str())).collect();
        assert_eq!(got.collect::<Vec<_>>(), expected, "{} {}", self.name, session.id);
        assert_eq!(history["seq"], session.seq, "{} {}", self.name, session.id);
    }

    /// Takes the next turn of a session down, after a look at whether it can be that.
    fn heard(&mut self, at: usize, message: &Value, reply: &Value) {
        // Who has waited for a dead gateway's claim may have no time left for the model.
        let fallback = reply["fallback"] == true && self.town.mortal;
        assert_eq!((&reply["stored"], &reply["fallback"]), (&json!(true), &json!(fallback)), "{reply}");
        let session = &mut self.sessions[at];
        let of = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
        let (id, q, a) = (of(message, "message_id"), of(message, "query"), of(reply, "answer"));
        let said = Said { id, q, a, seq: reply["seq"].as_u64().unwrap(), fallback };
        session.seq += 1;
        let kept = session.turns.iter().rev().take(TURNS).rev();
        let before: Vec<&str> = kept.filter(|said| !said.fallback).map(|said| said.q.as_str()).collect();
        let expected = if fallback { format!("{} is busy", self.tenant) } else { Clerk::answer_to(&before) };
        assert_eq!((said.seq, &said.a), (session.seq, &expected), "{}: {said:?}", self.name);
        let calls = self.town.clerk.calls(&said.q);
        assert!(calls == 1 || self.town.mortal && (calls > 1 || fallback), "{}: {calls} calls of the model for {said:?}", self.name);
        self.late += usize::from(fallback);
        session.turns.push(said);
    }

    /// Sends a message to a gateway until it is answered; to another one when that is gone.
    async fn deliver(&self, place: usize, message: &Value) -> Value {
        self.town.deliver(place, || self.request(message)).await
    }

    async fn deliver_all(&self, messages: impl Iterator<Item = (usize, Value)>) -> Vec<Value> {
        let mut all = JoinSet::new();
        for (n, (place, message)) in messages.enumerate() {
            let (town, request) = (self.town.clone(), self.request(&message));
            all.spawn(async move { (n, town.deliver(place, || request.clone()).await) });
        }
        let mut replies = all.join_all().await;
        replies.sort_by_key(|(n, _)| *n);
        replies.into_iter().map(|(_, reply)| reply).collect()
    }

    fn new_message(&mut self, at: usize) -> Value {
        self.sent += 1;
        self.message(at, &format!("{} {} {}", self.name, self.sessions[at].id, self.sent))
    }

    fn message(&self, at: usize, q: &str) -> Value {
        json!({ "query": q, "message_id": format!("m{q}"), "session_id": self.sessions[at].id })
    }

    fn request(&self, message: &Value) -> Request<Full<Bytes>> {
        post("/v1/chat", Some(&self.token), message.to_string())
    }

    fn history(&self, method: &str, at: usize) -> Request<Full<Bytes>> {
        let uri = format!("/v1/history?session_id={}", self.sessions[at].id.replace('/', "%2F"));
        let request = Request::builder().method(method).uri(uri).header("host", "test");
        request.header("authorization", format!("Bearer {}", self.token)).body(Full::default()).unwrap()
    }

    fn any_session(&mut self) -> usize {
        self.random.usize(0..self.sessions.len())
    }

    fn place(&self) -> usize {
        fastrand::usize(0..self.town.places().len())
    }
}

fn same(one: &Value, other: &Value) -> bool {
    ["seq", "answer", "message_id", "session_id"].iter().all(|key| one[key] == other[key])
}

impl Town {
    /// Sends a request; none comes back from a gateway that is gone, which only a mortal one may be.
    pub async fn send(&self, place: usize, request: Request<Full<Bytes>>) -> Option<Reply> {
        let sent = async { Http1::try_connect(self.places()[place]).await?.try_send(request).await };
        let reply = tokio::time::timeout(PATIENCE, sent).await.expect("an answer in time");
        assert!(self.mortal || reply.is_some(), "a connection was cut");
        reply
    }

    pub async fn deliver(&self, mut place: usize, request: impl Fn() -> Request<Full<Bytes>>) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.send(place, request()).await {
                Some(reply) if reply.status == 200 => return reply.json(),
                Some(reply) => drop(reply.error(409, "turn_in_progress")),
                None => place = (place + 1) % self.places().len(),
            }
            assert!(Instant::now() < end, "no answer in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
