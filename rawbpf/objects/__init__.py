"""A compiled C file: its ELF sections, its functions put together to programs, its declarations, and loading it."""
