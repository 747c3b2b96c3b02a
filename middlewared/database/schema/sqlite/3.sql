-- How many pushed calls in a row a device has not answered, and when it last answered one.
alter table devices add column silent_streak integer not null default 0;
alter table devices add column last_answered real;

-- Finds the accounts of one phone: in Google's tokens the part before the colon is constant.
create index devices_installation on devices (
    substr(
        case when platform = 'apns' or instr(token, ':') < 2 then token
        else substr(token, 1, instr(token, ':') - 1) end,
        1, 128
    ),
    platform, app
);

-- Used only for counting.
create index devices_app on devices (app, platform);
create index devices_silent on devices (silent_streak) where silent_streak > 0;
