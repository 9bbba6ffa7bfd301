-- Settings that change at run time, on all workers, without a restart. No tenant data. The service
-- reads them; management commands (r1_maint) write them.
CREATE TABLE memory_flags (
    name        text NOT NULL PRIMARY KEY,
    value       jsonb NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT memory_flags_name CHECK (name ~ '^[A-Z][A-Z0-9_]{0,63}$')
);

REVOKE ALL ON memory_flags FROM PUBLIC;
GRANT SELECT ON memory_flags TO r1_app, r1_staff, r1_backup;
GRANT SELECT, INSERT, UPDATE, DELETE ON memory_flags TO r1_maint;
