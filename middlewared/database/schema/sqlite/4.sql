-- compatible since 3
-- The history: calls that have ended. Times are seconds since the epoch. started_at is when the
-- PBX placed the call, number what can be searched of its caller, details JSON.
create table calls (
    id integer primary key,
    unique_key text not null,
    call_id text not null,
    sip_user_id text not null,
    app text not null,
    platform text not null,
    daemon text not null,
    pbx text not null,
    started_at real not null,
    outcome text not null,
    phonenumber text not null,
    caller_id text not null,
    number text not null,
    details text not null
);

create index calls_started on calls (started_at);
create index calls_app on calls (app, platform, started_at);
create index calls_platform on calls (platform, started_at);
-- Most calls are answered: those are found by their time.
create index calls_outcome on calls (outcome, started_at) where outcome <> 'answered';
-- Of 1024 calls each, so that the pages to which a batch adds stay few and in memory, however many
-- calls are kept: written as a whole, an index of these has another page for nearly each call.
-- A batch that is written again adds nothing. The same key can be a call's again, later.
create unique index calls_key on calls (id >> 10, unique_key, started_at);
create index calls_account on calls (id >> 10, sip_user_id, started_at);
create index calls_number on calls (id >> 10, number, started_at) where number <> '';
-- A call_id that is a UUID is the key as well: an index less to write for such a call.
create index calls_call_id on calls (id >> 10, call_id, started_at)
    where call_id <> '' and call_id <> unique_key;

-- What else is known of calls, perhaps from other daemons, before or after the row in calls.
create table call_facts (
    id integer primary key,
    unique_key text not null,
    sip_user_id text not null,
    at real not null,
    kind text not null,
    details text not null
);

create index call_facts_key on call_facts (unique_key);

-- What happened to devices; token is a fingerprint.
create table device_events (
    id integer primary key,
    sip_user_id text not null,
    at real not null,
    event text not null,
    why text not null,
    reason text not null,
    platform text not null,
    app text not null,
    token text not null,
    daemon text not null
);

create index device_events_account on device_events (sip_user_id, at);
