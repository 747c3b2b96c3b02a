-- How many pushed calls in a row a device has not answered, and when it last answered one.
alter table devices
    add column silent_streak integer not null default 0,
    add column last_answered double precision;

-- Finds the accounts of one phone: in Google's tokens the part before the colon is constant.
-- Truncated, as a token may exceed the limit of an index entry.
create index devices_installation on devices (
    substr(
        case when platform = 'apns' or strpos(token, ':') < 2 then token
        else substr(token, 1, strpos(token, ':') - 1) end,
        1, 128
    ),
    platform, app
);

-- No index on app and platform only: without statistics the planner might choose it to find a
-- phone.
create index devices_silent on devices (silent_streak) where silent_streak > 0;
