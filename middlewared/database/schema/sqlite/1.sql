-- Times are seconds since the epoch, as in the program; response_log.date is ISO 8601, UTC.
create table devices (
    sip_user_id integer primary key,
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
    last_seen real not null
);

create table response_log (
    id integer primary key,
    platform text not null,
    roundtrip_seconds real not null,
    available integer not null check (available in (0, 1)),
    date text not null
);

create index response_log_date on response_log (date);

-- One row, written by the health check: a full or read-only disk shows before a registration fails.
create table pulse (beaten_at real not null);

insert into pulse (beaten_at) values (0);
