//! What a turn costs in the flow engine, without model or store. Targets: no-op 3 µs, realistic 12 µs, history by what is read of it.

use std::{collections::BTreeMap, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use fengda::flow::{AnswerId, Input, Limits, Resume, Run, Script, Step};
use fengda_plugins::api::{SessionState, Tenant, Text, Timestamp, Turn};

const NOOP: &str = "return function(turn) return 'ok' end";
const LAST: &str = "return function(turn) return history[-1].a end";
const MODEL: &str = "return function(turn) return nlp.answer(turn) end";
const WRITES: &str = "return function(turn) session.step = 'ask' user:incr('visits') return 'ok' end";
const REALISTIC: &str = r#"
local words = { "退货", "退款", "快递", "人工" }
return function(turn)
  local text = turn.text
  for _, word in words do
    if text:find(word, 1, true) and session.topic ~= word then session.topic = word end
  end
  local long, asked = 0, 0
  for _, past in history do
    if #past.a > 20 then long += 1 end
    if past.q:find("订单") then asked += 1 end
  end
  if asked > 3 then return "您问了" .. asked .. "次订单" end
  return ("您好，%s！"):format(user.name or "顾客") .. long
end"#;
const LOOP: &str = "return function(turn) local n = 0 for i = 1, 100000 do n += i end return n end";

fn input(source: &str, turns: u64) -> impl Fn() -> Input {
    let tenant = Tenant::from_config("acme-shop").expect("a name");
    let script = Arc::new(Script::compile(&tenant, "main.lua", source.as_bytes()).expect("a script"));
    let key = tenant.user("user-1").and_then(|user| user.session("default")).expect("ids");
    let past = |seq| {
        let (q, a) = (Text::from(format!("订单 {seq} 到哪里了？")), Text::from(format!("第 {seq} 个订单正在路上，预计明天送达。")));
        Arc::new(Turn { seq, message_id: "m".into(), q, a, at: Timestamp(seq), fallback: false, handoff: false, awaits_past: false })
    };
    let turns = (1..=turns).map(past).collect();
    let state = Arc::new(SessionState { seq: 1, turns, ..SessionState::default() });
    let canned = Arc::new(BTreeMap::new());
    let (query, message_id) = (Text::from("你好，我想问一下退货的事"), Text::from("message-1"));
    move || Input {
        script: script.clone(),
        limits: Limits::default(),
        canned: canned.clone(),
        query: query.clone(),
        message_id: message_id.clone(),
        key: key.clone(),
        channel: None,
        lang: None,
        state: state.clone(),
        now: Timestamp(1_000_000),
    }
}

async fn turn(input: Input) -> Step {
    let mut run = Run::start(input);
    let mut with = Resume::Start;
    loop {
        match run.resume(with).await {
            Step::Effect(_) => with = Resume::Answer(Ok(AnswerId(0))),
            Step::Failed(error) => panic!("{error}: {}", error.message.expose()),
            done => return done,
        }
    }
}

fn turns(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for (name, source, past) in [
        ("no-op", NOOP, 0),
        ("realistic, 10 turns read", REALISTIC, 10),
        ("last of 1 turn", LAST, 1),
        ("last of 100 turns", LAST, 100),
        ("one model call", MODEL, 10),
        ("two slots written", WRITES, 10),
        ("loop of 100,000", LOOP, 0),
    ] {
        let input = input(source, past);
        c.bench_function(name, |b| b.iter(|| runtime.block_on(turn(input()))));
    }
    // A new script each time, so a new VM each time.
    let mut n = 0;
    c.bench_function("first turn of a script (compile, new VM)", |b| {
        b.iter(|| {
            n += 1;
            runtime.block_on(turn(input(&format!("return function(turn) return {n} end"), 0)()))
        });
    });
}

criterion_group!(benches, turns);
criterion_main!(benches);
