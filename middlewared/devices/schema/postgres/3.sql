-- How many woken calls in a row a device did not answer, and when it answered the last one.
alter table devices
    add column silent_streak integer not null default 0,
    add column last_answered double precision;

-- The accounts of one phone: of Google's tokens the part before the colon stays the same.
-- Cut, since a token may be longer than what an index takes.
create index devices_installation on devices (
    substr(
        case when platform = 'apns' or strpos(token, ':') < 2 then token
        else substr(token, 1, strpos(token, ':') - 1) end,
        1, 128
    ),
    platform, app
);

-- None on app and platform alone: before there are statistics the planner might take it for
-- finding a phone.
create index devices_silent on devices (silent_streak) where silent_streak > 0;
