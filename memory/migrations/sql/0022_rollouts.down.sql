DROP TABLE memory_rollouts;
