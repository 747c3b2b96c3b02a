-- The devices of accounts that are texts ([accounts] sip_user_id_pattern): the columns and
-- indexes of devices. Texts are compared and ordered byte by byte, as the program does.
create table text_devices (
    like devices including defaults including constraints
);

alter table text_devices
    alter column sip_user_id type text collate "C",
    add primary key (sip_user_id);

create index text_devices_installation on text_devices (
    substr(
        case when platform = 'apns' or strpos(token, ':') < 2 then token
        else substr(token, 1, strpos(token, ':') - 1) end,
        1, 128
    ),
    platform, app
);

create index text_devices_silent on text_devices (silent_streak) where silent_streak > 0;
