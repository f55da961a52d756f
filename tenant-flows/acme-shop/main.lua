-- Acme Shop: refunds, parcels, small talk. The function at the end is called for every message of a user.

local CANCEL, YES = { ["取消"] = true, ["算了"] = true }, { ["确认"] = true, ["好的"] = true }

-- A refund takes several messages. `session.refund` says what we are waiting for: "order", then "confirm".
local function refund(turn)
  local order = session.order
  if CANCEL[turn.text] then
    session.refund, session.order = nil, nil
    return "好的，已取消退货申请。"
  elseif session.refund == "order" then
    order = turn.text:match("%d+")
    if not order or #order < 6 then
      return "订单号是一串至少 6 位的数字，请再发一次；不需要退货请回复“取消”。"
    end
    session.order, session.refund = order, "confirm"
    return `您要为订单 {order} 申请退货，确认吗？`
  elseif not YES[turn.text] then
    return `请回复“确认”为订单 {order} 申请退货，或回复“取消”。`
  end
  session.refund, session.order = nil, nil
  handoff() -- a person books it
  log(`a refund was asked for, this user's number {user:incr("refunds")}`)
  return `已记录订单 {order} 的退货申请，客服会尽快为您办理。`
end

local function parcel(turn)
  session.parcel = turn.text:match("%d+") or session.parcel -- remembered for the next question
  if not session.parcel then
    return "请告诉我快递单号，我来查一下。"
  end
  return nlp.answer(`{turn.text}（快递单号：{session.parcel}）`)
end

local function greet()
  if user.name then
    return `{user.name}，欢迎回来！今天想看点什么？`
  end
  return "您好，欢迎来到 Acme 商城！怎么称呼您？可以说“我叫……”。"
end

return function(turn)
  local text = turn.text
  if session.refund then
    return refund(turn)
  elseif text:find("退货") or text:find("退款") then
    session.refund = "order"
    return "好的，请提供需要退货的订单号。"
  elseif text:find("快递") or text:find("包裹") then
    return parcel(turn)
  elseif text == "你好" or text == "您好" then
    return greet()
  end
  local name = text:match("^我叫(.+)$")
  if name and utf8.len(name) <= 12 then
    user.name = name -- known in all later conversations of this user
    return greet()
  end
  return nlp.answer(turn) -- history goes along; returned as it is, it streams
end
