"""The process and its disk: processes, signals, locks, whole files, random states."""
