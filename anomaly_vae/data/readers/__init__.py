"""File formats as columns by name, in constant memory."""
