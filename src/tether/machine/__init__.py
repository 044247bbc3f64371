"""Process and disk: caches, cores, files, memory, programs, signals, start."""
