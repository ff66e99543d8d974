"""One page a command, top to bottom: open, do, record, return. Read these first."""
