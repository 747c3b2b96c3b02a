-- An account has registered at this FreeSWITCH: that answers its waiting calls, and the push
-- parameters of its contact (RFC 8599) are its device. autoload_configs/lua.conf.xml:
--     <hook event="CUSTOM" subclass="sofia::register" script="middlewared_registered.lua"/>
--     <hook event="CUSTOM" subclass="sofia::unregister" script="middlewared_registered.lua"/>
-- Not run by us: Debian 12 has no FreeSWITCH; its syntax is tested.

local URL = "http://10.0.0.5:8081/api/registration/"

local function escaped(text)
    return (text:gsub("[^%w._~-]", function(c) return string.format("%%%02X", c:byte()) end))
end

local contact = event:getHeader("contact") or ""
local account = (event:getHeader("from-user") or ""):gsub("[^0-9]", "")
local left = event:getHeader("Event-Subclass") == "sofia::unregister"
local expires = left and "0" or (event:getHeader("expires") or "3600")
local fields = "sip_user_id=" .. account .. "&expires=" .. escaped(expires)
local provider = contact:match(";pn%-provider=([^;>]+)")
local param = contact:match(";pn%-param=([^;>]+)")
local prid = contact:match(";pn%-prid=([^;>]+)")
if provider and param and prid then
    fields = fields .. "&pn_provider=" .. escaped(provider)
        .. "&pn_param=" .. escaped(param) .. "&pn_prid=" .. escaped(prid)
end
if account ~= "" then
    freeswitch.API():execute("bgapi", "curl " .. URL .. " timeout 5 post " .. fields)
end
