DROP FUNCTION memory_current_user_hash();
