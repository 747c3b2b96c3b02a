-- Wakes an app and calls it: lua middlewared.lua ACCOUNT DOMAIN, from the dialplan.
-- mod_lua and mod_curl are needed. docs/freeswitch.md explains it. Not run by us: Debian 12 has
-- no FreeSWITCH; its syntax is tested.

local URL = "http://10.0.0.5:8081/api/incoming-call/"
-- A little more than [calls] roundtrip_wait_ms; it must not expire first.
local WAIT_S = 8

-- What is a clear no, as FreeSWITCH's causes: 486, 480, 480, 480, 503.
local CAUSES = {
    ["unavailable"] = "USER_BUSY",
    ["no-device"] = "SUBSCRIBER_ABSENT",
    ["token-dead"] = "SUBSCRIBER_ABSENT",
    ["timeout"] = "NO_ANSWER",
    ["cancelled"] = "ORIGINATOR_CANCEL",
    ["overloaded"] = "NORMAL_TEMPORARY_FAILURE",
    ["draining"] = "NORMAL_TEMPORARY_FAILURE",
}

local function escaped(text)
    return (text:gsub("[^%w._~-]", function(c) return string.format("%%%02X", c:byte()) end))
end

local function form(fields)
    local pairs_of = {}
    for _, field in ipairs(fields) do
        pairs_of[#pairs_of + 1] = field[1] .. "=" .. escaped(field[2])
    end
    return table.concat(pairs_of, "&")
end

local api = freeswitch.API()
-- Only digits: nothing else is dialled below.
local account = (argv[1] or ""):gsub("[^0-9]", "")
local domain = (argv[2] or ""):gsub("[^%w.:-]", "")
local number = (session:getVariable("caller_id_number") or ""):gsub("[^0-9+]", ""):sub(1, 32)
local name = (session:getVariable("caller_id_name") or ""):sub(1, 255)
-- With a prefix it is never a UUID, which would be the key that answers this call.
local call_id = "freeswitch-" .. session:get_uuid()
local which = { { "sip_user_id", account }, { "call_id", call_id } }
local call = {
    { "sip_user_id", account },
    { "phonenumber", number ~= "" and number or "anonymous" },
    { "caller_id", name },
    { "call_id", call_id },
}

-- In the background, so that this script notices when the caller hangs up.
local jobs = freeswitch.EventConsumer("BACKGROUND_JOB")
local options = " headers connect-timeout 2 timeout " .. WAIT_S .. " post "
local started = api:execute("bgapi", "curl " .. URL .. options .. form(call))
local job = started:match("Job%-UUID: ([%x-]+)")
local answer
local waited_ms = 0
while job and not answer and session:ready() and waited_ms < (WAIT_S + 1) * 1000 do
    local event = jobs:pop(1, 100)
    if event == nil then
        waited_ms = waited_ms + 100
    elseif event:getHeader("Job-UUID") == job then
        answer = event:getBody() or ""
    end
end

if not session:ready() then
    api:execute("bgapi", "curl " .. URL .. " timeout 2 delete " .. form(which))
    return
end
local outcome = (answer or ""):match("[Xx]%-[Oo]utcome: ([%a-]+)") or "none"
freeswitch.consoleLog("info", call_id .. " to " .. account .. ": " .. outcome .. "\n")
if CAUSES[outcome] then
    session:hangup(CAUSES[outcome])
else
    -- Answered, and everything but a clear no: no answer, 404, another 5xx.
    session:execute("bridge", "user/" .. account .. "@" .. domain)
end
