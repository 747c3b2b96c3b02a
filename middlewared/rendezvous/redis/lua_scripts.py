r"""
The scripts that change a call's record in Redis, one record each.

The first decision stands, and a script that the same waiter runs again changes nothing.

A call is the hash ``middlewared:{tag}:call:<unique_key>``. It outlives the call's deadline by
:data:`GRACE_S`, so that a daemon which stood still at the deadline, and an answer that reached
another one by then, still find how the call ended:

==============  =====================================================================
``call``        the call, as JSON
``identity``    the name of its identity key, "" without a call_id
``grace_ms``    how long the record outlives the deadline; absent: 0 (older daemons)
``waker``       the waiter that wakes the device, "" when unknown
``answered``    the settlement, as JSON, once a phone decided
``failed``      the settlement, as JSON, once something else decided; such a record is
                kept for waiters that missed the message, and no one else finds it
``cancel``      the id of the PBX's request that cancelled the call, if one did
``pushes``      how many pushes are outstanding: sent and not refused by the provider
``no:``\ *id*   one field for each refusal of the phone, with the settlement it implies
*waiter*        one field for each waiter; its id is ``<channel of its daemon>/<number>``
==============  =====================================================================

The identity key ``middlewared:{tag}:same:<sip_user_id>:<call_id>`` holds the unique_key.
It may outlive its call, so it counts only if the record it leads to names it as well.

``middlewared:{tag}:account:<sip_user_id>`` is a hash of the account's calls that a registration
may answer: their call_ids by unique_key. One may be over. The tag is that of the account.

``middlewared:{tag}:late:<unique_key>`` holds the account, app and platform of a call that
timed out, as JSON, for :data:`~middlewared.rendezvous.late.REMEMBERED_S`.
"""

from __future__ import annotations

import hashlib

import attrs

GRACE_S = 5.0
"""How long a record outlives its call's deadline."""


@attrs.frozen
class Script:
    """A Lua script and its digest, by which Redis runs it again."""

    text: str = attrs.field(repr=False)
    sha1: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False)
        object.__setattr__(self, "sha1", digest.hexdigest())


_COMMON = (
    f"""
local GRACE_MS = {GRACE_S * 1000:.0f}
"""
    + """
local call = redis.call

local function lives(record)
  return call('EXISTS', record) == 1 and call('HEXISTS', record, 'failed') == 0
end

local function left_ms(record)
  return call('PTTL', record) - tonumber(call('HGET', record, 'grace_ms') or '0')
end

local function channel_of(waiter)
  return string.match(waiter or '', '^(.+)/')
end

local function notify(record, message)
  local notified, fields = {}, call('HKEYS', record)
  fields[#fields + 1] = call('HGET', record, 'waker')
  for _, field in ipairs(fields) do
    local channel = channel_of(field)
    if channel and not notified[channel] then
      notified[channel] = true
      call('PUBLISH', channel, message)
    end
  end
end

local function decide(record, field, settlement, unique_key)
  call('HSET', record, field, settlement)
  notify(record, cjson.encode({'settled', unique_key, settlement}))
end

local function refusals(record)
  local count, last = 0, nil
  for _, field in ipairs(call('HKEYS', record)) do
    if string.sub(field, 1, 3) == 'no:' then count, last = count + 1, field end
  end
  return count, last and call('HGET', record, last)
end

-- The live record that an identity leads to. It is not among KEYS: only a script can find it. It
-- has the same tag, so it is on the same node.
local function led_to(identity, prefix)
  local known = call('GET', identity)
  local record = known and prefix .. known
  if record and lives(record) and call('HGET', record, 'identity') == identity then
    return record
  end
end

local function open(record, text, identity, waker, ttl_ms)
  call('DEL', record)
  call('HSET', record, 'call', text, 'identity', identity, 'waker', waker, 'grace_ms', GRACE_MS)
  call('PEXPIRE', record, ttl_ms + GRACE_MS)
end
"""
)

# Opens or joins a call.
# KEYS: record, identity (absent without call_id)
# ARGV: prefix of records, unique_key, call, ms to live, waiter, waker known to be dead or '-'
# -> nil when the key belongs to another call; else call, answered, ms to live, waker, pushes
JOIN = Script(
    _COMMON
    + """
local record, identity = KEYS[1], KEYS[2] or ''
local prefix, unique_key, text, ttl_ms, waiter, dead = unpack(ARGV)
record = KEYS[2] and led_to(identity, prefix) or record
if not lives(record) or left_ms(record) <= 0 then
  -- A waiter that takes over from a dead waker has joined before: the call has ended since.
  if dead ~= '-' then return {text, '', 0, '', '0'} end
  open(record, text, identity, waiter, ttl_ms)
  if KEYS[2] then call('SET', identity, unique_key, 'PX', ttl_ms) end
elseif call('HEXISTS', record, waiter) == 0
    and (not KEYS[2] or call('HGET', record, 'identity') ~= identity) then
  return false
end
if call('HGET', record, 'waker') == dead then call('HSET', record, 'waker', waiter) end
local answered = call('HGET', record, 'answered') or ''
if answered == '' then call('HSET', record, waiter, '') end
return {
  call('HGET', record, 'call'), answered, left_ms(record), call('HGET', record, 'waker'),
  call('HGET', record, 'pushes') or '0',
}
"""
)

