-- The daemons at this database, each with its last report. Times are the database's own.
create table daemons (
    daemon text primary key,
    seen_at timestamptz not null,
    redis_up boolean not null,
    version text not null,
    waiting integer not null
);
