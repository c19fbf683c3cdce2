"""The run's configuration: settings as they are given, options as they are checked."""
