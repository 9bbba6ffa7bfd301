"""Staff's pages: metadata, never a plaintext, and what may be done about it, with a line in the audit log each."""
