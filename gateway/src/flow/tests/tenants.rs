//! The tenants that come with the gateway.

use super::*;

const ACME: &str = include_str!("../../../../tenant-flows/acme-shop/main.lua");
const BANK: &str = include_str!("../../../../tenant-flows/harbor-bank/main.lua");

/// Says something and commits the turn; what is returned is the answer, `‹model: query›` where the model's is streamed.
fn tell(flow: &mut Flow, query: &'static str) -> (String, bool) {
    flow.query = query;
    let outcome = flow.run();
    let reply = outcome.result.unwrap_or_else(|e| panic!("{}", shown(&e)));
    let mut parts: Vec<String> = reply.said.iter().map(|text| text.expose().to_owned()).collect();
    match (&reply.end, &outcome.effects[..]) {
        (End::Text(text), _) => parts.push(text.expose().to_owned()),
        (End::Answer(_), [Effect::Answer { query, history }]) => parts.push(format!("‹model: {} {history}›", query.expose())),
        (End::Fallback, _) => parts.push("‹fallback›".into()),
        other => panic!("{other:?}"),
    }
    commit(flow, &reply);
    flow.state.seq += 1;
    let (q, a) = (query.into(), parts.join("\n").as_str().into());
    let (at, seq) = (Timestamp(1), flow.state.seq);
    let turn = Turn { seq, message_id: "m".into(), q, a, at, fallback: false, handoff: reply.handoff, awaits_past: false };
    flow.state.turns.push(Arc::new(turn));
    (parts.join("\n"), reply.handoff)
}

#[test]
fn the_shop_takes_a_refund_over_several_messages() {
    let mut flow = Flow::new(ACME);
    assert!(tell(&mut flow, "我要退货").0.contains("订单号"));
    assert!(tell(&mut flow, "不知道").0.contains("至少 6 位"));
    assert!(tell(&mut flow, "是 202411220001").0.contains("订单 202411220001"));
    assert!(tell(&mut flow, "什么？").0.contains("请回复“确认”"));
    let (done, handoff) = tell(&mut flow, "确认");
    assert!(done.contains("已记录订单 202411220001") && handoff);
    assert!(flow.state.flow.slots.0.is_empty());
    tell(&mut flow, "退款");
    assert!(tell(&mut flow, "算了").0.contains("已取消"));
    assert_eq!(tell(&mut flow, "有新款吗").0, "‹model: 有新款吗 true›");
}

#[test]
fn the_shop_remembers_the_user_and_the_parcel() {
    let mut flow = Flow::new(ACME);
    assert!(tell(&mut flow, "你好").0.contains("怎么称呼"));
    assert!(tell(&mut flow, "我叫小王").0.starts_with("小王"));
    flow.state.flow.slots = fengda_plugins::api::Slots::default(); // another conversation of the same user
    assert!(tell(&mut flow, "您好").0.starts_with("小王，欢迎回来"));
    assert!(tell(&mut flow, "我的快递呢").0.contains("单号"));
    assert_eq!(tell(&mut flow, "快递 777").0, "‹model: 快递 777（快递单号：777） true›");
    assert_eq!(tell(&mut flow, "快递到了吗").0, "‹model: 快递到了吗（快递单号：777） true›");
}

#[test]
fn the_bank_hands_over_and_knows_its_limits() {
    let mut flow = Flow::of("harbor-bank", BANK);
    assert_eq!(tell(&mut flow, "转人工"), ("正在为您转接人工客服，请稍候。".into(), true));
    assert!(tell(&mut flow, "手机转账限额").0.starts_with("手机银行"));
    assert_eq!(tell(&mut flow, "转账额度是多少").0.lines().count(), 3);
    let (lost, handoff) = tell(&mut flow, "卡丢了，6222 0212 3456 7890");
    assert!(lost.contains("尾号 7890") && !lost.contains("6222") && handoff);
}

#[test]
fn the_bank_sends_no_card_number_to_the_model() {
    let mut flow = Flow::of("harbor-bank", BANK);
    assert_eq!(tell(&mut flow, "2024 年利率多少").0, "‹model: 2024 年利率多少 true›");
    assert_eq!(tell(&mut flow, "卡号6222021234567890余额").0, "‹model: 卡号****7890余额 true›");
    assert_eq!(tell(&mut flow, "再说一遍").0, "‹model: 再说一遍 false›");
    flow.model = Err(AnswerError::Open);
    assert_eq!(tell(&mut flow, "在吗").0, "‹fallback›");
}
