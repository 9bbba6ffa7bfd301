-- Whoever takes the service over must not be able to make an erasure unsaid: the service adds lines to the
-- ledger, and nobody but the owner changes one. r1_maint may still delete those of users that never were.
REVOKE UPDATE, DELETE ON memory_erasures FROM r1_app;
REVOKE UPDATE ON memory_erasures FROM r1_maint;
