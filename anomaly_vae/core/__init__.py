"""Settings, errors, safe files, devices and processes: what every room needs. Imports nothing of the package."""
