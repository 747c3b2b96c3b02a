-- compatible since 3
-- What each daemon reports of itself to the others' consoles: JSON, every two seconds. seen_at is
-- by the clock of the database.
create table daemon_states (
    daemon text primary key,
    seen_at double precision not null,
    state text not null
);

-- Calls by app and platform, one row of each daemon for a minute: outcomes and wake-up times are
-- counted in JSON.
create table call_figures (
    id bigint generated always as identity primary key,
    at double precision not null,
    daemon text not null,
    app text not null,
    platform text not null,
    outcomes text not null,
    wakeups text not null
);

create index call_figures_at on call_figures (at);
