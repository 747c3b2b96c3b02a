-- What the scripts of etc/freeswitch do, with a stand-in for FreeSWITCH: which requests they make,
-- and what becomes of the call. Usage: lua freeswitch.lua FOLDER

local folder = arg[1]
local JOB = "0f8fad5b-d9cb-469f-a165-708677289501"

-- Runs middlewared.lua; `answer` is what curl gives (nil: nothing), `gone_after` the number of
-- looks after which the caller has hung up.
local function call(answer, gone_after)
    local done = { requests = {} }
    local looks = 0
    freeswitch = {
        API = function()
            return {
                execute = function(_, command, arguments)
                    done.requests[#done.requests + 1] = command .. " " .. arguments
                    return "+OK Job-UUID: " .. JOB .. "\n"
                end,
            }
        end,
        EventConsumer = function()
            local events = {}
            if answer then
                events = { { "another", "x" }, { JOB, answer } }
            end
            return {
                pop = function()
                    local event = table.remove(events, 1)
                    return event and {
                        getHeader = function() return event[1] end,
                        getBody = function() return event[2] end,
                    }
                end,
            }
        end,
        consoleLog = function() end,
    }
    local variables = { caller_id_number = "+31 50&x", caller_id_name = "Smith & Sons, Zoë" }
    session = {
        getVariable = function(_, name) return variables[name] end,
        get_uuid = function() return "channel" end,
        ready = function()
            looks = looks + 1
            return not gone_after or looks <= gone_after
        end,
        hangup = function(_, cause) done.hangup = cause end,
        execute = function(_, application, data) done.execute = application .. " " .. data end,
    }
    argv = { "123&user/x", "example.com" }
    dofile(folder .. "/middlewared.lua")
    return done
end

local function check(got, expected)
    assert(got == expected, tostring(got) .. " is not " .. tostring(expected))
end

local function reply(outcome)
    return "HTTP/1.1 200 OK\r\nX-Outcome: " .. outcome .. "\r\n\r\nstatus=NAK"
end

local done = call(reply("answered"))
check(done.execute, "bridge user/123@example.com")
check(
    done.requests[1],
    "bgapi curl http://10.0.0.5:8081/api/incoming-call/ headers connect-timeout 2 timeout 8 post "
        .. "sip_user_id=123&phonenumber=%2B3150&caller_id=Smith%20%26%20Sons%2C%20Zo%C3%AB"
        .. "&call_id=freeswitch-channel"
)
for outcome, cause in pairs({
    unavailable = "USER_BUSY",
    ["no-device"] = "SUBSCRIBER_ABSENT",
    ["token-dead"] = "SUBSCRIBER_ABSENT",
    timeout = "NO_ANSWER",
    overloaded = "NORMAL_TEMPORARY_FAILURE",
    draining = "NORMAL_TEMPORARY_FAILURE",
}) do
    done = call(reply(outcome))
    check(done.hangup, cause)
    check(done.execute, nil)
end
for _, answer in ipairs({ reply("service-down"), reply("push-failed"), "", false }) do
    check(call(answer).execute, "bridge user/123@example.com")
end
done = call(nil, 3)
check(done.execute, nil)
check(
    done.requests[2],
    "bgapi curl http://10.0.0.5:8081/api/incoming-call/ timeout 2 delete "
        .. "sip_user_id=123&call_id=freeswitch-channel"
)

-- Runs middlewared_registered.lua; what it requests.
local function registered(headers)
    local request
    freeswitch = {
        API = function()
            return { execute = function(_, command, arguments) request = command .. " " .. arguments end }
        end,
    }
    event = { getHeader = function(_, name) return headers[name] end }
    dofile(folder .. "/middlewared_registered.lua")
    return request
end

local prefix = "bgapi curl http://10.0.0.5:8081/api/registration/ timeout 5 post "
check(registered({ ["from-user"] = "123", expires = "60" }), prefix .. "sip_user_id=123&expires=60")
check(
    registered({
        ["from-user"] = "123",
        ["Event-Subclass"] = "sofia::unregister",
        contact = '"" <sip:123@192.0.2.1;pn-provider=apns;pn-param=T.b.voip;pn-prid=a1:voip;ob>',
    }),
    prefix .. "sip_user_id=123&expires=0&pn_provider=apns&pn_param=T.b.voip&pn_prid=a1%3Avoip"
)
check(registered({}), nil)
