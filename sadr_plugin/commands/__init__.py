"""The ``sadr`` command line: the plugin's own commands and, through a hook, the adapters'."""
