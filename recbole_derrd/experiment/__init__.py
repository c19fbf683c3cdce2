"""The parts of a run: what is refused before it, its log, its teachers, and what it leaves."""
