"""Settings, errors, safe files, devices and processes, for all other packages. Imports nothing of the project."""
