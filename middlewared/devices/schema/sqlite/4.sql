-- The devices of accounts that are texts ([accounts] sip_user_id_pattern): the columns and
-- indexes of devices.
create table text_devices (
    sip_user_id text primary key,
    platform text not null check (platform in ('apns', 'android', 'gcm')),
    app text not null,
    token text not null,
    name text not null,
    os_version text not null,
    client_version text not null,
    remote_logging_id text not null,
    sandbox integer not null check (sandbox in (0, 1)),
    push_profile text not null,
    dnd integer not null check (dnd in (0, 1)),
    remote_notification_token text not null,
    registered_at real not null,
    last_seen real not null,
    silent_streak integer not null default 0,
    last_answered real
);

create index text_devices_installation on text_devices (
    substr(
        case when platform = 'apns' or instr(token, ':') < 2 then token
        else substr(token, 1, instr(token, ':') - 1) end,
        1, 128
    ),
    platform, app
);

create index text_devices_app on text_devices (app, platform);
create index text_devices_silent on text_devices (silent_streak) where silent_streak > 0;
