-- The daemons at this database, each with its last report. Times are the database's own:
-- seconds of its julianday('now').
create table daemons (
    daemon text primary key,
    seen_at real not null,
    redis_up integer not null check (redis_up in (0, 1)),
    version text not null,
    waiting integer not null
);