# Makes sure that the record has these waiters: restores what Redis lost or never had. The
# restored refusals may decide, together with those in Redis.
# KEYS: record, identity (absent without call_id)
# ARGV: unique_key, call, ms to live, waker or '', pushes (of the waker) or '', refusals as a
#   JSON object of settlements by id, or '', waiters ...
# -> settlement or '', waker; both '' when the key belongs to another call now
RENEW = Script(
    _COMMON
    + """
local record, identity = KEYS[1], KEYS[2] or ''
local unique_key, text, ttl_ms, waker, pushes, refused = unpack(ARGV, 1, 6)
if call('EXISTS', record) == 0 then
  open(record, text, identity, waker, ttl_ms)
elseif call('HGET', record, 'identity') ~= identity then
  return {'', ''}
end
local prefix = string.sub(record, 1, -1 - string.len(unique_key))
if KEYS[2] and call('GET', identity) ~= unique_key and not led_to(identity, prefix) then
  -- It is lost, or leads to a record that is gone: one made by a join whose reply was lost.
  call('SET', identity, unique_key, 'PX', ttl_ms)
end
if call('HGET', record, 'waker') == '' then call('HSET', record, 'waker', waker) end
if pushes ~= '' and call('HGET', record, 'waker') == waker then
  call('HSET', record, 'pushes', pushes) -- unless another waiter has taken over
end
if refused ~= '' then
  for id, settlement in pairs(cjson.decode(refused)) do
    call('HSET', record, 'no:' .. id, settlement)
  end
end
if lives(record) and call('HEXISTS', record, 'answered') == 0 then
  local count, last = refusals(record)
  local known = tonumber(call('HGET', record, 'pushes') or '')
  if last and known and count >= known then decide(record, 'answered', last, unique_key) end
end
for i = 7, #ARGV do call('HSET', record, ARGV[i], '') end
local settlement = call('HGET', record, 'answered') or call('HGET', record, 'failed') or ''
return {settlement, call('HGET', record, 'waker')}
"""
)

# Ends a call without an answer; an earlier decision stands, and all at the call are notified.
# KEYS: record
# ARGV: settlement, unique_key
# -> the settlement that stands, '' when no such call waits
SETTLE = Script(
    _COMMON
    + """
local record = KEYS[1]
local settlement, unique_key = unpack(ARGV)
if not lives(record) then return '' end
local answered = call('HGET', record, 'answered')
if answered then return answered end
decide(record, 'failed', settlement, unique_key)
return settlement
"""
)

# Cancels a call that waits; all at the call are notified, each waiter by its id: a later call may
# have the same key. The record is not among KEYS, as in JOIN.
# KEYS: identity
# ARGV: prefix of records, settlement, id of the request
# -> 'cancelled', unique_key, waiters ...; or 'answered'; or 'unknown'
CANCEL = Script(
    _COMMON
    + """
local identity = KEYS[1]
local prefix, settlement, id = unpack(ARGV)
local unique_key = call('GET', identity)
local record = unique_key and prefix .. unique_key
if not record or call('HGET', record, 'identity') ~= identity then return {'unknown'} end
if call('HEXISTS', record, 'answered') == 1 then return {'answered'} end
local again = call('HGET', record, 'cancel') == id
if not again and (not lives(record) or left_ms(record) <= 0) then return {'unknown'} end
call('HSET', record, 'failed', settlement, 'cancel', id)
local words = {'cancelled', unique_key, call('HGET', record, 'waker')}
for _, field in ipairs(call('HKEYS', record)) do
  if string.find(field, '/', 1, true) then words[#words + 1] = field end
end
notify(record, cjson.encode(words))
return words
"""
)

