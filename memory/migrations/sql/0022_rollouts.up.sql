-- Canary runs: how far each is, and how it ended. No tenant data. Management commands (r1_maint) write them; the
-- service does not know them.
CREATE TABLE memory_rollouts (
    id           uuid NOT NULL PRIMARY KEY,
    state        text NOT NULL,
    stage        smallint NOT NULL,
    percent      smallint NOT NULL,
    began        timestamptz NOT NULL DEFAULT now(),
    stage_began  timestamptz NOT NULL DEFAULT now(),
    ended        timestamptz,
    verdict      text,
    reasons      jsonb NOT NULL DEFAULT '[]',
    request      text,
    evidence     text NOT NULL,
    forced       text NOT NULL DEFAULT '',
    CONSTRAINT memory_rollouts_state CHECK (state IN ('running', 'ended')),
    CONSTRAINT memory_rollouts_verdict CHECK (verdict IN ('promoted', 'rolled_back', 'held', 'aborted')),
    CONSTRAINT memory_rollouts_ended CHECK ((state = 'ended') = (verdict IS NOT NULL AND ended IS NOT NULL)),
    CONSTRAINT memory_rollouts_request CHECK (request IN ('promote', 'abort')),
    CONSTRAINT memory_rollouts_percents CHECK (stage BETWEEN 0 AND 100 AND percent BETWEEN 0 AND 100)
);
-- One at a time, whoever starts it.
CREATE UNIQUE INDEX memory_rollouts_running ON memory_rollouts (state) WHERE state = 'running';

REVOKE ALL ON memory_rollouts FROM PUBLIC;
GRANT SELECT ON memory_rollouts TO r1_staff, r1_backup;
GRANT SELECT, INSERT, UPDATE ON memory_rollouts TO r1_maint;
