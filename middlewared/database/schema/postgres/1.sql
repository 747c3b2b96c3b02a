-- Times are seconds since the epoch, as in the program; only response_log.date is for people.
create table devices (
    sip_user_id bigint primary key,
    platform text not null check (platform in ('apns', 'android', 'gcm')),
    app text not null,
    token text not null,
    name text not null,
    os_version text not null,
    client_version text not null,
    remote_logging_id text not null,
    sandbox boolean not null,
    push_profile text not null,
    dnd boolean not null,
    remote_notification_token text not null,
    registered_at double precision not null,
    last_seen double precision not null
);

create table response_log (
    id bigint generated always as identity primary key,
    platform text not null,
    roundtrip_seconds double precision not null,
    available boolean not null,
    date timestamptz not null
);

create index response_log_date on response_log (date);

-- One row, written by the health check: a full or read-only server shows before a registration fails.
create table pulse (beaten_at double precision not null);

insert into pulse (beaten_at) values (0);