# A phone's answer. An available one decides; refusals decide once there are as many as pushes.
# Only the waker knows the pushes that it has just sent: it is asked to count.
# KEYS: record, late
# ARGV: 'yes' or 'no', id of the answer, settlement, unique_key, pushes (of the waker) or ''
# -> the settlement that stands or '', 1 when there is such a call (2: its waker may decide it),
#    account, app and platform of a call that timed out or '', ms for which it is still remembered
ANSWER = Script(
    _COMMON
    + """
local record, late = KEYS[1], KEYS[2]
local available, id, settlement, unique_key, pushes = unpack(ARGV)
local answered = call('HGET', record, 'answered')
if not lives(record) or (answered and left_ms(record) <= 0) then
  local kind = call('GET', late)
  return {'', 0, kind or '', kind and call('PTTL', late) or 0}
end
if answered then return {answered, 1, '', 0} end
if available == 'no' then
  call('HSET', record, 'no:' .. id, settlement)
  local known = tonumber(call('HGET', record, 'pushes') or '0')
  if refusals(record) < math.max(known, tonumber(pushes) or 0) then return {'', 1, '', 0} end
  if pushes == '' then
    local waker = string.match(call('HGET', record, 'waker') or '', '^(.+)/')
    if waker then call('PUBLISH', waker, cjson.encode({'refused', unique_key})) end
    return {'', 2, '', 0}
  end
end
decide(record, 'answered', settlement, unique_key)
return {settlement, 1, '', 0}
"""
)

# Stores the number of outstanding pushes; the refusals so far may decide.
# KEYS: record
# ARGV: pushes or '': as before, unique_key
# -> the settlement that stands, '' when the call is undecided or unknown
COUNT = Script(
    _COMMON
    + """
local record, pushes, unique_key = KEYS[1], ARGV[1], ARGV[2]
if not lives(record) then return '' end
if pushes == '' then pushes = call('HGET', record, 'pushes') or '0' end
call('HSET', record, 'pushes', pushes)
local answered = call('HGET', record, 'answered')
if answered then return answered end
local count, last = refusals(record)
if count == 0 or count < tonumber(pushes) then return '' end
decide(record, 'answered', last, unique_key)
return last
"""
)

# Ends a call whose deadline has passed; an earlier decision stands. Only for those that wait in
# this record: it may be a later call's, with the same key.
# KEYS: record, late
# ARGV: settlement, unique_key, account, app and platform of the woken device or '', ms to
#   remember them, waiters ...
# -> the settlement that stands, '' when none of the waiters waits in the record
TIME_OUT = Script(
    _COMMON
    + """
local record, late = KEYS[1], KEYS[2]
local settlement, unique_key, woken, late_ms = unpack(ARGV, 1, 4)
local waits = false
for i = 5, #ARGV do waits = waits or call('HEXISTS', record, ARGV[i]) == 1 end
if not waits then return '' end
local decided = call('HGET', record, 'answered') or call('HGET', record, 'failed')
if decided then return decided end
decide(record, 'failed', settlement, unique_key)
if woken ~= '' then call('SET', late, woken, 'PX', late_ms) end
return settlement
"""
)

# Remembers a call that timed out.
# KEYS: late
# ARGV: account, app and platform, ms to remember them
TIMED_OUT = Script(
    """
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
"""
)

# Removes a waiter; with the last one an undecided call ends, and its waker is notified.
# KEYS: record
# ARGV: waiter, message
# -> 1 when no one waits for the call any more, or another daemon has taken over waking
LEAVE = Script(
    _COMMON
    + """
local record = KEYS[1]
call('HDEL', record, ARGV[1])
if not lives(record) then return 1 end
if call('HEXISTS', record, 'answered') == 1 then return 0 end
for _, field in ipairs(call('HKEYS', record)) do
  if channel_of(field) then
    local waker = channel_of(call('HGET', record, 'waker'))
    return waker and waker ~= channel_of(ARGV[1]) and 1 or 0
  end
end
notify(record, ARGV[2])
call('DEL', record)
return 1
"""
)

# Lists a call for its account; above the most, any others are dropped.
# KEYS: account
# ARGV: unique_key, call_id, ms to live, most
LIST = Script(
    """
local call, account = redis.call, KEYS[1]
local unique_key, call_id, ttl_ms, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
call('HSET', account, unique_key, call_id)
local listed = call('HKEYS', account)
for i = 1, #listed - most do
  if listed[i] ~= unique_key then call('HDEL', account, listed[i]) end
end
if call('PTTL', account) < ttl_ms then call('PEXPIRE', account, ttl_ms) end
return 1
"""
)

# KEYS: account
# -> unique_key, call_id, unique_key, call_id ...
LISTED = Script(
    """
local call, account, listed = redis.call, KEYS[1], {}
for _, unique_key in ipairs(call('HKEYS', account)) do
  listed[#listed + 1] = unique_key
  listed[#listed + 1] = call('HGET', account, unique_key)
end
return listed
"""
)

# Returns the secret that all daemons share: the first one that was offered.
# KEYS: secret
# ARGV: the secret to use if there is none
# -> the secret
SHARE = Script(
    """
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""
)
