GRANT UPDATE ON memory_erasures TO r1_maint;
GRANT UPDATE, DELETE ON memory_erasures TO r1_app;
