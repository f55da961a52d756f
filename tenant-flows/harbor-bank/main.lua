-- Harbor Bank: lost cards, transfer limits, a person on request. No card number goes to the model.

local LIMITS = {
  { word = "手机", text = "手机银行转账：单笔 5 万元，每日 20 万元。" },
  { word = "网银", text = "网上银行转账：单笔 50 万元，每日 100 万元。" },
  { word = "ATM", text = "ATM 转账：单笔 2 万元，每日 5 万元。" },
}

-- Keeps the last four digits of anything that looks like a card number, written with or without gaps.
local function mask(text)
  return (text:gsub("%d[%d%s%-]+%d", function(number)
    local digits = number:gsub("%D", "")
    return if #digits >= 12 then "****" .. digits:sub(-4) else number
  end))
end

local function card_in_history()
  for _, past in history do
    if mask(past.q) ~= past.q then
      return true
    end
  end
  return false
end

local function card_lost(turn)
  local last = mask(turn.text):match("%*%*%*%*(%d+)")
  handoff() -- a person checks the identity and freezes the card
  log.warn("a card was reported lost")
  say(if last then `请不要担心，专员会为您冻结尾号 {last} 的银行卡。` else "请不要担心，专员会为您冻结银行卡。")
  return "在此之前，您也可以在手机银行“卡片管理”中自行冻结；请勿向任何人透露密码和验证码。"
end

local function transfer_limits(turn)
  local all = {}
  for _, limit in LIMITS do
    if turn.text:find(limit.word, 1, true) then
      return limit.text
    end
    table.insert(all, limit.text)
  end
  return table.concat(all, "\n")
end

return function(turn)
  local text = turn.text
  if text:find("人工") then
    handoff()
    return "正在为您转接人工客服，请稍候。"
  elseif text:find("丢") or text:find("挂失") or text:find("被盗") then
    return card_lost(turn)
  elseif text:find("限额") or text:find("额度") then
    return transfer_limits(turn)
  end
  local answer, err = nlp.answer(mask(text), { history = not card_in_history() })
  if err then
    log.warn("the model did not answer: " .. err)
  end
  return answer -- nil after a failure: the user gets the configured fallback text
end
